"""FUSE over io_uring (Linux 6.14): requests arrive, and replies leave, by a ring of each processor.

A request is met on the processor that made it, by a thread that waits there, so nobody has to be woken elsewhere.
The entries of a ring (:class:`Entry`) are two buffers that the kernel knows: one for headers, one for data.
Committing an entry sends the reply in it and asks for the next request, in one system call
(Documentation/filesystems/fuse/ fuse-io-uring.rst; struct fuse_uring_req_header, io_uring.h).

Only what is answered at once is answered by the ring's own thread. FORGET and INTERRUPT still come by /dev/fuse.
"""

import ctypes
import errno
import mmap
import os
import threading
from collections import deque
from collections.abc import Callable
from struct import Struct

from .abi import ARGUMENTS, IN_HEADER, OUT_HEADER
from .channel import MAX_WRITE
from .requests import Call

PARAMETER = "/sys/module/fuse/parameters/enable_uring"
DEPTH = 8  # requests of one ring that may take long without holding up the next

_SYS_IO_URING_SETUP, _SYS_IO_URING_ENTER = 425, 426  # on every architecture
_SETUP = (1 << 8) | (1 << 10) | (1 << 12) | (1 << 13)  # COOP_TASKRUN, SQE128, SINGLE_ISSUER, DEFER_TASKRUN
_ENTER_GETEVENTS = 1
_OP_READ, _OP_URING_CMD = 22, 46
_OFF_SQ_RING, _OFF_SQES = 0, 0x10000000
_SQE_SIZE, _CQE_SIZE = 128, 16
_SQE = Struct("=BBHiQQIIQ")  # opcode, flags, ioprio, fd, off (or cmd_op), addr, len, rw_flags, user_data
_SQE_CMD = Struct("=QQH")  # struct fuse_uring_cmd_req: flags, commit_id, qid; at 48 of an sqe
_SQE_CMD_AT = 48
_REGISTER, _COMMIT_AND_FETCH = 1, 2

_OP_IN_AT, _RING_ENT_AT = 128, 256  # in struct fuse_uring_req_header
_COMMIT_ID_AT, _PAYLOAD_SZ_AT = _RING_ENT_AT + 8, _RING_ENT_AT + 16
_HEADER_SIZE = 288
_IOVECS = Struct("=QQQQ")
_U32, _U64 = Struct("=I"), Struct("=Q")
_WAKE = 1 << 32  # user_data of the read by which other threads wake a ring


def is_enabled() -> bool:
    """Whether this kernel offers it: the module parameter is off unless root has set it."""
    try:
        with open(PARAMETER) as file:
            return file.read().strip() == "Y"
    except OSError:
        return False


def enable() -> None:
    """Set the module parameter, for this and all later mounts. Raises OSError where we may not, or it is not
    there.
    """
    with open(PARAMETER, "w") as file:
        file.write("Y")


