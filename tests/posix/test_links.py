"""Hard links and symbolic links."""

import errno
import os
import stat

import pytest
from filesystems import Filesystem
from trees import Fifo, HardLink, Symlink

given = pytest.mark.tree


@given({"file": "content", "dir": {}})
def test_link_gives_a_second_name_of_the_same_inode(fs: Filesystem) -> None:
    os.link(fs.path / "file", fs.path / "dir" / "second")
    one, two = os.stat(fs.path / "file"), os.stat(fs.path / "dir" / "second")
    assert one.st_ino == two.st_ino
    assert one.st_nlink == two.st_nlink == 2


@given({"file": "content"})
def test_a_change_through_one_name_shows_through_the_other(fs: Filesystem) -> None:
    os.link(fs.path / "file", fs.path / "second")
    assert (fs.path / "second").read_bytes() == b"content"
    with open(fs.path / "second", "ab") as file:
        file.write(b"+")
    os.chmod(fs.path / "file", 0o600)
    assert (fs.path / "file").read_bytes() == b"content+"
    assert stat.S_IMODE(os.stat(fs.path / "second").st_mode) == 0o600


@given({"file": "content"})
def test_the_other_name_survives(fs: Filesystem) -> None:
    os.link(fs.path / "file", fs.path / "second")
    os.unlink(fs.path / "file")
    assert os.stat(fs.path / "second").st_nlink == 1
    with open(fs.path / "second", "r+b") as file:
        file.write(b"CON")
    assert (fs.path / "second").read_bytes() == b"CONtent"
    os.link(fs.path / "second", fs.path / "file")
    assert os.stat(fs.path / "file").st_nlink == 2


@given({"one": "content", "two": HardLink("one"), "three": HardLink("one")})
def test_hard_links_share_an_inode(fs: Filesystem) -> None:
    stats = [os.stat(fs.path / name) for name in ("one", "two", "three")]
    assert len({status.st_ino for status in stats}) == 1
    assert {status.st_nlink for status in stats} == {3}


@given({"one": "content", "two": HardLink("one"), "three": HardLink("one")})
def test_hard_links_stay_together_when_one_is_written(fs: Filesystem) -> None:
    with open(fs.path / "one", "ab") as file:
        file.write(b"+")
    assert {(fs.path / name).read_bytes() for name in ("one", "two", "three")} == {b"content+"}
    assert len({os.stat(fs.path / name).st_ino for name in ("one", "two", "three")}) == 1


@given({"one": "content", "two": HardLink("one")})
def test_removing_one_of_two_links_lowers_nlink(fs: Filesystem) -> None:
    assert os.stat(fs.path / "one").st_nlink == 2
    os.unlink(fs.path / "two")
    assert os.stat(fs.path / "one").st_nlink == 1


@given({"one": "content", "two": HardLink("one")})
def test_the_surviving_name_of_a_pair_can_be_written(fs: Filesystem) -> None:
    os.unlink(fs.path / "one")
    with open(fs.path / "two", "ab") as file:
        file.write(b"+")
    assert (fs.path / "two").read_bytes() == b"content+"
    assert os.listdir(fs.path) == ["two"]


@given({"file": "", "dir": {}})
def test_what_link_refuses(fs: Filesystem) -> None:
    with pytest.raises(FileExistsError):
        os.link(fs.path / "file", fs.path / "file")
    with pytest.raises(FileExistsError):
        os.link(fs.path / "file", fs.path / "dir")
    with pytest.raises(PermissionError):
        os.link(fs.path / "dir", fs.path / "second")
    with pytest.raises(FileNotFoundError):
        os.link(fs.path / "absent", fs.path / "second")
    with pytest.raises(FileNotFoundError):
        os.link(fs.path / "file", fs.path / "absent" / "second")


@given({"target": "", "symlink": Symlink("target"), "fifo": Fifo()})
def test_links_of_symlinks_and_fifos(fs: Filesystem) -> None:
    os.link(fs.path / "symlink", fs.path / "second", follow_symlinks=False)
    assert os.readlink(fs.path / "second") == "target"
    assert os.lstat(fs.path / "symlink").st_nlink == 2
    os.link(fs.path / "fifo", fs.path / "other")
    assert os.lstat(fs.path / "other").st_ino == os.lstat(fs.path / "fifo").st_ino


@given({"old": "old"})
def test_a_link_to_a_name_that_was_deleted(fs: Filesystem) -> None:
    (fs.path / "new").write_bytes(b"new")
    os.unlink(fs.path / "old")
    os.link(fs.path / "new", fs.path / "old")
    assert (fs.path / "old").read_bytes() == b"new"
    assert sorted(os.listdir(fs.path)) == ["new", "old"]


@given({"dir": {"file": "content"}})
def test_many_links(fs: Filesystem) -> None:
    for number in range(100):
        os.link(fs.path / "dir" / "file", fs.path / f"link{number}")
    assert os.stat(fs.path / "dir" / "file").st_nlink == 101
    for number in range(100):
        os.unlink(fs.path / f"link{number}")
    assert os.stat(fs.path / "dir" / "file").st_nlink == 1


@pytest.mark.parametrize(
    "target", [b"x", b"/absolute/nowhere", b"../" * 100 + b"up", b"n" * 4095, b"\xff\xfe caf\xe9"]
)
def test_a_symlink_keeps_any_target(fs: Filesystem, target: bytes) -> None:
    path = os.fsencode(fs.path / "link")
    os.symlink(target, path)
    assert os.readlink(path) == target
    assert os.lstat(path).st_size == len(target)
    assert stat.S_ISLNK(os.lstat(path).st_mode)


@given({"loop": Symlink("loop"), "long": Symlink("t" * 2000), "file": "x", "to": Symlink("./file")})
def test_existing_symlinks(fs: Filesystem) -> None:
    assert os.readlink(fs.path / "long") == "t" * 2000
    assert (fs.path / "to").read_bytes() == b"x"
    with pytest.raises(OSError) as caught:
        os.stat(fs.path / "loop")
    assert caught.value.errno == errno.ELOOP
    with pytest.raises(OSError) as caught:
        os.readlink(fs.path / "file")
    assert caught.value.errno == errno.EINVAL


@given({"dir": {"file": "x"}, "link": Symlink("dir")})
def test_a_symlink_to_a_directory(fs: Filesystem) -> None:
    assert os.listdir(fs.path / "link") == ["file"]
    (fs.path / "link" / "new").write_bytes(b"")
    assert sorted(os.listdir(fs.path / "dir")) == ["file", "new"]
    with pytest.raises(NotADirectoryError):
        os.rmdir(fs.path / "link")
    os.unlink(fs.path / "link")
    assert (fs.path / "dir" / "file").exists()


@given({"link": Symlink("old")})
def test_a_symlink_is_replaced_by_rename(fs: Filesystem) -> None:
    os.symlink("new", fs.path / "temporary")
    os.rename(fs.path / "temporary", fs.path / "link")
    assert os.readlink(fs.path / "link") == "new"
    with pytest.raises(FileExistsError):
        os.symlink("again", fs.path / "link")


@pytest.mark.requires("other_users")
@given({"link": Symlink("nowhere")})
def test_the_owner_of_a_symlink_itself(fs: Filesystem) -> None:
    os.chown(fs.path / "link", 12345, 12346, follow_symlinks=False)
    status = os.lstat(fs.path / "link")
    assert (status.st_uid, status.st_gid) == (12345, 12346)
    assert os.readlink(fs.path / "link") == "nowhere"
