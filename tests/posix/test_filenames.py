"""Names and depth: any bytes, 255 of them, and directories a thousand levels deep."""

import errno
import os
from pathlib import Path

import pytest
from filesystems import Filesystem

given = pytest.mark.tree

ODD: list[bytes] = [
    b"\xff\xfe\x80",
    "caf\u00e9".encode(),
    "cafe\u0301".encode(),
    b" ",
    b"new\nline",
    b"tab\tand \\backslash",
    b"-rf",
    b"*?[x]",
    b"a:b,c=d",
    b"\x01\x7f",
    b"...",
    b".wh.file",
    b".wh..wh..opq",
    b"#12",
    b"work",
    b"x" * 255,
]


@pytest.mark.parametrize("name", ODD, ids=repr)
def test_any_name(fs: Filesystem, name: bytes) -> None:
    path = os.path.join(os.fsencode(fs.path), name)
    with open(path, "xb") as file:
        file.write(name)
    assert os.listdir(os.fsencode(fs.path)) == [name]
    os.rename(path, path[:-1] + b"#")
    os.rename(path[:-1] + b"#", path)
    os.link(path, os.path.join(os.fsencode(fs.path), b"second"))
    with open(path, "rb") as file:
        assert file.read() == name
    os.unlink(path)
    os.mkdir(path)
    assert os.listdir(path) == []


@given({name: name for name in ODD})
def test_existing_names(fs: Filesystem) -> None:
    where = os.fsencode(fs.path)
    assert sorted(os.listdir(where)) == sorted(ODD)
    for name in ODD:
        with open(os.path.join(where, name), "r+b") as file:
            assert file.read() == name
            file.write(b"+")
        os.rename(os.path.join(where, name), os.path.join(where, b"moved"))
        os.unlink(os.path.join(where, b"moved"))
    assert os.listdir(where) == []


@given({"file": ""})
def test_names_of_256_bytes_are_too_long(fs: Filesystem) -> None:
    long = fs.path / ("x" * 256)
    for action in (
        lambda: os.lstat(long),
        lambda: os.open(long, os.O_CREAT | os.O_WRONLY),
        lambda: os.mkdir(long),
        lambda: os.symlink("x", long),
        lambda: os.link(fs.path / "file", long),
        lambda: os.rename(fs.path / "file", long),
        lambda: os.unlink(long),
    ):
        with pytest.raises(OSError) as caught:
            action()
        assert caught.value.errno == errno.ENAMETOOLONG
    assert os.listdir(fs.path) == ["file"]


def test_names_differ_by_case(fs: Filesystem) -> None:
    (fs.path / "name").write_bytes(b"lower")
    (fs.path / "NAME").write_bytes(b"upper")
    assert sorted(os.listdir(fs.path)) == ["NAME", "name"]
    assert (fs.path / "name").read_bytes() == b"lower"


def descend(path: Path, names: list[str], *, make: bool) -> int:
    """Go down one directory after the other; return a descriptor of the last."""
    current = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    for name in names:
        if make:
            os.mkdir(name, dir_fd=current)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=current)
        os.close(current)
        current = below
    return current


def test_a_thousand_levels(fs: Filesystem) -> None:
    names = ["directory"] * 1000
    deepest = descend(fs.path, names, make=True)
    try:
        descriptor = os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=deepest)
        os.write(descriptor, b"deep")
        os.close(descriptor)
    finally:
        os.close(deepest)
    again = descend(fs.path, names, make=False)
    try:
        assert os.listdir(again) == ["file"]
        os.fchdir(again)
        assert Path("file").read_bytes() == b"deep"
        os.unlink("file")
        for _ in names:
            os.chdir("..")
            os.rmdir("directory")
        assert os.path.samefile(".", fs.path)
    finally:
        os.close(again)
    assert os.listdir(fs.path) == []


@given({"a": {"b": {"c": {"d": {"e": {"f": {"g": {"file": "deep"}}}}}}}})
def test_a_copy_up_below_many_directories(fs: Filesystem) -> None:
    with open(fs.path / "a/b/c/d/e/f/g/file", "ab") as file:
        file.write(b"er")
    assert (fs.path / "a/b/c/d/e/f/g/file").read_bytes() == b"deeper"
    (fs.path / "a/b/c/new").write_bytes(b"")
    assert sorted(os.listdir(fs.path / "a/b/c")) == ["d", "new"]


@given({"dir": {"file": ""}})
def test_dot_and_dot_dot(fs: Filesystem) -> None:
    inode = os.stat(fs.path).st_ino
    assert os.stat(fs.path / "dir" / "..").st_ino == inode
    assert os.stat(os.path.join(fs.path, "dir", ".", "..", "dir", "..")).st_ino == inode
    assert os.stat(os.path.join(fs.path, "dir", ".")).st_ino == os.stat(fs.path / "dir").st_ino
    with pytest.raises(OSError) as caught:
        os.rename(os.path.join(fs.path, "dir", "."), fs.path / "new")
    assert caught.value.errno == errno.EBUSY
    with pytest.raises(FileExistsError):
        os.mkdir(os.path.join(fs.path, "dir", ".."))
