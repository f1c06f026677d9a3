"""Every kind of object in the upper layer over every kind in a lower one, under every operation.

Enumerated, not sampled: a *cell* is a directory with one pair under the name ``x``, and one operation is done to it
on the kernel's overlay and on ours. All cells of a set of options share one mount on each side.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from trees import Device, Dir, Fifo, File, Node, Snapshot, Symlink, Whiteout, build, diff, snapshot

from pyunionfs.verify import mounting, runner
from pyunionfs.verify.divergences import comparable, excused
from pyunionfs.verify.mounting import OPTION_SETS, Layers
from pyunionfs.verify.operations import OLD_S
from pyunionfs.verify.stacks import Shape
from pyunionfs.verify.steps import Name, Octal, OpenFlags, Seen, Side, Step

X, FILE, DIRECTORY, NEW = Name("x"), Name("f"), Name("g"), Name("n")
BY_DEFAULT = ("plain", "userxattr", "all-on")
FLAGS = {"nodev": True, "nosuid": True}

STEPS: Mapping[str, Step] = {
    "stat": Step("stat_", (X, False)),
    "open to read": Step("read", (X, OpenFlags(os.O_RDONLY))),
    "open to write": Step("write", (X, OpenFlags(os.O_WRONLY | os.O_APPEND), b"more", None)),
    "create exclusively": Step("open_", (X, OpenFlags(os.O_RDWR | os.O_CREAT | os.O_EXCL))),
    "open to truncate": Step("write", (X, OpenFlags(os.O_WRONLY | os.O_CREAT | os.O_TRUNC), b"new", None)),
    "truncate": Step("truncate", (X, 3)),
    "list the parent": Step("listdir", (Name("."),)),
    "list": Step("listdir", (X,)),
    "unlink": Step("unlink", (X,)),
    "rmdir": Step("rmdir", (X,)),
    "rm -r": Step("remove_tree", (X,)),
    "mkdir": Step("mkdir", (X, Octal(0o750))),
    "mknod": Step("mknod", (X, (Octal(0o010640), 0))),
    "symlink": Step("symlink", ("f", X)),
    "link to": Step("link", (FILE, X, False)),
    "link from": Step("link", (X, NEW, False)),
    "rename from": Step("rename", (X, NEW, 0)),
    "rename a file to": Step("rename", (FILE, X, 0)),
    "rename a directory to": Step("rename", (DIRECTORY, X, 0)),
    "rename without replacing to": Step("rename", (FILE, X, 1)),
    "exchange with a file": Step("rename", (FILE, X, 2)),
    "exchange with a directory": Step("rename", (X, DIRECTORY, 2)),
    "chmod": Step("chmod", (X, Octal(0o640))),
    "chown": Step("chown", (X, 1000, 1000)),
    "utimens": Step("utime", (X, (OLD_S, 7), (OLD_S, 7))),
    "setxattr": Step("setxattr", (X, "user.a", b"new", 0)),
    "listxattr": Step("listxattr", (X,)),
    "readlink": Step("readlink", (X,)),
}


def _mark(prefix: str, name: str, value: bytes) -> dict[str, bytes]:
    return {prefix + name: value}


# What lies under x in a layer; "old" is the name that a redirect of this layer leads to, in the layer below.
KINDS: Mapping[str, Callable[[str, str], Node | None]] = {
    "absent": lambda prefix, old: None,
    "file": lambda prefix, old: File("file", xattrs={"user.a": b"a"}),
    "directory": lambda prefix, old: Dir({"entry": "entry"}),
    "opaque directory": lambda prefix, old: Dir({"own": "own"}, xattrs=_mark(prefix, "opaque", b"y")),
    "symlink": lambda prefix, old: Symlink("f"),
    "fifo": lambda prefix, old: Fifo(),
    "device": lambda prefix, old: Device(1, 3),
    "whiteout": lambda prefix, old: Whiteout(),
    "xattr whiteout": lambda prefix, old: File(xattrs=_mark(prefix, "whiteout", b"y")),
    "metacopy": lambda prefix, old: File(bytes(4), holes=((0, 4),), xattrs=_mark(prefix, "metacopy", b"")),
    "redirected directory": lambda prefix, old: Dir(
        {"moved": "moved"}, xattrs=_mark(prefix, "redirect", old.encode())
    ),
}


@dataclass(frozen=True)
class Cell:
    upper: str
    lower: str
    operation: str

    def __str__(self) -> str:
        return f"{self.upper} over {self.lower}"

    @property
    def name(self) -> str:
        return (
            f"{[*STEPS].index(self.operation):02}-{[*KINDS].index(self.upper):02}-{[*KINDS].index(self.lower):02}"
        )


REFUSALS = ("EPERM", "EIO")


def _errors(one: Seen, two: Seen) -> tuple[str, str]:
    return tuple(str(seen.outcome if seen.failed else seen.attributes[0]) for seen in (one, two))


CELLS = [Cell(upper, lower, operation) for operation in STEPS for upper in KINDS for lower in KINDS]


def _layer(kind: str, prefix: str, old: str) -> dict[str | bytes, Node]:
    """The directory of a cell in one layer."""
    node = KINDS[kind](prefix, old)
    entries: dict[str | bytes, Node] = {} if node is None else {"x": node}
    if kind == "redirected directory":
        entries[old] = Whiteout()
    return entries


def _xattrs(kind: str, prefix: str) -> dict[str, bytes]:
    return _mark(prefix, "opaque", b"x") if kind == "xattr whiteout" else {}


def _upper(cell: Cell, prefix: str) -> Dir:
    return Dir(_layer(cell.upper, prefix, "old-upper"), xattrs=_xattrs(cell.upper, prefix))


def _lower(cell: Cell, prefix: str) -> Dir:
    helpers: dict[str | bytes, Node] = {"f": "another", "g": {"inside": "inside"}}
    if cell.upper == "redirected directory":
        helpers["old-upper"] = {"from-lower": "1"}
    return Dir({**helpers, **_layer(cell.lower, prefix, "old-lower")}, xattrs=_xattrs(cell.lower, prefix))


def _bottom(cell: Cell) -> Dir:
    """Below both: the data of a metacopy, the directory that a redirect leads to."""
    entries: dict[str | bytes, Node] = {}
    if cell.lower == "metacopy":
        entries["x"] = "data"
    if cell.lower == "redirected directory":
        entries["old-lower"] = {"from-bottom": "2"}
    return Dir(entries)


@dataclass(frozen=True)
class Table:
    """Both mounts of a set of options, with all cells in them."""

    layers: Mapping[str, Layers]
    shape: Shape

    def perform(self, cell: Cell) -> str:
        """Do a cell's operation on both sides: how they differ, "" if they do not."""
        step = STEPS[cell.operation]
        sides = [Side(name, layers.merged / cell.name) for name, layers in self.layers.items()]
        one, two = (side.perform(step) for side in sides)
        known = excused(step, one, two, self.shape)
        if known is None and (what := one.differs(two)) and not self._refused(cell, one, two):
            return f"{what}: kernel {getattr(one, what)}, ours {getattr(two, what)}"
        if known is not None and known.ends:
            return ""
        for then in known.settle(step) if known is not None and known.settle is not None else ():
            for side in sides:
                side.perform(then)
        return self._trees(cell, one)

    def _refused(self, cell: Cell, one: Seen, two: Seen) -> bool:
        """A metacopy without data, where metacopies are refused anyway: two reasons, two errors."""
        return "metacopy" in (cell.upper, cell.lower) and not self.shape.metacopy and _errors(one, two) == REFUSALS

    def _trees(self, cell: Cell, seen: Seen) -> str:
        os.chdir("/")
        for what, root in (("merged", "merged"), ("upper", "upper")):
            one, two = (_view(getattr(layers, root) / cell.name, what) for layers in self.layers.values())
            if isinstance(one, str) or isinstance(two, str):
                if one != two:
                    return f"{what} trees: kernel {one}, ours {two}"
            elif difference := diff(
                *comparable(what, _bare(one), _bare(two), self.shape), names=("kernel", "ours")
            ):
                return f"after {seen.outcome!r}, {what} trees: {difference}"
        return ""


