"""What the machine lets pass: every known difference between the two sides, each with its reason.

A difference that is not in this table is a divergence. What a step shows may be excused (``excuse``), and then both
sides are brought to the same state again (``settle``). The other entries are left out of what is compared or done,
at the place that names them.
"""

import os
import re
from collections.abc import Callable, Set
from dataclasses import dataclass, replace

from .operations import OLD_S
from .stacks import Shape
from .steps import Name, Octal, OpenFlags, Seen, Slot, Slots, Step
from .trees import Entry, Snapshot


@dataclass(frozen=True)
class Divergence:
    """One known difference: what it is called, what the machine does about it, and why it is let pass."""

    name: str
    handling: str
    reason: str
    excuse: Callable[[Step, Seen, Seen, Shape], bool] | None = None
    settle: Callable[[Step], tuple[Step, ...]] | None = None
    ends: bool = False  # the sides are not to be brought together: the example ends here


_MODE = r"'[-rwxsSt]{10}'"
_OF_THE_COPY = r"nlink \d+|mtime (recent|\d+)"


def _late_copy_up(step: Step, kernel: Seen, ours: Seen, shape: Shape) -> bool:
    return step.slot is not None and kernel.outcome in ("EEXIST", "ENOENT", "EIO") and not ours.failed


def _came_back(step: Step, kernel: Seen, ours: Seen, shape: Shape) -> bool:
    changed = step.slot is not None and step.verb in ("chmod", "chown", "utime", "setxattr", "removexattr")
    return changed and _unlinked(step, kernel, ours, shape) and kernel.outcome[0][0] in "pscb"


def _not_opened(step: Step, kernel: Seen, ours: Seen, shape: Shape) -> bool:
    if shape.opens or not _opens_for_nothing(step, kernel):
        return False
    # What changes with the copy: who its links are, its number, and in the kernel the time of a metacopy's data.
    return _equal_but(_OF_THE_COPY, _numberless(kernel), _numberless(ours))


def _opens_for_nothing(step: Step, kernel: Seen) -> bool:
    """Whether a step opens a file for writing, and then may not write to it."""
    match step.verb:
        case "open_" | "read" | "hold":
            flags = next(argument for argument in step.arguments if isinstance(argument, OpenFlags))
            was_opened = not kernel.failed or kernel.outcome == "EBADF"  # to be written to, and then read
            return bool(flags & os.O_ACCMODE) and not flags & os.O_PATH and was_opened
        case "write":
            return step.arguments[2] == b"" and not kernel.failed
        case "map_shared":
            return bool(kernel.outcome == "does not fit")
        case "allocate":
            return kernel.failed
    return False


def _rewrite(step: Step) -> tuple[Step, ...]:
    return (Step("rewrite", (step.names[0],)),)


def _directory_holes(step: Step, kernel: Seen, ours: Seen, shape: Shape) -> bool:
    return step.verb == "seek" and kernel != ours and str(kernel.outcome).startswith("in a directory")


def _no_owner(step: Step, kernel: Seen, ours: Seen, shape: Shape) -> bool:
    if step.verb != "chown" or step.arguments[1:] != (-1, -1):
        return False
    links = r"|nlink \d+" if shape.exported else ""  # "index of everything" may come on top
    same = kernel != ours and _equal_but(_MODE + links, kernel, ours)
    return (kernel.outcome == "EPERM" and not ours.failed) or same


def _setuid_early(step: Step, kernel: Seen, ours: Seen, shape: Shape) -> bool:
    """Also where nothing is to be seen of it: the name may be a symlink's."""
    if step.verb != "allocate" or not kernel.failed or kernel.outcome != ours.outcome:
        return False
    if not step.user and re.findall(_MODE, repr(kernel)) == re.findall(_MODE, repr(ours)):
        return False
    return _equal_but(f"{_MODE}|{_OF_THE_COPY}", _numberless(kernel), _numberless(ours))


def _no_setuid_in_the_copy(step: Step) -> tuple[Step, ...]:
    return _no_setuid(step) + _rewrite(step)


def _let_go(step: Step) -> tuple[Step, ...]:
    assert step.slot is not None
    return (Step("let_go", (Slots(), step.slot.number)),)


def _early_copy_up(step: Step, kernel: Seen, ours: Seen, shape: Shape) -> bool:
    """Also where nothing is to be seen of it yet: the upper directories differ."""
    return step.verb in ("setxattr", "removexattr") and kernel.failed and kernel.outcome == ours.outcome


