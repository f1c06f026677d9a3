"""A mount by an ordinary user, through fusermount3: what needs no privilege works."""

import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Callable

import pytest
import syscalls
from mounts import Layers

SCRIPT = """
set -e
mount() { "$PYTHON" -m pyunionfs mount --lower lower0 --upper upper --work work "$@" merged; }
umount() { "$PYTHON" -m pyunionfs umount merged; }
mount
trap 'cd "$HOME"; umount' EXIT
cd merged
"""

# In a mount namespace of its own, /dev/fuse is open to everybody whatever the machine's is.
AS_NOBODY = 'mount --bind "$1" /dev/fuse && exec setpriv --reuid nobody --regid "$2" --clear-groups sh -c "$3"'


@pytest.fixture
def as_user(layers: Layers, requires: Callable[..., None]) -> Callable[[str], str]:
    """Runs shell commands on a mount of an ordinary user's; returns what they print."""
    requires("pyunionfs", "other_users", "fusermount3", "devices")
    user = pwd.getpwnam("nobody")  # fusermount3 wants a user with a name
    root = layers.upper.parent
    os.mknod(root / "fuse", stat.S_IFCHR | 0o600, os.makedev(10, 229))
    (root / "fuse").chmod(0o666)
    for parent in root.parents:
        if not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)  # pytest's directories: only the way through

    def run(commands: str) -> str:
        subprocess.run(["chown", "-R", f"{user.pw_uid}:{user.pw_gid}", root], check=True)
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", AS_NOBODY, "sh", root / "fuse", str(user.pw_gid), SCRIPT + commands],
            cwd=root,
            env=os.environ | {"PYTHON": sys.executable, "HOME": str(root)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_marks_are_user_xattrs(layers: Layers, as_user: Callable[[str], str]) -> None:
    (layers.lower[0] / "dir").mkdir()
    (layers.lower[0] / "dir/file").write_text("x")
    (layers.lower[0] / "gone").touch()
    assert as_user("rm -r dir; mkdir dir; rm gone; echo y > new; ls -A . dir") == ".:\ndir\nnew\n\ndir:\n"
    assert os.getxattr(layers.upper / "dir", "user.overlay.opaque") == b"y"
    assert (layers.upper / "gone").is_char_device()


def test_a_file_that_became_unwritable_while_open(layers: Layers, as_user: Callable[[str], str]) -> None:
    (layers.lower[0] / "file").write_text("x\n")
    assert as_user("exec 3>>file; chmod 0 file; echo y >&3; exec 3>&-; chmod 600 file; cat file") == "x\ny\n"


def test_a_file_that_is_created_read_only_can_be_filled(layers: Layers, as_user: Callable[[str], str]) -> None:
    program = 'import os; f = os.open("r", os.O_CREAT | os.O_WRONLY, 0o400); os.write(f, b"data")'
    assert as_user(f"\"$PYTHON\" -c '{program}'; cat r") == "data"


def test_files_of_a_directory_without_write_permission(layers: Layers, as_user: Callable[[str], str]) -> None:
    directory = layers.lower[0] / "ro"
    directory.mkdir()
    (directory / "file").write_text("x\n")
    directory.chmod(0o555)
    assert as_user("echo y >> ro/file; cat ro/file; stat -c %a ro") == "x\ny\n555\n"
    (layers.upper / "ro").chmod(0o755)
    directory.chmod(0o755)


def test_what_was_deleted_stays_so_below_an_unreadable_directory(
    layers: Layers, as_user: Callable[[str], str]
) -> None:
    (layers.lower[0] / "dir").mkdir()
    (layers.lower[0] / "dir/old").write_text("deleted")
    again = "cd ..; umount; mount; cd merged; cat dir/old 2>&1 || true; chmod 700 dir; ls -A dir; stat -c %a dir"
    told = as_user("rm -r dir; mkdir dir; chmod 300 dir; " + again)
    assert "deleted" not in told
    assert told.endswith("No such file or directory\n700\n")


def test_what_is_mounted_below_a_layer_is_not_there(layers: Layers, as_user: Callable[[str], str]) -> None:
    point = layers.lower[0] / "point"
    point.mkdir()
    (layers.lower[0] / "file").touch()
    syscalls.mount("none", point, "tmpfs", "")
    try:
        assert as_user("ls -A; stat point 2>&1 | cut -d: -f3") == "file\n No such file or directory\n"
    finally:
        syscalls.umount(point)
