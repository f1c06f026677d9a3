"""What a daemon notes of what it holds is found again by each that comes after, also in the middle of a rename."""

from pathlib import Path

import pytest

from pyunionfs import Overlay
from pyunionfs.linux import RENAME_EXCHANGE
from pyunionfs.vfs import ROOT, Caller, Held, Ino

ME = Caller(0, 0)


class Notes:
    """A journal in a dict; once it has ``until`` places that may come to be, it takes no more: the process died."""

    def __init__(self, *, until: int = 1 << 30) -> None:
        self.held: dict[Ino, Held] = {}
        self._left = until

    def note(self, held: Held) -> None:
        if self._left:
            self.held[held.ino] = held
            self._left -= bool(held.new_parent)

    def note_named(self, ino: Ino, lookups: int, opens: int, parent: Ino, name: bytes, st_ino: int) -> None:
        self.note(Held(ino, lookups, opens, parent, name, Ino(0), b"", st_ino, -1, 0, b""))

    def drop(self, ino: Ino) -> None:
        self.held.pop(ino, None)

    def note_exchange(self, unique: int, ino: Ino) -> None:
        raise AssertionError("the union does not know of requests")


@pytest.fixture
def layers(tmp_path: Path) -> Path:
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    return tmp_path


def union(layers: Path) -> Overlay:
    return Overlay([layers / "lower"], layers / "upper", layers / "work")


@pytest.mark.parametrize("late", [False, True], ids=["in order", "the new parent is noted last"])
def test_what_was_exchanged_is_found_where_it_is(layers: Path, *, late: bool) -> None:
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
    for _ in range(3):
        with union(layers) as overlay:
            after = Notes()
            overlay.journal = after
            overlay.restore(held)
            assert overlay.lookup(box.ino, b"b").ino == a.ino
            assert overlay.lookup(ROOT, b"a").ino == b.ino
            assert overlay.getattr(a.ino).st_ino == a.st_ino
            assert overlay.getattr(b.ino).st_ino == b.st_ino
        assert after.held.keys() == held.keys()
        held = after.held


def test_what_was_about_to_be_exchanged_is_found_where_it_was(layers: Path) -> None:
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
        overlay.restore(held)
        assert overlay.lookup(ROOT, b"a").ino == a.ino
        assert overlay.lookup(ROOT, b"b").ino == b.ino
