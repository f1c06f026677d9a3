"""Data: sizes, holes, offsets beyond 4 GiB, several writers, copies inside the kernel."""

import errno
import os

import pytest
from filesystems import Filesystem
from syscalls import fallocate, in_child
from trees import File

given = pytest.mark.tree

GIB = 1 << 30
PATTERN = bytes(range(256)) * 512  # 128 KiB


@given({"file": PATTERN})
@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 65_537, len(PATTERN), len(PATTERN) + 1, 1_000_000])
def test_truncate(fs: Filesystem, size: int) -> None:
    os.truncate(fs.path / "file", size)
    assert os.stat(fs.path / "file").st_size == size
    assert (fs.path / "file").read_bytes() == PATTERN[:size].ljust(size, b"\0")


@given({"file": PATTERN})
def test_ftruncate_down_and_up_leaves_zeros(fs: Filesystem) -> None:
    with open(fs.path / "file", "r+b") as file:
        os.ftruncate(file.fileno(), 10)
        os.ftruncate(file.fileno(), 20)
        assert file.read() == PATTERN[:10] + b"\0" * 10
    with open(fs.path / "file", "rb") as file, pytest.raises(OSError) as caught:
        os.ftruncate(file.fileno(), 0)
    assert caught.value.errno == errno.EINVAL


@given({"dir": {}, "file": ""})
def test_truncate_of_the_wrong_thing(fs: Filesystem) -> None:
    with pytest.raises(IsADirectoryError):
        os.truncate(fs.path / "dir", 0)
    with pytest.raises(FileNotFoundError):
        os.truncate(fs.path / "absent", 0)
    with pytest.raises(OSError) as caught:
        os.truncate(fs.path / "file", -1)
    assert caught.value.errno == errno.EINVAL


@given({"file": b"0123456789"})
def test_pread_and_pwrite(fs: Filesystem) -> None:
    descriptor = os.open(fs.path / "file", os.O_RDWR)
    try:
        assert os.pwrite(descriptor, b"ab", 4) == 2
        assert os.pread(descriptor, 4, 3) == b"3ab6"
        assert os.pread(descriptor, 10, 9) == b"9"
        assert os.pread(descriptor, 10, 10) == b""
        assert os.pread(descriptor, 10, 1000) == b""
        assert os.lseek(descriptor, 0, os.SEEK_CUR) == 0
        os.pwrite(descriptor, b"z", 20)
        assert os.pread(descriptor, 100, 8) == b"89" + b"\0" * 10 + b"z"
    finally:
        os.close(descriptor)


@given({"file": PATTERN})
def test_overwriting_the_middle_keeps_the_rest(fs: Filesystem) -> None:
    with open(fs.path / "file", "r+b") as file:
        file.seek(70_000)
        file.write(b"middle")
    assert (fs.path / "file").read_bytes() == PATTERN[:70_000] + b"middle" + PATTERN[70_006:]


def test_large_writes_in_odd_pieces(fs: Filesystem) -> None:
    pieces = [PATTERN[:size] for size in (1, 4097, 131_072, 65_535, 3)] * 8
    with open(fs.path / "file", "wb", buffering=0) as file:
        for piece in pieces:
            assert file.write(piece) == len(piece)
    assert (fs.path / "file").read_bytes() == b"".join(pieces)


def test_readv_and_writev(fs: Filesystem) -> None:
    descriptor = os.open(fs.path / "file", os.O_CREAT | os.O_RDWR)
    try:
        assert os.writev(descriptor, [b"one", b"", b"three"]) == 8
        buffers = [bytearray(2), bytearray(10)]
        assert os.preadv(descriptor, buffers, 1) == 7
        assert bytes(buffers[0]) == b"ne"
        assert bytes(buffers[1][:5]) == b"three"
    finally:
        os.close(descriptor)


@given({"file": File(b"head" + b"\0" * (8 << 20) + b"tail", holes=((4096, (8 << 20) - 4096),))})
def test_holes_survive_a_copy_up(fs: Filesystem) -> None:
    with open(fs.path / "file", "ab") as file:
        file.write(b"+")
    status = os.stat(fs.path / "file")
    assert status.st_size == 4 + (8 << 20) + 5
    assert status.st_blocks * 512 < 4 << 20  # the kernel skips holes in steps of 1 MiB
    data = (fs.path / "file").read_bytes()
    assert data[:4] == b"head"
    assert data[-5:] == b"tail+"
    assert data.strip(b"headtil+") == b"\0" * (8 << 20)


