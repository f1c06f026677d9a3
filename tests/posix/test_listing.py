"""readdir(3): what a listing holds, its inode numbers, positions, and stability under change."""

import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from filesystems import Filesystem
from trees import Fifo, HardLink, Symlink

given = pytest.mark.tree

_libc = ctypes.CDLL(None, use_errno=True)
_SYS_GETDENTS64 = {"x86_64": 217, "aarch64": 61}[os.uname().machine]

MANY = {f"entry{number:04}": "" for number in range(1000)}


def getdents(descriptor: int, *, size: int = 4096) -> list[tuple[int, int, int, bytes]]:
    """One getdents64(2): (inode, position after it, type, name) of each entry; empty at the end."""
    buffer = ctypes.create_string_buffer(size)
    length = _libc.syscall(_SYS_GETDENTS64, descriptor, buffer, size)
    if length < 0:
        raise OSError(ctypes.get_errno(), "getdents64")
    entries, start = [], 0
    while start < length:
        inode, position, record, kind = struct.unpack_from("=QqHB", buffer.raw, start)
        name = buffer.raw[start + 19 : start + record].split(b"\0", 1)[0]
        entries.append((inode, position, kind, name))
        start += record
    return entries


def all_entries(descriptor: int, *, size: int = 4096) -> Iterator[tuple[int, int, int, bytes]]:
    while entries := getdents(descriptor, size=size):
        yield from entries


def opened(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY)


@given({"file": "x", "dir": {"below": "x"}, "link": Symlink("x"), "fifo": Fifo()})
def test_a_listing_has_dots_types_and_inode_numbers(fs: Filesystem) -> None:
    descriptor = opened(fs.path)
    try:
        entries = {name: (inode, kind) for inode, _, kind, name in all_entries(descriptor)}
    finally:
        os.close(descriptor)
    assert set(entries) == {b".", b"..", b"file", b"dir", b"link", b"fifo"}
    assert {name: kind for name, (_, kind) in entries.items()} == {
        b".": 4, b"..": 4, b"file": 8, b"dir": 4, b"link": 10, b"fifo": 1,
    }  # fmt: skip
    for name in (b"file", b"dir", b"link", b"fifo", b"."):
        status = os.lstat(os.path.join(os.fsencode(fs.path), name))
        assert entries[name][0] == status.st_ino, name


@given({"dir": {"sub": {}}})
def test_d_ino_of_dot_dot(fs: Filesystem) -> None:
    for directory in (".", "dir", "dir/sub"):
        descriptor = opened(fs.path / directory)
        try:
            inodes = {name: inode for inode, _, _, name in all_entries(descriptor)}
        finally:
            os.close(descriptor)
        assert inodes[b".."] == os.stat(os.path.join(fs.path, directory, "..")).st_ino, directory


@given({"dir": {"sub": {"file": "x"}, "file": "x"}, "file": "x"})
def test_d_ino_equals_st_ino_after_changes(fs: Filesystem) -> None:
    """After copy-ups, renames and new objects alike."""
    with open(fs.path / "dir" / "file", "ab") as file:
        file.write(b"y")
    os.rename(fs.path / "file", fs.path / "dir" / "moved")
    os.chmod(fs.path / "dir" / "sub", 0o700)
    (fs.path / "dir" / "new").write_bytes(b"")
    for directory in (fs.path, fs.path / "dir", fs.path / "dir" / "sub"):
        with os.scandir(directory) as entries:
            for entry in entries:
                assert entry.inode() == os.lstat(entry.path).st_ino, entry.path


@given({"many": MANY | {"symlink": Symlink("x"), "sub": {}}})
@pytest.mark.parametrize("looked_up", [False, True])
def test_d_ino_equals_st_ino_in_a_long_directory(fs: Filesystem, looked_up: bool) -> None:
    """Also of the names that nobody has looked up, and of those that somebody does in the middle of the listing."""
    many = fs.path / "many"
    for number in range(0, 1000, 50):
        with open(many / f"entry{number:04}", "a") as file:
            file.write("y")
        os.rename(many / f"entry{number + 1:04}", many / f"moved{number}")
        os.unlink(many / f"entry{number + 2:04}")
        (many / f"new{number}").touch()
        (many / f"entry{number + 2:04}").mkdir()
    numbers = {}
    with os.scandir(many) as entries:
        for count, entry in enumerate(entries):
            numbers[entry.name] = entry.inode()
            if looked_up and count % 300 == 250:
                entry.stat()
    assert len(numbers) == 1000 + 20 + 2
    assert {name: os.lstat(many / name).st_ino for name in numbers} == numbers


@given({"many": MANY | {"twin": "x", "twin-too": HardLink("many/twin")}})
def test_d_ino_equals_st_ino_of_several_names(fs: Filesystem) -> None:
    with os.scandir(fs.path / "many") as entries:
        numbers = {entry.name: entry.inode() for entry in entries if entry.name.startswith("twin")}
    assert {name: os.lstat(fs.path / "many" / name).st_ino for name in numbers} == numbers


