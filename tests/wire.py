"""FUSE requests as the kernel sends them, and as a channel makes calls of them, without a kernel."""

from pyunionfs.transport.devfuse.abi import ARGUMENTS, IN_HEADER
from pyunionfs.transport.devfuse.requests import Call


def call_of(message: bytes, room: int = 1 << 17) -> Call:
    """As the channel makes it of what it has read."""
    buffer = bytearray(message)
    call = Call(buffer, IN_HEADER.size, memoryview(bytearray(room)))
    _, call.opcode, call.unique, call.nodeid, call.uid, call.gid, call.pid, _, _ = IN_HEADER.unpack_from(buffer)
    call.payload = memoryview(buffer)[IN_HEADER.size + ARGUMENTS.get(call.opcode, 0) :]
    return call


def message(
    opcode: int, arguments: bytes = b"", rest: bytes = b"", *, nodeid: int = 1, unique: int = 2, pid: int = 1
) -> bytes:
    length = IN_HEADER.size + len(arguments) + len(rest)
    return IN_HEADER.pack(length, opcode, unique, nodeid, 0, 0, pid, 0, 0) + arguments + rest
