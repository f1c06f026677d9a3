"""Why a union shows what it shows: for one path, what each layer has, and which rule made of it what.

The findings are probed and judged by the code that serves a mount (``overlay.search``, ``overlay.merge``).
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from ..overlay.fs import Overlay
from ..overlay.inode import Inode
from ..overlay.lookup import directories_of, find
from ..overlay.merge import Kind, Rule, judge
from ..overlay.search import Found, Search, peek
from .union import Union

_SENTENCES = {
    Rule.WHITEOUT: "a whiteout ends the search: whatever lies below is hidden",
    Rule.FIRST: "the first object found decides, and ends the search",
    Rule.MERGES: "a directory is merged with those found above and below",
    Rule.OPAQUE: "an opaque directory counts, and ends the search: nothing below is merged",
    Rule.HIDDEN: "no directory, but a directory lies above it: hidden, and the search ends",
    Rule.ABSENT: "nothing here: the search goes on below",
    Rule.METACOPY: "a metacopy decides about all but the data: the search for that goes on",
    Rule.DATA: "provides the data of the metacopy above, and ends the search",
    Rule.NO_DATA: "no file, where the data of the metacopy above should be: the data is missing",
    Rule.NOT_REACHED: "not looked at: the search had ended above",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One layer's part in the answer."""

    layer: str  # "upper", "lower 0", ...
    directory: str
    found: str
    rule: int  # number in overlay.merge; 0 if the layer was not reached
    why: str
    provides: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """What :func:`explain` tells of one path."""

    path: str
    exists: bool
    rows: list[Row]
    provider: str  # the layer that answers, "" if nothing does
    on_write: str
    on_delete: str


def explain(union: Union, path: bytes) -> Explanation:
    """Explain a path, relative to the root of the union. Raises OSError of a layer that cannot be read."""
    with union.open() as overlay:
        names = [name for name in path.split(b"/") if name]
        parent = overlay.root
        for depth, name in enumerate(names[:-1]):
            found = find(overlay.sb, parent, name)
            if found is None or not found.is_dir:
                return explain(union, b"/".join(names[: depth + 1]))
            parent = found
        rows = _rows(union, overlay, parent, names[-1] if names else None)
        providers = [row for row in rows if row.provides]
        target = (find(overlay.sb, parent, names[-1]) if names else overlay.root) if providers else None
        on_write, on_delete = _consequences(union, overlay, parent, target, names[-1] if names else b"")
        return Explanation(
            "/" + os.fsdecode(b"/".join(names)),
            bool(providers),
            rows,
            providers[0].layer if providers else "",
            on_write,
            on_delete,
        )


def _rows(union: Union, overlay: Overlay, parent: Inode, name: bytes | None) -> list[Row]:
    found: dict[int, tuple[Kind, str]] = {}
    if name is None:
        for root in directories_of(parent):
            found[root.layer.index] = (Kind.DIRECTORY, "directory (root of the layer)")
    else:
        search = Search(overlay.sb, directories_of(parent), name, parent.xattr_whiteouts)
        for kind, seen in _probed(search):
            found[seen.backing.layer.index] = (kind, _describe(kind, seen) + _elsewhere(parent, name, seen))
    rows = []
    ended, above = False, None
    for index, directory in enumerate(union.stack):
        if index not in found:
            what, rule, why = "-", Rule.NOT_REACHED, "this layer has no such parent directory, or it is hidden"
        else:
            kind, what = found[index]
            rule = Rule.NOT_REACHED if ended else judge(kind, above)
            why = _SENTENCES[rule]
            above = rule if rule.provides else above
            ended |= rule.ends
        rows.append(Row(union.label(index), directory, what, rule.value, why, rule.provides))
    return rows


def _probed(search: Search) -> Iterator[tuple[Kind, Found]]:
    """All findings, also those that a lookup would not ask for."""
    for kind in search.findings():
        yield kind, search.found[-1]


def _elsewhere(parent: Inode, name: bytes, seen: Found) -> str:
    """Where a redirect has led, if it has."""
    above = parent.path()
    here = seen.backing.path()
    return "" if here == (above + b"/" + name if above else name) else f", at /{os.fsdecode(here)}"


def _describe(kind: Kind, seen: Found) -> str:
    backing, st = seen.backing, seen.st
    if st is None or kind not in (Kind.FILE, Kind.METACOPY, Kind.OTHER):
        return "-" if kind is Kind.ABSENT else kind.value
    if kind is Kind.METACOPY:
        return f"metacopy, {st.st_size} bytes, mode {stat.S_IMODE(st.st_mode):04o}"
    if stat.S_ISREG(st.st_mode):
        return f"file, {st.st_size} bytes, mode {stat.S_IMODE(st.st_mode):04o}"
    if stat.S_ISLNK(st.st_mode):
        return f"symlink to {os.fsdecode(backing.readlink())}"
    names = {stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket", stat.S_IFCHR: "character device"}
    return names.get(stat.S_IFMT(st.st_mode), "block device")


def _consequences(
    union: Union, overlay: Overlay, parent: Inode, target: Inode | None, name: bytes
) -> tuple[str, str]:
    """What writing to it and deleting it would do."""
    if union.upper is None:
        return "EROFS: this union has no upper directory", "EROFS: this union has no upper directory"
    if target is None:
        return "creates it in the upper directory", "ENOENT: there is nothing"
    if target is overlay.root:
        return "changes the upper directory itself", "EBUSY: it is the root"
    upper = overlay.sb.layers[0]
    in_upper = target.lower[0].layer is upper
    rest = [directory for directory in parent.lower if directory.layer is not upper]
    below = (peek(overlay.sb, directory, name, parent.xattr_whiteouts) for directory in rest)
    shows_through = next((kind for kind in below if kind is not Kind.ABSENT), Kind.ABSENT) is Kind.OTHER
    missing = _parents_to_copy(overlay, parent)
    also = f" and {missing} parent director{'y' if missing == 1 else 'ies'}" if missing else ""
    if in_upper and target.metacopy:
        write = f"copies the {target.real.stat().st_size} bytes of data into the upper file, then writes there"
    elif in_upper:
        write = "writes in place: it is in the upper directory already"
    elif stat.S_ISREG(target.type):
        write = f"copies up {target.real.stat().st_size} bytes{also}, then writes to the copy"
    else:
        write = f"copies up the {'directory' if target.is_dir else 'object'}{also}"
    delete = "replaces it by a whiteout" if in_upper and shows_through else "creates a whiteout"
    if in_upper and not shows_through:
        delete = "removes it; nothing lies below that would need a whiteout"
    return write, delete


def _parents_to_copy(overlay: Overlay, parent: Inode) -> int:
    """How many directories above are not yet in the upper layer."""
    upper = overlay.sb.layers[0]
    count = 0
    node: Inode | None = parent
    while node is not None and node.lower[0].layer is not upper:
        count += 1
        node = node.parent
    return count
