"""/dev/fuse: one request by each read, one reply by each write.

Waking a sleeping daemon costs more than most requests, so before it sleeps it asks a few times more
(:class:`Spinner`), where another processor is there to make the next request meanwhile; and as long as that pays,
processors without work poll as well (:class:`.idle.Idle`).
"""

import errno
import os
import select
import time
from collections.abc import Callable, Sized
from typing import Protocol

from .abi import ARGUMENTS, IN_HEADER, OUT_HEADER
from .idle import Idle
from .requests import Call

MAX_WRITE = 1 << 20  # bytes; more gave nothing
MAX_PAGES = MAX_WRITE // 4096
_ROOM = 8192  # for headers, arguments and names beside the data

_SPIN_NS = 60_000  # most of what can be gained is gained by then
_CREDIT_MAX = 16
_ENOUGH = 4  # credit with which it is worth spinning
_FAILURE = 4  # what a spin in vain costs
_SOON = 2.5  # times as long as a spin: what came this soon after going to sleep would have been met by spinning
_ALONE = 8  # requests in a row
_PAUSE_MS = 4  # for a program to think, or a disk to write, before processors halt


class Spinner:
    """Whether to poll before sleeping, and for how long (``limit_ns``): as long as it pays.

    What is met by polling earns credit, what is not costs some; without credit, what comes soon after falling
    asleep earns it again, ever more slowly. So a daemon that has little to do sleeps, and a machine that is busy,
    where polling only keeps others from making requests, is left alone. A pause costs one spin in vain and no more:
    who thinks between bursts of requests has each burst met.
    """

    def __init__(self, limit_ns: int = _SPIN_NS, *, wanted: bool = True, slow: Sized = ()) -> None:
        """While anything is in ``slow``, a spin in vain costs nothing: who waits for that asks for nothing else."""
        self._limit = limit_ns
        self._slow = slow
        self._credit = 0
        self._price = 1  # as often it is to come soon for one point of credit
        self._seen = 0
        self.able = wanted and len(os.sched_getaffinity(0)) > 1

    def worth_it(self) -> bool:
        return self._credit >= _ENOUGH

    def deadline(self) -> int:
        """Until when to spin, by time.perf_counter_ns()."""
        return time.perf_counter_ns() + self._limit

    def met(self) -> None:
        self._credit = min(self._credit + 1, _CREDIT_MAX)
        if self._credit == _CREDIT_MAX:
            self._price = 1

    def missed(self) -> None:
        if self._slow:
            return
        self._credit = max(self._credit - _FAILURE, 0)
        if self._credit < _ENOUGH:
            self._price = min(self._price * 2, 64)

    def slept(self, ns: int) -> None:
        if ns > _SOON * self._limit or not self.able:
            return
        self._seen += 1
        if self._seen >= self._price:
            self._seen = 0
            self._credit += 1


class Channel(Protocol):
    """Where a request came from, and its answer goes to."""

    def reply(self, call: Call, data: bytes | int) -> None:
        """Send bytes, or so many of ``call.out``."""

    def fail(self, call: Call, number: int) -> None:
        """Send an errno."""


