"""What is still in use lives on without a name: open files, working directories, descriptors of directories."""

import mmap
import os
import stat

import pytest
from filesystems import Filesystem
from trees import Dir

given = pytest.mark.tree


@given({"file": b"content" * 10_000})
def test_an_unlinked_file_can_be_read_written_and_asked(fs: Filesystem) -> None:
    with open(fs.path / "file", "r+b", buffering=0) as file:
        os.unlink(fs.path / "file")
        assert os.fstat(file.fileno()).st_nlink == 0
        assert file.read() == b"content" * 10_000
        file.write(b"more")
        assert os.pread(file.fileno(), 11, 69_993) == b"contentmore"
        os.ftruncate(file.fileno(), 7)
        os.fchmod(file.fileno(), 0o600)
        os.utime(file.fileno(), ns=(1, 2))
        status = os.fstat(file.fileno())
        assert (status.st_size, stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (7, 0o600, 2)
        os.fsync(file.fileno())
    assert os.listdir(fs.path) == []


@given({"file": b"content"})
def test_an_unlinked_file_that_was_only_read_can_be_read_on(fs: Filesystem) -> None:
    with open(fs.path / "file", "rb", buffering=0) as file:
        assert file.read(3) == b"con"
        os.unlink(fs.path / "file")
        assert file.read() == b"tent"
        assert os.fstat(file.fileno()).st_size == 7


@given({"file": b"content"})
def test_an_unlinked_file_can_be_changed_for_the_first_time(fs: Filesystem) -> None:
    with open(fs.path / "file", "rb", buffering=0) as file:
        os.unlink(fs.path / "file")
        os.fchmod(file.fileno(), 0o600)
        with open(f"/proc/self/fd/{file.fileno()}", "r+b", buffering=0) as again:
            again.write(b"CON")
        assert file.read() == b"CONtent"
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600
    assert os.listdir(fs.path) == []


@given({"file": b"content"})
def test_the_name_of_an_unlinked_file_is_free(fs: Filesystem) -> None:
    with open(fs.path / "file", "r+b", buffering=0) as old:
        os.unlink(fs.path / "file")
        (fs.path / "file").write_bytes(b"new")
        old.write(b"OLD")
        assert os.pread(old.fileno(), 10, 0) == b"OLDtent"
        assert os.fstat(old.fileno()).st_ino != os.stat(fs.path / "file").st_ino
    assert (fs.path / "file").read_bytes() == b"new"


@given({"file": b"content"})
def test_several_descriptors_of_an_unlinked_file(fs: Filesystem) -> None:
    with open(fs.path / "file", "rb", buffering=0) as reader, open(fs.path / "file", "r+b", buffering=0) as writer:
        os.unlink(fs.path / "file")
        writer.write(b"CON")
        assert reader.read() == b"CONtent"
        with open(f"/proc/self/fd/{reader.fileno()}", "rb") as again:
            assert again.read() == b"CONtent"


def test_a_temporary_file_is_written_after_it_is_unlinked(fs: Filesystem) -> None:
    with open(fs.path / "temporary", "x+b", buffering=0) as file:
        os.unlink(fs.path / "temporary")
        for number in range(100):
            file.write(b"%04d" % number)
        file.seek(0)
        assert file.read() == b"".join(b"%04d" % number for number in range(100))


@given({"file": b"x" * 8192})
def test_a_mapping_of_an_unlinked_file(fs: Filesystem) -> None:
    with open(fs.path / "file", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        os.unlink(fs.path / "file")
        mapping[4096:4099] = b"new"
        mapping.flush()
        assert os.pread(file.fileno(), 5, 4095) == b"xnewx"


@pytest.mark.requires("user_xattrs")
@given({"file": b"content"})
def test_xattrs_of_an_unlinked_file(fs: Filesystem) -> None:
    with open(fs.path / "file", "r+b") as file:
        os.setxattr(file.fileno(), "user.before", b"1")
        os.unlink(fs.path / "file")
        os.setxattr(file.fileno(), "user.after", b"2")
        assert os.getxattr(file.fileno(), "user.before") == b"1"
        assert os.getxattr(file.fileno(), "user.after") == b"2"


@given({"dir": {}})
def test_a_working_directory_can_be_removed(fs: Filesystem) -> None:
    os.chdir(fs.path / "dir")
    os.rmdir(fs.path / "dir")
    assert os.listdir(".") == []
    with pytest.raises(FileNotFoundError):
        open("new", "xb").close()
    with pytest.raises(FileNotFoundError):
        os.mkdir("new")
    assert os.listdir(fs.path) == []


@given({"dir": Dir({}, mode=0o750)})
def test_a_removed_directory_still_has_attributes(fs: Filesystem) -> None:
    descriptor = os.open(fs.path / "dir", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.rmdir(fs.path / "dir")
        assert stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o750
        os.mkdir(fs.path / "dir")
        (fs.path / "dir" / "new").write_bytes(b"")
        assert os.listdir(descriptor) == []
    finally:
        os.close(descriptor)


@given({"dir": {}})
def test_a_removed_directory_has_no_links(fs: Filesystem) -> None:
    descriptor = os.open(fs.path / "dir", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.rmdir(fs.path / "dir")
        assert os.fstat(descriptor).st_nlink == 0
    finally:
        os.close(descriptor)


@given({"dir": {"a": "", "b": ""}, "file": ""})
def test_what_unlink_and_rmdir_refuse(fs: Filesystem) -> None:
    with pytest.raises(IsADirectoryError):
        os.unlink(fs.path / "dir")
    with pytest.raises(NotADirectoryError):
        os.rmdir(fs.path / "file")
    with pytest.raises(OSError, match="not empty"):
        os.rmdir(fs.path / "dir")
    for remove in (os.unlink, os.rmdir):
        with pytest.raises(FileNotFoundError):
            remove(fs.path / "absent")
    with pytest.raises(OSError, match="Invalid argument"):
        os.rmdir(os.path.join(fs.path, "dir", "."))


@given({"dir": {"a": "", "b": {}}})
def test_a_directory_that_was_emptied_can_be_removed_and_made_again(fs: Filesystem) -> None:
    os.unlink(fs.path / "dir" / "a")
    os.rmdir(fs.path / "dir" / "b")
    os.rmdir(fs.path / "dir")
    assert os.listdir(fs.path) == []
    os.mkdir(fs.path / "dir")
    assert os.listdir(fs.path / "dir") == []
    for name in ("a", "b"):
        assert not os.path.lexists(fs.path / "dir" / name)


@given({"object": {"below": "x"}})
def test_one_name_after_another_kind(fs: Filesystem) -> None:
    path = fs.path / "object"
    os.unlink(path / "below")
    os.rmdir(path)
    path.write_bytes(b"file")
    os.unlink(path)
    os.symlink("target", path)
    os.unlink(path)
    os.mkfifo(path)
    os.unlink(path)
    os.mkdir(path)
    assert os.listdir(path) == []
    assert os.listdir(fs.path) == ["object"]
