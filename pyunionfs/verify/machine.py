"""The state machine: the same operation on two mounts, the same outcome expected, the same trees left behind."""

import zlib
from collections.abc import Callable
from typing import Any, ClassVar

from hypothesis import reject
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from . import stacks
from .draws import RULES, USERS, Rule
from .pair import TREES
from .run import REMOUNT, ROTATE, Bench, Diverged, Run
from .steps import Pick, Slot, Step

_INTERVAL = 8  # steps
_SELDOM = 10


class Machine(RuleBasedStateMachine):
    """One example: draws steps and leaves them to a :class:`.run.Run`. Subclassed with the bench to work on."""

    bench: ClassVar[Bench]
    example: Run | None = None

    @initialize(tree=st.integers(0, TREES - 1), lot=st.integers(0, 1 << 32))
    def start(self, tree: int, lot: int) -> None:
        if self.bench.enough():
            reject()
        self.tree = self.bench.pair.tree(tree)
        self.names = stacks.names_in(self.bench.pair.layers_of(self.tree))
        # Mounting takes as long as hundreds of steps, so few examples may; hypothesis likes 0, crc32 does not.
        self.allowed = {0: REMOUNT, 1: ROTATE}.get(zlib.crc32(b"%d" % lot) % _SELDOM)
        self.compared = 0
        self.bench.examples += 1
        self.example = Run(self.bench.pair, self.bench.pair.take(self.tree))

    def teardown(self) -> None:
        if self.example is not None:
            try:
                if not self.example.difference:
                    self._noting(self.example.compare_trees)
            finally:
                self.example.close()

    def perform(self, step: Step) -> None:
        assert self.example is not None
        self._noting(self.example.perform, step)
        self.bench.done()

    def resolve(self, argument: Any) -> Any:
        """A name of the tree for what picks one, an open slot for what wants one."""
        assert self.example is not None
        if isinstance(argument, Pick):
            return self.names[argument % len(self.names)]
        if isinstance(argument, Slot) and (slots := self.example.open_slots):
            return slots[argument.number % len(slots)]
        return argument

    def _noting(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            function(*arguments)
        except Diverged:
            assert self.example is not None
            self.bench.found(self.tree, self.example)
            raise

    @precondition(lambda self: self.allowed is not None)
    @rule()
    def mount_anew(self) -> None:
        """Remount, or make the upper directory the topmost lower layer, at most twice in an example."""
        assert self.allowed is not None and self.example is not None
        if [step for step, _ in self.example.steps].count(self.allowed) < 2:
            self.perform(self.allowed)

    @precondition(lambda self: len(self.example.steps) - self.compared > _INTERVAL)
    @rule()
    def compare(self) -> None:
        """At intervals, for it looks at everything; and always at the end."""
        assert self.example is not None
        self._noting(self.example.compare_trees)
        self.compared = len(self.example.steps)


def _add_rules() -> None:
    """A method for each rule of the table, and for one with a weight as many."""
    for name, entry in RULES.items():
        for number in range(entry.weight):
            method = _method(name, entry)
            drawn: dict[str, Any] = {"user": USERS, **entry.arguments}
            decorate: Any = rule(**drawn)
            setattr(Machine, f"{name}_{number}", decorate(method))


def _method(name: str, entry: Rule) -> Callable[..., None]:
    def drawn(self: Machine, user: int, **arguments: Any) -> None:
        resolved = tuple(self.resolve(arguments[key]) for key in entry.arguments)
        self.perform(Step(entry.verb, resolved, user if self.bench.pair.shape.owners else 0))

    def possible(self: Machine) -> bool:
        assert self.example is not None
        return name not in self.bench.pair.lacking and (
            "fd" not in entry.arguments or bool(self.example.open_slots)
        )

    drawn.__name__ = name
    return precondition(possible)(drawn)


_add_rules()
