"""Modes and owners: umask, chmod, chown, setuid and setgid bits, sticky directories, groups."""

import os
import stat

import pytest
from filesystems import Filesystem
from syscalls import GROUP, OTHER_GROUP, USER, as_user
from trees import Dir, File

given = pytest.mark.tree


def mode_of(path: "os.PathLike[str]") -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def append(name: str, data: bytes = b"+") -> None:
    with open(name, "ab") as file:
        file.write(data)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o027, 0o777])
def test_umask_applies_to_everything_created(fs: Filesystem, umask: int) -> None:
    os.umask(umask)
    os.close(os.open(fs.path / "file", os.O_CREAT | os.O_WRONLY, 0o777))
    os.mkdir(fs.path / "dir", 0o777)
    os.mkfifo(fs.path / "fifo", 0o777)
    os.mknod(fs.path / "node", stat.S_IFREG | 0o777)
    assert {mode_of(fs.path / name) for name in ("file", "dir", "fifo", "node")} == {0o777 & ~umask}


def test_a_file_created_read_only_is_writable_through_its_descriptor(fs: Filesystem) -> None:
    descriptor = os.open(fs.path / "file", os.O_CREAT | os.O_RDWR, 0o400)
    try:
        os.write(descriptor, b"content")
    finally:
        os.close(descriptor)
    assert (fs.path / "file").read_bytes() == b"content"
    assert mode_of(fs.path / "file") == 0o400


@given({"file": File("data", mode=0o644), "dir": Dir({"below": ""}, mode=0o755)})
@pytest.mark.parametrize("mode", [0o000, 0o444, 0o600, 0o1755, 0o4755, 0o2755, 0o7777])
def test_chmod(fs: Filesystem, mode: int) -> None:
    for name in ("file", "dir"):
        os.chmod(fs.path / name, mode)
        assert mode_of(fs.path / name) == mode
    assert os.listdir(fs.path / "dir") == ["below"]
    assert (fs.path / "file").read_bytes() == b"data"


@given({"file": File("data", mode=0o640)})
def test_fchmod_through_a_read_only_descriptor(fs: Filesystem) -> None:
    with open(fs.path / "file", "rb") as file:
        os.fchmod(file.fileno(), 0o604)
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o604
        assert file.read() == b"data"
    assert mode_of(fs.path / "file") == 0o604


@pytest.mark.requires("other_users")
@given({"file": "data", "dir": {}})
def test_chown(fs: Filesystem) -> None:
    for name in ("file", "dir"):
        os.chown(fs.path / name, USER, GROUP)
        os.chown(fs.path / name, -1, OTHER_GROUP)
        status = os.stat(fs.path / name)
        assert (status.st_uid, status.st_gid) == (USER, OTHER_GROUP)
    assert (fs.path / "file").read_bytes() == b"data"


@pytest.mark.requires("other_users")
@given({"file": File("data", mode=0o6755), "plain": File("", mode=0o2644), "dir": Dir({}, mode=0o6755)})
def test_chown_clears_setuid_of_files_only(fs: Filesystem) -> None:
    for name in ("file", "plain", "dir"):
        os.chown(fs.path / name, USER, GROUP)
    assert mode_of(fs.path / "file") == 0o755
    assert mode_of(fs.path / "plain") == 0o2644  # not executable by the group: mandatory locking, not setgid
    assert mode_of(fs.path / "dir") == 0o6755


@pytest.mark.requires("other_users")
@given({"file": File("data", mode=0o6777)})
def test_writing_as_somebody_else_clears_setuid_and_setgid(fs: Filesystem) -> None:
    as_user(fs.path, lambda: append("file"))
    assert mode_of(fs.path / "file") == 0o777
    assert (fs.path / "file").read_bytes() == b"data+"


@pytest.mark.requires("other_users")
@given({"file": File("data", mode=0o6777), "other": File("data", mode=0o6777)})
def test_truncating_as_somebody_else_clears_setuid_and_setgid(fs: Filesystem) -> None:
    as_user(fs.path, lambda: os.truncate("file", 2))
    as_user(fs.path, lambda: open("other", "wb").close())
    assert mode_of(fs.path / "file") == 0o777
    assert mode_of(fs.path / "other") == 0o777


@pytest.mark.requires("other_users")
@given({"file": File("data", mode=0o6777)})
def test_writing_with_privilege_keeps_setuid(fs: Filesystem) -> None:
    append(os.fspath(fs.path / "file"))
    assert mode_of(fs.path / "file") == 0o6777


@pytest.mark.requires("other_users")
@given({"shared": Dir({}, mode=0o2777, gid=OTHER_GROUP)})
def test_a_setgid_directory_gives_its_group(fs: Filesystem) -> None:
    def create() -> None:
        open("shared/file", "xb").close()
        os.mkdir("shared/dir")
        os.symlink("x", "shared/link")
        os.mkfifo("shared/fifo")

    as_user(fs.path, create)
    for name in ("file", "dir", "link", "fifo"):
        status = os.lstat(fs.path / "shared" / name)
        assert (status.st_uid, status.st_gid) == (USER, OTHER_GROUP), name
    assert mode_of(fs.path / "shared" / "dir") == 0o2755
    assert mode_of(fs.path / "shared" / "file") == 0o644


