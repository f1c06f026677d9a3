"""The crash explorer: make an operation die before each of its changes in turn, and judge what is left.

A process that is killed leaves what it had asked the kernel to do, and nothing of the rest; so a child that ends
by ``os._exit`` before its n-th change shows every state that a killed daemon can leave. What a power failure may
lose besides is another question: ``test_crash_points.py`` asks it of the order of the calls.
"""

import os
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

import mounts
from mounts import Layers
from ordinary import as_who_began
from rehearsal import Rehearsal, State, is_restoring, name_of, told
from tap import Call, tap
from trees import Entry, Snapshot, diff, snapshot
from unions import fresh_layers, working_union

_DIED, _FAILED = 70, 71


@dataclass(frozen=True)
class Explorer:
    """Crashes of one operation, below the directory ``root``."""

    rehearsal: Rehearsal
    root: Path
    compare_with_kernel: bool

    def points(self) -> range:
        """Before each change, and after the last one."""
        return range(len(self.rehearsal.changes) + 1)

    def name_of(self, point: int) -> str:
        return name_of(self.rehearsal.changes, point)

    def judge(self, point: int) -> list[str]:
        """Die at a point; returns what is wrong then, nothing if all is well."""
        options = self.rehearsal.options
        with fresh_layers(self.root / f"point{point}") as layers:
            self._die(layers, point)
            try:
                left = State.of(layers, options)
            except (OSError, AssertionError) as error:
                return [f"cannot be mounted again: {error}"]
            restoring = is_restoring(self.rehearsal.changes, point)
            wrong = self.rehearsal.judge_view(left.view, restoring=restoring) + self._judge_upper(left)
            if self.compare_with_kernel:
                with as_who_began(), mounts.kernel(layers, {**mounts.PLAIN, **options}) as merged:
                    by_kernel = snapshot(merged, ghosts=True)
                wrong += told(
                    "the kernel shows another view", diff(left.view, by_kernel, names=("ours", "kernel's"))
                )
            return wrong

    def _die(self, layers: Layers, point: int) -> None:
        """Run the operation in a child that ends before a change, or (after the last) without a clean unmount."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                self._run_and_die(layers, point)
            except BaseException:
                os.write(writing, traceback.format_exc().encode())
            os._exit(_FAILED)
        os.close(writing)
        with open(reading, "rb") as report:
            said = report.read().decode()
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == _DIED, f"before {self.name_of(point)}: {status}\n{said}"

    def _run_and_die(self, layers: Layers, point: int) -> None:
        """Never returns unless the operation makes other calls than in the rehearsal."""
        expected = self.rehearsal.changes
        made: list[Call] = []

        def announce(call: Call) -> None:
            if call.changes:
                if len(made) == point:
                    os._exit(_DIED if call == expected[point] else _FAILED)
                made.append(call)

        with working_union(layers, self.rehearsal.options, self.rehearsal.case.prepare) as files:
            with tap(announce):
                self.rehearsal.case.run(files)
            if made == list(expected):
                os._exit(_DIED)

    def _judge_upper(self, left: State) -> list[str]:
        return [
            f"{os.fsdecode(path)} is left in the upper directory: {entry}"
            for path, entry in left.upper.items()
            if not self._belongs(path, entry, left.view)
        ]

    def _belongs(self, path: bytes, entry: Entry, seen: Snapshot) -> bool:
        """Whether something in the upper directory is in the old or the new one, or changes nothing that shows.

        1. An object of the old or of the new upper directory, marks aside: a mark comes before what needs it.
           ``impure`` and ``origin`` only keep inode numbers; an ``opaque`` that hid something would show.
        2. A finished copy-up of what the old view shows: the operation goes on from it, also another time.
        3. A whiteout over nothing: the other half of an exchange (as in ovl_rename, cleanup_whiteout).
        """
        states = (self.rehearsal.old, self.rehearsal.new)
        if any(path in state.upper and _same(entry, state.upper[path]) for state in states):
            return True
        if entry.type == "whiteout":
            return path not in seen
        return path in states[0].view and _same(entry, states[0].view[path])


def _same(one: Entry, other: Entry) -> bool:
    """Whether two objects are the same but for marks, times and names; a metacopy has no data of its own."""
    metacopy = any(name == b"overlay.metacopy" for entry in (one, other) for name, _ in entry.xattrs)

    def plain(entry: Entry) -> Entry:
        users = tuple((name, value) for name, value in entry.xattrs if not name.startswith(b"overlay."))
        return replace(entry, xattrs=users, mtime_ns=0, links=(), data=None if metacopy else entry.data)

    return plain(one) == plain(other)
