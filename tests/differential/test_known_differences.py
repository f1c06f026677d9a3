"""What the machine lets pass, it lets pass whole: after an excused step both sides are the same again.

Each case is a divergence that ``pyunionfs verify`` once took for a new one, made small.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from trees import Dir, Fifo, File, HardLink, Node, Symlink

from pyunionfs.verify import operations, runner, stacks
from pyunionfs.verify.mounting import OPTION_SETS
from pyunionfs.verify.pair import Pair
from pyunionfs.verify.run import ROTATE, Run
from pyunionfs.verify.steps import Name, OpenFlags, Slot, Slots, Step


@dataclass(frozen=True)
class Case:
    """Steps on a lower layer, one of which the two sides do differently."""

    name: str
    lower: dict[str | bytes, Node]
    steps: tuple[Step, ...]
    options_set: str = "plain"


CASES = [
    Case(
        "the kernel marks a directory impure for a copy-up that then fails",
        {"dir": {"file": "x"}},
        (
            Step("hold", (Slots(), 0, Name("dir/file"), OpenFlags(os.O_RDONLY))),
            Step("unlink", (Name("dir/file"),)),
            Step("utime", (Slot(0), (operations.OLD_S, 7), (operations.OLD_S, 7))),
        ),
    ),
    Case(
        "an empty file is emptied through a symlink",
        {"empty": "", "symlink": Symlink("empty")},
        (Step("truncate", (Name("symlink"), 0)),),
    ),
    Case(
        "a fifo that was deleted while open comes back when it is changed",
        {"fifo": Fifo()},
        (
            Step("hold", (Slots(), 0, Name("fifo"), OpenFlags(os.O_RDONLY))),
            Step("unlink", (Name("fifo"),)),
            Step("utime", (Slot(0), (operations.OLD_S, 7), (operations.OLD_S, 7))),
        ),
    ),
    Case(
        "an ACL is set on an open setgid file by who is not in its group",
        {"file": File("x", 0o2755, 1000, 0)},
        (
            Step("hold", (Slots(), 0, Name("file"), OpenFlags(os.O_RDONLY))),
            Step("setxattr", (Slot(0), "system.posix_acl_access", stacks.MINIMAL_ACL, 0), 1000),
        ),
    ),
    Case(
        "a layer is made of an upper directory in which only one name of a hard link is",
        {"one": "x", "two": HardLink("r/one")},
        (
            Step("write", (Name("one"), OpenFlags(os.O_WRONLY), b"y", None)),
            Step("chmod", (Name("two"), 0o600)),
            ROTATE,
        ),
        "index=on",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_nothing_is_left_of_it(case: Case, quick_root: Path, requires: Callable[..., None]) -> None:
    requires("pyunionfs", "other_users")
    options = OPTION_SETS[case.options_set]
    layers = [Dir(case.lower), *(Dir({}) for _ in range(stacks.LAYERS - 1))]
    with Pair(quick_root, runner.KERNEL_AND_OURS, options, runner.shape_of(options, quick_root)) as pair:
        (copy,) = pair.build_these([layers])
        run = Run(pair, copy)
        try:
            for step in case.steps:
                run.perform(step)
            run.compare_trees()
        finally:
            run.close()
