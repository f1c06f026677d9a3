"""Container tools whose storage is pyunionfs: what the tests of them say to them."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

CHANGES = "echo new >/data/new; rm /data/old; rm -r /data/dir; mkdir /data/dir; echo y >/data/dir/y"
CHANGED = "/data:\ndir\nnew\n\n/data/dir:\ny\n"
SHOW = "ls /data /data/dir"
APPLETS = ("sh", "ls", "cat", "echo", "rm", "mkdir", "mount", "grep", "sleep", "touch")
ULIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000")  # not above our own
Drove = Callable[[str], None]


def run(*command: str | Path, env: dict[str, str] | None = None, fails: bool = False) -> str:
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode != 0) == fails, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def needed(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (./dev test --clients installs it)")


def storage_conf(root: Path, run_root: Path, helper: Path) -> str:
    """What containers/storage is told, for it to call ``helper``."""
    return (
        f'[storage]\ndriver = "overlay"\ngraphroot = "{root}"\nrunroot = "{run_root}"\n'
        f'[storage.options.overlay]\nmount_program = "{helper}"\n'
    )


class Storage:
    """A store of containers/storage with ``mount_program``."""

    def __init__(self, place: Path, helper: Path) -> None:
        self.root = place / "storage"
        conf = place / "storage.conf"
        conf.write_text(storage_conf(self.root, place / "run", helper))
        self.env = {**os.environ, "CONTAINERS_STORAGE_CONF": str(conf), "TMPDIR": str(place)}

    def podman(self, *words: str | Path, fails: bool = False) -> str:
        command = ["podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs", *words]
        return run(*command, env=self.env, fails=fails)

    def run(self, *words: str) -> str:
        return self.podman("run", "--network", "none", *ULIMITS, *words)

    def clear(self) -> None:
        """Remove all containers and images. With --uidmap podman sometimes leaves a /dev/shm mounted, which
        is none of ours, and cannot remove it then (EBUSY): it is unmounted, and podman asked again."""
        for attempt in range(20):
            try:
                self.podman("rm", "-af", "-t", "0")
                break
            except AssertionError as error:
                if attempt == 19 or "shm: device or resource busy" not in str(error):
                    raise
                for path in self.root.glob("overlay-containers/*/userdata/shm"):
                    subprocess.run(["umount", "-l", path], capture_output=True, check=False)
                time.sleep(0.5)
        self.podman("rmi", "-af")

    def buildah(self, *words: str | Path) -> str:
        return run("buildah", *words, env=self.env)


class Docker:
    """A client of a daemon of our own."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def __call__(self, *words: str | Path, fails: bool = False) -> str:
        return run("docker", "-H", f"unix://{self._socket}", *words, fails=fails)

    def run(self, *words: str) -> str:
        return self("run", "--network", "none", *words)


class Ours:
    """Our own commands, on a store of their own."""

    def __init__(self, place: Path) -> None:
        self._env = {**os.environ, "PYUNIONFS_ROOT": str(place / "ours")}

    def __call__(self, *words: str | Path) -> str:
        return run(sys.executable, "-m", "pyunionfs", *words, env=self._env)
