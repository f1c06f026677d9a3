"""Fuzz: layers of a few names, compared with a small model of the policy that shares no code with it.

The model works on whole values: a dict of paths for the tree, two sets for the marks. It says what is on disk
after unpacking, and what the union of the layer with a lower one shows.
"""

import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import xattr
from archives import directory, entry, hardlink, symlink, unpack_layer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyunionfs.image.errors import ImageError
from pyunionfs.overlay.marks import TRUSTED

Path_ = tuple[str, ...]


@dataclass(frozen=True)
class Item:
    """What one entry says."""

    kind: str  # dir, file, symlink, link, whiteout, opaque
    path: Path_
    value: str = ""
    target: Path_ = ()

    def encode(self) -> bytes:
        name = "/".join(self.path)
        if self.kind == "dir":
            return directory(name, mode=int(self.value, 8))
        if self.kind == "file":
            return entry(name, self.value)
        if self.kind == "symlink":
            return symlink(name, self.value)
        if self.kind == "link":
            return hardlink(name, "/".join(self.target))
        above = self.path if self.kind == "opaque" else self.path[:-1]
        last = ".wh..wh..opq" if self.kind == "opaque" else ".wh." + self.path[-1]
        return entry("/".join((*above, last)))


class RefusedError(Exception):
    """The policy refuses the layer."""


@dataclass(frozen=True)
class Node:
    kind: str  # dir, file, symlink, whiteout
    value: str = ""
    opaque: bool = False
    inode: int = 0  # equal for hard links


Tree = dict[Path_, Node]
IMPLIED = "755"


def drop(tree: Tree, path: Path_) -> None:
    for known in [p for p in tree if p[: len(path)] == path]:
        del tree[known]


def make_parents(tree: Tree, path: Path_) -> None:
    for n in range(1, len(path)):
        if path[:n] not in tree or tree[path[:n]].kind != "dir":
            drop(tree, path[:n])
            tree[path[:n]] = Node("dir", IMPLIED)


def model(items: list[Item], lower: Tree) -> Tree:
    tree: Tree = {}
    whiteouts: set[Path_] = set()
    opaques: set[Path_] = set()
    for number, item in enumerate(items):
        path = item.path
        if item.kind == "whiteout":
            whiteouts.add(path)
        elif item.kind == "opaque":
            opaques.add(path)
        elif item.kind == "dir":
            make_parents(tree, path)
            if path in tree and tree[path].kind != "dir":
                drop(tree, path)
            tree[path] = Node("dir", item.value)
        elif item.kind == "link":
            link(tree, item, lower, number)
        else:
            make_parents(tree, path)
            drop(tree, path)
            tree[path] = Node(item.kind, item.value, inode=number)
    apply_marks(tree, whiteouts, opaques)
    return tree


def link(tree: Tree, item: Item, lower: Tree, number: int) -> None:
    path, target = item.path, item.target
    if path == target and path in tree:
        return
    shorter = min(len(path), len(target))
    if path[:shorter] == target[:shorter]:
        raise RefusedError
    source = tree.get(target)
    if source is None:
        source = lower.get(target)
        if source is not None:
            source = Node(source.kind, source.value, inode=number)
    if source is None or source.kind == "dir":
        raise RefusedError
    make_parents(tree, path)
    drop(tree, path)
    tree[path] = source


def apply_marks(tree: Tree, whiteouts: set[Path_], opaques: set[Path_]) -> None:
    def hidden(path: Path_) -> bool:
        return any(tree.get(path[:n], Node("dir")).kind != "dir" for n in range(1, len(path)))

    for path in opaques:
        if not hidden(path) and tree.get(path, Node("dir")).kind == "dir":
            make_parents(tree, path)
            tree.setdefault(path, Node("dir", IMPLIED))
            tree[path] = Node("dir", tree[path].value, opaque=True)
    for path in sorted(whiteouts, key=len):
        if path in tree and tree[path].kind == "dir":
            tree[path] = Node("dir", tree[path].value, opaque=True)
        elif path not in tree and not hidden(path):
            make_parents(tree, path)
            tree[path] = Node("whiteout")


def read_tree(root: Path) -> Tree:
    """What is on disk, inode numbers included."""
    tree: Tree = {}
    for path in root.rglob("*"):
        status = path.lstat()
        key = path.relative_to(root).parts
        if stat.S_ISDIR(status.st_mode):
            marked = TRUSTED.opaque in xattr.listxattr(str(path))
            tree[key] = Node("dir", f"{stat.S_IMODE(status.st_mode):o}", marked)
        elif stat.S_ISLNK(status.st_mode):
            tree[key] = Node("symlink", os.readlink(path), inode=status.st_ino)
        elif stat.S_ISCHR(status.st_mode):
            tree[key] = Node("whiteout")
        else:
            tree[key] = Node("file", path.read_text(), inode=status.st_ino)
    return tree


