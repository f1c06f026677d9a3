"""The same container tools for an ordinary user: podman and buildah make a user namespace, and call us in it."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from containers import CHANGED, CHANGES, SHOW, ULIMITS, Drove, needed, run, storage_conf
from person import FIRST_SUBORDINATE, USER, Person

RUN = ("run", "--network", "none", *ULIMITS)


class Podman(Person):
    """Somebody whose podman and buildah call ``helper``."""

    def __init__(self, place: Path, helper: Path) -> None:
        super().__init__(place)
        conf = self.home / "storage.conf"
        conf.write_text(storage_conf(self.home / "storage", self.home / "run/storage", helper))
        os.chown(conf, USER, USER)
        self.env["CONTAINERS_STORAGE_CONF"] = str(conf)

    def podman(self, *words: str | Path, status: int = 0) -> str:
        return self("podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs", *words, status=status)


@pytest.fixture
def person(place: Path, helper: Path, image: Path, requires: Callable[..., None], drove: Drove) -> Iterator[Podman]:
    requires("other_users", "user_namespaces")
    needed("podman", "runc", "newuidmap", "setpriv")
    drove(run("podman", "--version"))
    made = Podman(place, helper)
    try:
        tried = made.attempt(helper, "--version")
        if tried.returncode:
            pytest.skip(f"another user cannot run this installation: {tried.stderr.strip().splitlines()[-1:]}")
        made.podman("import", image, "img:1")
        yield made
        made.podman("rm", "-af", "-t", "0")
        made.podman("rmi", "-af")
    finally:
        made.end()


def test_podman_of_an_ordinary_user(person: Podman, place: Path) -> None:
    script = f"mount | grep ' / '; {CHANGES}; chown 5:6 /data/new"
    seen = person.podman(*RUN, "--name", "one", "img:1", "/bin/sh", "-c", script)
    assert seen.startswith("fuse-overlayfs on / type fuse.pyunionfs (rw,")
    changes = {line for line in person.podman("diff", "one").splitlines() if "/data/" in line}
    assert changes == {"C /data/dir", "A /data/dir/y", "D /data/dir/x", "A /data/new", "D /data/old"}
    (new,) = (person.home / ".local/share/containers/storage/overlay").glob("*/diff/data/new")
    assert (new.stat().st_uid, new.stat().st_gid) == (FIRST_SUBORDINATE + 4, FIRST_SUBORDINATE + 5)
    assert (new.parent / "old").is_char_device()
    assert os.getxattr(new.parent / "dir", "user.overlay.opaque") == b"y"
    person.podman("commit", "-q", "one", "img:2")
    assert person.podman(*RUN, "--rm", "img:2", "/bin/sh", "-c", SHOW) == CHANGED
    person.podman("save", "-q", "-o", person.home / "saved.tar", "img:2")
    person.podman("rm", "one")
    person.podman("rmi", "-af")
    person.podman("load", "-q", "-i", person.home / "saved.tar")
    assert person.podman(*RUN, "--rm", "img:2", "/bin/sh", "-c", SHOW) == CHANGED


@pytest.mark.parametrize("how", [["--userns", "keep-id"], ["--uidmap", "0:1:1000"], ["-u", "7:8"]], ids=str)
def test_podman_with_other_ids_inside(person: Podman, how: list[str]) -> None:
    seen = person.podman(*RUN, "--rm", *how, "img:1", "/bin/sh", "-c", "ls -ln /data; cat /data/dir/x")
    rows = [line.split() for line in seen.splitlines()[1:3]]
    assert {(row[2], row[3]) for row in rows} == {("0", "0")}
    assert seen.endswith("x\n")


def test_podman_survives_a_kill_and_shares_layers(person: Podman) -> None:
    for name in ("one", "two"):
        person.podman(*RUN, "-d", "--name", name, "img:1", "/bin/sleep", "1000")
    person.podman("exec", "one", "/bin/sh", "-c", "echo mine >/tmp/mine")
    person.podman("exec", "two", "/bin/cat", "/tmp/mine", status=1)
    os.kill(int(person.podman("inspect", "-f", "{{.State.Pid}}", "one")), signal.SIGKILL)
    assert person.podman("wait", "one").strip() == "137"
    person.podman("start", "one")
    assert person.podman("exec", "one", "/bin/cat", "/tmp/mine") == "mine\n"


def test_buildah_of_an_ordinary_user(person: Podman, drove: Drove) -> None:
    needed("buildah")
    drove(run("buildah", "--version"))
    container = person("buildah", "from", "--pull-never", "localhost/img:1").strip()
    person("buildah", "run", "--network", "none", "--runtime", "runc", container, "/bin/sh", "-c", CHANGES)
    by_hand = f"m=$(buildah mount {container}); cat $m/data/new; echo z >$m/data/z; buildah umount {container}"
    assert person("buildah", "unshare", "sh", "-c", by_hand).startswith("new\n")
    person("buildah", "commit", "-q", container, "img:built")
    person("buildah", "rm", container)
    seen = person.podman(*RUN, "--rm", "localhost/img:built", "/bin/sh", "-c", f"{SHOW}; cat /data/z")
    assert seen == CHANGED.replace("new\n", "new\nz\n") + "z\n"
