"""Our own containers for an ordinary user, with subordinate ids and without."""

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ours import until
from person import Person

NO_IDS = "no subordinate ids"


class Somebody(Person):
    """Our commands, as a person."""

    def __init__(self, place: Path, runtime: str, *, subordinate: bool) -> None:
        super().__init__(place, subordinate=subordinate)
        self._runtime = ["--no-runtime"] if runtime == "none" else ["--runtime", runtime]

    def ours(self, *words: str | Path, status: int = 0) -> str:
        return self(sys.executable, "-m", "pyunionfs", *words, status=status)

    def run(self, *words: str | Path, status: int = 0) -> str:
        return self.ours("run", *self._runtime, *words, status=status)

    def inspect(self, name: str) -> Any:
        return json.loads(self.ours("inspect", name))[0]

    def until(self, name: str, status: str) -> None:
        until(lambda: self.inspect(name)["State"]["Status"], status)


@pytest.fixture(params=["runc", "none"])
def runtime(request: pytest.FixtureRequest) -> str:
    if request.param != "none" and shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


@pytest.fixture(params=["subordinate ids", NO_IDS])
def person(
    request: pytest.FixtureRequest, runtime: str, image: Path, requires: Callable[..., None]
) -> Iterator[Somebody]:
    requires("pyunionfs", "other_users", "user_namespaces", "devices")
    if request.param != NO_IDS and shutil.which("newuidmap") is None:
        pytest.skip("newuidmap is not installed (package uidmap)")
    place = Path(tempfile.mkdtemp(prefix="p-"))
    shutil.copy(image, place / "app.tar")
    made = Somebody(place, runtime, subordinate=request.param != NO_IDS)
    try:
        tried = made.attempt(sys.executable, "-m", "pyunionfs", "--version")
        if tried.returncode:
            pytest.skip(f"another user cannot run this installation: {tried.stderr.strip().splitlines()[-1:]}")
        made.ours("image", "load", place / "app.tar")
        yield made
        for name in made.ours("ps", "-aq").split():
            made.ours("rm", "-f", name)
        assert not made.processes()
    finally:
        made.end()
        shutil.rmtree(place)


def has_ids(request: pytest.FixtureRequest) -> bool:
    return NO_IDS not in request.node.name


def test_it_runs_changes_and_is_committed(person: Somebody) -> None:
    seen = person.run("--name", "one", "app:1", "sh", "-c", "mount; id -u; echo new >/data/new; rm /data/old")
    assert seen.startswith("pyunionfs on / type fuse.pyunionfs (rw,")
    assert seen.endswith("\n0\n")
    assert person.ours("diff", "one").splitlines() == ["C /data", "A /data/new", "D /data/old"]
    person.ours("commit", "one", "app:2")
    assert person.run("--rm", "app:2", "ls", "-ln", "/data").split()[2:5] == ["-rw-r--r--", "1", "0"]
    assert person.run("--rm", "app:1", "cat", "/data/old") == "old"
    assert person.ours("system", "check").endswith(": sound\n")


def test_all_on_disk_is_the_persons_own(person: Somebody, request: pytest.FixtureRequest) -> None:
    if not has_ids(request):
        pytest.skip("who has one id can give nothing to others")
    script = "echo x >new; chown 12:34 new; chmod 4750 new; mkdir -m 700 dir; chown 12 dir"
    person.run("--name", "one", "-w", "/data", "app:1", "sh", "-c", script)
    person.ours("commit", "one", "app:2")
    told = person.run("--rm", "app:2", "ls", "-ln", "/data")
    rows = {row[8]: (row[0], row[2], row[3]) for row in map(str.split, told.splitlines()) if len(row) == 9}
    assert rows["new"] == ("-rwsr-x---", "12", "34")
    assert rows["dir"] == ("drwx------", "12", "0")
    (upper,) = (person.home / ".local/share/pyunionfs/containers").glob("*/diff")
    assert {path.lstat().st_uid for path in upper.rglob("*")} == {person.home.stat().st_uid}


def test_users_are_those_of_the_container(person: Somebody, request: pytest.FixtureRequest) -> None:
    if has_ids(request):
        assert person.run("--rm", "-u", "app", "app:1", "id").startswith("uid=12(app) gid=34(app)")
    else:
        done = person.attempt(sys.executable, "-m", "pyunionfs", "run", "-u", "app", "app:1", "id")
        assert done.returncode == 1
        assert "no user 12:34 here" in done.stderr


@pytest.mark.parametrize("network", ["none", "host"])
def test_networks(person: Somebody, network: str) -> None:
    assert "lo" in person.run("--rm", "--network", network, "app:1", "ip", "link")


def test_what_is_done_to_one_that_runs(person: Somebody, request: pytest.FixtureRequest) -> None:
    user = "app" if has_ids(request) else "root"
    person.run("-d", "-u", user, "--name", "one", "app:1", "sh", "-c", "echo said; sleep 1000")
    assert person.ours("exec", "one", "id", "-un") == f"{user}\n"
    assert "sleep 1000" in person.ours("top", "one")
    assert person.ours("logs", "one") == "said\n"
    person.ours("kill", "-s", "KILL", "one")
    person.until("one", "exited")
    person.ours("start", "one")
    assert person.ours("exec", "one", "echo", "alive") == "alive\n"


def test_a_killed_runner_leaves_what_can_be_taken_away(person: Somebody) -> None:
    person.run("-d", "--name", "one", "app:1", "sleep", "1000")
    pid = person.inspect("one")["State"]["Pid"]
    for runner in person.processes():
        if b"\0-d\0" in Path(f"/proc/{runner}/cmdline").read_bytes():
            os.kill(runner, signal.SIGKILL)
    person.until("one", "exited")
    assert "who ran it was killed" in person.ours("system", "check", status=1)
    person.ours("system", "check", "--repair")
    assert pid not in person.processes()
    assert not person.processes()
    person.ours("start", "one")
    assert person.ours("exec", "one", "echo", "alive") == "alive\n"


def test_a_bundle_is_run_by_hand(person: Somebody, runtime: str) -> None:
    if runtime == "none":
        pytest.skip("by runc")
    if shutil.which("fusermount3") is None:
        pytest.skip("an ordinary user mounts by fusermount3")
    told = person.ours("bundle", "app:1", "b", "cat", "/data/old")
    mount, _, umount = told.splitlines()
    environment = f"PATH={Path(sys.executable).parent}:$PATH"
    hand = f"{environment}; {mount} && runc --root run/runc run --bundle b byhand; {umount}"
    done = person.attempt("sh", "-c", hand)
    assert done.stdout == "old", done.stderr
