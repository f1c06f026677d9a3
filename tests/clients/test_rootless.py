"""The same container tools for an ordinary user: podman and buildah make a user namespace, and call us in it."""

import os
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from containers import CHANGED, CHANGES, SHOW, ULIMITS, Drove, needed, run, storage_conf

USER = 4321  # of no name on the machine
IDS = "person:100000:65536\n"
RUN = ("run", "--network", "none", *ULIMITS)


class Person:
    """An ordinary user with subordinate ids, in a mount namespace where /dev/fuse is open to everybody."""

    def __init__(self, place: Path, helper: Path) -> None:
        self.home = place / "home"
        self._place = place
        self._holder = subprocess.Popen(["unshare", "-m", "--propagation", "private", "sleep", "infinity"])
        storage = self.home / "storage.conf"
        for directory in (self.home, self.home / "run"):
            directory.mkdir(mode=0o700)
        storage.write_text(storage_conf(self.home / "storage", self.home / "run/storage", helper))
        for path in (place, self.home, *self.home.iterdir()):
            os.chown(path, USER, USER)
        self._env = {
            "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin",
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.home / "run"),
            "CONTAINERS_STORAGE_CONF": str(storage),
            "TMPDIR": str(self.home),
        }
        self._own_machine()

    def _own_machine(self) -> None:
        """Files of /etc and the device, as a machine of this user's would have them."""
        fuse = self._place / "fuse"
        os.mknod(fuse, stat.S_IFCHR | 0o666, os.makedev(10, 229))
        fuse.chmod(0o666)
        self._bind(fuse, "/dev/fuse")
        for name, more in (
            ("passwd", f"person:x:{USER}:{USER}::{self.home}:/bin/sh\n"),
            ("group", f"person:x:{USER}:\n"),
            ("subuid", IDS),
            ("subgid", IDS),
        ):
            path = self._place / name
            path.write_text(Path("/etc", name).read_text() + more)
            path.chmod(0o644)
            self._bind(path, f"/etc/{name}")

    def _bind(self, path: Path, target: str) -> None:
        run("nsenter", "-m", "-t", f"{self._holder.pid}", "mount", "--bind", path, target)

    def __call__(self, *words: str | Path, fails: bool = False) -> str:
        inside = ["nsenter", "-m", "-t", f"{self._holder.pid}", f"--wd={self.home}"]
        inside += ["setpriv", "--reuid", f"{USER}", "--regid", f"{USER}", "--init-groups"]
        return run(*inside, *words, env=self._env, fails=fails)

    def podman(self, *words: str | Path, fails: bool = False) -> str:
        return self("podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs", *words, fails=fails)

    def end(self) -> None:
        """Also podman's process that holds the user namespace."""
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if process.stat().st_uid == USER:
                    os.kill(int(process.name), signal.SIGKILL)
            except (FileNotFoundError, ProcessLookupError):
                continue
        self._holder.kill()
        self._holder.wait()


@pytest.fixture
def person(place: Path, helper: Path, image: Path, requires: Callable[..., None], drove: Drove) -> Iterator[Person]:
    requires("other_users", "user_namespaces")
    needed("podman", "runc", "newuidmap", "setpriv")
    drove(run("podman", "--version"))
    made = Person(place, helper)
    try:
        tried = subprocess.run(
            ["setpriv", "--reuid", f"{USER}", "--regid", f"{USER}", "--clear-groups", helper, "--version"],
            capture_output=True,
            text=True,
            check=False,
        )
        if tried.returncode:
            pytest.skip(f"another user cannot run this installation: {tried.stderr.strip().splitlines()[-1:]}")
        made.podman("import", image, "img:1")
        yield made
        made.podman("rm", "-af", "-t", "0")
        made.podman("rmi", "-af")
    finally:
        made.end()


def test_podman_of_an_ordinary_user(person: Person, place: Path) -> None:
    script = f"mount | grep ' / '; {CHANGES}; chown 5:6 /data/new"
    seen = person.podman(*RUN, "--name", "one", "img:1", "/bin/sh", "-c", script)
    assert seen.startswith("fuse-overlayfs on / type fuse.pyunionfs (rw,")
    changes = {line for line in person.podman("diff", "one").splitlines() if "/data/" in line}
    assert changes == {"C /data/dir", "A /data/dir/y", "D /data/dir/x", "A /data/new", "D /data/old"}
    (new,) = (person.home / ".local/share/containers/storage/overlay").glob("*/diff/data/new")
    assert (new.stat().st_uid, new.stat().st_gid) == (100_004, 100_005)
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
def test_podman_with_other_ids_inside(person: Person, how: list[str]) -> None:
    seen = person.podman(*RUN, "--rm", *how, "img:1", "/bin/sh", "-c", "ls -ln /data; cat /data/dir/x")
    rows = [line.split() for line in seen.splitlines()[1:3]]
    assert {(row[2], row[3]) for row in rows} == {("0", "0")}
    assert seen.endswith("x\n")


def test_podman_survives_a_kill_and_shares_layers(person: Person) -> None:
    for name in ("one", "two"):
        person.podman(*RUN, "-d", "--name", name, "img:1", "/bin/sleep", "1000")
    person.podman("exec", "one", "/bin/sh", "-c", "echo mine >/tmp/mine")
    person.podman("exec", "two", "/bin/cat", "/tmp/mine", fails=True)
    os.kill(int(person.podman("inspect", "-f", "{{.State.Pid}}", "one")), signal.SIGKILL)
    assert person.podman("wait", "one").strip() == "137"
    person.podman("start", "one")
    assert person.podman("exec", "one", "/bin/cat", "/tmp/mine") == "mine\n"


def test_buildah_of_an_ordinary_user(person: Person, drove: Drove) -> None:
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
