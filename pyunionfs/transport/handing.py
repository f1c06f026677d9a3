"""Handing a running mount on to other code: what one process tells the next, and who does it.

The transport knows what the kernel has of a mount, and :mod:`pyunionfs.handover` how a process with other code is
started; neither knows the other.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import set_inheritable
from typing import NoReturn, Protocol


@dataclass(frozen=True, slots=True)
class Handed:
    """What a transport needs to go on with a mount of another process, beside its options: descriptors, which keep
    their numbers, and what the handshake came to.
    """

    fd: int  # of /dev/fuse
    mountpoint: str
    mount_id: str
    minor: int
    flags: int
    ledger: int  # of the Ledger; the descriptors that it names are handed on too


class Successor(Protocol):
    """Other code, which may take the place of this one."""

    def rehearse(self, handed: Handed) -> str:
        """Have the other code do all that it can without disturbing this one. Returns in one line why it cannot go
        on, "" if it can."""

    def take_place(self, handed: Handed) -> NoReturn:
        """Become it, in this process. Raises OSError if that fails."""


@contextmanager
def inherited(*descriptors: int) -> Iterator[None]:
    """For the length of a ``with``, a program that is executed keeps these."""
    for fd in descriptors:
        set_inheritable(fd, True)
    try:
        yield
    finally:
        for fd in descriptors:
            set_inheritable(fd, False)