def test_a_sparse_file_beyond_4_gib(fs: Filesystem) -> None:
    offset = 5 * GIB + 123
    with open(fs.path / "file", "w+b") as file:
        file.seek(offset)
        file.write(b"far")
        file.flush()
        assert os.fstat(file.fileno()).st_size == offset + 3
        assert os.pread(file.fileno(), 3, offset) == b"far"
        assert os.pread(file.fileno(), 3, 4 * GIB) == b"\0\0\0"
        assert os.pread(file.fileno(), 3, offset - 4 * GIB) == b"\0\0\0"
    assert os.stat(fs.path / "file").st_blocks * 512 < 1 << 20


@given({"file": "0123456789"})
def test_seek_data_and_hole_cover_the_file(fs: Filesystem) -> None:
    """A filesystem may know no holes; then all is data and the one hole is at the end."""
    with open(fs.path / "file", "rb") as file:
        assert os.lseek(file.fileno(), 3, os.SEEK_DATA) == 3
        assert os.lseek(file.fileno(), 3, os.SEEK_HOLE) == 10
        with pytest.raises(OSError) as caught:
            os.lseek(file.fileno(), 10, os.SEEK_DATA)
        assert caught.value.errno == errno.ENXIO


@given({"file": "start\n"})
def test_two_processes_append_without_loss(fs: Filesystem) -> None:
    def append(mark: bytes) -> None:
        with open(fs.path / "file", "ab", buffering=0) as file:
            for number in range(200):
                file.write(mark + b"%03d\n" % number)

    with open(fs.path / "file", "ab", buffering=0) as file:

        def other() -> None:
            append(b"child ")

        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.read(reader, 1)
                other()
            finally:
                os._exit(0)
        os.write(writer, b"!")
        for number in range(200):
            file.write(b"parent %03d\n" % number)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)
    lines = (fs.path / "file").read_bytes().splitlines()
    assert lines[0] == b"start"
    assert [line for line in lines if line.startswith(b"child")] == [b"child %03d" % n for n in range(200)]
    assert [line for line in lines if line.startswith(b"parent")] == [b"parent %03d" % n for n in range(200)]
    assert len(lines) == 401


@given({"file": "shared"})
def test_what_one_process_writes_another_reads(fs: Filesystem) -> None:
    with open(fs.path / "file", "rb", buffering=0) as reader:
        assert reader.read() == b"shared"
        in_child(lambda: (fs.path / "file").write_bytes(b"from the child"))
        reader.seek(0)
        assert reader.read() == b"from the child"


@given({"source": PATTERN})
def test_copy_file_range(fs: Filesystem) -> None:
    with open(fs.path / "source", "rb") as source, open(fs.path / "target", "xb") as target:
        left = len(PATTERN)
        while left:
            copied = os.copy_file_range(source.fileno(), target.fileno(), left)
            assert copied > 0
            left -= copied
        assert os.copy_file_range(source.fileno(), target.fileno(), 10) == 0
    assert (fs.path / "target").read_bytes() == PATTERN


@given({"file": PATTERN})
def test_sendfile(fs: Filesystem) -> None:
    with open(fs.path / "file", "rb") as source, open(fs.path / "copy", "xb") as target:
        offset = 0
        while sent := os.sendfile(target.fileno(), source.fileno(), offset, len(PATTERN)):
            offset += sent
    assert (fs.path / "copy").read_bytes() == PATTERN


@given({"file": "0123456789"})
def test_fallocate_extends(fs: Filesystem) -> None:
    with open(fs.path / "file", "r+b") as file:
        fallocate(file.fileno(), 0, 0, 8192)
    assert (fs.path / "file").read_bytes() == b"0123456789".ljust(8192, b"\0")


@given({"file": PATTERN})
def test_fallocate_punches_holes(fs: Filesystem) -> None:
    with open(fs.path / "file", "r+b") as file:
        fallocate(file.fileno(), 3, 4096, 8192)
    assert (fs.path / "file").read_bytes() == PATTERN[:4096] + b"\0" * 8192 + PATTERN[12_288:]


@given({"file": PATTERN})
def test_fsync_of_files_and_directories(fs: Filesystem) -> None:
    with open(fs.path / "file", "r+b") as file:
        file.write(b"new")
        file.flush()
        os.fsync(file.fileno())
        os.fdatasync(file.fileno())
    with open(fs.path / "file", "rb") as file:
        os.fsync(file.fileno())
    directory = os.open(fs.path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
        os.fdatasync(directory)
    finally:
        os.close(directory)
    assert (fs.path / "file").read_bytes() == b"new" + PATTERN[3:]


@given({"file": PATTERN})
@pytest.mark.parametrize("flag", [os.O_SYNC, os.O_DSYNC, os.O_NOATIME])
def test_flags_that_change_no_result(fs: Filesystem, flag: int) -> None:
    descriptor = os.open(fs.path / "file", os.O_RDWR | flag)
    try:
        os.write(descriptor, b"new")
        assert os.pread(descriptor, 6, 0) == b"new" + PATTERN[3:6]
    finally:
        os.close(descriptor)
