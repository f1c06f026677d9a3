"""A mount that outlives its daemon: the process that serves it has a parent which starts another one when it dies.

Both share one table of descriptors (clone(2), CLONE_FILES). So when the child is killed, /dev/fuse stays open and
the mount stays alive, and so do the layers, the locks, the ledger of what the kernel holds, and the files without
a name. The parent opened all of it and has done nothing since: its memory is that of a daemon that has just
begun. It makes a new child, which closes what the dead one had opened for itself, finds again what the kernel
holds, and has the kernel send again what was not answered. Programs see a pause.
"""

import ctypes
import logging
import os
import signal
import time
from collections.abc import Callable
from struct import Struct
from typing import NoReturn

log = logging.getLogger(__name__)

_SYS_CLONE3 = 435  # on every architecture
_CLONE_FILES = 0x400
_CLONE_ARGS = Struct("=QQQQQQQQ")  # flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls
_TOO_OFTEN = 5  # deaths one after the other, each
_AT_ONCE = 0.1  # seconds after the start: what kills it comes again with the requests that are sent again
_HAND_ON = 3  # exit status
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


Serve = Callable[[], bool]
"""Serves until the mount has ended, or (True) until other code shall go on."""


def supervise(serve: Serve, take_over: Serve, hand_on: Callable[[], NoReturn]) -> bool:
    """Run ``serve`` in a child, and ``take_over`` in another one each time that one is killed, until one ends.
    ``hand_on`` executes other code in place of this, when a child says so.

    Must be called by the only thread of a process. False if there is no clone3(2) here, as in some containers.
    Raises ChildProcessError if a child failed, or too many died.
    """
    run = serve
    deaths = 0
    while True:
        born = time.monotonic()
        try:
            pid = fork_sharing_files()
        except OSError as error:
            if run is not serve:
                raise
            log.warning("no other daemon will take over: clone3: %s", error)
            return False
        if pid == 0:
            os._exit(_run(run))
        status = _wait(pid)
        if status == _HAND_ON << 8:
            try:
                hand_on()
            except OSError as error:
                log.warning("the new code was not executed: %s", error)
                run = take_over
                continue
        if not os.WIFSIGNALED(status):
            if status:
                raise ChildProcessError("the daemon failed")
            return True
        if os.WTERMSIG(status) in _SIGNALS:  # before it could handle them
            return True
        log.warning("the daemon %d was killed by signal %d; another takes over", pid, os.WTERMSIG(status))
        deaths = deaths + 1 if time.monotonic() - born < _AT_ONCE else 0
        if deaths >= _TOO_OFTEN:
            raise ChildProcessError(f"the daemon died {deaths} times at once")
        run = take_over


def _run(serve: Serve) -> int:
    """The child. Returns its exit status; what it opened is closed by whoever comes last."""
    try:
        return _HAND_ON if serve() else 0
    except BaseException:
        log.exception("the mount has ended")
        return 1


def open_descriptors() -> set[int]:
    """Those of this process, without the one that lists them."""
    found = {int(name) for name in os.listdir("/proc/self/fd")}
    return {fd for fd in found if os.path.lexists(f"/proc/self/fd/{fd}")}


def fork_sharing_files() -> int:
    """As ``os.fork``, but parent and child have one table of descriptors: what one opens or closes, both do."""
    api = ctypes.pythonapi
    arguments = _CLONE_ARGS.pack(_CLONE_FILES, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
    # The C library's fork() has no such flag. With the GIL held, as PyDLL does, this is what os.fork() does.
    libc = ctypes.PyDLL(None, use_errno=True)
    api.PyOS_BeforeFork()
    pid = libc.syscall(ctypes.c_long(_SYS_CLONE3), arguments, ctypes.c_size_t(len(arguments)))
    number = ctypes.get_errno()
    if pid == 0:
        api.PyOS_AfterFork_Child()
    else:
        api.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(number, os.strerror(number))
    return int(pid)


def _wait(pid: int) -> int:
    """Wait for the child; what is to end this process is to end the mount, so it is passed on."""
    old = {number: signal.signal(number, lambda number, _: os.kill(pid, number)) for number in _SIGNALS}
    try:
        return os.waitpid(pid, 0)[1]
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
