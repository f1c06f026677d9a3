"""One example: steps done on both sides of a pair, each compared. It knows no hypothesis; a replay is a run too."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from .divergences import comparable, excused
from .pair import Pair
from .steps import Name, Slot, Step
from .trees import Dir, diff

REMOUNT = Step("remount", ())
ROTATE = Step("rotate", ())
_ATTEMPTS = 200
_WRITES = ("pwrite", "append")


class Diverged(AssertionError):  # noqa: N818 - not an error of the program that raises it
    """The two sides differ: says how."""


@dataclass(frozen=True)
class Finding:
    """A divergence, and all that is needed to see it again."""

    difference: str
    layers: list[Dir]  # from top to bottom
    steps: list[tuple[Step, Any]]  # with the outcome on the first side


class Run:
    """The steps of one example on a copy of its own."""

    def __init__(self, pair: Pair, copy: str) -> None:
        self.steps: list[tuple[Step, Any]] = []
        self.difference = ""
        self._ended = False
        self._pair = pair
        self._copy = copy
        self._sides = pair.sides(copy)
        self._openers: dict[int, int] = {}

    def perform(self, step: Step, *, settling: bool = False) -> None:
        """Do a step on both sides. Raises Diverged if they differ in what they show of it.

        A ``settling`` step brings them together again; an inode number may have changed before it or by it.
        """
        if self._ended:
            return
        if step in (REMOUNT, ROTATE):
            self._mount_anew(step)
            return
        if step.verb in _WRITES and step.slot is not None:  # see the divergence "writer"
            step = replace(step, user=self._openers.get(step.slot.number, 0))
        one, two = (side.perform(step) for side in self._sides)
        self.steps.append((step, one.outcome))
        if known := excused(step, one, two, self._pair.shape):
            self._ended = known.ends
            for then in known.settle(step) if known.settle else ():
                self.perform(then, settling=True)
            return
        if (what := one.differs(two)) and (not settling or what != "inode_kept"):
            self._fail(f"{what} of {step}", getattr(one, what), getattr(two, what))
        if step.verb == "hold" and not one.failed:
            self._openers[step.arguments[1]] = step.user

    @property
    def open_slots(self) -> list[Slot]:
        return [Slot(number) for number in sorted(self._sides[0].fds)]

    def _mount_anew(self, step: Step) -> None:
        self.compare_trees()
        for side in self._sides:
            side.close()
        if step == ROTATE and self._pair.shape.index:
            self._link_up_all()
        if step == REMOUNT:
            self._pair.remount()
        elif self._pair.rotate():
            self._sides = self._pair.sides(self._copy)
        self.steps.append((step, None))

    def _link_up_all(self) -> None:
        """Have each name of what may be indexed in the upper directories, also its last (see "names of an indexed
        file")."""
        for name in self._sides[0].files():
            for old, new in ((name, Name(f"{name}~")), (Name(f"{name}~"), name)):
                self.perform(Step("rename", (old, new, 0)), settling=True)
        for side in self._sides:
            side.close()

    def compare_trees(self) -> None:
        """The merged views and the upper directories."""
        if self._ended:
            return
        try:
            views = self._pair.views(self._copy)
        except OSError as error:
            self.difference = f"the trees cannot be read: {error}"
            raise Diverged(self.difference) from error
        for what, (one, two) in views.items():
            known = comparable(what, one, two, self._pair.shape)
            if difference := diff(*known, names=self._names):
                self.difference = f"{what} trees differ:\n{difference}"
                raise Diverged(self.difference)

    def _fail(self, what: str, one: Any, two: Any) -> None:
        names = self._names
        self.difference = f"{what}\n  {names[0]}: {_short(one)}\n  {names[1]}: {_short(two)}"
        raise Diverged(self.difference)

    @property
    def _names(self) -> tuple[str, str]:
        return self._sides[0].name, self._sides[1].name

    def close(self) -> None:
        for side in self._sides:
            side.close()


@dataclass
class Bench:
    """What all examples of a run share: the pair, how much has been done, and what was found last."""

    pair: Pair
    progress: Callable[[int], None]
    steps: int = 0
    examples: int = 0
    found_at: int = 0
    finding: Finding | None = field(default=None)

    def enough(self) -> bool:
        """Whether shrinking has taken so many examples that the rest is left to :mod:`.shrink`."""
        return self.finding is not None and self.examples > self.found_at + _ATTEMPTS

    def done(self) -> None:
        self.steps += 1
        self.progress(self.steps)

    def found(self, tree: int, run: Run) -> None:
        """Keeps the one of the fewest steps."""
        if self.finding is None:
            self.found_at = self.examples
            self.pair.focus(tree)
        if self.finding is None or len(run.steps) <= len(self.finding.steps):
            self.finding = Finding(run.difference, self.pair.layers_of(tree), list(run.steps))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 600 else text[:300] + "..." + text[-300:]