def _early_redirect(step: Step, kernel: Seen, ours: Seen, shape: Shape) -> bool:
    return step.verb == "rename" and shape.redirects and kernel.outcome == ours.outcome and _not_empty(kernel)


def _not_empty(seen: Seen) -> bool:
    return isinstance(seen.outcome, tuple) and seen.outcome[0] == "ENOTEMPTY"


def _full_of_nothing(step: Step, kernel: Seen, ours: Seen, shape: Shape) -> bool:
    return kernel.outcome == ("ENOTEMPTY", []) and ours.outcome is None


def _there_and_back(step: Step) -> tuple[Step, ...]:
    old = step.names[0]
    aside = Name(f"{old}~")
    return Step("rename", (old, aside, 0)), Step("rename", (aside, old, 0))


def _same_size(step: Step, kernel: Seen, ours: Seen, shape: Shape) -> bool:
    return step.verb == "truncate" and kernel != ours and _equal_but(r"mtime (recent|\d+)", kernel, ours)


def _another_size(step: Step) -> tuple[Step, ...]:
    """And back: the times of what a symlink leads to cannot be set by the symlink."""
    where, size = step.arguments
    return Step("truncate", (where, size + 1), step.user), Step("truncate", (where, size), step.user)


def _time_of_data(step: Step, kernel: Seen, ours: Seen, shape: Shape) -> bool:
    differ = kernel != ours and _equal_but(r"mtime (recent|\d+)", kernel, ours)
    return shape.metacopy and differ and "mtime recent" in repr(kernel)


def _unlinked(step: Step, kernel: Seen, ours: Seen, shape: Shape) -> bool:
    outcomes = [Seen(seen.outcome, (), (), ()) for seen in (kernel, ours)]
    return step.slot is not None and _equal_but(r"nlink \d+", *outcomes) and "nlink 0" in repr(ours.outcome)


def _no_handles(step: Step, kernel: Seen, ours: Seen, shape: Shape) -> bool:
    return not shape.handles and kernel.differs(ours) == "inode_kept"


def _absent_first(step: Step, kernel: Seen, ours: Seen, shape: Shape) -> bool:
    outcomes = kernel.outcome, ours.outcome
    return step.verb in ("setxattr", "removexattr") and outcomes == ("EPERM", "ENODATA") and not shape.owners


def _two_inodes(step: Step, kernel: Seen, ours: Seen, shape: Shape) -> bool:
    return step.verb == "rename" and kernel.outcome == "ESTALE" and not ours.failed and shape.prefix[0] == "u"


def _export_links(step: Step, kernel: Seen, ours: Seen, shape: Shape) -> bool:
    outcomes = [replace(seen, inode_kept=()) for seen in (kernel, ours)]  # which are looked at for one link only
    return shape.exported and kernel != ours and _equal_but(r"nlink \d+", *outcomes)


def _numberless(seen: Seen) -> Seen:
    return replace(seen, inode_kept=())


def _equal_but(what: str, kernel: Seen, ours: Seen) -> bool:
    told, mine = (re.sub(what, "", repr(seen)) for seen in (kernel, ours))
    return told == mine


def _setuid_lost(step: Step, kernel: Seen, ours: Seen, shape: Shape) -> bool:
    return step.verb == "map_shared" and kernel.outcome == ours.outcome and (step.user != 0 or not shape.owners)


def _no_setuid(step: Step) -> tuple[Step, ...]:
    targets = [argument for argument in step.arguments if isinstance(argument, Name | Slot)]
    return (Step("chmod", (targets[0], Octal(0o755))),)


def _setgid_kept(step: Step, kernel: Seen, ours: Seen, shape: Shape) -> bool:
    acl = step.verb == "setxattr" and step.arguments[1] == "system.posix_acl_access"
    setgid = r"(?<='[-dcbps][-rwxsS]{5})[-xsS](?=[-rwxtT]{3}')"
    return acl and step.user != 0 and kernel != ours and _equal_but(setgid, kernel, ours)


def _no_setgid(step: Step) -> tuple[Step, ...]:
    return (Step("chmod", (step.arguments[0], Octal(0o755))),)


def _copy_up(step: Step) -> tuple[Step, ...]:
    """A change of times copies up whatever can be, and leaves no difference in times."""
    targets = [argument for argument in step.arguments if isinstance(argument, Name | Slot)]
    return (Step("utime", (targets[0], (OLD_S, 0), (OLD_S, 0))),)


