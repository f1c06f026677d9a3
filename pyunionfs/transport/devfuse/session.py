"""The life of a direct mount: the handshake, the threads that answer, and what is sent to the kernel unasked.

One thread leads: it reads a request, answers it, and reads the next, so that requests that take microseconds
never wait for another thread to wake. What would take long (a copy-up of a large file, a read from a disk, fsync)
it keeps for itself, and leaves the lead to another.
"""

import errno
import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NoReturn

from ... import vfs
from ...vfs import Ino
from ..attach import Attached
from ..handing import Handed, Successor
from ..mount import REEXEC_XATTR, REFRESH_XATTR, Info
from ..options import TransportOptions
from . import abi, idle, uring
from .abi import Init, Notify, Opcode
from .channel import Channel, DevFuse, Spinner, notify
from .files import ByRequest, Passthrough
from .handshake import Agreed, agree
from .ledger import Ledger
from .meanwhile import Meanwhile
from .requests import Call, Requests
from .resend import Resent
from .supervisor import open_descriptors

log = logging.getLogger(__name__)

_MAX_THREADS = 12
_DISK_NS = 200_000  # a fast disk has brought a page by then
_SYNC_NS = 500_000  # and has synced a little
_LITTLE = 1 << 18  # bytes
_SYNCS = (Opcode.FSYNC, Opcode.FSYNCDIR)
_GC_THRESHOLD = 50_000  # objects made and not freed


