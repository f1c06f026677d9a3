"""A request that is sent again was carried out once, wherever the daemons before had died.

Each request dies before each change that it makes and each note that it takes, and after the last one, before the
reply. The next daemon answers it and dies before its reply too; the third one's reply counts. They share their
descriptors, as under ``supervisor.py``. What they leave is what the request leaves without a mishap.
"""

import gc
import itertools
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from struct import pack

import pytest
from mounts import Layers
from option_sets import OPTION_SETS, OptionSet
from rehearsal import State, same_view, told
from syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE
from tap import tap
from trees import diff
from unions import Files, Options, acknowledged, fresh_layers, union_of
from wire import call_of, message

from pyunionfs import Overlay
from pyunionfs.transport.devfuse import abi
from pyunionfs.transport.devfuse.abi import Opcode, SetAttrValid
from pyunionfs.transport.devfuse.files import ByRequest
from pyunionfs.transport.devfuse.ledger import Ledger
from pyunionfs.transport.devfuse.requests import Reply, Requests
from pyunionfs.transport.devfuse.resend import Resent
from pyunionfs.transport.devfuse.supervisor import fork_sharing_files
from pyunionfs.vfs import ROOT, Ino

_UNIQUE = 6
_DIED = 70

Inos = Callable[[str], Ino]


@dataclass(frozen=True)
class Request:
    """What the kernel asks: of which inode, the arguments (which may name other inodes), and names or data."""

    opcode: Opcode
    of: str
    rest: bytes
    arguments: Callable[[Inos], bytes] = lambda ino: b""
    known: tuple[str, ...] = ()  # further paths that the kernel has looked up


def _names(*names: str) -> bytes:
    return b"".join(name.encode() + b"\0" for name in names)


def _in(opcode: Opcode, path: str, arguments: bytes = b"", more: str = "") -> Request:
    """A request about a name in a directory."""
    at, _, name = path.rpartition("/")
    return Request(opcode, at, _names(name, more) if more else _names(name), lambda ino: arguments)


def _remove(opcode: Opcode, path: str) -> Request:
    at, _, name = path.rpartition("/")
    return Request(opcode, at, _names(name), known=(path,))


def _rename(old: str, new: str, flags: int = 0, *, over: bool = False) -> Request:
    (at, _, name), (to, _, new_name) = old.rpartition("/"), new.rpartition("/")
    known = (old, new) if over or flags & RENAME_EXCHANGE else (old,)
    return Request(Opcode.RENAME2, at, _names(name, new_name), lambda ino: pack("=QII", ino(to), flags, 0), known)


def _set(**changes: int) -> bytes:
    valid = sum(getattr(SetAttrValid, name.upper()) for name in changes)
    size, mode = changes.get("size", 0), changes.get("mode", 0)
    return abi.SETATTR_IN.pack(valid, 0, 0, size, 0, 0, 0, 0, 0, 0, 0, mode, 0, 0, 0, 0)


