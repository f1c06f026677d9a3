"""xattrs: those of users, ACLs, file capabilities; overlay's own are invisible."""

import errno
import os
import stat
import struct

import pytest
from filesystems import Filesystem
from syscalls import GROUP, OTHER_GROUP, USER, as_user
from trees import Dir, Fifo, File, Symlink

given = pytest.mark.tree
pytestmark = pytest.mark.requires("user_xattrs")

OTHER_USER = 23456

# Capability version 2: CAP_NET_RAW permitted and effective (linux/capability.h, struct vfs_cap_data).
CAPABILITY = struct.pack("<IIIII", 0x0200_0001, 1 << 13, 0, 0, 0)

ACL_USER_OBJ, ACL_USER, ACL_GROUP_OBJ, ACL_GROUP, ACL_MASK, ACL_OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20


def acl(*entries: tuple[int, int, int]) -> bytes:
    """The bytes of a POSIX ACL from (tag, permissions, id) entries (linux/posix_acl_xattr.h)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NOBODY = 0xFFFFFFFF
USER_MAY_READ_AND_WRITE = acl(
    (ACL_USER_OBJ, 6, NOBODY),
    (ACL_USER, 6, USER),
    (ACL_GROUP_OBJ, 0, NOBODY),
    (ACL_MASK, 6, NOBODY),
    (ACL_OTHER, 0, NOBODY),
)


@given({"file": File("x", xattrs={"user.old": b"old"}), "dir": Dir({}, xattrs={"user.old": b"old"})})
@pytest.mark.parametrize("name", ["file", "dir"])
def test_set_get_list_remove(fs: Filesystem, name: str) -> None:
    path = fs.path / name
    os.setxattr(path, "user.new", b"value\0with zero")
    os.setxattr(path, "user.empty", b"")
    assert os.getxattr(path, "user.new") == b"value\0with zero"
    assert os.getxattr(path, "user.empty") == b""
    assert os.getxattr(path, "user.old") == b"old"
    assert {"user.new", "user.empty", "user.old"} <= set(os.listxattr(path))
    os.removexattr(path, "user.old")
    assert "user.old" not in os.listxattr(path)
    for action in (os.getxattr, os.removexattr):
        with pytest.raises(OSError) as caught:
            action(path, "user.old")
        assert caught.value.errno == errno.ENODATA


@given({"file": File("x", xattrs={"user.old": b"old"})})
def test_create_and_replace_flags(fs: Filesystem) -> None:
    path = fs.path / "file"
    with pytest.raises(FileExistsError):
        os.setxattr(path, "user.old", b"new", os.XATTR_CREATE)
    with pytest.raises(OSError) as caught:
        os.setxattr(path, "user.new", b"new", os.XATTR_REPLACE)
    assert caught.value.errno == errno.ENODATA
    os.setxattr(path, "user.old", b"new", os.XATTR_REPLACE)
    os.setxattr(path, "user.new", b"new", os.XATTR_CREATE)
    assert os.getxattr(path, "user.old") == os.getxattr(path, "user.new") == b"new"


@given({"file": "x"})
def test_large_values_and_many_names(fs: Filesystem) -> None:
    path = fs.path / "file"
    os.setxattr(path, "user.large", b"L" * 3000)
    assert os.getxattr(path, "user.large") == b"L" * 3000
    os.removexattr(path, "user.large")
    names = {f"user.name{number:02}" for number in range(40)}
    for name in names:
        os.setxattr(path, name, name.encode())
    assert names <= set(os.listxattr(path))
    with pytest.raises(OSError) as caught:
        os.setxattr(path, "user.huge", b"x" * 65_537)
    assert caught.value.errno == errno.E2BIG


@given({"file": "x"})
def test_names_without_a_known_namespace(fs: Filesystem) -> None:
    for name in ("noprefix", "unknown.name"):
        with pytest.raises(OSError) as caught:
            os.setxattr(fs.path / "file", name, b"x")
        assert caught.value.errno == errno.EOPNOTSUPP
    with pytest.raises(OSError) as caught:
        os.setxattr(fs.path / "file", "user." + "x" * 251, b"x")
    assert caught.value.errno == errno.ERANGE


@given({"link": Symlink("nowhere"), "fifo": Fifo()})
def test_user_xattrs_are_for_files_and_directories(fs: Filesystem) -> None:
    for name in ("link", "fifo"):
        with pytest.raises(PermissionError):
            os.setxattr(fs.path / name, "user.name", b"x", follow_symlinks=False)
        assert not [name for name in os.listxattr(fs.path / name, follow_symlinks=False) if "user." in name]


@given({"file": File("x", xattrs={"user.old": b"old"}), "dir": Dir({"below": ""}, xattrs={"user.old": b"old"})})
def test_xattrs_survive_copy_up_and_rename(fs: Filesystem) -> None:
    with open(fs.path / "file", "ab") as file:
        file.write(b"y")
    os.rename(fs.path / "file", fs.path / "dir" / "moved")
    os.unlink(fs.path / "dir" / "below")
    assert os.getxattr(fs.path / "dir" / "moved", "user.old") == b"old"
    assert os.getxattr(fs.path / "dir", "user.old") == b"old"


@given({"dir": {"file": "x", "gone": "x"}})
def test_private_xattrs_are_not_listed(fs: Filesystem) -> None:
    """Whatever the filesystem wrote for itself while these were changed."""
    os.chmod(fs.path / "dir" / "file", 0o600)
    os.unlink(fs.path / "dir" / "gone")
    os.rename(fs.path / "dir" / "file", fs.path / "moved")
    for path in (fs.path, fs.path / "dir", fs.path / "moved"):
        assert not [name for name in os.listxattr(path) if "overlay" in name]
    for prefix in ("trusted", "user"):
        for name in ("opaque", "origin", "impure"):
            with pytest.raises(OSError):
                os.getxattr(fs.path / "dir", f"{prefix}.overlay.{name}")


@pytest.mark.requires("other_users")
@given({"file": File("x", mode=0o644), "own": File("x", mode=0o600, uid=USER)})
def test_who_may_set_an_xattr(fs: Filesystem) -> None:
    as_user(fs.path, lambda: os.setxattr("own", "user.name", b"mine"))
    assert os.getxattr(fs.path / "own", "user.name") == b"mine"
    with pytest.raises(PermissionError):
        as_user(fs.path, lambda: os.setxattr("file", "user.name", b"x"))
    os.setxattr(fs.path / "file", "user.name", b"readable")
    assert as_user(fs.path, lambda: os.getxattr("file", "user.name")) == b"readable"
    with pytest.raises(PermissionError):
        as_user(fs.path, lambda: os.getxattr("own", "user.name"), uid=OTHER_USER)


@pytest.mark.requires("trusted_xattrs")
@given({"file": File("x", xattrs={"trusted.name": b"old"})})
def test_trusted_xattrs(fs: Filesystem) -> None:
    assert os.getxattr(fs.path / "file", "trusted.name") == b"old"
    os.setxattr(fs.path / "file", "trusted.new", b"new")
    assert {"trusted.name", "trusted.new"} <= set(os.listxattr(fs.path / "file"))


@pytest.mark.requires("capabilities")
@given({"file": File("x", mode=0o755, xattrs={"security.capability": CAPABILITY})})
def test_a_write_clears_capabilities(fs: Filesystem) -> None:
    assert os.getxattr(fs.path / "file", "security.capability") == CAPABILITY
    with open(fs.path / "file", "ab") as file:
        file.write(b"y")
    assert "security.capability" not in os.listxattr(fs.path / "file")


@pytest.mark.requires("capabilities", "other_users")
@given({name: File("x", mode=0o755, xattrs={"security.capability": CAPABILITY}) for name in ("truncated", "given")})
def test_truncate_and_chown_clear_capabilities(fs: Filesystem) -> None:
    os.truncate(fs.path / "truncated", 0)
    os.chown(fs.path / "given", USER, GROUP)
    for name in ("truncated", "given"):
        assert "security.capability" not in os.listxattr(fs.path / name)


@pytest.mark.requires("capabilities")
@given({"file": File("x", mode=0o755, xattrs={"security.capability": CAPABILITY})})
def test_chmod_and_rename_keep_capabilities(fs: Filesystem) -> None:
    os.chmod(fs.path / "file", 0o750)
    os.rename(fs.path / "file", fs.path / "renamed")
    assert os.getxattr(fs.path / "renamed", "security.capability") == CAPABILITY


@pytest.mark.requires("other_users")
@given({"file": File("secret", mode=0o600)})
def test_an_acl_lets_a_user_in(fs: Filesystem) -> None:
    def read_and_append() -> bytes:
        with open("file", "r+b") as file:
            data = file.read()
            file.write(b"+")
            return data

    with pytest.raises(PermissionError):
        as_user(fs.path, read_and_append)
    os.setxattr(fs.path / "file", "system.posix_acl_access", USER_MAY_READ_AND_WRITE)
    assert stat.S_IMODE(os.stat(fs.path / "file").st_mode) == 0o660  # the group bits are the mask
    assert as_user(fs.path, read_and_append) == b"secret"
    with pytest.raises(PermissionError):
        as_user(fs.path, read_and_append, uid=OTHER_USER)
    assert os.getxattr(fs.path / "file", "system.posix_acl_access") == USER_MAY_READ_AND_WRITE
    os.chmod(fs.path / "file", 0o600)
    with pytest.raises(PermissionError):
        as_user(fs.path, read_and_append)


@pytest.mark.requires("other_users")
@given({"file": File("secret", mode=0o600, xattrs={"system.posix_acl_access": USER_MAY_READ_AND_WRITE})})
def test_an_acl_set_before_is_obeyed_and_survives_a_copy_up(fs: Filesystem) -> None:
    def append() -> None:
        with open("file", "ab") as file:
            file.write(b"+")

    as_user(fs.path, append)
    assert (fs.path / "file").read_bytes() == b"secret+"
    assert os.getxattr(fs.path / "file", "system.posix_acl_access") == USER_MAY_READ_AND_WRITE


DEFAULT = acl(
    (ACL_USER_OBJ, 7, NOBODY),
    (ACL_GROUP_OBJ, 5, NOBODY),
    (ACL_GROUP, 7, OTHER_GROUP),
    (ACL_MASK, 7, NOBODY),
    (ACL_OTHER, 0, NOBODY),
)


@pytest.mark.requires("other_users")
@pytest.mark.parametrize("before", [True, False], ids=["existing", "set"])
@given({"dir": Dir({}, xattrs={"system.posix_acl_default": DEFAULT}), "new": {}})
def test_a_default_acl_is_inherited_in_place_of_the_umask(fs: Filesystem, before: bool) -> None:
    directory = fs.path / ("dir" if before else "new")
    if not before:
        os.setxattr(directory, "system.posix_acl_default", DEFAULT)
    os.umask(0o077)
    os.close(os.open(directory / "file", os.O_CREAT | os.O_WRONLY, 0o666))
    os.mkdir(directory / "sub", 0o777)
    os.mkfifo(directory / "fifo", 0o666)
    for name, mode in (("file", 0o660), ("sub", 0o770), ("fifo", 0o660)):
        assert stat.S_IMODE(os.stat(directory / name).st_mode) == mode, name
    assert os.getxattr(directory / "sub", "system.posix_acl_default") == DEFAULT
    assert struct.pack("<HHI", ACL_GROUP, 7, OTHER_GROUP) in os.getxattr(
        directory / "file", "system.posix_acl_access"
    )


@pytest.mark.requires("other_users")
@given({"dir": Dir({}, xattrs={"system.posix_acl_default": DEFAULT})})
def test_an_acl_can_be_removed(fs: Filesystem) -> None:
    os.removexattr(fs.path / "dir", "system.posix_acl_default")
    assert "system.posix_acl_default" not in os.listxattr(fs.path / "dir")
    os.umask(0o022)
    os.close(os.open(fs.path / "dir" / "file", os.O_CREAT | os.O_WRONLY, 0o666))
    assert stat.S_IMODE(os.stat(fs.path / "dir" / "file").st_mode) == 0o644


@pytest.mark.requires("other_users")
@given({"file": "x", "dir": {}})
def test_removing_an_acl_that_is_not_there_succeeds(fs: Filesystem) -> None:
    os.chmod(fs.path / "file", 0o640)  # overlayfs says ENODATA of what is not copied up (ovl_set_or_remove_acl)
    os.chmod(fs.path / "dir", 0o750)
    os.removexattr(fs.path / "file", "system.posix_acl_access")
    os.setxattr(fs.path / "file", "system.posix_acl_access", b"")
    os.removexattr(fs.path / "dir", "system.posix_acl_default")
    assert stat.S_IMODE(os.stat(fs.path / "file").st_mode) == 0o640
    with pytest.raises(OSError) as caught:
        os.removexattr(fs.path / "file", "user.none")
    assert caught.value.errno == errno.ENODATA


@pytest.mark.requires("other_users")
@given({"file": "x"})
def test_a_default_acl_is_for_directories(fs: Filesystem) -> None:
    with pytest.raises(PermissionError):
        os.setxattr(fs.path / "file", "system.posix_acl_default", DEFAULT)
    with pytest.raises(OSError) as caught:
        os.setxattr(fs.path / "file", "system.posix_acl_access", b"no acl")
    assert caught.value.errno in (errno.EINVAL, errno.EOPNOTSUPP)
