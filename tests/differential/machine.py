"""The state machine: the same operation on two mounts, the same outcome expected, the same trees left behind."""

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import operations as ops
import stacks
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from mounts import Layers, Mounter, Options
from operations import Operation, Side
from trees import Snapshot, diff, snapshot

PATHS = st.lists(st.sampled_from(stacks.NAMES), min_size=1, max_size=stacks.DEPTH).map("/".join)
MODES = st.sampled_from([0o644, 0o600, 0o755, 0o4755, 0o2755, 0o1777, 0o000])
SIZES = st.sampled_from([0, 1, 5, 4096, 10_000])
DATA = st.sampled_from([b"", b"new", b"x" * 5000])
OWNERS = st.sampled_from([-1, 0, 1000, 1001])
SLOTS = st.integers(0, 1)
XATTRS = st.sampled_from(["user.a", "user.b", "trusted.a", "user.overlay.x", "trusted.overlay.opaque"])
WRITE_FLAGS = st.sampled_from(
    [
        os.O_WRONLY,
        os.O_RDWR,
        os.O_WRONLY | os.O_APPEND,
        os.O_WRONLY | os.O_TRUNC,
        os.O_WRONLY | os.O_CREAT,
        os.O_RDWR | os.O_CREAT | os.O_EXCL,
        os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
        os.O_WRONLY | os.O_NOFOLLOW,
    ]
)
READ_FLAGS = st.sampled_from([os.O_RDONLY, os.O_RDWR, os.O_RDONLY | os.O_NOFOLLOW, os.O_RDONLY | os.O_CREAT])


class Pair:
    """Two mounts over the same lowers; new uppers whenever the copies of a tree are used up."""

    def __init__(self, root: Path, lowers: tuple[Path, ...], sides: dict[str, Mounter], options: Options) -> None:
        self.names = tuple(sides)
        self.prefix = "user.overlay." if options.get("userxattr") else "trusted.overlay."
        self._root = root
        self._lowers = lowers
        self._sides = sides
        self.options = options
        self._used: dict[int, int] = {}
        self._batch = 0
        self._layers: dict[str, Layers] = {}
        self._stack = contextlib.ExitStack()

    def take(self, tree: int) -> str:
        """The name of an unused copy of a tree."""
        if not self._layers or self._used.get(tree, 0) >= stacks.COPIES or not self._alive():
            self._fresh()
        copy = self._used.get(tree, 0)
        self._used[tree] = copy + 1
        return stacks.copy_name(tree, copy)

    def _alive(self) -> bool:
        try:
            for layers in self._layers.values():
                os.statvfs(layers.merged)
        except OSError:
            return False
        return True

    def _fresh(self) -> None:
        self.close()
        self._batch += 1
        self._used.clear()
        for name in self.names:
            layers = Layers.create(self._root / f"{name}-{self._batch}", lowers=0)
            self._layers[name] = Layers(self._lowers, layers.upper, layers.work, layers.merged)
        self.mount()

    def mount(self) -> None:
        for name, layers in self._layers.items():
            self._stack.enter_context(self._sides[name](layers, self.options))

    def unmount(self) -> None:
        self._stack.close()

    def close(self) -> None:
        self.unmount()
        for name in self._layers:
            shutil.rmtree(self._root / f"{name}-{self._batch}")
        self._layers.clear()

    def merged(self, name: str, copy: str) -> Path:
        return self._layers[name].merged / copy

    def upper(self, name: str, copy: str) -> Path:
        return self._layers[name].upper / copy


