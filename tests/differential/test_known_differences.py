"""The table of what the machine lets pass is true, and is let pass whole.

Each case shows an entry of the table: without the entry it is a difference, with it both sides are the same again
afterwards. An entry that is no longer needed fails.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from trees import Dir, Fifo, File, HardLink, Node, Symlink

from pyunionfs.verify import divergences, operations, runner, stacks
from pyunionfs.verify.mounting import OPTION_SETS
from pyunionfs.verify.pair import Pair
from pyunionfs.verify.run import REMOUNT, ROTATE, Diverged, Run
from pyunionfs.verify.steps import Name, OpenFlags, Slot, Slots, Step

OF_USER_NAMESPACES = {"numbers without handles", "privileged xattrs in a user namespace"}
_HELD = Step("hold", (Slots(), 0, Name("file"), OpenFlags(os.O_RDONLY)))
_OLD = (operations.OLD_S, 7)


@dataclass(frozen=True)
class Case:
    """Steps on a lower layer, one of which the two sides do differently; and the entry of the table for that."""

    shows: str
    lower: dict[str | bytes, Node]
    steps: tuple[Step, ...]
    options_set: str = "plain"
    transport: str = "devfuse"


CASES = [
    Case(
        "unlinked before its copy-up",  # the kernel has marked the directory impure when it fails
        {"file": "x"},
        (_HELD, Step("unlink", (Name("file"),)), Step("utime", (Slot(0), _OLD, _OLD))),
    ),
    Case(
        "unlinked before its copy-up",
        {"d": {"fifo": Fifo()}},
        (
            Step("hold", (Slots(), 0, Name("d/fifo"), OpenFlags(os.O_RDONLY))),
            Step("remove_tree", (Name("d"),)),
            Step("chmod", (Slot(0), 0o644)),
        ),
    ),
    Case(
        "unlinked special files",
        {"file": Fifo()},
        (_HELD, Step("unlink", (Name("file"),)), Step("utime", (Slot(0), _OLD, _OLD))),
    ),
    Case("early copy-up", {"file": "x"}, (Step("setxattr", (Name("file"), "user.a", b"", os.XATTR_REPLACE)),)),
    Case(
        "links of an unlinked file",
        {"file": {}},
        (
            Step("chmod", (Name("file"), 0o700)),
            _HELD,
            Step("rmdir", (Name("file"),)),
            Step("stat_", (Slot(0), True)),
        ),
    ),
    Case(
        "setuid and mappings",
        {"file": File("x", 0o4777, 1000, 1000)},
        (Step("map_shared", (Name("file"), 0, b"m"), 1000),),
        transport="pyfuse3",
    ),
    Case(
        "setgid and ACLs",
        {"file": File("x", 0o2755, 1000, 0)},
        (_HELD, Step("setxattr", (Slot(0), "system.posix_acl_access", stacks.MINIMAL_ACL, 0), 1000)),
        transport="pyfuse3",
    ),
    Case(
        "time of a metacopy's data",
        {"file": "x"},
        (Step("chmod", (Name("file"), 0o600)), Step("open_", (Name("file"), OpenFlags(os.O_RDWR)))),
        "metacopy=on",
        "pyfuse3",
    ),
    Case(
        "copy-up by opening",
        {"file": "x"},
        (Step("open_", (Name("file"), OpenFlags(os.O_RDWR))),),
    ),
    Case(
        "holes of directories",
        {"file": {}},
        (_HELD, *(Step("seek", (Slot(0), offset, os.SEEK_DATA)) for offset in (0, 1 << 30))),
    ),
    Case(
        "setuid and failed allocations",
        {"file": File("x", 0o4755, 1000)},
        (Step("allocate", (Name("file"), 0x11, 0, 1), 1000),),
    ),
    Case(
        "links of what holds no user xattrs",
        {"file": Symlink("x")},
        (Step("link", (Name("file"), Name("other"), False)), Step("rename", (Name("file"), Name("other"), 0))),
        "userxattr",
    ),
    Case(
        "chown to nobody",
        {"file": File("x", 0o4755)},
        (Step("chown", (Name("file"), -1, -1), 1000),),
    ),
    Case(
        "xattr whiteouts in the way",
        {
            "dir": Dir(
                {"w": File(xattrs={"trusted.overlay.whiteout": b""})}, xattrs={"trusted.overlay.opaque": b"x"}
            )
        },
        (Step("rmdir", (Name("dir"),)),),
    ),
    Case(
        "early redirect",
        {"dir": {}},
        (
            Step("mkdir", (Name("full"), 0o755)),
            Step("mkdir", (Name("full/of"), 0o755)),
            Step("rename", (Name("dir"), Name("full"), 0)),
        ),
        "redirect_dir=on",
    ),
    Case(
        "truncation to the same size",
        {"empty": "", "symlink": Symlink("empty")},
        (Step("truncate", (Name("symlink"), 0)),),
    ),
    Case(
        "index of everything",
        {"file": "x"},
        (
            Step("write", (Name("file"), OpenFlags(os.O_WRONLY), b"y", None)),
            Step("link", (Name("file"), Name("again"), False)),
            REMOUNT,
            Step("stat_", (Name("again"), True)),
        ),
        "nfs_export=on",
    ),
]
LAYER_OF_AN_INDEX = Case(  # "names of an indexed file" is no entry of a step
    "",
    {"one": "x", "two": HardLink("r/one"), "last": "x", "lasting": HardLink("r/last")},
    (
        Step("write", (Name("one"), OpenFlags(os.O_WRONLY), b"y", None)),
        Step("chmod", (Name("two"), 0o600)),
        Step("unlink", (Name("last"),)),
        Step("chmod", (Name("lasting"), 0o600)),
        ROTATE,
    ),
    "index=on",
)


def run(case: Case, root: Path) -> None:
    """Raises Diverged if the two sides differ."""
    options = {**OPTION_SETS[case.options_set], "transport": case.transport}
    layers = [Dir(case.lower), *(Dir({}) for _ in range(stacks.LAYERS - 1))]
    with Pair(root, runner.KERNEL_AND_OURS, options, runner.shape_of(options, root)) as pair:
        (copy,) = pair.build_these([layers])
        example = Run(pair, copy)
        try:
            for step in case.steps:
                example.perform(step)
            example.compare_trees()
        finally:
            example.close()


@pytest.fixture(autouse=True)
def needed(requires: Callable[..., None]) -> None:
    requires("pyunionfs", "other_users", "handles")


@pytest.mark.parametrize(
    "case", [*CASES, LAYER_OF_AN_INDEX], ids=lambda case: case.shows or "names of an indexed file"
)
def test_nothing_is_left_of_it(case: Case, quick_root: Path) -> None:
    run(case, quick_root)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.shows)
def test_it_is_a_difference(case: Case, quick_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = tuple(entry for entry in divergences.DIVERGENCES if entry.name != case.shows)
    monkeypatch.setattr(divergences, "DIVERGENCES", others)
    with pytest.raises(Diverged):
        run(case, quick_root)


def test_each_entry_of_a_step_has_its_case() -> None:
    excusing = {entry.name for entry in divergences.DIVERGENCES if entry.excuse is not None}
    assert excusing - OF_USER_NAMESPACES == {case.shows for case in CASES}