@pytest.mark.requires("other_users")
@given({"shared": Dir({}, mode=0o2777, gid=OTHER_GROUP)})
def test_who_is_not_in_the_group_cannot_create_a_setgid_program(fs: Filesystem) -> None:
    as_user(fs.path, lambda: os.close(os.open("shared/file", os.O_CREAT | os.O_WRONLY, 0o2755)))
    assert mode_of(fs.path / "shared" / "file") == 0o755


@pytest.mark.requires("other_users")
@given({"file": File("", uid=USER, gid=OTHER_GROUP)})
def test_chmod_by_an_owner_outside_the_group_drops_setgid(fs: Filesystem) -> None:
    as_user(fs.path, lambda: os.chmod("file", 0o2755))
    assert mode_of(fs.path / "file") == 0o755
    as_user(fs.path, lambda: os.chmod("file", 0o2755), groups=[OTHER_GROUP])
    assert mode_of(fs.path / "file") == 0o2755


@pytest.mark.requires("other_users")
@given({"tmp": Dir({"mine": File("", uid=USER), "theirs": File("", mode=0o666)}, mode=0o1777)})
def test_a_sticky_directory_protects_what_belongs_to_others(fs: Filesystem) -> None:
    for action in (
        lambda: os.unlink("tmp/theirs"),
        lambda: os.rename("tmp/theirs", "tmp/stolen"),
        lambda: os.rename("tmp/mine", "tmp/theirs"),
    ):
        with pytest.raises(PermissionError):
            as_user(fs.path, action)
    as_user(fs.path, lambda: append("tmp/theirs"))
    as_user(fs.path, lambda: os.rename("tmp/mine", "tmp/own"))
    as_user(fs.path, lambda: os.unlink("tmp/own"))
    assert os.listdir(fs.path / "tmp") == ["theirs"]


@pytest.mark.requires("other_users")
@given({"file": File("secret", mode=0o640, gid=OTHER_GROUP), "dir": Dir({}, mode=0o770, gid=OTHER_GROUP)})
def test_supplementary_groups_count(fs: Filesystem) -> None:
    def read_and_create() -> bytes:
        os.mkdir("dir/below")
        with open("file", "rb") as file:
            return file.read()

    with pytest.raises(PermissionError):
        as_user(fs.path, read_and_create)
    assert as_user(fs.path, read_and_create, groups=[OTHER_GROUP]) == b"secret"
    status = os.stat(fs.path / "dir" / "below")
    assert (status.st_uid, status.st_gid) == (USER, GROUP)


@pytest.mark.requires("other_users")
@given({"file": File("", mode=0o600), "dir": {"file": ""}})
def test_others_have_no_more_than_the_mode_gives(fs: Filesystem) -> None:
    for action in (
        lambda: os.open("file", os.O_RDONLY),
        lambda: os.open("dir/new", os.O_CREAT | os.O_WRONLY),
        lambda: os.unlink("dir/file"),
        lambda: os.mkdir("dir/new"),
        lambda: os.symlink("x", "dir/new"),
        lambda: os.rename("dir/file", "dir/new"),
        lambda: os.chmod("file", 0o666),
        lambda: os.chown("file", USER, -1),
        lambda: os.utime("file", (1, 1)),
        lambda: os.truncate("file", 0),
        lambda: os.setxattr("file", "user.name", b""),
    ):
        with pytest.raises(PermissionError):
            as_user(fs.path, action)


@pytest.mark.requires("other_users")
@given({"file": File("data", mode=0o666)})
def test_a_copy_up_by_somebody_else_keeps_the_owner(fs: Filesystem) -> None:
    as_user(fs.path, lambda: append("file"))
    status = os.stat(fs.path / "file")
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, 0, 0o666)
    assert (fs.path / "file").read_bytes() == b"data+"


@pytest.mark.requires("other_users")
@given({"home": Dir({"dir": Dir({"file": File("x", 0o400, USER, GROUP)}, 0o500, USER, GROUP)}, 0o755, USER, GROUP)})
def test_an_owner_works_with_what_is_read_only_to_itself(fs: Filesystem) -> None:
    def work() -> None:
        os.chmod("home/dir", 0o700)
        os.chmod("home/dir/file", 0o600)
        append("home/dir/file", b"y")
        os.rename("home/dir/file", "home/dir/renamed")

    as_user(fs.path, work)
    assert (fs.path / "home/dir/renamed").read_bytes() == b"xy"
    assert os.stat(fs.path / "home/dir/renamed").st_uid == USER


@pytest.mark.requires("other_users")
@given({"home": Dir({"old": File("x", 0o444, USER, GROUP)}, 0o755, USER, GROUP)})
def test_deleting_needs_the_directory_not_the_file(fs: Filesystem) -> None:
    as_user(fs.path, lambda: os.unlink("home/old"))
    assert os.listdir(fs.path / "home") == []


@pytest.mark.requires("other_users")
def test_what_a_user_creates_belongs_to_that_user(fs: Filesystem) -> None:
    os.chmod(fs.path, 0o777)

    def create() -> None:
        open("file", "xb").close()
        os.mkdir("dir")
        os.symlink("file", "symlink")
        os.link("file", "hardlink")
        os.mkfifo("fifo")

    as_user(fs.path, create)
    for name in os.listdir(fs.path):
        status = os.lstat(fs.path / name)
        assert (status.st_uid, status.st_gid) == (USER, GROUP), name
