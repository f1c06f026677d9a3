"""A union of two lower layers whose upper directory is to be damaged, for the tests of the check."""

import os
import stat
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trees import Node, Whiteout, build

from pyunionfs import Overlay, linux
from pyunionfs.check import Finding, Report, check
from pyunionfs.overlay.marks import USER, Origin

LEVELS = 1200

TOP: dict[str, Node] = {"dir": {"top": "1", "gone": Whiteout(), "sub": {"deep": "4"}}, "file": "top"}
BASE: dict[str, Node] = {"dir": {"base": "2", "gone": "3"}, "file": "base", "other": {"x": "y"}, "data": "12345"}


@dataclass
class Case:
    """Two lower layers, and an upper directory to be damaged."""

    lower: tuple[Path, ...]
    upper: Path
    work: Path
    prefix: str
    data: tuple[Path, ...] = ()

    @property
    def userxattr(self) -> bool:
        return self.prefix == USER.prefix

    def put(self, **entries: Node) -> None:
        build(self.upper, entries)

    def mark(self, path: str | Path, **values: bytes) -> None:
        for name, value in values.items():
            os.setxattr(self.upper / path, self.prefix + name, value, follow_symlinks=False)

    def check(self, *, repair: bool = False) -> Report:
        report = check(self.upper, self.lower, self.work, data=self.data, userxattr=self.userxattr, repair=repair)
        assert not [note for note in report.notes if "handles" not in note]
        return report

    def found(self) -> set[tuple[str, str]]:
        return names(self.check().findings)

    def repair(self) -> set[tuple[str, str]]:
        """What is left. What is gone must be gone for the next check too, and nobody may see a difference."""
        before = self.view()
        findings = self.check(repair=True).findings
        left = names(item for item in findings if not item.repaired)
        again = self.check(repair=True).findings
        assert not any(item.repaired for item in again)
        assert names(again) == left
        assert self.view() == before
        return left

    def view(self) -> dict[bytes, tuple[int, ...]]:
        """What the union shows, without changing the upper directory: as the topmost lower layer."""
        found: dict[bytes, tuple[int, ...]] = {}
        with Overlay([self.upper, *self.lower], options={"userxattr": self.userxattr}) as union:
            stack = [(union.root.ino, b"")]
            while stack:
                ino, path = stack.pop()
                attr = union.getattr(ino)
                found[path] = (attr.mode, 0 if stat.S_ISDIR(attr.mode) else attr.size, attr.mtime_ns)
                for entry in union.readdir(ino) if stat.S_ISDIR(attr.mode) else ():
                    below = path + b"/" + entry.name
                    try:
                        stack.append((union.lookup(ino, entry.name).ino, below))
                    except OSError as error:
                        found[below] = (error.errno or 0,)
        return found


def names(findings: Iterable[Finding]) -> set[tuple[str, str]]:
    """Findings as pairs of class and path."""
    return {(item.problem.name, item.shown_path) for item in findings}


def origin_of(path: Path) -> bytes:
    """What the mark ``origin`` of a copy of this object is."""
    kind, handle = linux.name_to_handle_at(linux.AT_FDCWD, os.fsencode(path))
    return Origin(kind, handle, bytes(16)).encode()


@contextmanager
def deep(*tops: Path) -> Iterator[list[int]]:
    """Make directories ``d/d/d...`` in others, LEVELS deep; descriptors of the deepest. All is removed at the end:
    whoever removes a test's directory may do it by recursion."""
    fds = []
    try:
        for top in tops:
            top.mkdir()
            fd = os.open(top, os.O_RDONLY)
            for _ in range(LEVELS):
                os.mkdir("d", dir_fd=fd)
                below = os.open("d", os.O_RDONLY, dir_fd=fd)
                os.close(fd)
                fd = below
            fds.append(fd)
        yield fds
    finally:
        for fd in fds:
            os.close(fd)
        subprocess.run(["rm", "-rf", *tops], check=True)
