"""The first request of a mount, INIT, in which the kernel and we agree on what each can do."""

import errno
from dataclasses import dataclass

from ..options import TransportOptions
from . import abi, uring
from .abi import Init, Opcode
from .channel import MAX_PAGES, MAX_WRITE, DevFuse

_MAX_BACKGROUND = 64
_CONGESTION = 48
_TIME_GRAN = 1  # ns
_WHERE = {"passthrough": " (Linux 6.9)", "channel=uring": f" (Linux 6.14, and Y in {uring.PARAMETER})"}
_ALWAYS = (
    Init.ASYNC_READ
    | Init.BIG_WRITES
    | Init.DONT_MASK
    | Init.DO_READDIRPLUS
    | Init.ASYNC_DIO
    | Init.PARALLEL_DIROPS
    | Init.POSIX_ACL
    | Init.MAX_PAGES
    | Init.CACHE_SYMLINKS
    | Init.NO_OPENDIR_SUPPORT
    | Init.EXPLICIT_INVAL_DATA
    | Init.HANDLE_KILLPRIV_V2
    | Init.SETXATTR_EXT
    | Init.INIT_EXT
    | Init.DIRECT_IO_ALLOW_MMAP
    | Init.HAS_RESEND
)


@dataclass(frozen=True, slots=True)
class Agreed:
    """What the handshake came to."""

    minor: int
    flags: int  # Init

    def has(self, flag: int) -> bool:
        return bool(self.flags & flag)


def agree(channel: DevFuse, options: TransportOptions, *, no_open: bool) -> Agreed:
    """Answer INIT. Raises OSError: EPROTO for a kernel that speaks too old a version, EOPNOTSUPP for one that does
    not offer what the options ask for.
    """
    call = channel.receive()
    if call is None or call.opcode != Opcode.INIT:
        raise OSError(errno.EPROTO, "the kernel did not begin with INIT")
    major, minor, readahead, flags, flags2 = abi.INIT_IN.unpack_from(call.head, call.at)
    if major != abi.MAJOR or minor < abi.OLDEST_MINOR:
        channel.fail(call, errno.EPROTO)
        raise OSError(errno.EPROTO, f"FUSE {major}.{minor} is too old (7.{abi.OLDEST_MINOR}: Linux 5.4)")
    offered = flags | (flags2 << 32 if flags & Init.INIT_EXT else 0)
    agreed = Agreed(min(minor, abi.MINOR), offered & _wanted(options, no_open=no_open))
    for name, wished, flag in (
        ("passthrough", options.passthrough, Init.PASSTHROUGH),
        ("channel=uring", options.channel == "uring", Init.OVER_IO_URING),
    ):
        if wished and not agreed.has(flag):
            channel.fail(call, errno.EPROTO)
            raise OSError(errno.EOPNOTSUPP, f"{name}: this kernel does not offer it{_WHERE[name]}")
    channel.reply(
        call,
        abi.INIT_OUT.pack(
            *(abi.MAJOR, agreed.minor, max(readahead, MAX_WRITE), agreed.flags & 0xFFFF_FFFF),
            *(_MAX_BACKGROUND, _CONGESTION, MAX_WRITE, _TIME_GRAN, MAX_PAGES, 0, agreed.flags >> 32),
            *(1 if agreed.has(Init.PASSTHROUGH) else 0, 0),
        ),
    )
    return agreed


def _wanted(options: TransportOptions, *, no_open: bool) -> int:
    wanted = _ALWAYS
    if no_open:
        wanted |= Init.NO_OPEN_SUPPORT
    if options.writeback:
        wanted |= Init.WRITEBACK_CACHE
    if options.passthrough:
        wanted |= Init.PASSTHROUGH
    if options.channel == "uring" or (options.channel == "auto" and uring.is_enabled()):
        wanted |= Init.OVER_IO_URING
    return wanted
