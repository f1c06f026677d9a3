"""Unions of ordinary users: mounted through fusermount3 (a fixture, for suites that import it), or in process."""

import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mounts import Layers
from trees import build

SCRIPT = """
set -e
"$PYTHON" -m pyunionfs mount --lower lower0 --upper upper --work work merged
trap 'cd "$HOME"; "$PYTHON" -m pyunionfs umount merged' EXIT
cd merged
"""
# In a mount namespace of its own, /dev/fuse is open to everybody whatever the machine's is.
AS_NOBODY = 'mount --bind fuse /dev/fuse && exec setpriv --reuid nobody --regid "$1" --clear-groups sh -c "$2"'


@pytest.fixture
def ordinary_user(layers: Layers, requires: Callable[..., None]) -> Callable[..., str]:
    """Runs shell commands on a mount of an ordinary user's, who owns all but the ``foreign`` paths."""
    requires("pyunionfs", "other_users", "fusermount3", "devices")
    user = pwd.getpwnam("nobody")  # fusermount3 wants a user with a name
    root = layers.upper.parent
    os.mknod(root / "fuse", stat.S_IFCHR | 0o600, os.makedev(10, 229))
    (root / "fuse").chmod(0o666)
    for parent in root.parents:
        if not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)  # pytest's directories: only the way through

    def run(commands: str, *, foreign: Sequence[Path] = ()) -> str:
        subprocess.run(["chown", "-R", f"{user.pw_uid}:{user.pw_gid}", root], check=True)
        if foreign:
            subprocess.run(["chown", "-R", "0:0", *foreign], check=True)
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", AS_NOBODY, "sh", str(user.pw_gid), SCRIPT + commands],
            cwd=root,
            env=os.environ | {"PYTHON": sys.executable, "HOME": str(root)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@contextmanager
def owned_by_a_person(name: str, tree: Mapping[str, Any]) -> Iterator[Layers]:
    """Layers that belong to uid 1000, where other users can go."""
    layers = Layers.create(Path("/tmp") / f"pyunionfs-{name}-{os.getpid()}")
    root = layers.upper.parent
    try:
        build(layers.lower[0], tree)
        for path in (root, *root.rglob("*")):
            os.chown(path, 1000, 1000)
        yield layers
    finally:
        shutil.rmtree(root)


@contextmanager
def acting_as(user: int) -> Iterator[None]:
    """Be somebody else for a moment, without any privilege; root's come back with the uid (capabilities(7)).

    0 means that nothing changes.
    """
    if not user:
        yield
        return
    os.setegid(user)
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(os.getuid())
        os.setegid(os.getgid())


@contextmanager
def as_who_began() -> Iterator[None]:
    """Within :func:`acting_as`, be oneself again."""
    user = os.geteuid()
    os.seteuid(os.getuid())
    os.setegid(os.getgid())
    try:
        yield
    finally:
        if user != os.getuid():
            os.setegid(user)
            os.seteuid(user)


def as_a_person(call: Callable[[], int]) -> int:
    """What a function returns (0 to 255) in a process of uid 1000, without any privilege."""
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            os.setgroups([])
            os.setgid(1000)
            os.setuid(1000)
            code = call()
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)
