"""An operation as it goes without a mishap: what is there before and after it, and which calls it makes."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cases import Case
from mounts import Layers
from overlay_view import view
from tap import Call, tap
from trees import Snapshot, diff, snapshot
from unions import Options, fresh_layers, union_of, working_union


@dataclass(frozen=True)
class State:
    """What a union shows and what is in its upper directory, after a clean unmount."""

    view: Snapshot
    upper: Snapshot

    @classmethod
    def of(cls, layers: Layers, options: Options) -> "State":
        """Mount, look, unmount. Nothing may stay in the work directory."""
        with union_of(layers, options) as overlay:
            seen = view(overlay)
        assert os.listdir(layers.work / "work") == [], "the work directory is not clean"
        return cls(seen, snapshot(layers.upper, upper=True))


@dataclass(frozen=True)
class Rehearsal:
    """One case under one set of options: the states around it, all of its calls in order, and how many descriptors
    are open after the unmount that were not before the mount."""

    case: Case
    options: Options
    old: State
    new: State
    calls: tuple[Call, ...]
    leaks: int

    @classmethod
    def of(cls, case: Case, options: Options, root: Path) -> "Rehearsal":
        calls: list[Call] = []
        with fresh_layers(root / "old") as layers:
            with working_union(layers, options, case.prepare):
                pass
            old = State.of(layers, options)
        with fresh_layers(root / "new") as layers:
            descriptors = open_descriptors()
            with working_union(layers, options, case.prepare) as files, tap(calls.append):
                case.run(files)
            leaks = open_descriptors() - descriptors
            new = State.of(layers, options)
        assert case.shows in (None, old.view != new.view)
        return cls(case, options, old, new, tuple(calls), leaks)

    def is_done(self, seen: Snapshot) -> bool:
        """Whether a view is the new one; times decide only where nothing else changes."""
        if same_view(self.old.view, self.new.view):
            return seen == self.new.view
        return same_view(seen, self.new.view)

    @property
    def changes(self) -> tuple[Call, ...]:
        """The calls that change the upper or the work directory."""
        return tuple(call for call in self.calls if call.changes)

    def judge_view(self, seen: Snapshot, *, restoring: bool) -> list[str]:
        """What is wrong with a view that should be the old one or the new one.

        A time is judged by itself: it is the old one or the new one. A copy-up moves its parent's time and then
        restores it, as in the kernel (ovl_copy_up_one, "best effort"): ``restoring`` allows one time for that.
        """
        if seen in (self.old.view, self.new.view):
            return []
        if not same_view(seen, self.old.view) and not same_view(seen, self.new.view):
            return told("not the old view", diff(self.old.view, seen, names=("old", "seen"))) + told(
                "not the new view", diff(self.new.view, seen, names=("new", "seen"))
            )
        strange = [
            f"{os.fsdecode(path)} has the time {entry.mtime_ns}, which is neither the old nor the new one"
            for path, entry in seen.items()
            if entry.mtime_ns not in self._times_of(path)
        ]
        return strange[1:] if restoring else strange

    def _times_of(self, path: bytes) -> set[int | str]:
        return {state.view[path].mtime_ns for state in (self.old, self.new) if path in state.view}


def same_view(one: Snapshot, other: Snapshot) -> bool:
    """Whether two views are the same, times aside."""

    def plain(view: Snapshot) -> Snapshot:
        return {path: replace(entry, mtime_ns=0) for path, entry in view.items()}

    return plain(one) == plain(other)


def name_of(calls: Sequence[Call], point: int) -> str:
    """A name that stays when other calls come or go: the call, and which of its kind it is."""
    if point == len(calls):
        return "the end"
    return f"{calls[point]}, #{1 + list(calls[:point]).count(calls[point])}"


def is_restoring(calls: Sequence[Call], point: int) -> bool:
    """Whether a time is given back next; before it, perhaps, the modes of what was closed to an ordinary user."""
    rest = (call for call in calls[point:] if call.changes and call.name != "chmod" and "#mode" not in str(call))
    return next((call.name for call in rest), "") == "utime"


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def told(what: str, lines: str) -> list[str]:
    return [f"{what}: {line}" for line in lines.splitlines()]