def _bare(view: Snapshot) -> Snapshot:
    """Without the marks that the kernel adds when it finds a merged directory that lacks them (ovl_fix_origin)."""
    added = (b"overlay.origin", b"overlay.impure")
    return {
        path: replace(entry, xattrs=tuple(item for item in entry.xattrs if item[0] not in added))
        for path, entry in view.items()
    }


def _view(path: Path, what: str) -> Snapshot | str:
    try:
        return snapshot(path, upper=what == "upper", ghosts=True)
    except OSError as error:
        return os.strerror(error.errno or 0)


@pytest.fixture(scope="module", params=OPTION_SETS)
def table(request: pytest.FixtureRequest, quick_root: Path, requires: Callable[..., None]) -> Iterator[Table]:
    requires("pyunionfs", "devices", "other_users")
    if request.param not in BY_DEFAULT and not request.config.getoption("--long"):
        pytest.skip("in the long profile")
    options = {**OPTION_SETS[request.param], **FLAGS}
    if why := runner.missing(options, runner.KERNEL_AND_OURS, quick_root):
        pytest.skip(why)
    prefix = mounting.prefix_of(options)
    root = quick_root / request.param.replace("=", "-")
    lowers = Layers.create(root, lowers=2).lower
    build(lowers[0], {cell.name: _lower(cell, prefix) for cell in CELLS})
    build(lowers[1], {cell.name: _bottom(cell) for cell in CELLS})
    uppers = {cell.name: _upper(cell, prefix) for cell in CELLS}
    umask = os.umask(0o022)
    with ExitStack() as stack:
        made = {}
        for name, mounter in runner.KERNEL_AND_OURS.items():
            made[name] = replace(Layers.create(root / name, lowers=0), lower=lowers)
            build(made[name].upper, uppers)
            stack.enter_context(mounter(made[name], options))
        yield Table(made, runner.shape_of(options, quick_root))
        os.chdir("/")
    os.umask(umask)


@pytest.mark.parametrize("operation", STEPS)
def test_every_pair(table: Table, operation: str) -> None:
    cells = [cell for cell in CELLS if cell.operation == operation]
    differences = {str(cell): table.perform(cell) for cell in cells}
    assert len(differences) == len(KINDS) ** 2
    found = [f"{cell}: {difference}" for cell, difference in differences.items() if difference]
    assert not found, f"{len(found)} of {len(cells)} pairs:\n" + "\n".join(found)