class DevFuse:
    """The device with the buffers of one thread; at any time one thread reads."""

    def __init__(
        self,
        fd: int,
        spinner: Spinner,
        processors: Idle,
        meanwhile: Callable[[], bool] = lambda: False,
        at_rest: Callable[[], bool] = lambda: False,
    ) -> None:
        """``meanwhile`` does a little of what can be done while there is no request, ``at_rest`` of what can wait
        until none is expected; False if there is nothing.
        """
        self._fd = fd
        self._spinner = spinner
        self._processors = processors
        self._meanwhile = meanwhile
        self._at_rest = at_rest
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._in = bytearray(MAX_WRITE + _ROOM)
        self._view = memoryview(self._in)
        self._buffers = [self._in]
        self._out = memoryview(bytearray(OUT_HEADER.size + MAX_WRITE))
        self.call = Call(self._in, IN_HEADER.size, self._out[OUT_HEADER.size :])
        self._client = self._in_a_row = 0  # a thread, and how often it asked without another one doing so

    def receive(self) -> Call | None:
        """The next request, None once the mount is gone."""
        size = self._read()
        if not size:
            return None
        call = self.call
        _, call.opcode, call.unique, call.nodeid, call.uid, call.gid, call.pid, _, _ = IN_HEADER.unpack_from(
            self._in
        )
        if call.pid == self._client:
            self._in_a_row += 1
        elif call.pid:  # the kernel's own requests have none
            self._client, self._in_a_row = call.pid, 0
        call.payload = self._view[IN_HEADER.size + ARGUMENTS.get(call.opcode, 0) : size]
        return call

    @property
    def serves_one(self) -> bool:
        """Whether one thread has asked for all of late, which now waits: so nobody else does."""
        return self._in_a_row >= _ALONE

    def _read(self) -> int:
        spinner = self._spinner
        if spinner.able and self._poll.poll(0):  # others ask meanwhile: nothing is to be learned of spinning
            self._processors.poll()
            return self._take()
        if ((spinner.able and self._work()) or spinner.worth_it()) and self._spin():
            self._processors.poll()
            return self._take()
        while self._at_rest() and not self._poll.poll(0):
            pass
        if self._processors.polls:
            self._linger()
        begun = time.perf_counter_ns()
        size = self._take()
        spinner.slept(time.perf_counter_ns() - begun)
        return size

    def _take(self) -> int:
        """Read a request, of so many bytes; 0 once the mount is gone."""
        while True:
            try:
                return os.readv(self._fd, self._buffers)
            except OSError as error:
                if error.errno in (errno.ENODEV, errno.ECONNABORTED):
                    return 0
                # ENOENT: the request was interrupted before it was read (fuse_dev_do_read).
                if error.errno not in (errno.EINTR, errno.ENOENT):
                    raise

    def retry(self, attempt: Callable[[], bool], patience: Spinner) -> bool:
        """Make an attempt until it succeeds, as long as that pays and no request arrives."""
        if not patience.worth_it():
            return False
        deadline = patience.deadline()
        while not self._poll.poll(0):
            self._meanwhile()
            if attempt():
                patience.met()
                return True
            if time.perf_counter_ns() > deadline:
                patience.missed()
                return False
        return False

    def _work(self) -> bool:
        """Do what can be done until a request arrives; False if there was nothing."""
        worked = self._meanwhile()
        while worked and not self._poll.poll(0) and self._meanwhile():
            pass
        return worked

    def _spin(self) -> bool:
        deadline = self._spinner.deadline()
        while not self._poll.poll(0):
            if time.perf_counter_ns() > deadline:
                self._spinner.missed()
                return False
        self._spinner.met()
        return True

    def _linger(self) -> None:
        """Sleep. Who only thinks for a moment, or waits for a disk, has idle processors poll meanwhile."""
        if not (self._spinner.worth_it() and self._poll.poll(_PAUSE_MS)):
            self._processors.halt()

    def reply(self, call: Call, data: bytes | int) -> None:
        if isinstance(data, int):
            OUT_HEADER.pack_into(self._out, 0, OUT_HEADER.size + data, 0, call.unique)
            self._write(self._out[: OUT_HEADER.size + data])
        else:
            self._write(OUT_HEADER.pack(OUT_HEADER.size + len(data), 0, call.unique) + data)

    def fail(self, call: Call, number: int) -> None:
        self._write(OUT_HEADER.pack(OUT_HEADER.size, -number, call.unique))

    def _write(self, data: bytes | memoryview) -> None:
        try:
            os.write(self._fd, data)
        except OSError as error:
            # ENOENT: nobody waits for this reply any more; ENODEV: nobody waits for any.
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise


def notify(fd: int, code: int, data: bytes) -> bool:
    """Send what nobody asked for; False if the kernel does not hold what it is about."""
    try:
        os.write(fd, OUT_HEADER.pack(OUT_HEADER.size + len(data), code, 0) + data)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENODEV):
            return False
        raise
    return True
