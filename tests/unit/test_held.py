"""What a daemon notes of what it holds, and what others make of it when it dies in the middle of a rename."""

from pathlib import Path

import pytest

from pyunionfs import Overlay
from pyunionfs.linux import RENAME_EXCHANGE
from pyunionfs.vfs import ROOT, Caller, Held, Ino, Move

ME = Caller(0, 0)


class Notes:
    """A journal in a dict; as of some note on, it takes no more: the process has died."""

    def __init__(self, *, until: int = 1 << 30) -> None:
        self.held: dict[Ino, Held] = {}
        self._left = until

    def note(self, held: Held) -> None:
        if held.new_parent:
            self._left -= 1
        if self._left >= 0 and (self._left or held.new_parent):
            self.held[held.ino] = held

    def note_named(self, ino: Ino, lookups: int, opens: int, parent: Ino, name: bytes, st_ino: int) -> None:
        self.note(Held(ino, lookups, opens, parent, name, Ino(0), b"", st_ino, -1, 0, b""))

    def drop(self, ino: Ino) -> None:
        self.held.pop(ino, None)


@pytest.fixture
def layers(tmp_path: Path) -> Path:
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    return tmp_path


def union(layers: Path) -> Overlay:
    return Overlay([layers / "lower"], layers / "upper", layers / "work")


@pytest.mark.parametrize("late", [False, True], ids=["in order", "the new parent is noted last"])
def test_an_exchange_is_found_by_each_that_comes_after(layers: Path, *, late: bool) -> None:
    """Two die one after the other: the second before it has answered who had asked the first."""
    notes = Notes(until=2)  # both of the exchange
    with union(layers) as first:
        first.journal = notes
        a = first.mkdir(ROOT, b"a", 0o755, ME)
        box = first.mkdir(ROOT, b"box", 0o755, ME)
        b = first.create(box.ino, b"b", 0o644, ME)
        first.rename(ROOT, b"a", box.ino, b"b", RENAME_EXCHANGE)
    held = dict(notes.held)
    assert {state.ino for state in held.values() if state.new_parent} == {a.ino, b.ino}
    if late:
        held[box.ino] = held.pop(box.ino)
    moves = {Move(ROOT, b"a", box.ino, b"b"), Move(box.ino, b"b", ROOT, b"a")}
    for _ in range(3):
        with union(layers) as overlay:
            after = Notes()
            overlay.journal = after
            assert overlay.restore(held) == moves
            assert overlay.getattr(a.ino).st_ino == a.st_ino
            assert overlay.getattr(b.ino).st_ino == b.st_ino
        assert after.held.keys() == held.keys()
        held = after.held


def test_a_rename_that_has_not_happened_is_not_told(layers: Path) -> None:
    notes = Notes()
    with union(layers) as first:
        first.journal = notes
        a = first.mkdir(ROOT, b"a", 0o755, ME)
        b = first.mkdir(ROOT, b"b", 0o755, ME)
    held = {
        a.ino: notes.held[a.ino]._replace(new_parent=ROOT, new_name=b"b"),
        b.ino: notes.held[b.ino]._replace(new_parent=ROOT, new_name=b"a"),
    }
    with union(layers) as overlay:
        assert overlay.restore(held) == set()
