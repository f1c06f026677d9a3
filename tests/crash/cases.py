"""Each operation that changes a union, as one request: the table that the crash and fault tests go through.

``prepare`` makes what only one case needs; the rest is in ``unions.py``.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

from syscalls import GROUP, RENAME_EXCHANGE, RENAME_NOREPLACE, USER
from unions import OTHER, Files


def _nothing(files: Files) -> None:
    del files


@dataclass(frozen=True)
class Case:
    """One operation. ``shows`` says whether the merged view is another one after it; None: that depends."""

    name: str
    run: Callable[[Files], None]
    prepare: Callable[[Files], None] = _nothing
    requires: tuple[str, ...] = ()
    shows: bool | None = True


Maker = Callable[..., None]
_MAKERS: dict[str, Maker] = {
    "create": Files.create,
    "mkdir": Files.mkdir,
    "symlink": Files.symlink_by,
    "mkfifo": Files.mkfifo,
}


def _making(word: str, make: Maker) -> list[Case]:
    """Every way in which a new object comes about."""

    def setgid(files: Files) -> None:
        files.setattr("spare", gid=GROUP, mode=0o2775)

    other = ("other_users",)
    return [
        Case(f"{word}", lambda f: make(f, "new")),
        Case(f"{word} in a lower directory", lambda f: make(f, "deep/a/new")),
        Case(f"{word} over a whiteout", lambda f: make(f, "gone")),
        Case(f"{word} over the whiteout of a directory", lambda f: make(f, "gone-dir")),
        Case(f"{word} for another user", lambda f: make(f, "new", caller=OTHER), requires=other),
        Case(f"{word} over a whiteout for another user", lambda f: make(f, "gone", caller=OTHER), requires=other),
        Case(f"{word} under a default ACL", lambda f: make(f, "acl/new"), requires=other),
        Case(
            f"{word} under a default ACL for another user",
            lambda f: make(f, "acl/new", caller=OTHER),
            requires=other,
        ),
        Case(f"{word} in a setgid directory", lambda f: make(f, "spare/new"), setgid, other),
        Case(
            f"{word} in a setgid directory for another user",
            lambda f: make(f, "spare/new", caller=OTHER),
            setgid,
            other,
        ),
    ]


CREATING = [
    *(case for word, make in _MAKERS.items() for case in _making(word, make)),
    Case("create with setuid", lambda f: f.create("new", 0o4755)),
    Case("mkdir with sticky", lambda f: f.mkdir("new", 0o1777)),
]

LINKING = [
    Case("link a lower file", lambda f: f.link("file", "new")),
    Case("link a copied-up file", lambda f: f.link("copied", "made/new")),
    Case("link a new file", lambda f: f.link("acked", "new")),
    Case("link a new file into a lower directory", lambda f: f.link("acked", "deep/a/new")),
    Case("link a lower file over a whiteout", lambda f: f.link("file", "gone")),
    Case("link a new file over a whiteout", lambda f: f.link("acked", "gone")),
    Case("link one of two lower hard links", lambda f: f.link("twin", "new")),
    Case("link a lower symlink", lambda f: f.link("symlink", "new")),
]

REMOVING = [
    Case("unlink a lower file", lambda f: f.unlink("file")),
    Case("unlink a deep lower file", lambda f: f.unlink("deep/a/b/file")),
    Case("unlink a new file", lambda f: f.unlink("acked")),
    Case("unlink a copied-up file", lambda f: f.unlink("copied")),
    Case("unlink one of two lower hard links", lambda f: f.unlink("twin")),
    Case("unlink one of two new hard links", lambda f: f.unlink("acked"), lambda f: f.link("acked", "spare/link")),
    Case("unlink an open lower file", lambda f: f.unlink("file"), lambda f: f.hold("file")),
    Case("unlink an open copied-up file", lambda f: f.unlink("copied"), lambda f: f.hold("copied")),
    Case("unlink a lower symlink", lambda f: f.unlink("symlink")),
    Case("rmdir a new directory", lambda f: f.rmdir("spare")),
    Case("rmdir a lower directory", lambda f: f.rmdir("empty")),
    Case("rmdir a merged directory", lambda f: f.rmdir("empty"), lambda f: f.chmod("empty", 0o700)),
    Case(
        "rmdir a merged directory with whiteouts in it",
        lambda f: f.rmdir("one-child"),
        lambda f: f.unlink("one-child/child"),
    ),
    Case("rmdir an opaque directory", lambda f: f.rmdir("gone-dir"), lambda f: f.mkdir("gone-dir")),
]


def _emptied(files: Files) -> None:
    files.unlink("one-child/child")


def _times(files: Files) -> None:
    files.setattr("made", atime_ns=1, mtime_ns=1)


RENAMING = [
    Case("rename a lower file", lambda f: f.rename("file", "new")),
    Case("rename a deep lower file", lambda f: f.rename("deep/a/b/file", "dir/sub/new")),
    Case("rename a new file", lambda f: f.rename("acked", "new")),
    Case("rename a new file into a lower directory", lambda f: f.rename("acked", "deep/a/new")),
    Case("rename a copied-up file", lambda f: f.rename("copied", "new")),
    Case("rename a lower file over a lower file", lambda f: f.rename("file", "hole")),
    Case("rename a new file over a lower file", lambda f: f.rename("acked", "file")),
    Case("rename a new file over a copied-up file", lambda f: f.rename("acked", "copied")),
    Case("rename a copied-up file over a new file", lambda f: f.rename("copied", "acked")),
    Case("rename a lower file over a whiteout", lambda f: f.rename("file", "gone")),
    Case("rename a new file over a whiteout", lambda f: f.rename("acked", "gone")),
    Case("rename without replacing", lambda f: f.rename("file", "new", flags=RENAME_NOREPLACE)),
    Case("rename a symlink", lambda f: f.rename("symlink", "new")),
    Case("rename a new directory", lambda f: f.rename("made", "new"), _times),
    Case("rename a new directory into a lower one", lambda f: f.rename("made", "deep/a/new"), _times),
    Case("rename a new directory over a whiteout", lambda f: f.rename("made", "gone"), _times),
    Case("rename a new directory over the whiteout of one", lambda f: f.rename("made", "gone-dir"), _times),
    Case("rename a new directory over a new one", lambda f: f.rename("made", "spare"), _times),
    Case("rename a new directory over an empty lower one", lambda f: f.rename("made", "empty"), _times),
    Case("rename a new directory over a merged one", lambda f: f.rename("made", "one-child"), _emptied),
    Case("rename an opaque directory", lambda f: f.rename("gone-dir", "new"), lambda f: f.mkdir("gone-dir")),
    Case("exchange lower files", lambda f: f.rename("file", "hole", flags=RENAME_EXCHANGE)),
    Case("exchange a new and a lower file", lambda f: f.rename("acked", "deep/a/b/file", flags=RENAME_EXCHANGE)),
    Case("exchange a new file and a new directory", lambda f: f.rename("acked", "made", flags=RENAME_EXCHANGE)),
    Case("exchange new directories", lambda f: f.rename("made", "spare", flags=RENAME_EXCHANGE)),
    Case("exchange a new directory and a lower file", lambda f: f.rename("made", "dir/one", flags=RENAME_EXCHANGE)),
]


REDIRECTING = [
    Case("rename a lower directory", lambda f: f.rename("deep/a", "new")),
    Case("rename a lower directory in its parent", lambda f: f.rename("deep/a", "deep/new")),
    Case("rename a merged directory", lambda f: f.rename("dir", "spare/new"), lambda f: f.chmod("dir", 0o700)),
    Case("rename a renamed directory", lambda f: f.rename("once", "twice"), lambda f: f.rename("dir", "once")),
    Case("rename a lower directory over a whiteout", lambda f: f.rename("dir", "gone-dir")),
    Case("rename a lower directory over an empty one", lambda f: f.rename("dir", "empty")),
    Case("exchange lower directories", lambda f: f.rename("dir", "deep", flags=RENAME_EXCHANGE)),
]


def _metadata_up(files: Files) -> None:
    files.chmod("file", 0o600)


def _unlinked(files: Files) -> None:
    files.hold("file")
    files.unlink("file")


def _suid(files: Files) -> None:
    files.setattr("acked", uid=USER, gid=GROUP)
    files.chmod("acked", 0o6755)


COPYING_UP = [
    Case("chmod a lower file", lambda f: f.chmod("file", 0o600)),
    Case("chmod a deep lower file", lambda f: f.chmod("deep/a/b/file", 0o600)),
    Case("chmod a lower directory", lambda f: f.chmod("dir/sub", 0o700)),
    Case("chmod a lower directory with a default ACL", lambda f: f.chmod("acl", 0o700)),
    Case("chmod a lower fifo", lambda f: f.chmod("fifo", 0o600)),
    Case("chown a lower file", lambda f: f.setattr("file", uid=USER, gid=GROUP), requires=("other_users",)),
    Case("chown a lower symlink", lambda f: f.setattr("symlink", uid=USER, gid=GROUP), requires=("other_users",)),
    Case("utimens of a lower file", lambda f: f.setattr("file", atime_ns=1, mtime_ns=1)),
    Case("utimens of a lower directory", lambda f: f.setattr("dir", mtime_ns=1)),
    Case("setxattr on a lower file", lambda f: f.setxattr("file", "user.new", b"1")),
    Case("setxattr on a lower directory", lambda f: f.setxattr("dir", "user.new", b"1")),
    Case("removexattr on a lower file", lambda f: f.removexattr("file", "user.kept")),
    Case("open a lower file for writing", lambda f: f.open("file", os.O_RDWR), shows=False),
    Case("open a sparse lower file for writing", lambda f: f.open("hole", os.O_RDWR), shows=False),
    Case("open one of two lower hard links for writing", lambda f: f.open("twin", os.O_RDWR), shows=None),
    Case("open a lower file with O_TRUNC", lambda f: f.open("file", os.O_WRONLY | os.O_TRUNC)),
    Case("truncate a lower file", lambda f: f.truncate("file", 3)),
    Case("extend a lower file", lambda f: f.truncate("file", 100)),
    Case("append to a lower file", lambda f: f.write("file", 10, b"more")),
    Case("append to a file whose metadata was copied up", lambda f: f.write("file", 10, b"more"), _metadata_up),
    Case("truncate a file whose metadata was copied up", lambda f: f.truncate("file", 3), _metadata_up),
    Case(
        "empty a file whose metadata was copied up",
        lambda f: f.open("file", os.O_WRONLY | os.O_TRUNC),
        _metadata_up,
    ),
    Case("empty a lower file", lambda f: f.truncate("file", 0)),
    Case("allocate a lower file", lambda f: f.allocate("file", 0, 0, 100)),
    Case("punch a hole into a lower file", lambda f: f.allocate("file", 3, 0, 4)),
    Case("copy a range into a lower file", lambda f: f.copy_range("acked", "file", 5)),
    Case("append to a lower file that was unlinked", lambda f: f.write_held(10, b"more"), _unlinked, shows=False),
]

WRITING = [
    Case("truncate a new file", lambda f: f.truncate("acked", 3)),
    Case("open a new file with O_TRUNC", lambda f: f.open("acked", os.O_WRONLY | os.O_TRUNC)),
    Case("append to a new file", lambda f: f.write("acked", 12, b"more")),
    Case("append synchronously", lambda f: f.write("acked", 12, b"more", sync=True)),
    Case("write to a setuid file", lambda f: f.write("acked", 0, b"more", kill_suid=True), _suid, ("other_users",)),
    Case("truncate a setuid file", lambda f: f.setattr("acked", size=3, kill_suid=True), _suid, ("other_users",)),
    Case("chown a setuid file", lambda f: f.setattr("acked", uid=0, gid=0, mode=0o755), _suid, ("other_users",)),
    Case("chmod a new file", lambda f: f.chmod("acked", 0o600)),
    Case("setxattr on a new file", lambda f: f.setxattr("acked", "user.new", b"1")),
    Case("removexattr on a copied-up file", lambda f: f.removexattr("file", "user.kept"), _metadata_up),
    Case("allocate a new file", lambda f: f.allocate("acked", 0, 0, 100)),
    Case("copy a range of a lower file", lambda f: f.copy_range("file", "acked", 5)),
    Case("make a file without a name, and name it", lambda f: f.name_unnamed("made/named")),
    Case("name it over a whiteout", lambda f: f.name_unnamed("gone")),
    Case("fsync", lambda f: f.fsync("acked"), shows=False),
    Case("fdatasync", lambda f: f.fsync("copied", data_only=True), shows=False),
    Case("fsync a directory", lambda f: f.fsync("made"), shows=False),
]


def _cleared(files: Files) -> None:
    """A directory that was emptied, with a whiteout in it, and then closed to its owner."""
    files.unlink("one-child/child")
    files.chmod("one-child", 0o555)


def _cleared_and_dated(files: Files) -> None:
    _cleared(files)
    _times(files)


def _closed_metadata(files: Files) -> None:
    files.chmod("file", 0o444)
    files.hold("file")


# What the modes forbid to an ordinary user's daemon, though not to the operation: it changes them for a moment.
CLOSED = [
    Case("chmod a file in a closed directory", lambda f: f.chmod("closed/file", 0o640)),
    Case("append to a file in a closed directory", lambda f: f.write("closed/file", 21, b"more")),
    Case("chmod a closed directory in a closed directory", lambda f: f.chmod("closed/sub", 0o700)),
    Case("link a file in a closed directory", lambda f: f.link("closed/file", "new")),
    Case("mkdir a closed directory", lambda f: f.mkdir("deep/a/new", 0o555)),
    Case("mkdir a closed directory over a whiteout", lambda f: f.mkdir("gone", 0o555)),
    Case("rmdir a closed merged directory with whiteouts in it", lambda f: f.rmdir("one-child"), _cleared),
    Case("rename over a closed merged directory", lambda f: f.rename("made", "one-child"), _cleared_and_dated),
]
CLOSED_REDIRECTING = [
    Case("rename a closed lower directory", lambda f: f.rename("closed", "new")),
    Case("append to a closed metacopy", lambda f: f.write_held(10, b"more"), _closed_metadata),
]

CASES = [*CREATING, *LINKING, *REMOVING, *RENAMING, *COPYING_UP, *WRITING]