def comparable(tree: Tree) -> tuple[dict[Path_, tuple[str, str, bool]], set[frozenset[Path_]]]:
    """Nodes without inode numbers, and which names are links of each other."""
    groups: dict[int, set[Path_]] = {}
    for path, node in tree.items():
        if node.kind in ("file", "symlink"):
            groups.setdefault(node.inode, set()).add(path)
    links = {frozenset(group) for group in groups.values() if len(group) > 1}
    return {path: (n.kind, n.value, n.opaque) for path, n in tree.items()}, links


NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(tuple)
ITEMS = st.one_of(
    st.builds(Item, st.just("dir"), PATHS, st.sampled_from(["700", "755", "1777"])),
    st.builds(Item, st.just("file"), PATHS, st.sampled_from(["x", "yy", ""])),
    st.builds(Item, st.just("symlink"), PATHS, st.sampled_from(["a", "/", "..", "b/c"])),
    st.builds(Item, st.just("link"), PATHS, st.just(""), PATHS),
    st.builds(Item, st.just("whiteout"), PATHS),
    st.builds(Item, st.just("opaque"), st.lists(NAMES, min_size=1, max_size=2).map(tuple)),
)
PLAIN = ITEMS.filter(lambda item: item.kind in ("dir", "file", "symlink"))


def run(lower_items: list[Item], items: list[Item]) -> tuple[Tree, Tree] | None:
    """The lower tree and the layer's, as found on disk; None if the layer is refused."""
    scratch = Path(tempfile.mkdtemp(prefix="pyunionfs-model-"))
    try:
        lower, _ = unpack_layer(scratch, *(item.encode() for item in lower_items), name="lower")
        try:
            upper, _ = unpack_layer(scratch, *(item.encode() for item in items), below=[lower], name="upper")
        except ImageError:
            return None
        return read_tree(lower), read_tree(upper)
    finally:
        shutil.rmtree(scratch)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.lists(PLAIN, max_size=6), st.lists(ITEMS, max_size=9))
def check_against_model(lower_items: list[Item], items: list[Item]) -> None:
    lower = model(lower_items, {})
    try:
        expected: Tree | None = model(items, lower)
    except RefusedError:
        expected = None
    found = run(lower_items, items)
    if expected is None or found is None:
        assert found is None
        assert expected is None
        return
    assert comparable(found[0]) == comparable(lower)
    assert comparable(found[1]) == comparable(expected)


def merge(upper: Tree, lower: Tree) -> Tree:
    """What the union shows: overlayfs's rules, without hard links."""
    merged: Tree = {}
    for path, node in lower.items():
        above = [upper.get(path[:n]) for n in range(1, len(path) + 1)]
        stopped = any(n is not None and n.kind != "dir" for n in above)
        opaque = any(n is not None and n.opaque for n in above[:-1])
        if not stopped and not opaque:
            merged[path] = node
    for path, node in upper.items():
        if node.kind == "whiteout":
            merged.pop(path, None)
        else:
            if node.kind == "dir" and path in merged and merged[path].kind != "dir":
                drop(merged, path)
            merged[path] = node
    return {path: Node(n.kind, n.value) for path, n in merged.items()}


def flat(items: list[Item], lower: Tree) -> Tree:
    """What a changeset does to a flat tree: first all deletions from below, then the layer's own files."""
    tree = dict(lower)
    for item in items:
        if item.kind == "whiteout":
            drop(tree, item.path)
        elif item.kind == "opaque":
            for known in [p for p in tree if p[: len(item.path)] == item.path and p != item.path]:
                del tree[known]
    own = model([i for i in items if i.kind not in ("whiteout", "opaque")], lower)
    for path, node in own.items():
        if node.kind != "dir" or (path in tree and tree[path].kind != "dir"):
            drop(tree, path)
        tree[path] = node
    return {path: Node(n.kind, n.value) for path, n in tree.items()}


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.lists(PLAIN, max_size=6), st.lists(ITEMS.filter(lambda i: i.kind not in ("link", "opaque")), max_size=9))
def check_the_union(lower_items: list[Item], items: list[Item]) -> None:
    found = run(lower_items, items)
    assert found is not None
    lower, upper = found
    shown, expected = merge(upper, lower), flat(items, lower)
    # A directory that only a whiteout needs is made, without a look at the layers below: it may be new in the
    # union, have another mode, or hide a file.
    extra = {p for p in shown.keys() - expected.keys() if shown[p] == Node("dir", IMPLIED)}
    needed = {i.path[:n] for i in items if i.kind == "whiteout" for n in range(1, len(i.path))}
    assert extra <= needed
    differing = {p for p in expected if shown.get(p) != expected[p]}
    assert all(p in needed and shown[p] == Node("dir", IMPLIED) for p in differing)


@pytest.fixture(autouse=True)
def _able(may: Callable[..., None]) -> None:
    may("trusted xattrs")


def test_layers_unpack_as_the_model_says() -> None:
    check_against_model()


def test_the_union_shows_what_the_changeset_means() -> None:
    check_the_union()