class Machine(RuleBasedStateMachine):
    """Subclassed with the pair to work on."""

    pair: ClassVar[Pair]

    @initialize(tree=st.integers(0, stacks.TREES - 1))
    def start(self, tree: int) -> None:
        self.tree = tree
        self.copy = self.pair.take(tree)
        self.sides = {name: Side(os.fsencode(self.pair.merged(name, self.copy))) for name in self.pair.names}
        self.script: list[str] = []

    def teardown(self) -> None:
        if hasattr(self, "sides"):
            try:
                self.compare_trees()
            finally:
                for side in self.sides.values():
                    side.close()

    # Comparing.

    def each(self, look: Callable[[str], Any]) -> tuple[Any, Any]:
        one, two = self.pair.names
        return look(one), look(two)

    def step(self, operation: Operation) -> None:
        """Run on both sides; compare the outcome, then what is seen of the paths in question."""
        before = self.each(lambda name: [ops.inode(self.sides[name], path) for path in operation.paths])
        results = self.each(lambda name: ops.outcome(operation, self.sides[name]))
        shown = results[0] if isinstance(results[0], str) and results[0].startswith("E") else "ok"
        self.script.append(f"{operation.shell}  # {shown}" if shown != "ok" else operation.shell)
        self.check("outcome", *results)
        for path in operation.paths:
            self.check(f"stat {path}", *self.each(lambda name, path=path: ops.attributes(self.sides[name], path)))
        after = self.each(lambda name: [ops.inode(self.sides[name], path) for path in operation.paths])
        kept = [[old == new for old, new in zip(*pair, strict=True)] for pair in zip(before, after, strict=True)]
        self.check(f"inode numbers kept of {operation.paths}", *kept)

    def check(self, what: str, one: Any, two: Any) -> None:
        if one != two:
            names = self.pair.names
            self.fail(f"{what}\n  {names[0]}: {_short(one)}\n  {names[1]}: {_short(two)}")

    @rule()
    def compare_trees(self) -> None:
        views = self.each(lambda name: snapshot(self.pair.merged(name, self.copy), ghosts=name != "ours"))
        self.check_trees("merged", *map(self.without_odd_links, views))
        if self.pair.options.get("index") == "on":
            return  # which of the names of a hard link is copied up depends on which the caller used
        uppers = self.each(lambda name: _snapshot_or_nothing(self.pair.upper(name, self.copy)))
        self.check_trees("upper", *uppers)

    def without_odd_links(self, view: Snapshot) -> Snapshot:
        """With userxattr, the kernel cannot note the origin of a symlink or special file (they hold no user
        xattrs), and shows two names of one under different inode numbers. Ours are the same, as they should be."""
        if self.pair.prefix != "user.overlay.":
            return view
        return {path: entry if entry.type == "file" else replace(entry, links=()) for path, entry in view.items()}

    def check_trees(self, what: str, one: Snapshot, two: Snapshot) -> None:
        if difference := diff(one, two, names=self.pair.names):
            self.fail(f"{what} trees differ:\n{difference}")

    def fail(self, difference: str) -> None:
        script = "\n".join(["cd merged/r", *self.script])
        note(f"# tree {self.tree}\n{stacks.shell_of(self.tree, self.pair.prefix)}\n{script}")
        raise AssertionError(f"{difference}\nafter, on tree {self.tree}:\n{script}")

    # Operations.

    @rule(path=PATHS, flags=READ_FLAGS)
    def read(self, path: str, flags: int) -> None:
        self.step(ops.read(path, flags))

    @rule(path=PATHS, flags=WRITE_FLAGS, data=DATA, offset=st.sampled_from([None, None, 0, 3, 9000]))
    def write(self, path: str, flags: int, data: bytes, offset: int | None) -> None:
        self.step(ops.write(path, flags, data, offset))

    @rule(path=PATHS, size=SIZES)
    def truncate(self, path: str, size: int) -> None:
        self.step(ops.truncate(path, size))

    @rule(path=PATHS, mode=MODES)
    def mkdir(self, path: str, mode: int) -> None:
        self.step(ops.mkdir(path, mode))

    @rule(path=PATHS)
    def rmdir(self, path: str) -> None:
        self.step(ops.rmdir(path))

    @rule(path=PATHS)
    def unlink(self, path: str) -> None:
        self.step(ops.unlink(path))

    @rule(path=PATHS)
    def remove_tree(self, path: str) -> None:
        self.step(ops.remove_tree(path))

    @rule(old=PATHS, new=PATHS, flags=st.sampled_from([0, 0, 1, 2]))
    def rename(self, old: str, new: str, flags: int) -> None:
        self.step(ops.rename(old, new, flags))

    @rule(old=PATHS, new=PATHS)
    def link(self, old: str, new: str) -> None:
        self.step(ops.link(old, new))

    @rule(to=st.sampled_from(["a", "b/c", "../d", "nowhere"]), path=PATHS)
    def symlink(self, to: str, path: str) -> None:
        self.step(ops.symlink(to, path))

    @rule(path=PATHS, mode=MODES)
    def mkfifo(self, path: str, mode: int) -> None:
        self.step(ops.mkfifo(path, mode))

    @rule(path=PATHS, kind=st.sampled_from([(0o100640, 0), (0o020600, 0x103), (0o060600, 0x700), (0o140600, 0)]))
    def mknod(self, path: str, kind: tuple[int, int]) -> None:
        self.step(ops.mknod(path, *kind))

    @rule(path=PATHS, mode=MODES)
    def chmod(self, path: str, mode: int) -> None:
        self.step(ops.chmod(path, mode))

    @rule(path=PATHS, uid=OWNERS, gid=OWNERS)
    def chown(self, path: str, uid: int, gid: int) -> None:
        self.step(ops.chown(path, uid, gid))

    @rule(path=PATHS, seconds=st.sampled_from([0, 12345]))
    def utime(self, path: str, seconds: int) -> None:
        self.step(ops.utime(path, seconds))

    @rule(path=PATHS, name=XATTRS, value=st.sampled_from([b"", b"y", b"new"]), flags=st.sampled_from([0, 0, 1, 2]))
    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        self.step(ops.setxattr(path, name, value, flags))

    @rule(path=PATHS, name=XATTRS)
    def getxattr(self, path: str, name: str) -> None:
        self.step(ops.getxattr(path, name))

    @rule(path=PATHS, name=XATTRS)
    def removexattr(self, path: str, name: str) -> None:
        self.step(ops.removexattr(path, name))

    @rule(path=PATHS)
    def listxattr(self, path: str) -> None:
        self.step(ops.listxattr(path))

    @rule(path=st.one_of(PATHS, st.just(".")))
    def listdir(self, path: str) -> None:
        self.step(ops.listdir(path))

    @rule(path=PATHS, follow=st.booleans())
    def stat(self, path: str, follow: bool) -> None:
        self.step(ops.stat_(path, follow))

    @rule(path=PATHS)
    def readlink(self, path: str) -> None:
        self.step(ops.readlink(path))

    @rule(slot=SLOTS, path=PATHS, flags=st.one_of(READ_FLAGS, WRITE_FLAGS))
    def hold(self, slot: int, path: str, flags: int) -> None:
        self.step(ops.hold(slot, path, flags))

    @rule(slot=SLOTS)
    def held_read(self, slot: int) -> None:
        self.step(ops.held_read(slot))

    @rule(slot=SLOTS, data=DATA, offset=st.sampled_from([0, 3, 9000]))
    def held_write(self, slot: int, data: bytes, offset: int) -> None:
        self.step(ops.held_write(slot, data, offset))

    @rule(slot=SLOTS, mode=MODES, size=SIZES)
    def held_change(self, slot: int, mode: int, size: int) -> None:
        operation = ops.held_change(slot, mode, size)
        if ops.outcome(operation, self.sides[self.pair.names[0]]) == "EEXIST":
            # The kernel cannot copy up what was unlinked before (see the table of divergences); we can.
            for side in self.sides.values():
                if slot in side.slots:
                    os.close(side.slots.pop(slot))
        else:
            self.step(operation)

    @rule(slot=SLOTS)
    def held_list(self, slot: int) -> None:
        self.step(ops.held_list(slot))

    @rule(often=st.integers(0, 7))
    def remount(self, often: int) -> None:
        """Rarely, for a mount takes as long as a thousand other steps."""
        if often == 0:
            for side in self.sides.values():
                side.close()
            self.pair.unmount()
            self.pair.mount()
            self.script.append("# remount")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 600 else text[:300] + "..." + text[-300:]


def _snapshot_or_nothing(path: Path) -> Snapshot:
    return snapshot(path, upper=True) if path.exists() else {}
