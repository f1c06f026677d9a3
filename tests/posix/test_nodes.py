"""Fifos, sockets and device nodes."""

import os
import socket
import stat

import pytest
from filesystems import Filesystem
from syscalls import as_user, in_child
from trees import Device, Fifo, Socket

given = pytest.mark.tree


@given({"fifo": Fifo(0o620)})
def test_data_goes_through_a_fifo(fs: Filesystem) -> None:
    reader = os.open(fs.path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    try:
        in_child(lambda: (fs.path / "fifo").write_bytes(b"through"))
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(os.lstat(fs.path / "fifo").st_mode)


@given({"fifo": Fifo(0o620)})
def test_a_fifo_is_changed_like_any_object(fs: Filesystem) -> None:
    os.chmod(fs.path / "fifo", 0o600)
    os.utime(fs.path / "fifo", ns=(1, 2))
    os.rename(fs.path / "fifo", fs.path / "renamed")
    status = os.lstat(fs.path / "renamed")
    assert stat.S_ISFIFO(status.st_mode)
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o600, 2)
    os.unlink(fs.path / "renamed")
    assert os.listdir(fs.path) == []


def test_a_new_fifo_passes_data_between_two_processes(fs: Filesystem) -> None:
    os.mkfifo(fs.path / "fifo", 0o600)
    descriptor = os.open(fs.path / "fifo", os.O_RDWR)
    try:
        in_child(lambda: (fs.path / "fifo").write_bytes(b"hello"))
        assert os.read(descriptor, 10) == b"hello"
    finally:
        os.close(descriptor)


def test_a_socket_can_be_bound_and_connected_to(fs: Filesystem) -> None:
    os.chdir(fs.path)
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("socket")
        server.listen()
        assert stat.S_ISSOCK(os.lstat("socket").st_mode)
        client.connect("socket")
        connection, _ = server.accept()
        with connection:
            client.sendall(b"ping")
            assert connection.recv(10) == b"ping"
        with pytest.raises(OSError), socket.socket(socket.AF_UNIX) as second:
            second.bind("socket")
        os.unlink("socket")
    assert os.listdir(fs.path) == []


@given({"socket": Socket()})
def test_nobody_listens_on_an_old_socket(fs: Filesystem) -> None:
    os.chdir(fs.path)
    assert stat.S_ISSOCK(os.lstat("socket").st_mode)
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect("socket")
    os.chmod("socket", 0o600)
    assert stat.S_IMODE(os.lstat("socket").st_mode) == 0o600


@pytest.mark.requires("devices")
@given({"null": Device(1, 3, 0o666), "zero": Device(1, 5), "loop": Device(7, 0, block=True)})
def test_existing_devices(fs: Filesystem) -> None:
    assert os.lstat(fs.path / "null").st_rdev == os.makedev(1, 3)
    assert stat.S_ISBLK(os.lstat(fs.path / "loop").st_mode)
    os.chmod(fs.path / "zero", 0o600)
    status = os.lstat(fs.path / "zero")
    assert (status.st_rdev, stat.S_IMODE(status.st_mode)) == (os.makedev(1, 5), 0o600)
    with open(fs.path / "zero", "rb", buffering=0) as zero:
        assert zero.read(4) == b"\0\0\0\0"


@pytest.mark.requires("devices")
def test_new_devices(fs: Filesystem) -> None:
    os.mknod(fs.path / "char", stat.S_IFCHR | 0o600, os.makedev(1, 7))
    os.mknod(fs.path / "block", stat.S_IFBLK | 0o600, os.makedev(259, 65_537))
    char, block = os.lstat(fs.path / "char"), os.lstat(fs.path / "block")
    assert stat.S_ISCHR(char.st_mode)
    assert char.st_rdev == os.makedev(1, 7)
    assert stat.S_ISBLK(block.st_mode)
    assert block.st_rdev == os.makedev(259, 65_537)
    with pytest.raises(OSError), open(fs.path / "char", "wb", buffering=0) as full:
        full.write(b"x")


@pytest.mark.requires("other_users")
def test_a_user_cannot_make_devices(fs: Filesystem) -> None:
    os.chmod(fs.path, 0o777)
    with pytest.raises(PermissionError):
        as_user(fs.path, lambda: os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3)))
    assert os.listdir(fs.path) == []


def test_the_device_0_0_can_be_made(fs: Filesystem) -> None:
    """The device that means "deleted" in a layer."""
    os.mknod(fs.path / "zero", stat.S_IFCHR | 0o600, os.makedev(0, 0))
    assert os.lstat(fs.path / "zero").st_rdev == 0


def test_mknod_of_a_regular_file(fs: Filesystem) -> None:
    os.mknod(fs.path / "file", stat.S_IFREG | 0o640)
    assert stat.S_ISREG(os.lstat(fs.path / "file").st_mode)
    (fs.path / "file").write_bytes(b"content")
    with pytest.raises(FileExistsError):
        os.mknod(fs.path / "file", stat.S_IFREG | 0o640)
    with pytest.raises(FileExistsError):
        os.mkfifo(fs.path / "file")
