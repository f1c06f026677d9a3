"""A step of a run: which operation with which arguments, done as whom; and one side on which steps are done.

A step is a value that says itself as Python, so a run is a list of steps, and a list of steps is a program.
"""

import errno
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import operations
from .operations import outcome, seen


class Name(str):
    """A path within a copy, which a step is about: both sides are asked what it is afterwards."""


class Pick(int):
    """A number that stands for one of the names that a tree has; the machine puts the name in its place."""


class Octal(int):
    def __repr__(self) -> str:
        return f"0o{self:o}"


class OpenFlags(int):
    def __repr__(self) -> str:
        rest, names = int(self), []
        for name in _OPEN_FLAGS:
            bit = getattr(os, name)
            if rest & bit == bit:
                names.append(f"os.{name}")
                rest &= ~bit
        return " | ".join(names) or "os.O_RDONLY"


# O_SYNC contains O_DSYNC and goes first.
_OPEN_FLAGS: tuple[str, ...] = (
    "O_WRONLY",
    "O_RDWR",
    "O_CREAT",
    "O_EXCL",
    "O_TRUNC",
    "O_APPEND",
    "O_DIRECTORY",
    "O_NOFOLLOW",
)
_OPEN_FLAGS += ("O_PATH", "O_NOATIME", "O_SYNC", "O_DSYNC")


@dataclass(frozen=True)
class Slot:
    """An open file that steps before this one have left; each side has its own descriptor."""

    number: int

    def __repr__(self) -> str:
        return f"fd[{self.number}]"


class Slots:
    """All open files, for the operations that add or remove one."""

    def __repr__(self) -> str:
        return "fd"


@dataclass(frozen=True)
class Step:
    """One operation: the name of a function in :mod:`.operations` and what to call it with."""

    verb: str
    arguments: tuple[Any, ...]
    user: int = 0

    def __str__(self) -> str:
        user = f", user={self.user}" if self.user else ""
        return f"step({', '.join([self.verb, *map(repr, self.arguments)])}{user})"

    @property
    def names(self) -> tuple[Name, ...]:
        return tuple(argument for argument in self.arguments if isinstance(argument, Name))

    @property
    def slot(self) -> Slot | None:
        return next((argument for argument in self.arguments if isinstance(argument, Slot)), None)


@dataclass(frozen=True)
class Seen:
    """What one side showed of a step. Two sides agree when these are equal."""

    outcome: Any
    attributes: tuple[Any, ...]  # of each name, afterwards
    inode_kept: tuple[bool, ...]  # the same number before and after
    one_device: tuple[bool, ...]  # st_dev as that of the root

    @property
    def failed(self) -> bool:
        return isinstance(self.outcome, str) and self.outcome in errno.errorcode.values()

    def differs(self, other: "Seen") -> str:
        """What is not the same, "" if all is."""
        for what in ("outcome", "attributes", "inode_kept", "one_device"):
            if getattr(self, what) != getattr(other, what):
                return what
        return ""


@dataclass
class Side:
    """One of the mounts during one example: its name, where its copy is, what it holds open."""

    name: str
    root: Path
    fds: dict[int, int] = field(default_factory=dict)

    def perform(self, step: Step) -> Seen:
        """Do a step in the copy; the working directory is then within the mount."""
        os.chdir(self.root)
        before = [self._look(name) for name in step.names]
        result = self._run(step)
        after = [self._look(name) for name in step.names]
        device = os.stat(".").st_dev
        return Seen(
            result,
            tuple(now if isinstance(now, str) else seen(now) for now in after),
            tuple(_number(old) == _number(new) for old, new in zip(before, after, strict=True)),
            tuple(isinstance(now, str) or now.st_dev == device for now in after),
        )

    def _run(self, step: Step) -> Any:
        if step.slot is not None and step.slot.number not in self.fds:
            return "closed"
        arguments = tuple(self._resolved(argument) for argument in step.arguments)
        return outcome(getattr(operations, step.verb), arguments, step.user)

    def _resolved(self, argument: Any) -> Any:
        match argument:
            case Slot():
                return self.fds[argument.number]
            case Slots():
                return self.fds
        return argument

    @staticmethod
    def _look(name: str) -> os.stat_result | str:
        try:
            return os.lstat(name)
        except OSError as error:
            return errno.errorcode[error.errno or 0]

    def files(self) -> list[Name]:
        """The names of all that is no directory."""
        os.chdir(self.root)
        names = (os.path.relpath(os.path.join(where, name)) for where, _, found in os.walk(".") for name in found)
        return [Name(name) for name in sorted(names) if not isinstance(self._look(name), str)]

    def close(self) -> None:
        """Hold nothing of the mount any more."""
        os.chdir("/")
        for descriptor in self.fds.values():
            os.close(descriptor)
        self.fds.clear()


def _number(status: os.stat_result | str) -> int | None:
    """The inode number of what can keep it: an origin is written to no hard link, nor by userxattr to a fifo."""
    if isinstance(status, str):
        return None
    constant = stat.S_ISDIR(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink == 1)
    return status.st_ino if constant else None