@given(MANY)
@pytest.mark.parametrize("size", [300, 4096, 1 << 20])
def test_a_listing_in_pieces_has_each_name_once(fs: Filesystem, size: int) -> None:
    descriptor = opened(fs.path)
    try:
        names = [os.fsdecode(name) for _, _, _, name in all_entries(descriptor, size=size)]
    finally:
        os.close(descriptor)
    assert sorted(names) == sorted([".", "..", *MANY])


@given(MANY)
def test_each_position_can_be_sought(fs: Filesystem) -> None:
    descriptor = opened(fs.path)
    try:
        entries = list(all_entries(descriptor))
        for index in (0, 1, 2, 3, 500, 997, 1000, 1001):
            os.lseek(descriptor, entries[index][1], os.SEEK_SET)
            following = [name for _, _, _, name in all_entries(descriptor)]
            assert following == [name for _, _, _, name in entries[index + 1 :]]
    finally:
        os.close(descriptor)


@given({"one": "", "two": ""})
def test_rewinding_shows_what_was_added_and_removed(fs: Filesystem) -> None:
    descriptor = opened(fs.path)
    try:
        assert {name for *_, name in all_entries(descriptor)} == {b".", b"..", b"one", b"two"}
        (fs.path / "three").write_bytes(b"")
        os.unlink(fs.path / "one")
        os.lseek(descriptor, 0, os.SEEK_SET)
        assert {name for *_, name in all_entries(descriptor)} == {b".", b"..", b"two", b"three"}
    finally:
        os.close(descriptor)


@given(MANY)
def test_names_that_stay_are_listed_once_while_others_come_and_go(fs: Filesystem) -> None:
    descriptor = opened(fs.path)
    removed = [f"entry{number:04}" for number in range(0, 1000, 7)]
    seen = []
    try:
        seen += [name for *_, name in getdents(descriptor, size=4096)]
        for name in removed:
            os.unlink(fs.path / name)
        for number in range(200):
            (fs.path / f"added{number}").write_bytes(b"")
        seen += [name for *_, name in all_entries(descriptor)]
    finally:
        os.close(descriptor)
    assert len(seen) == len(set(seen))
    assert {os.fsencode(name) for name in MANY if name not in removed} <= set(seen)


@given(MANY)
def test_removing_while_listing_removes_everything(fs: Filesystem) -> None:
    """As rm -r does it: list a little, remove it, list on."""
    descriptor = opened(fs.path)
    try:
        for *_, name in all_entries(descriptor, size=1000):
            if name not in (b".", b".."):
                os.unlink(name, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    assert os.listdir(fs.path) == []


@given({"file": "", "dir": {"file": ""}})
def test_two_readers_do_not_disturb_each_other(fs: Filesystem) -> None:
    one, two = opened(fs.path), opened(fs.path)
    try:
        first = getdents(one, size=40)
        assert sorted(name for *_, name in all_entries(two)) == [b".", b"..", b"dir", b"file"]
        rest = list(all_entries(one))
        assert sorted(name for *_, name in first + rest) == [b".", b"..", b"dir", b"file"]
    finally:
        os.close(one)
        os.close(two)


@given({"dir": {"old": "", "gone": ""}})
def test_a_changed_directory_is_listed_as_it_is_now(fs: Filesystem) -> None:
    directory = fs.path / "dir"
    for _ in range(3):
        os.unlink(directory / "gone")
        assert os.listdir(directory) == ["old"]
        (directory / "gone").write_bytes(b"")
        assert sorted(os.listdir(directory)) == ["gone", "old"]
        os.rename(directory / "old", directory / "renamed")
        assert sorted(os.listdir(directory)) == ["gone", "renamed"]
        os.rename(directory / "renamed", directory / "old")


@given({"one": "", "two": ""})
def test_inode_numbers_are_distinct_and_do_not_change(fs: Filesystem) -> None:
    inodes = {name: os.lstat(fs.path / name).st_ino for name in ("one", "two")}
    assert len(set(inodes.values())) == 2
    with open(fs.path / "one", "ab") as file:
        file.write(b"x")
    os.rename(fs.path / "two", fs.path / "moved")
    assert os.lstat(fs.path / "one").st_ino == inodes["one"]
    assert os.lstat(fs.path / "moved").st_ino == inodes["two"]


@pytest.mark.slow
@pytest.mark.timeout(600, method="signal")
def test_a_directory_of_100_000_entries(fs: Filesystem) -> None:
    names = [f"{number:06}" for number in range(100_000)]
    for name in names:
        os.mknod(fs.path / name)
    assert sorted(os.listdir(fs.path)) == names
    for name in names[::10]:
        os.unlink(fs.path / name)
    assert sorted(os.listdir(fs.path)) == sorted(set(names) - set(names[::10]))