DIVERGENCES: tuple[Divergence, ...] = (
    Divergence(
        "unlinked before its copy-up",
        "the open file is closed on both sides",
        "the kernel cannot copy up what has no name any more (EEXIST, without its directory ENOENT or EIO); we can",
        _late_copy_up,
        _let_go,
    ),
    Divergence(
        "unlinked special files",
        "the example ends there",
        "the kernel moves the copy of a fifo, socket or device over its whiteout: it is there again; ours is gone",
        _came_back,
        ends=True,
    ),
    Divergence(
        "copy-up by opening",
        "what is there is written again on both sides",
        "the kernel copies up when a file is opened for writing; ours is not told (noopen=off), and does it later",
        _not_opened,
        _rewrite,
    ),
    Divergence(
        "holes of directories",
        "the directory is closed on both sides",
        "overlayfs refuses SEEK_DATA and SEEK_HOLE there, or asks the layer; FUSE answers by itself",
        _directory_holes,
        _let_go,
    ),
    Divergence(
        "setuid and failed allocations",
        "the mode is set on both sides",
        "overlayfs clears setuid before the layer refuses to allocate; FUSE refuses some modes before it asks us",
        _setuid_early,
        _no_setuid_in_the_copy,
    ),
    Divergence(
        "chown to nobody",
        "the mode is set on both sides",
        "chown(-1, -1) clears setuid, which others may not (EPERM); FUSE asks for nothing, and succeeds",
        _no_owner,
        _no_setuid,
    ),
    Divergence(
        "listed whiteouts",
        "names that are listed but cannot be looked up are left out",
        "the kernel lists the whiteouts of a directory that is merged with no other, and objects that it refuses",
    ),
    Divergence(
        "early copy-up",
        "after a setxattr or removexattr that failed, both sides are made to copy up",
        "the kernel copies up before it sees that it cannot; we do not",
        _early_copy_up,
        _copy_up,
    ),
    Divergence(
        "links of an unlinked file",
        "the link count of an open file is not compared where ours is 0",
        "in the kernel, a file that was removed or replaced while open may keep its count; in ours it has no links",
        _unlinked,
    ),
    Divergence(
        "setuid and mappings",
        "the mode is set on both sides",
        "the kernel keeps setuid; ours (transport=pyfuse3) is told of a write and not by whom: only root's keep it",
        _setuid_lost,
        _no_setuid,
    ),
    Divergence(
        "setgid and ACLs",
        "the mode is set on both sides",
        "the kernel drops setgid when who is not in the group sets an ACL; ours is not told (transport=pyfuse3)",
        _setgid_kept,
        _no_setgid,
    ),
    Divergence(
        "time of a metacopy's data",
        "the times are set on both sides; in trees, a new time of the kernel's is let pass",
        "the kernel moves mtime when it copies the data up, though nobody has written; ours keeps it",
        _time_of_data,
        _copy_up,
    ),
    Divergence(
        "names of an indexed file",
        "with index=on, of the uppers only what both have is compared, and no file with several names; before one"
        " becomes a lower layer, which has no index, each name is renamed there and back",
        "a request of FUSE tells an inode, not by which name it was found: ours links that name when it is changed",
    ),
    Divergence(
        "needless impure",
        "the mark impure is let pass where only ours has it, or where no entry of the directory has an origin",
        "the kernel sets it before a copy-up that fails then, and removes it when a listing finds no such entry",
    ),
    Divergence(
        "index of everything",
        "with nfs_export=on, link counts and the mark impure are not compared",
        "the kernel then indexes files of one name too, before it removes them, and later counts the index",
        _export_links,
    ),
    Divergence(
        "xattr whiteouts in the way",
        "the example ends there",
        "the kernel does not remove a directory with nothing in it but an xattr whiteout (ENOTEMPTY); we do",
        _full_of_nothing,
        ends=True,
    ),
    Divergence(
        "early redirect",
        "after a rename onto what is not empty, the directory is renamed there and back",
        "the kernel copies up, and notes a redirect, before it sees that it cannot; we do not",
        _early_redirect,
        _there_and_back,
    ),
    Divergence(
        "truncation to the same size",
        "the size is changed on both sides, and changed back",
        "tmpfs keeps the time for truncate(2) and moves it for ftruncate(2), which is what we call",
        _same_size,
        _another_size,
    ),
    Divergence(
        "links of what holds no user xattrs",
        "with userxattr, links of symlinks and special files are not compared, nor a rename of one onto the other",
        "the kernel cannot note their origin, and shows two names under two inode numbers; ours are one",
        _two_inodes,
    ),
    Divergence(
        "numbers without handles",
        "in a user namespace, which names are one file is not compared, nor that a number stays",
        "no origin can be opened there; the kernel then gives a name that is found anew the number of its copy",
        _no_handles,
    ),
    Divergence(
        "privileged xattrs in a user namespace",
        "EPERM and ENODATA are the same; both sides are made to copy up",
        "the kernel forbids to remove or replace what is not there; ours sees first that it is not there",
        _absent_first,
        _copy_up,
    ),
    Divergence(
        "writer",
        "a write to an open file is done by the user who opened it",
        "a FUSE write does not say who writes, so ours clears setuid by who has opened the file",
    ),
    Divergence(
        "lacking operations",
        "probed at the start; what either side does not have is left out, and said",
        "with transport=pyfuse3: it has no handler for fallocate, O_TMPFILE and lseek(SEEK_DATA, SEEK_HOLE)",
    ),
    Divergence(
        "mapping of a held file",
        "only files opened for it are mapped",
        "a mapping made by the kernel before a copy-up keeps to the lower file; ours sees later writes",
    ),
    Divergence(
        "free choices",
        "not compared: new times, inode numbers, sizes of directories, atime, the order of listings",
        "two correct filesystems may choose them freely (that numbers stay what they are is compared)",
    ),
    Divergence(
        "own marks",
        "of the xattrs origin, nlink and upper only the presence is compared, uuid not at all",
        "they hold handles of files and counts of one upper directory",
    ),
)