class Entry:
    """The buffers of one request: a channel that carries one at a time."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.head = mmap.mmap(-1, mmap.PAGESIZE)
        self._data = mmap.mmap(-1, MAX_WRITE)
        self._payload = memoryview(self._data)
        self.iovecs = ctypes.create_string_buffer(
            _IOVECS.pack(_address(self.head), _HEADER_SIZE, _address(self._data), MAX_WRITE), _IOVECS.size
        )
        self.call = Call(memoryview(self.head), _OP_IN_AT, self._payload)

    def receive(self) -> Call:
        """The request that has arrived in the buffers."""
        call = self.call
        header = IN_HEADER.unpack_from(self.head)
        length, call.opcode, call.unique, call.nodeid, call.uid, call.gid, call.pid, _, _ = header
        call.payload = self._payload[: length - IN_HEADER.size - ARGUMENTS.get(call.opcode, 0)]
        return call

    def reply(self, call: Call, data: bytes | int) -> None:
        """Put the reply where committing the entry sends it from."""
        if isinstance(data, int):  # it is there already
            size = data
        else:
            size = len(data)
            self._payload[:size] = data
        OUT_HEADER.pack_into(self.head, 0, OUT_HEADER.size + size, 0, call.unique)
        _U32.pack_into(self.head, _PAYLOAD_SZ_AT, size)

    def fail(self, call: Call, number: int) -> None:
        OUT_HEADER.pack_into(self.head, 0, OUT_HEADER.size, -number, call.unique)
        _U32.pack_into(self.head, _PAYLOAD_SZ_AT, 0)


class Ring:
    """The ring of one processor, used by one thread; :meth:`finished` is for the others."""

    def __init__(self, fuse_fd: int, queue: int) -> None:
        self._fuse_fd = fuse_fd
        self._queue = queue
        self._enter = ctypes.CDLL(None, use_errno=True).syscall
        self._enter.argtypes = [ctypes.c_long] * 7
        self._enter.restype = ctypes.c_long
        parameters = ctypes.create_string_buffer(Struct("=IIII").pack(0, 0, _SETUP, 0), 120)
        size = 1 << (DEPTH + 1).bit_length()
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = _check(libc.syscall(ctypes.c_long(_SYS_IO_URING_SETUP), ctypes.c_uint(size), parameters))
        told = Struct("=30I").unpack(parameters.raw)
        sq_entries, cq_entries, sq_off, cq_off = told[0], told[1], told[10:20], told[20:30]
        length = max(sq_off[6] + sq_entries * 4, cq_off[5] + cq_entries * _CQE_SIZE)
        self._ring = memoryview(_mapped(self.fd, length, _OFF_SQ_RING)).cast("I")
        self._sqes = _mapped(self.fd, sq_entries * _SQE_SIZE, _OFF_SQES)
        self._sq_tail, self._sq_mask = sq_off[1] // 4, sq_entries - 1
        self._cq_head, self._cq_tail, self._cq_mask = cq_off[0] // 4, cq_off[1] // 4, cq_entries - 1
        self._cqes = cq_off[5] // 4
        for index in range(sq_entries):
            self._ring[sq_off[6] // 4 + index] = index
        self._to_submit = 0
        self.entries = [Entry(index) for index in range(DEPTH)]
        self._finished: deque[Entry] = deque()
        self._event = os.eventfd(0, os.EFD_CLOEXEC)
        self._counter = ctypes.create_string_buffer(8)

    def serve(self, answer: Callable[[Entry, Call], bool], slowly: Callable[[Entry, Call], None]) -> None:
        """Answer requests until the mount is gone; ``slowly`` has another thread answer, which then calls
        :meth:`finished`."""
        for entry in self.entries:
            self._command(_REGISTER, entry)
        self._wait_for_others()
        while True:
            for user_data, result in self._completions():
                if user_data == _WAKE:
                    while self._finished:
                        self._command(_COMMIT_AND_FETCH, self._finished.popleft())
                    self._wait_for_others()
                    continue
                if result:
                    if result == -errno.EAGAIN:
                        continue
                    return  # ENOTCONN: the mount is gone
                entry = self.entries[user_data]
                call = entry.receive()
                call.may_wait = False
                if answer(entry, call):
                    self._command(_COMMIT_AND_FETCH, entry)
                else:
                    slowly(entry, call)

    def finished(self, entry: Entry) -> None:
        """From another thread: the reply is in the entry."""
        self._finished.append(entry)
        os.eventfd_write(self._event, 1)

    def _command(self, command: int, entry: Entry) -> None:
        commit_id = _U64.unpack_from(entry.head, _COMMIT_ID_AT)[0] if command == _COMMIT_AND_FETCH else 0
        address, length = (ctypes.addressof(entry.iovecs), 2) if command == _REGISTER else (0, 0)
        at = self._next_sqe()
        _SQE.pack_into(self._sqes, at, _OP_URING_CMD, 0, 0, self._fuse_fd, command, address, length, 0, entry.index)
        _SQE_CMD.pack_into(self._sqes, at + _SQE_CMD_AT, 0, commit_id, self._queue)

    def _wait_for_others(self) -> None:
        at = self._next_sqe()
        _SQE.pack_into(self._sqes, at, _OP_READ, 0, 0, self._event, 0, ctypes.addressof(self._counter), 8, 0, _WAKE)

    def _next_sqe(self) -> int:
        tail = self._ring[self._sq_tail]
        at = (tail & self._sq_mask) * _SQE_SIZE
        self._sqes[at : at + _SQE_SIZE] = bytes(_SQE_SIZE)
        self._ring[self._sq_tail] = (tail + 1) & 0xFFFF_FFFF
        self._to_submit += 1
        return int(at)

    def _completions(self) -> list[tuple[int, int]]:
        """Submit what is due, and wait for one at least: ``(user_data, result)`` of each."""
        ring = self._ring
        head = ring[self._cq_head]
        while True:
            submitted = self._enter(_SYS_IO_URING_ENTER, self.fd, self._to_submit, 1, _ENTER_GETEVENTS, 0, 0)
            if submitted < 0:
                if (number := ctypes.get_errno()) not in (errno.EINTR, errno.EBUSY, errno.EAGAIN):
                    raise OSError(number, os.strerror(number))
            else:
                self._to_submit -= submitted
            if ring[self._cq_tail] != head:
                break
        found: list[tuple[int, int]] = []
        while head != ring[self._cq_tail]:
            at = self._cqes + (head & self._cq_mask) * 4
            result = ring[at + 2]
            found.append((ring[at] | ring[at + 1] << 32, result - (1 << 32) if result >> 31 else result))
            head = (head + 1) & 0xFFFF_FFFF
        ring[self._cq_head] = head
        return found


def queues() -> int:
    """How many rings there must be: one for each processor that this machine could have."""
    with open("/sys/devices/system/cpu/possible") as file:
        return int(file.read().strip().rpartition("-")[2].rpartition(",")[2]) + 1


def pin(processor: int) -> None:
    """Stay on a processor, if it is there."""
    try:
        os.sched_setaffinity(threading.get_native_id(), {processor})
    except OSError:
        pass


def _address(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def _mapped(fd: int, length: int, offset: int) -> mmap.mmap:
    size = -(-length // mmap.PAGESIZE) * mmap.PAGESIZE
    flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
    return mmap.mmap(fd, size, flags, mmap.PROT_READ | mmap.PROT_WRITE, offset=offset)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
