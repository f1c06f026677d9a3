"""open(2): its creation and status flags, and what they do to files that must be copied up first."""

import errno
import os
import stat

import pytest
from filesystems import Filesystem
from syscalls import linkat_fd
from trees import Dir, File, Symlink

given = pytest.mark.tree


def test_create_and_read_back(fs: Filesystem) -> None:
    with open(fs.path / "new", "xb") as file:
        file.write(b"content")
    assert (fs.path / "new").read_bytes() == b"content"
    assert os.listdir(fs.path) == ["new"]


@given({"file": "old"})
def test_o_excl_refuses_an_existing_file(fs: Filesystem) -> None:
    with pytest.raises(FileExistsError):
        os.open(fs.path / "file", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    assert (fs.path / "file").read_bytes() == b"old"


@given({"dangling": Symlink("nowhere")})
def test_o_excl_refuses_a_dangling_symlink(fs: Filesystem) -> None:
    with pytest.raises(FileExistsError):
        os.open(fs.path / "dangling", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    assert not (fs.path / "nowhere").exists()


@given({"dangling": Symlink("target")})
def test_o_creat_creates_the_target_of_a_symlink(fs: Filesystem) -> None:
    os.close(os.open(fs.path / "dangling", os.O_CREAT | os.O_WRONLY, 0o600))
    assert stat.S_ISREG(os.lstat(fs.path / "target").st_mode)
    assert (fs.path / "dangling").is_symlink()


@given({"file": "old content"})
def test_o_creat_of_an_existing_file_changes_nothing(fs: Filesystem) -> None:
    before = os.stat(fs.path / "file")
    os.close(os.open(fs.path / "file", os.O_CREAT | os.O_RDWR, 0o600))
    after = os.stat(fs.path / "file")
    assert (before.st_mode, before.st_size, before.st_mtime_ns) == (
        after.st_mode,
        after.st_size,
        after.st_mtime_ns,
    )


@given({"file": File("old content", mode=0o640)})
def test_o_trunc_empties_and_keeps_mode_and_inode(fs: Filesystem) -> None:
    before = os.stat(fs.path / "file")
    os.close(os.open(fs.path / "file", os.O_WRONLY | os.O_TRUNC))
    after = os.stat(fs.path / "file")
    assert after.st_size == 0
    assert after.st_mtime_ns > before.st_mtime_ns
    assert (after.st_mode, after.st_ino) == (before.st_mode, before.st_ino)


@given({"file": "old"})
def test_o_rdonly_with_o_creat_and_o_trunc(fs: Filesystem) -> None:
    descriptor = os.open(fs.path / "file", os.O_RDONLY | os.O_CREAT | os.O_TRUNC)
    try:
        assert os.read(descriptor, 10) == b""
    finally:
        os.close(descriptor)


@given({"file": b"x" * 10_000})
def test_o_append_writes_at_the_end_wherever_the_offset_is(fs: Filesystem) -> None:
    descriptor = os.open(fs.path / "file", os.O_RDWR | os.O_APPEND)
    try:
        os.lseek(descriptor, 5, os.SEEK_SET)
        os.write(descriptor, b"tail")
        assert os.lseek(descriptor, 0, os.SEEK_CUR) == 10_004
    finally:
        os.close(descriptor)
    assert (fs.path / "file").read_bytes() == b"x" * 10_000 + b"tail"


@given({"file": b"x"})
def test_appending_keeps_every_byte_of_the_copy(fs: Filesystem) -> None:
    for number in range(50):
        with open(fs.path / "file", "ab") as file:
            file.write(b"%d," % number)
    assert (fs.path / "file").read_bytes() == b"x" + b"".join(b"%d," % number for number in range(50))


@given({"file": "", "dir": {}})
def test_o_directory(fs: Filesystem) -> None:
    with pytest.raises(NotADirectoryError):
        os.open(fs.path / "file", os.O_RDONLY | os.O_DIRECTORY)
    os.close(os.open(fs.path / "dir", os.O_RDONLY | os.O_DIRECTORY))


@given({"file": "", "link": Symlink("file")})
def test_o_nofollow(fs: Filesystem) -> None:
    with pytest.raises(OSError) as caught:
        os.open(fs.path / "link", os.O_RDONLY | os.O_NOFOLLOW)
    assert caught.value.errno == errno.ELOOP
    os.close(os.open(fs.path / "file", os.O_RDONLY | os.O_NOFOLLOW))


@given({"dir": {}})
def test_a_directory_cannot_be_opened_for_writing(fs: Filesystem) -> None:
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_CREAT, os.O_WRONLY | os.O_TRUNC):
        with pytest.raises(IsADirectoryError):
            os.open(fs.path / "dir", flags)


def test_opening_what_does_not_exist(fs: Filesystem) -> None:
    for path in (fs.path / "absent", fs.path / "absent" / "file"):
        with pytest.raises(FileNotFoundError):
            os.open(path, os.O_RDONLY)
    with pytest.raises(FileNotFoundError):
        os.open(fs.path / "absent" / "file", os.O_WRONLY | os.O_CREAT)


@given({"file": ""})
def test_a_file_is_no_directory(fs: Filesystem) -> None:
    for flags in (os.O_RDONLY, os.O_WRONLY | os.O_CREAT):
        with pytest.raises(NotADirectoryError):
            os.open(fs.path / "file" / "below", flags)


@given({"file": "content"})
def test_reading_needs_a_readable_descriptor_and_writing_a_writable_one(fs: Filesystem) -> None:
    for flags, action in (
        (os.O_WRONLY, lambda fd: os.read(fd, 1)),
        (os.O_RDONLY, lambda fd: os.write(fd, b"x")),
    ):
        descriptor = os.open(fs.path / "file", flags)
        try:
            with pytest.raises(OSError) as caught:
                action(descriptor)
            assert caught.value.errno == errno.EBADF
        finally:
            os.close(descriptor)


@given({"file": "old"})
def test_a_descriptor_opened_before_the_copy_up_reads_what_is_written_after(fs: Filesystem) -> None:
    with open(fs.path / "file", "rb", buffering=0) as reader:
        assert reader.read() == b"old"
        with open(fs.path / "file", "r+b") as writer:
            writer.write(b"new and longer")
        reader.seek(0)
        assert reader.read() == b"new and longer"
        assert os.fstat(reader.fileno()).st_ino == os.stat(fs.path / "file").st_ino


@given({"file": "old"})
def test_two_writers_opened_before_the_copy_up_write_one_file(fs: Filesystem) -> None:
    with open(fs.path / "file", "r+b", buffering=0) as one, open(fs.path / "file", "r+b", buffering=0) as two:
        one.write(b"ONE")
        two.seek(3)
        two.write(b"TWO")
        one.seek(0)
        assert one.read() == b"ONETWO"


@given({"file": "data"})
def test_o_path_gives_attributes_but_no_data(fs: Filesystem) -> None:
    descriptor = os.open(fs.path / "file", os.O_PATH)
    try:
        assert os.fstat(descriptor).st_size == 4
        with pytest.raises(OSError) as caught:
            os.read(descriptor, 1)
        assert caught.value.errno == errno.EBADF
    finally:
        os.close(descriptor)


def test_o_tmpfile_can_be_written_and_linked(fs: Filesystem) -> None:
    descriptor = os.open(fs.path, os.O_TMPFILE | os.O_RDWR, 0o640)
    try:
        os.write(descriptor, b"content")
        assert os.fstat(descriptor).st_nlink == 0
        assert os.listdir(fs.path) == []
        linkat_fd(descriptor, fs.path / "named")
    finally:
        os.close(descriptor)
    assert (fs.path / "named").read_bytes() == b"content"
    assert stat.S_IMODE(os.stat(fs.path / "named").st_mode) == 0o640


@given({"dir": Dir({"file": "deep"}, mode=0o500)})
def test_relative_to_a_directory_descriptor(fs: Filesystem) -> None:
    directory = os.open(fs.path / "dir", os.O_RDONLY | os.O_DIRECTORY)
    try:
        descriptor = os.open("file", os.O_RDWR, dir_fd=directory)
        os.write(descriptor, b"DEEP")
        os.close(descriptor)
    finally:
        os.close(directory)
    assert (fs.path / "dir" / "file").read_bytes() == b"DEEP"
    assert stat.S_IMODE(os.stat(fs.path / "dir").st_mode) == 0o500
