"""What a transport holds of a union, so that another process can go on serving it when this one has died.

Each inode that the kernel knows is noted in a journal (:class:`pyunionfs.vfs.Journal`): where its name is, and
before a system call that takes its name away, what else leads to it. After a sudden end :func:`restore` finds
each one again under the number that the kernel has for it. The layers themselves are the truth about everything
else.
"""

import errno
import os
import stat
from collections.abc import Iterator, Mapping

from ..vfs import ROOT, Held, Ino
from . import attr
from .backing import Backing
from .inode import Inode, map_ino
from .lookup import find
from .super import Superblock

Place = tuple[Inode, bytes]


def note(sb: Superblock, inode: Inode, *, also_at: Place | None = None, losing: bool = False) -> None:
    """Note where an inode is; ``also_at`` is where it may be after the next system call, and ``losing`` says that
    it may be left without a name.
    """
    if sb.journal is None or inode.lookups <= 0 or inode.ino == ROOT:
        return
    layer, path = 0, b""
    if (losing or inode.unlinked) and inode.upper is None:
        layer, path = inode.lower[0].layer.index, inode.lower[0].path()
    named = inode.parent is not None and not inode.unlinked
    upper = inode.upper
    sb.journal.note(
        Held(
            inode.ino,
            inode.lookups,
            inode.opens,
            inode.parent.ino if named and inode.parent is not None else Ino(0),
            inode.name if named else b"",
            also_at[0].ino if also_at is not None else Ino(0),
            also_at[1] if also_at is not None else b"",
            _st_ino(inode),
            upper.fd if upper is not None and upper.parent is None else -1,
            layer,
            path,
        )
    )


def _st_ino(inode: Inode) -> int:
    """The number that people see."""
    return inode.const_ino or map_ino(inode.real, inode.real.stat().st_ino)


def restore(sb: Superblock, held: Mapping[Ino, Held]) -> None:
    """Have every inode again that another process held.

    What is not found is left out: ESTALE for who asks for it.
    """
    if sb.workdir is not None:
        sb.workdir.clear()
    sb.table.reserve(held)
    for state in _parents_first(held):
        try:
            _restore_one(sb, state)
        except OSError:
            continue
    sb.table.reserve({})


def _parents_first(held: Mapping[Ino, Held]) -> Iterator[Held]:
    """Each inode after the directories that it may be in."""
    done: set[Ino] = {ROOT}
    for start in held:
        stack = [start]
        while stack:
            state = held[stack[-1]]
            parents = {state.parent, state.new_parent} & held.keys()
            if waiting := parents - done - set(stack):
                stack += waiting
                continue
            if stack.pop() not in done:
                done.add(state.ino)
                yield state


def _restore_one(sb: Superblock, state: Held) -> None:
    others = bool(state.new_parent or state.path or state.fd >= 0)
    for parent, name in ((state.parent, state.name), (state.new_parent, state.new_name)):
        if not parent or parent not in sb.table:
            continue
        inode = find(sb, sb.table[parent], name)
        # The number may have changed by a copy-up that was not noted. Where nothing else leads to it, it is it.
        if inode is None or (others and attr.getattr(sb, inode).st_ino != state.st_ino):
            continue
        _hold(sb, inode, state)
        if state.fd >= 0:
            os.close(state.fd)
        return
    _hold(sb, _nameless(sb, state), state)


def _nameless(sb: Superblock, state: Held) -> Inode:
    """An inode that has lost its name: by the descriptor that pins its object, or by its path in a lower layer."""
    if state.fd >= 0:
        assert sb.upper is not None
        backing = Backing.nameless(sb.upper, state.fd)
        if backing.find_xattr(sb.marks.metacopy) is not None:  # where its data is was known by its name
            backing.drop()
            raise OSError(errno.ESTALE, "a metacopy that has lost its name")
    else:
        backing = sb.layers[state.layer].root
        for name in state.path.split(b"/"):
            backing = backing.child(name)
    st = backing.stat()
    inode = Inode(None, b"", stat.S_IFMT(st.st_mode))
    if state.fd >= 0:
        inode.upper = backing
    else:
        inode.lower = (backing,)
    inode.unlinked = True
    inode.const_ino = state.st_ino
    return inode


def _hold(sb: Superblock, inode: Inode, state: Held) -> None:
    inode.lookups, inode.opens = state.lookups, state.opens
    sb.table.renumber(inode, state.ino)
    note(sb, inode)