class Session:
    """A mount, from INIT to its end."""

    def __init__(
        self,
        attached: Attached,
        operations: vfs.Operations,
        options: TransportOptions,
        *,
        info: Info,
        successor: Successor,
    ) -> None:
        self._attached = attached
        self._fd = fd = attached.fd
        self._successor = successor
        self._ops = operations
        self._options = options
        # Only root can open again what lost its permissions while it was open, so only root needs no OPEN.
        self._no_open = os.geteuid() == 0 and options.noopen
        files = None if self._no_open else Passthrough(fd, operations) if options.passthrough else ByRequest()
        self._info = info
        orders = {REFRESH_XATTR: self._refresh, REEXEC_XATTR: self._rehearse}
        self._requests = Requests(operations, info=self._tell, orders=orders, files=files)
        self._agreed = Agreed(0, 0)
        self._ledger_fd = -1
        self._resent: Resent | None = None
        self._lead = threading.Lock()
        self._slow: dict[int, bool] = {}  # by unique: requests that take long, and whether they were interrupted
        self._spinner = Spinner(wanted=options.channel != "block", slow=self._slow)
        self._processors = idle.Idle()
        self._disk = Spinner(_DISK_NS, wanted=options.channel != "block")
        self._syncing = Spinner(_SYNC_NS, wanted=not options.passthrough)  # of which we see no writes
        self._data = Meanwhile()
        self._threads = 0
        self._idle = 0  # threads that wait for the lead
        self._ended = threading.Event()
        self._leaving = False  # other code shall go on
        self._mine = threading.local()  # the unique of the slow request of this thread
        operations.stale = self._stale
        operations.interrupted = self._is_interrupted

    def handshake(self) -> None:
        """Answer INIT. Raises OSError as :func:`.handshake.agree`."""
        self._agreed = agree(
            DevFuse(self._fd, self._spinner, self._processors), self._options, no_open=self._no_open
        )

    @property
    def channel(self) -> str:
        """How requests arrive: uring, poll or block."""
        if self._agreed.has(Init.OVER_IO_URING):
            return "uring"
        return "poll" if self._spinner.able else "block"

    def _tell(self) -> bytes:
        idle_is = "poll" if self._processors.able else "halt"
        return self._info({"channel": self.channel, "idle": idle_is, "takeover": self._ledger_fd >= 0})

    # -- taking over -----------------------------------------------------------------------------------

    @property
    def can_be_taken_over(self) -> bool:
        """Whether it is wished, and this kernel sends again what a dead daemon has not answered. It does not for
        requests that came by io_uring (fuse_resend looks at those of /dev/fuse alone); and what was opened to
        pass through is not noted.
        """
        return (
            self._options.takeover
            and self._agreed.has(Init.HAS_RESEND)
            and not self._agreed.has(Init.OVER_IO_URING)
            and not self._agreed.has(Init.PASSTHROUGH)
        )

    def keep_ledger(self) -> None:
        """Have what the kernel holds noted where another daemon finds it."""
        self._ledger_fd = Ledger.make()

    def drop_ledger(self) -> None:
        """Nobody will read it."""
        os.close(self._ledger_fd)
        self._ledger_fd = -1

    def accept(self, handed: Handed) -> set[int]:
        """Take what another process has handed on. Returns the descriptors that :meth:`take_over` will find in the
        ledger, which stay open as long as what is noted there."""
        self._agreed = Agreed(handed.minor, handed.flags)
        self._ledger_fd = handed.ledger
        found = Ledger(handed.ledger).descriptors()
        for fd in (handed.fd, handed.ledger, *found):
            os.set_inheritable(fd, False)
        return found

    def hand_on(self) -> NoReturn:
        """Have other code go on in this process, which answers nothing. Raises OSError if that cannot be."""
        self._successor.take_place(self._handed())

    def _handed(self) -> Handed:
        at, agreed = self._attached, self._agreed
        return Handed(self._fd, at.mountpoint, at.mount_id, agreed.minor, agreed.flags, self._ledger_fd)

    def _rehearse(self, call: Call) -> bytes:
        """Returns why other code cannot go on; b"": it will, once this is answered. ENODATA: none ever can."""
        if self._ledger_fd < 0:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        if self._mine_is(call):
            words = self._successor.rehearse(self._handed())
            self._leaving = not words
            return words.encode()
        raise vfs.WouldWaitError  # it would hold up the others

    def take_over(self, mine: Set[int]) -> bool:
        """Go on where a daemon died, in a process that is as it was when that one began; ``mine`` are its
        descriptors, all others are of the dead one.
        """
        of_others = open_descriptors() - mine  # before we open any: to map the ledger takes one
        ledger = Ledger(self._ledger_fd)
        held = ledger.read()
        for fd in of_others - {state.fd for state in held.values()}:
            os.close(fd)
        self._ops.journal = ledger
        self._ops.restore(held)
        log.info("took over: %d inodes", len(held))
        self._resent = Resent(self._requests, self._ops, ledger.exchanges())
        notify(self._fd, Notify.RESEND, b"")
        return self.run()

    # -- answering -------------------------------------------------------------------------------------

    def run(self) -> bool:
        """Answer requests until the mount is gone, or SIGTERM, SIGINT or SIGHUP arrives. True if it lives on: other
        code is to go on."""
        if self._ledger_fd >= 0 and self._ops.journal is None:
            self._ops.journal = Ledger(self._ledger_fd)
        # A walk makes objects by the ten thousand, and none of them is garbage: look for it more seldom.
        gc.set_threshold(_GC_THRESHOLD, 10, 10)
        if self.channel == "poll" and idle.wanted(self._options.idle):
            self._processors.open()
        self._requests.listings.walk.starts()
        with _signals() as arrived:
            self._on_end = arrived.wake
            if self.channel == "uring":
                self._pool = ThreadPoolExecutor(_MAX_THREADS)
                for queue in range(uring.queues()):
                    threading.Thread(
                        target=self._serve_ring, args=(queue,), daemon=True, name=f"ring-{queue}"
                    ).start()
            self._start_thread()
            arrived.wait(self._ended)
        while self._requests.let_go():  # nobody will tell again who goes on
            pass
        self._ops.stale = None
        return self._leaving

    def _start_thread(self) -> None:
        self._threads += 1
        threading.Thread(target=self._work, daemon=True, name=f"fuse-{self._threads}").start()

    def _work(self) -> None:
        channel = DevFuse(self._fd, self._spinner, self._processors, self._step_ahead, self._requests.let_go)
        try:
            while True:
                self._idle += 1
                with self._lead:
                    self._idle -= 1
                    if self._ended.is_set():
                        return
                    call = self._serve(channel)
                    if call is None:
                        return
                    if not self._idle:
                        self._start_thread()
                self._answer_slowly(channel, call)
        except Exception:
            log.exception("the session ends")
        finally:
            self._ended.set()
            self._on_end()

    def _serve_ring(self, queue: int) -> None:
        uring.pin(queue)

        def slowly(entry: uring.Entry, call: Call) -> None:
            def work() -> None:
                self._answer_slowly(entry, call)
                ring.finished(entry)

            self._pool.submit(work)

        try:
            ring = uring.Ring(self._fd, queue)
            ring.serve(self._answer, slowly)
        except Exception:
            log.exception("the session ends")
        finally:
            self._ended.set()
            self._on_end()

    def _serve(self, channel: DevFuse) -> Call | None:
        """Answer what is answered at once. Returns what is not; None at the end of the mount."""
        while (call := channel.receive()) is not None:
            call.may_wait = not self._idle and self._threads >= _MAX_THREADS
            if not (self._answer(channel, call) or self._answer_soon(channel, call) or self._sync(channel, call)):
                return call
        return None

    def _answer_soon(self, channel: DevFuse, call: Call) -> bool:
        """Wait a moment for what is to be read: another thread costs more than a fast disk takes."""
        if not call.soon or not self._disk.worth_it():
            return False
        self._data.do(self._ops.data_ahead(call.nodeid))
        return channel.retry(lambda: self._answer(channel, call), self._disk)

    def _sync(self, channel: DevFuse, call: Call) -> bool:
        """Have a fast disk sync the little that a thread has written that is alone: nobody else waits, and to leave
        the lead to another thread, which has nothing to do either, takes a fifth of it."""
        if call.opcode not in _SYNCS or not (channel.serves_one and self._syncing.worth_it()):
            return False
        if self._requests.unsynced > _LITTLE or self._requests.has_forgotten:
            return False
        call.may_wait = True
        begun = time.perf_counter_ns()
        self._answer(channel, call)
        (self._syncing.met if time.perf_counter_ns() - begun < _SYNC_NS else self._syncing.missed)()
        return True

    def _step_ahead(self) -> bool:
        return self._data.step() or self._requests.listings.walk.step()

    def _answer_slowly(self, channel: Channel, call: Call) -> None:
        self._mine.unique = call.unique
        self._slow[call.unique] = False
        call.may_wait = True
        begun = time.perf_counter_ns()
        try:
            self._answer(channel, call)
        finally:
            del self._slow[call.unique]
        taken = time.perf_counter_ns() - begun
        if call.soon:
            self._disk.slept(taken)
        elif call.opcode in _SYNCS:
            self._syncing.slept(taken)
        if self._leaving:
            self._ended.set()
            self._on_end()

    def _answer(self, channel: Channel, call: Call) -> bool:
        """The one translator of errors. False if the call would have to wait and may not."""
        handler = self._requests.by_opcode.get(call.opcode)
        if call.unique & abi.RESENT and self._resent is not None and handler is not None:
            handler = self._resent.answer
        if handler is None:
            self._without_handler(channel, call)
            return True
        try:
            data = handler(call)
        except OSError as error:
            if error.errno == errno.EAGAIN and not call.may_wait:
                call.soon = isinstance(error, vfs.NotCachedError)
                return False
            if error.errno == errno.EIO:
                log.warning("%s of inode %d: %s", _name_of(call), call.nodeid, error)
            channel.fail(call, error.errno or errno.EIO)
        except Exception:
            log.exception("bug in %s of inode %d", _name_of(call), call.nodeid)
            channel.fail(call, errno.EIO)
        else:
            if data is not None:
                self._send(channel, call, data)
        return True

    def _send(self, channel: Channel, call: Call, data: bytes | int) -> None:
        """What the kernel does not take, or a buffer not hold, is an error of this request alone."""
        try:
            channel.reply(call, data)
        except (OSError, ValueError):
            log.exception("bug in the reply to %s of inode %d", _name_of(call), call.nodeid)
            channel.fail(call, errno.EIO)

    def _without_handler(self, channel: Channel, call: Call) -> None:
        if call.opcode == Opcode.INTERRUPT:
            (unique,) = abi.INTERRUPT_IN.unpack_from(call.head, call.at)
            if unique in self._slow:
                self._slow[unique] = True
        elif call.opcode != Opcode.NOTIFY_REPLY:
            channel.fail(call, errno.ENOSYS)

    def _is_interrupted(self) -> bool:
        return self._slow.get(getattr(self._mine, "unique", 0), False)

    def _mine_is(self, call: Call) -> bool:
        """Whether a call is answered by a thread that has it for itself."""
        return getattr(self._mine, "unique", 0) == call.unique

    # -- unasked ---------------------------------------------------------------------------------------

    def _stale(self, ino: Ino) -> None:
        """Have the kernel ask for attributes again.

        During a request this is safe for attributes alone: the kernel takes no lock that the request holds
        (fuse_reverse_inval_inode), as it would for names and pages.
        """
        notify(self._fd, Notify.INVAL_INODE, abi.INVAL_INODE_OUT.pack(ino, -1, 0))

    def _refresh(self, call: Call) -> bytes:
        """Have the kernel forget what may no longer be so."""
        if not call.may_wait:
            raise vfs.WouldWaitError  # it would hold up the others
        for change in self._ops.refresh():
            notify(self._fd, Notify.INVAL_INODE, abi.INVAL_INODE_OUT.pack(change.ino, 0, 0))
            for name in change.names:
                head = abi.INVAL_ENTRY_OUT.pack(change.directory, len(name), 0)
                notify(self._fd, Notify.INVAL_ENTRY, head + name + b"\0")
        return b""


def _name_of(call: Call) -> str:
    return Opcode(call.opcode).name


class _Arrival:
    """Wakes the main thread: by a signal, or by a thread that saw the end."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading = reading
        self._writing = writing

    def wake(self) -> None:
        os.write(self._writing, b"\0")

    def wait(self, ended: threading.Event) -> None:
        while not ended.is_set():
            if any(os.read(self._reading, 64)):  # a signal's number
                return


@contextmanager
def _signals() -> Iterator[_Arrival]:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writing, False)
    old = {
        number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    }
    old_fd = signal.set_wakeup_fd(writing)
    try:
        yield _Arrival(reading, writing)
    finally:
        signal.set_wakeup_fd(old_fd)
        for number, handler in old.items():
            signal.signal(number, handler)
        # The pipe stays open: a thread may still want to wake us.
