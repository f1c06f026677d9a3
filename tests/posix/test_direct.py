"""What only a filesystem answers that is asked for it: holes, ranges, birth times, flags of inodes, interrupts.

pyfuse3 has no handlers for most of it (tests/divergences.py).
"""

import ctypes
import errno
import fcntl
import os
import struct
import subprocess
import time
from pathlib import Path

import pytest
from filesystems import Filesystem
from syscalls import USER, as_user, fallocate

given = pytest.mark.tree

MIB = 1 << 20
COLLAPSE, KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 0x08, 0x01, 0x02, 0x10
GETFLAGS, SETFLAGS, FSGETXATTR = 0x80086601, 0x40086602, 0x801C581F
NODUMP = 0x40


def holes_are_known(directory: Path) -> bool:
    with open(directory / "probe", "w+b") as file:
        file.truncate(MIB)
        return os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 0


@given({"file": b"data" * 1024})
def test_holes_are_found(fs: Filesystem) -> None:
    if not holes_are_known(fs.path):
        pytest.skip("this filesystem knows no holes")
    with open(fs.path / "file", "r+b") as file:
        os.ftruncate(file.fileno(), 4 * MIB)
        os.pwrite(file.fileno(), b"far", 2 * MIB)
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 4096
        assert os.lseek(file.fileno(), 4096, os.SEEK_DATA) == 2 * MIB
        assert os.lseek(file.fileno(), 2 * MIB, os.SEEK_HOLE) < 3 * MIB


@given({"file": bytes(range(256)) * 256})
@pytest.mark.parametrize("mode", [KEEP_SIZE, ZERO_RANGE])
def test_ranges_of_a_file_are_allocated_and_zeroed(fs: Filesystem, mode: int) -> None:
    check_range(fs, mode, bytes(4096) if mode == ZERO_RANGE else bytes(range(256)) * 16)


@given({"file": bytes(range(256)) * 256})
def test_a_range_is_taken_out(fs: Filesystem) -> None:
    check_range(fs, COLLAPSE, b"")


def check_range(fs: Filesystem, mode: int, first_block: bytes) -> None:
    expected = first_block + (bytes(range(256)) * 256)[4096:]
    with open(fs.path / "file", "r+b") as file:
        try:
            fallocate(file.fileno(), mode, 0, 4096)
        except OSError as error:
            if fs.variant == "native" and error.errno == errno.EOPNOTSUPP:
                pytest.skip("the filesystem below cannot")
            raise
        assert file.read() == expected


@given({"one": b"x" * 300_000, "two": b"before"})
def test_a_range_is_copied_by_the_kernel(fs: Filesystem) -> None:
    with open(fs.path / "one", "rb") as one, open(fs.path / "two", "r+b") as two:
        done = 0
        while done < 300_000:
            done += os.copy_file_range(one.fileno(), two.fileno(), 300_000 - done, done, 3 + done)
        assert two.read() == b"bef" + b"x" * 300_000


@given({"file": "x"})
@pytest.mark.requires("other_users")
def test_allocating_clears_setuid_for_others(fs: Filesystem) -> None:
    os.chown(fs.path / "file", USER, USER)
    os.chmod(fs.path / "file", 0o4755)

    def allocate() -> None:
        with open("file", "r+b") as file:
            fallocate(file.fileno(), 0, 0, 100)

    as_user(fs.path, allocate)
    assert os.stat(fs.path / "file").st_mode & 0o7777 == 0o755


@given({"file": "x"})
def test_a_birth_time_is_told(fs: Filesystem) -> None:
    with open(fs.path / "new", "wb"):
        pass
    mask, seconds = statx(fs.path / "new")
    assert mask & 0x800
    assert abs(seconds - time.time()) < 3600


def statx(path: Path) -> tuple[int, int]:
    """``(stx_mask, stx_btime.tv_sec)``."""
    buffer = ctypes.create_string_buffer(256)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.statx(-100, os.fsencode(path), 0, ctypes.c_uint(0xFFF), buffer) == 0
    return struct.unpack_from("=I", buffer.raw)[0], struct.unpack_from("=q", buffer.raw, 80)[0]


@given({"file": "x", "dir": {}})
@pytest.mark.parametrize("name", ["file", "dir"])
def test_flags_of_inodes(fs: Filesystem, name: str) -> None:
    fd = os.open(fs.path / name, os.O_RDONLY)
    try:
        (before,) = struct.unpack("=i", fcntl.ioctl(fd, GETFLAGS, bytes(4)))
        fcntl.ioctl(fd, SETFLAGS, struct.pack("=i", before | NODUMP))
        (after,) = struct.unpack("=i", fcntl.ioctl(fd, GETFLAGS, bytes(4)))
        assert after & NODUMP and after & ~NODUMP == before & ~NODUMP
        assert len(fcntl.ioctl(fd, FSGETXATTR, bytes(28))) == 28
    finally:
        os.close(fd)


@given({"file": "x"})
def test_an_unknown_ioctl_is_refused(fs: Filesystem) -> None:
    with open(fs.path / "file", "rb") as file:
        assert not os.isatty(file.fileno())
        with pytest.raises(OSError) as caught:
            fcntl.ioctl(file.fileno(), 0x4004BEEF, bytes(4))
        assert caught.value.errno in (errno.ENOTTY, errno.EINVAL)


@given({"file": "x"})
def test_direct_reads_and_writes(fs: Filesystem) -> None:
    """O_DIRECT, aligned as a disk wants it."""
    import mmap

    block = mmap.mmap(-1, 4096)
    block[:] = b"d" * 4096
    fd = os.open(fs.path / "file", os.O_RDWR | os.O_DIRECT)
    try:
        assert os.pwritev(fd, [block], 0) == 4096
        assert os.preadv(fd, [block], 0) == 4096
        assert block[:] == b"d" * 4096
    finally:
        os.close(fd)


@given({"file": "x"})
def test_a_filesystem_is_synced(fs: Filesystem) -> None:
    (fs.path / "file").write_text("y")
    subprocess.run(["sync", "-f", fs.path / "file"], check=True, timeout=120)