def excused(step: Step, kernel: Seen, ours: Seen, shape: Shape) -> Divergence | None:
    """The entry that explains what a step shows, if there is one."""
    return next((item for item in DIVERGENCES if item.excuse and item.excuse(step, kernel, ours, shape)), None)


def comparable(what: str, kernel: Snapshot, ours: Snapshot, shape: Shape) -> tuple[Snapshot, Snapshot]:
    """Two snapshots, of ``"merged"`` or ``"upper"``, without what is known to differ."""
    if what == "merged" and shape.prefix == "user.overlay.":  # "links of what holds no user xattrs"
        kernel, ours = _own_links(kernel, shape), _own_links(ours, shape)
    if what == "upper" and shape.index:  # "names of an indexed file"
        both = {
            path for path in kernel.keys() & ours.keys() if not _indexed(kernel[path]) and not _indexed(ours[path])
        }
        kernel, ours = ({path: tree[path] for path in both} for tree in (kernel, ours))
    if what == "upper":  # "needless impure", "index of everything"
        ours = _without_impure(ours, set(ours) if shape.exported else ours.keys() - _impure(kernel))
        kernel = _without_impure(kernel, set(kernel) if shape.exported else _pure(kernel))
        ours = _without_impure(ours, _pure(ours))
    if shape.metacopy:  # "time of a metacopy's data"
        moved = {path for path, entry in kernel.items() if entry.type == "file" and entry.mtime_ns == "recent"}
        ours = {
            path: replace(entry, mtime_ns="recent") if path in moved and entry.type == "file" else entry
            for path, entry in ours.items()
        }
    return kernel, ours


def _own_links(view: Snapshot, shape: Shape) -> Snapshot:
    kept = ("file", "dir") if shape.handles else ()
    return {path: entry if entry.type in kept else replace(entry, links=()) for path, entry in view.items()}


def _impure(view: Snapshot) -> set[bytes]:
    return {path for path, entry in view.items() if (b"overlay.impure", b"y") in entry.xattrs}


def _pure(view: Snapshot) -> set[bytes]:
    """The directories that the mark impure says nothing of: no entry in them has an origin."""
    copied = {path for path, entry in view.items() if any(name == b"overlay.origin" for name, _ in entry.xattrs)}
    return view.keys() - {os.path.dirname(path) or b"." for path in copied}


def _without_impure(view: Snapshot, where: Set[bytes]) -> Snapshot:
    return {
        path: replace(entry, xattrs=tuple(item for item in entry.xattrs if item[0] != b"overlay.impure"))
        if path in where
        else entry
        for path, entry in view.items()
    }


def _indexed(entry: Entry) -> bool:
    return any(name == b"overlay.nlink" for name, _ in entry.xattrs)
