"""The direct transport: the kernel's FUSE protocol, spoken without libfuse.

    kernel ── /dev/fuse ──> channel ──> session ──> requests ──> vfs.Operations
           <─────────────── channel <── session <── replies <──

``abi`` are the structures and numbers of the protocol. ``requests`` has a method for each of its opcodes, with
``listings`` for how directories are listed, and ``replies`` is what they answer with. ``channel`` and ``uring``
carry both, ``session`` is the life of a mount. Neither pyfuse3 nor trio is loaded.
"""

import os
import threading
from collections.abc import Callable, Set
from functools import partial

from ... import vfs
from ..attach import Attached, attach
from ..handing import Handed, Successor
from ..mount import Info
from ..options import TransportOptions
from . import idle, uring
from .session import Session
from .supervisor import open_descriptors, supervise


def serve(
    operations: vfs.Operations,
    mountpoint: str,
    flags: Set[str],
    options: TransportOptions,
    *,
    info: Info,
    on_ready: Callable[[], None],
    successor: Successor,
) -> None:
    """Mount at ``mountpoint`` and answer requests until it is unmounted, or SIGTERM or SIGINT arrives.

    ``flags`` are FUSE mount options; ``default_permissions`` is always one of them. ``successor`` is the code that
    may take over. Raises OSError with a sentence when mounting fails.
    """
    os.umask(0)  # the caller's is applied where an object is created
    if options.enable_uring:
        uring.enable()
    if options.idle == "poll":
        idle.check()
    attached = attach(mountpoint, flags | {"default_permissions"})
    try:
        session = Session(attached, operations, options, info=info, successor=successor)
        session.handshake()
        attached.read_far_ahead()
        on_ready()
        if session.can_be_taken_over and threading.active_count() == 1:
            session.keep_ledger()
            mine = open_descriptors()
            if supervise(session.run, partial(session.take_over, mine), session.hand_on):
                return
            session.drop_ledger()
        session.run()
    finally:
        attached.detach()


def resume(
    operations: vfs.Operations, handed: Handed, options: TransportOptions, *, info: Info, successor: Successor
) -> None:
    """Go on with a mount that another process has handed on, until it ends."""
    attached = Attached(handed.fd, handed.mountpoint, handed.mount_id)
    try:
        session = Session(attached, operations, options, info=info, successor=successor)
        take_over = partial(session.take_over, open_descriptors() - session.accept(handed))
        supervise(take_over, take_over, session.hand_on)
    finally:
        attached.detach()