REQUESTS: Mapping[str, Request] = {
    "create": _in(Opcode.CREATE, "dir/new", pack("=IIII", os.O_WRONLY, 0o644, 0, 0)),
    "create over a whiteout": _in(Opcode.CREATE, "gone", pack("=IIII", os.O_WRONLY, 0o644, 0, 0)),
    "mknod": _in(Opcode.MKNOD, "made/new", pack("=IIII", 0o100640, 0, 0, 0)),
    "mkdir": _in(Opcode.MKDIR, "new", pack("=II", 0o755, 0)),
    "mkdir over a whiteout": _in(Opcode.MKDIR, "gone-dir", pack("=II", 0o755, 0)),
    "symlink": _in(Opcode.SYMLINK, "dir/new", more="target"),
    "link a lower file": Request(Opcode.LINK, "dir", _names("new"), lambda ino: pack("=Q", ino("file"))),
    "link a new file": Request(Opcode.LINK, "dir", _names("new"), lambda ino: pack("=Q", ino("acked"))),
    "unlink a lower file": _remove(Opcode.UNLINK, "file"),
    "unlink a copied-up file": _remove(Opcode.UNLINK, "copied"),
    "unlink a new file": _remove(Opcode.UNLINK, "acked"),
    "unlink one of two lower names": _remove(Opcode.UNLINK, "twin"),
    "rmdir a lower directory": _remove(Opcode.RMDIR, "empty"),
    "rmdir a new directory": _remove(Opcode.RMDIR, "spare"),
    "rename a lower file": _rename("file", "dir/new"),
    "rename a new file": _rename("acked", "acked-too"),
    "rename a new file over a lower one": _rename("acked", "dir/one", over=True),
    "rename a lower file over a new one": _rename("dir/one", "acked", over=True),
    "rename a new directory over a new one": _rename("spare", "dir/new"),
    "rename to a free name": _rename("copied", "new", RENAME_NOREPLACE),
    "exchange lower files": _rename("file", "dir/one", RENAME_EXCHANGE),
    "exchange a new file and a new directory": _rename("acked", "made", RENAME_EXCHANGE),
    "exchange in one directory": _rename("acked", "file", RENAME_EXCHANGE),
    "exchange two names of a file": _rename("twin", "twin-too", RENAME_EXCHANGE),
    "write to a lower file": Request(
        Opcode.WRITE, "file", b"again", lambda ino: pack("=QQIIQII", 0, 3, 5, 0, 0, 0, 0)
    ),
    "truncate a lower file": Request(Opcode.SETATTR, "file", b"", lambda ino: _set(size=3)),
    "chmod a lower file": Request(Opcode.SETATTR, "file", b"", lambda ino: _set(mode=0o100600)),
    "setxattr of a new name": Request(
        Opcode.SETXATTR, "file", _names("user.new") + b"1", lambda ino: pack("=IIII", 1, os.XATTR_CREATE, 0, 0)
    ),
    "removexattr": Request(Opcode.REMOVEXATTR, "file", _names("user.kept")),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The long profile runs every set of options."""
    if "options" in metafunc.fixturenames:
        mine = [options for options in OPTION_SETS if not options.user]
        chosen = mine if metafunc.config.getoption("--long") else mine[:1]
        metafunc.parametrize("options", chosen, ids=lambda options: options.name)


@pytest.mark.parametrize("asked", REQUESTS.values(), ids=REQUESTS)
def test_it_is_carried_out_once(asked: Request, options: OptionSet, tmp_path: Path) -> None:
    with layers_at(tmp_path / "once", options.options) as layers:
        steps, reply = without_mishap(layers, options.options, asked)
        expected = State.of(layers, options.options).view
    assert steps
    for point in range(steps + 1):
        where = f"dead at {point} of {steps}"
        with layers_at(tmp_path / f"point{point}", options.options) as layers:
            assert after_deaths(layers, options.options, asked, point) == f"{reply}", where
            left = State.of(layers, options.options).view
        assert same_view(expected, left), "\n".join(told(where, diff(expected, left, names=("once", "again"))))


@contextmanager
def layers_at(root: Path, options: Options) -> Iterator[Layers]:
    with fresh_layers(root) as layers:
        with union_of(layers, options) as overlay:
            acknowledged(Files(overlay))
        yield layers


def without_mishap(layers: Layers, options: Options, asked: Request) -> tuple[int, int]:
    """Returns how many steps a request takes, and the size of the reply."""
    steps = itertools.count()
    fd = Ledger.make()
    with union_of(layers, options) as overlay, open(os.devnull, "wb") as nobody:
        reply = first_daemon(overlay, fd, asked, lambda: next(steps), nobody.fileno())
    os.close(fd)
    return next(steps), reply


class MortalLedger(Ledger):
    """One that calls ``step`` before it takes a note."""

    def __init__(self, fd: int, step: Callable[[], object]) -> None:
        super().__init__(fd)
        self._step = step

    def _append(self, record: bytes) -> None:
        self._step()
        super()._append(record)


def first_daemon(overlay: Overlay, ledger: int, asked: Request, step: Callable[[], object], wire: int) -> int:
    """Have looked up what a request is about; then answer it. The request is written to ``wire`` before."""
    overlay.journal = Ledger(ledger)
    inos: dict[str, Ino] = {"": ROOT}

    def ino(path: str) -> Ino:
        if path not in inos:
            parent, _, name = path.rpartition("/")
            inos[path] = overlay.lookup(ino(parent), name.encode()).ino
        return inos[path]

    for path in asked.known:
        ino(path)
    said = message(asked.opcode, asked.arguments(ino), asked.rest, nodeid=ino(asked.of), unique=_UNIQUE)
    os.write(wire, said)
    overlay.journal = MortalLedger(ledger, step)
    requests = Requests(overlay, info=bytes, orders={}, files=ByRequest())
    with tap(lambda call: step() if call.changes else None):
        return size_of(requests.by_opcode[asked.opcode](call_of(said)))


def next_daemon(overlay: Overlay, ledger: int, wire: int) -> int:
    """Take over, and answer what is sent again."""
    overlay.journal = journal = Ledger(ledger)
    overlay.restore(journal.read())
    call = call_of(os.pread(wire, 1 << 16, 0))
    call.unique |= abi.RESENT
    requests = Requests(overlay, info=bytes, orders={}, files=ByRequest())
    return size_of(Resent(requests, overlay, journal.exchanges()).answer(call))


def size_of(reply: Reply) -> int:
    return reply if isinstance(reply, int) else len(reply or b"")


def after_deaths(layers: Layers, options: Options, asked: Request, point: int) -> str:
    """Returns the size of the third daemon's reply, or what went wrong."""
    reading, writing = os.pipe()
    if not (pid := os.fork()):
        report = supervisor(layers, options, asked, point)
        os.write(writing, report.encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as file:
        report = file.read()
    os.waitpid(pid, 0)
    return report


def supervisor(layers: Layers, options: Options, asked: Request, point: int) -> str:
    try:
        gc.freeze()  # garbage of other tests would be freed by each daemon, whosever its descriptors are by then
        overlay = union_of(layers, options)
        ledger, wire = Ledger.make(), os.memfd_create("wire")
        steps = itertools.count()

        def step() -> None:
            if next(steps) == point:
                os._exit(_DIED)

        for daemon in (
            lambda: first_daemon(overlay, ledger, asked, step, wire),
            lambda: next_daemon(overlay, ledger, wire),
            lambda: next_daemon(overlay, ledger, wire),
        ):
            reply = os.memfd_create("reply")
            if not (pid := fork_sharing_files()):
                try:
                    os.write(reply, f"{daemon()}".encode())
                except BaseException:
                    os.write(reply, traceback.format_exc().encode())
                os._exit(_DIED)
            os.waitpid(pid, 0)
        return os.pread(reply, 1 << 16, 0).decode()
    except BaseException:
        return traceback.format_exc()
