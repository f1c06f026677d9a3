"""What is looked up before anybody asks for it: nobody can tell, but by how long it takes."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from trees import Opaque, Whiteout, build
from unitstack import Stack

from pyunionfs import Overlay, Paths
from pyunionfs.linux import RENAME_EXCHANGE
from pyunionfs.overlay import ahead
from pyunionfs.transport.devfuse.walk import Walk
from pyunionfs.vfs import ROOT, Attr, Caller, Ino, SetAttr

ME = Caller(os.geteuid(), os.getegid())

UPPER = {"dir": {"mine": "m", "shared": Whiteout(), "from-base": {"now": "a directory"}}}
TOP = {
    "dir": {"file": "1", "merged": {"a": "1"}, "opaque": Opaque({"b": "2"}), "gone": Whiteout(), "x": "y" * 100},
}
BASE = {
    "dir": {
        "from-base": "2",
        "shared": "base",
        "gone": "still",
        "merged": {"c": "3"},
        "opaque": {"hidden": "x"},
        "empty": {},
        "sub": {"deep": {"deeper": "4"}},
    }
}


def union(path: Path) -> Overlay:
    """One of layers made at that path, or that are there."""
    if not path.exists():
        for name, tree in (("upper", UPPER), ("top", TOP), ("base", BASE)):
            (path / name).mkdir(parents=True)
            build(path / name, tree)
        os.symlink("file", path / "top/dir/link")
        os.link(path / "base/dir/from-base", path / "base/dir/twin")
    return Overlay([path / "top", path / "base"], path / "upper")


def seen(overlay: Overlay, ino: Ino, path: bytes = b"") -> Iterator[tuple[bytes, Attr]]:
    for entry, attr in overlay.readdirplus(ino, 0, 1000):
        assert attr is not None
        yield path + entry.name, attr._replace(atime_ns=0)
        if entry.type == stat.S_IFDIR:
            yield from seen(overlay, attr.ino, path + entry.name + b"/")


def all_of(overlay: Overlay, ino: Ino) -> int:
    """Go through with it; returns how many names were prepared."""
    for _ in overlay.ahead(ino):
        pass
    return len(overlay.sb.prepared.found)


def test_what_was_prepared_is_what_a_look_up_finds(tmp_path: Path) -> None:
    with union(tmp_path / "layers") as overlay:
        expected = list(seen(overlay, ROOT))
    with union(tmp_path / "layers") as overlay:
        directory = overlay.lookup(ROOT, b"dir").ino
        held = len(overlay.sb.table)
        assert all_of(overlay, directory) >= 8
        assert len(overlay.sb.table) == held, "nobody holds what was only prepared"
        assert list(seen(overlay, ROOT)) == expected
        assert not overlay.sb.prepared.found
        for name, attr in expected:
            if name.startswith(b"dir/") and name.count(b"/") == 1:
                assert overlay.lookup(directory, name[4:])._replace(atime_ns=0) == attr


CHANGES: dict[str, Callable[[Overlay, Ino], object]] = {
    "unlink": lambda fs, at: fs.unlink(at, b"file"),
    "unlink and make": lambda fs, at: (fs.unlink(at, b"file"), fs.mkdir(at, b"file", 0o700, ME)),
    "rename away": lambda fs, at: fs.rename(at, b"file", ROOT, b"moved", 0),
    "rename over": lambda fs, at: fs.rename(at, b"file", at, b"x", 0),
    "exchange": lambda fs, at: fs.rename(at, b"file", at, b"link", RENAME_EXCHANGE),
    "make": lambda fs, at: fs.create(at, b"new", 0o640, ME),
    "chmod": lambda fs, at: fs.setattr(fs.lookup(at, b"file").ino, SetAttr(mode=0o600), ME),
    "link": lambda fs, at: fs.link(fs.lookup(at, b"x").ino, at, b"y"),
    "write": lambda fs, at: fs.write(fs.lookup(at, b"x").ino, 50, b"longer" * 50, kill_suid=False),
    "empty": lambda fs, at: fs.rmdir(at, b"empty"),
    "below": lambda fs, at: fs.create(fs.lookup(at, b"sub").ino, b"new", 0o640, ME),
    "the hard link": lambda fs, at: fs.write(fs.lookup(at, b"twin").ino, 0, b"changed", kill_suid=False),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("steps", [1, 5, 100])
def test_changes_between_are_seen(tmp_path: Path, change: str, steps: int) -> None:
    def outcome(*, prepare: bool) -> list[tuple[bytes, object]]:
        with union(tmp_path / str(prepare)) as overlay:
            directory = overlay.lookup(ROOT, b"dir").ino
            work = overlay.ahead(directory) if prepare else iter(())
            for _ in zip(range(steps), work, strict=False):
                pass
            CHANGES[change](overlay, directory)
            list(work)
            return [
                (name, (attr.mode, attr.nlink, attr.size, attr.uid, attr.rdev, attr.mtime_ns // 10**12))
                for name, attr in sorted(seen(overlay, ROOT))
            ]

    assert outcome(prepare=True) == outcome(prepare=False)


def test_what_is_done_to_the_layers_before_anybody_comes_is_seen(tmp_path: Path) -> None:
    with union(tmp_path / "layers") as overlay:
        walk = Walk(overlay)
        walk.starts()
        while walk.step():
            pass
        (tmp_path / "layers/base/late").write_text("made after the mount")
        (tmp_path / "layers/base/dir").rename(tmp_path / "layers/base/gone")
        (tmp_path / "layers/top/dir").rename(tmp_path / "layers/top/gone")
        (tmp_path / "layers/upper/dir").rename(tmp_path / "layers/upper/gone")
        assert Paths(overlay).read_bytes("late") == b"made after the mount"
        assert not Paths(overlay).exists("dir")


def test_a_refresh_lets_go_of_it(tmp_path: Path) -> None:
    with union(tmp_path / "layers") as overlay:
        all_of(overlay, overlay.lookup(ROOT, b"dir").ino)
        (tmp_path / "layers/top/dir/x").unlink()
        overlay.refresh()
        assert not Paths(overlay).exists("dir/x")


def test_a_large_directory_is_left_alone(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = stack.overlay.lookup(ROOT, b"dir").ino
    monkeypatch.setattr(ahead, "_SMALL", 0)
    assert all_of(stack.overlay, directory) == 0
    monkeypatch.undo()
    assert all_of(stack.overlay, directory) > 0


# -- which files are read next ------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Overlay]:
    """A directory of 40 files, every fourth of them in the upper layer, and of what is no file, or large."""
    for layer in ("upper", "lower"):
        (tmp_path / layer / "dir").mkdir(parents=True)
    for number in range(40):
        (tmp_path / ("lower" if number % 4 else "upper") / f"dir/{number}").write_text("x")
    (tmp_path / "lower/dir/sub").mkdir()
    (tmp_path / "lower/dir/link").symlink_to("1")
    os.mkfifo(tmp_path / "lower/dir/fifo")
    os.truncate(tmp_path / "lower/dir/1", 1 << 20)
    with Overlay([tmp_path / "lower"], tmp_path / "upper") as overlay:
        yield overlay


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The names of the files that the disk was asked for."""
    names: list[bytes] = []

    def fadvise(fd: int, offset: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_WILLNEED and not offset and not length
        names.append(os.path.basename(os.readlink(os.fsencode(f"/proc/self/fd/{fd}"))))

    monkeypatch.setattr(os, "posix_fadvise", fadvise)
    return names


def wait_for(overlay: Overlay, directory: Ino, name: bytes) -> None:
    for _ in overlay.data_ahead(overlay.lookup(directory, name).ino):
        pass


def in_order(overlay: Overlay, directory: Ino) -> list[bytes]:
    """The files, as they are listed."""
    return [entry.name for entry in overlay.readdir(directory) if entry.type == stat.S_IFREG]


def test_who_waits_for_one_file_after_another_finds_the_next_ones_read(files: Overlay, asked: list[bytes]) -> None:
    directory = files.lookup(ROOT, b"dir").ino
    names = in_order(files, directory)
    for name in names:
        if name not in asked:
            wait_for(files, directory, name)
    assert asked == [name for name in names[3:] if name in asked]
    assert len(asked) > 25
    assert b"1" not in asked, "in a large file the kernel reads ahead"


def test_two_files_are_no_reason_to_read_others(files: Overlay, asked: list[bytes]) -> None:
    directory = files.lookup(ROOT, b"dir").ino
    wait_for(files, directory, b"5")
    wait_for(files, directory, b"6")
    assert not asked


def test_in_another_order_every_file_is_asked_for_once(files: Overlay, asked: list[bytes]) -> None:
    directory = files.lookup(ROOT, b"dir").ino
    for number in range(40):
        if b"%d" % number not in asked:
            wait_for(files, directory, b"%d" % number)
    assert len(asked) == len(set(asked))
    assert not set(asked) - set(in_order(files, directory))


def test_what_goes_meanwhile_is_not_asked_for(files: Overlay, asked: list[bytes], tmp_path: Path) -> None:
    directory = files.lookup(ROOT, b"dir").ino
    names = in_order(files, directory)
    for name in names[:2]:
        wait_for(files, directory, name)
    steps = files.data_ahead(files.lookup(directory, names[2]).ino)
    next(steps)
    files.unlink(directory, names[3])
    lower = tmp_path / "lower/dir" / os.fsdecode(names[4])
    if lower.exists():  # behind our back
        lower.unlink()
        os.mkfifo(lower)
    list(steps)
    assert names[3] not in asked and len(asked) >= 4
    assert not lower.exists() or names[4] not in asked


def test_after_the_directory_is_gone_nothing_is_asked_for(files: Overlay, asked: list[bytes]) -> None:
    directory = files.mkdir(ROOT, b"new", 0o755, ME).ino
    file = files.create(directory, b"file", 0o644, ME).ino
    files.unlink(directory, b"file")
    files.rmdir(ROOT, b"new")
    for _ in range(4):
        list(files.data_ahead(file))
    assert not asked


# -- which directory comes next -----------------------------------------------------------------------------------

Tree = dict[int, list[int]]
TREE: Tree = {1: [10, 20, 30], 10: [11, 12], 11: [], 12: [13], 13: [], 20: [], 30: [31], 31: [32], 32: [33], 33: []}


class Prepared:
    """A filesystem that notes what is prepared in it."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def ahead(self, ino: Ino, *, keep: bool = True) -> Iterator[None]:
        self.asked.append(ino)
        yield


def walked(tree: Tree, order: Callable[[list[int]], list[int]], *, replies: int = 1) -> list[int]:
    """What was prepared while a program went through a tree, each listing in so many replies."""
    fs = Prepared()
    walk = Walk(fs)  # type: ignore[arg-type]

    def visit(ino: int) -> None:
        walk.begins(Ino(ino))
        for part in range(replies):
            walk.goes_on(Ino(ino), [Ino(below) for below in tree[ino][part::replies]], ended=False)
            assert not walk.step(), "the listing goes on"
        walk.goes_on(Ino(ino), [], ended=True)
        while walk.step():
            pass
        for below in order([below for part in range(replies) for below in tree[ino][part::replies]]):
            visit(below)

    visit(1)
    return fs.asked


@pytest.mark.parametrize("replies", [1, 3])
def test_a_walk_is_followed(replies: int) -> None:
    assert walked(TREE, list, replies=replies) == [13, 20, 30, 31, 32, 33]


def test_who_goes_otherwise_is_not() -> None:
    assert walked(TREE, lambda below: below[::-1]) in ([], [33])


def test_a_mistake_there_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def ahead(self, ino: Ino, *, keep: bool = True) -> Iterator[None]:
            yield
            raise ValueError(ino)

    walk = Walk(Broken())  # type: ignore[arg-type]
    for ino in (1, 2, 3, 4):
        walk.begins(Ino(ino))
        walk.goes_on(Ino(ino), [Ino(ino + 1)], ended=False)
        walk.goes_on(Ino(ino), [], ended=True)
    assert walk.step()
    assert not walk.step()
    assert "bug in what is done ahead" in caplog.text
    assert not walk.step()


def test_who_leaves_a_directory_out_is_found_again() -> None:
    assert walked(TREE, lambda below: [ino for ino in below if ino != 20]) == [13, 20, 31, 32, 33]
