"""A mount as a whole: an ``Overlay``, a transport and the process that holds them.

:func:`serve` runs a mount in this process, :func:`start` in a daemon of its own, :func:`mounted` for the
length of a ``with``. What the command line and the library have in common is here.
"""

import errno
import importlib
import logging
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from . import events
from .overlay.fs import Overlay
from .overlay.params import OPTIONS
from .transport import mount
from .transport import options as transport_options

log = logging.getLogger(__name__)

LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"
Options = Mapping[str, str | bool | None]
TRANSPORT_OPTIONS = frozenset(transport_options.VALUES)
"""Mount options that say how the kernel is served."""
_READY = b"\0"
_TRANSPORTS = {"devfuse": ".transport.devfuse", "pyfuse3": ".transport.libfuse"}
_FUSE_FLAGS = frozenset(
    ("ro", "rw", "dev", "nodev", "suid", "nosuid", "exec", "noexec", "atime", "noatime", "sync", "async", "dirsync")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MountSpec:
    """What to mount and how; paths may be relative, ``lower`` goes from top to bottom."""

    lower: Sequence[str]
    mountpoint: str
    upper: str | None = None
    work: str | None = None
    data: Sequence[str] = ()  # data-only layers, below the lower ones
    options: Options = field(default_factory=dict)
    allow_other: bool | None = None  # None: as root yes, otherwise no
    image: str | None = None

    def absolute(self) -> "MountSpec":
        """The same, independent of the working directory."""
        return replace(
            self,
            lower=[os.path.abspath(path) for path in self.lower],
            data=[os.path.abspath(path) for path in self.data],
            upper=os.path.abspath(self.upper) if self.upper is not None else None,
            work=os.path.abspath(self.work) if self.work is not None else None,
            mountpoint=os.path.abspath(self.mountpoint),
        )

    def check(self) -> None:
        """Raises OSError with a sentence for a mount point that cannot be one."""
        if not os.path.isdir(self.mountpoint):
            raise OSError(errno.ENOENT, f"mount point {self.mountpoint} is not a directory")
        point = os.path.realpath(self.mountpoint)
        for what, path in (("upper", self.upper), ("work", self.work)):
            if path is not None and (point + "/").startswith(os.path.realpath(path) + "/"):
                raise OSError(errno.EINVAL, f"mount point {self.mountpoint} is inside the {what} directory {path}")

    def overlay_options(self) -> dict[str, str | bool | None]:
        names = {option.name for option in OPTIONS}
        mine = _FUSE_FLAGS | TRANSPORT_OPTIONS
        return {name: value for name, value in self.options.items() if name in names or name not in mine}

    def fuse_options(self) -> set[str]:
        """Options of the FUSE mount; what a mount by root would allow on any other filesystem is allowed."""
        allow_other = os.geteuid() == 0 if self.allow_other is None else self.allow_other
        chosen = {name for name in self.options if name in _FUSE_FLAGS}
        if os.geteuid() == 0:
            chosen |= {"dev"} if "nodev" not in chosen else set()
            chosen |= {"suid"} if "nosuid" not in chosen else set()
        if self.upper is None:
            chosen.add("ro")
        if allow_other:
            chosen.add("allow_other")
        return chosen | {"fsname=pyunionfs", "subtype=pyunionfs"}


def serve(spec: MountSpec, *, on_ready: Callable[[], None] = lambda: None) -> None:
    """Mount and answer requests in this process until the unmount or a signal. A mount there whose daemon died
    is removed first.

    Raises OSError for what is wrong with layers, options or mount point, RuntimeError if FUSE refuses.
    """
    mount.clear_dead(spec.mountpoint)
    spec.check()
    spec = spec.absolute()
    options = transport_options.parse(spec.options)
    transport = options.transport
    if transport == "auto":
        transport = "devfuse" if _suits_directly() else "pyfuse3"
    with Overlay(spec.lower, spec.upper, spec.work, data=spec.data, options=spec.overlay_options()) as overlay:
        overlay.subscribe(_log_event)
        told = _describe(spec, overlay, transport)
        serve_by = importlib.import_module(_TRANSPORTS[transport], __package__).serve  # one loads no other
        serve_by(
            overlay,
            spec.mountpoint,
            spec.fuse_options(),
            options,
            info=lambda more: mount.encode_info({**told, "pid": os.getpid(), **more}),
            on_ready=on_ready,
        )


def _suits_directly() -> bool:
    """Whether the kernel speaks a version of FUSE that the direct transport does: 7.31, of Linux 5.4."""
    numbers = re.match(r"(\d+)\.(\d+)", platform.release())
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= (5, 4)


def _describe(spec: MountSpec, overlay: Overlay, transport: str) -> dict[str, Any]:
    """What :mod:`.transport.mount` reads from the root's xattr."""
    known = asdict(spec)
    known["options"] = dict(word.partition("=")[::2] for word in _option_words(spec.options))
    known |= {
        "started_by": os.getpid(),
        "work": overlay.work_path,
        "transport": transport,
        "userxattr": overlay.uses_user_xattrs,
    }
    return known


def _log_event(event: events.Event) -> None:
    path = _one_line(event.path)
    match event:
        case events.CopyUp():
            log.info("copy up /%s (%d bytes from lower %d)", path, event.size, event.layer - 1)
        case events.Whiteout():
            log.info("whiteout /%s", path)
        case events.Opaque():
            log.info("opaque /%s", path)
        case events.Redirect():
            log.info("redirect /%s to %s", path, _one_line(event.target))


def _one_line(name: bytes) -> str:
    """A name for the log: it may hold anything, also what looks like a line of the log."""
    return repr(os.fsdecode(name))[1:-1]


def start(spec: MountSpec, *, log_file: str | None = None) -> int:
    """Mount with a daemon in the background; returns its pid once the mount answers.

    A mount there whose daemon died is removed first. Raises OSError with the daemon's own words if it could not
    mount.
    """
    mount.clear_dead(spec.mountpoint)
    spec.check()
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os._exit(_daemon(spec, writing, log_file))
    os.close(writing)
    with open(reading, "rb") as report:
        told = report.read()
    if told.endswith(_READY):
        return pid
    _, status = os.waitpid(pid, 0)
    words = told.decode(errors="replace").strip() or f"the daemon ended with status {status}"
    raise OSError(errno.EIO, words)


def _is_inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False  # the descriptor of the listing itself, closed by now


def in_words(error: OSError) -> str:
    """One line that says what went wrong, with the file that it went wrong with."""
    words = error.strerror or str(error)
    return words if error.filename is None else f"{os.fsdecode(error.filename)}: {words}"


def _daemon(spec: MountSpec, report: int, log_file: str | None) -> int:
    """The daemon's process: whatever is said before the mount answers goes to who waits for it."""
    os.setsid()
    spec = spec.absolute()
    log_file = os.path.abspath(log_file) if log_file is not None else None
    os.chdir("/")  # so as not to keep another filesystem busy
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(report, 2)  # libfuse and fusermount3 explain themselves on stderr
    for name in os.listdir("/proc/self/fd"):  # Python's own are not inheritable: these are of who started us
        if int(name) > 2 and _is_inheritable(int(name)):
            os.close(int(name))

    def ready() -> None:
        os.write(report, _READY)
        os.dup2(null, 2)
        os.close(report)

    try:
        if log_file is not None:
            logging.basicConfig(filename=log_file, level=logging.INFO, format=LOG_FORMAT)
        else:
            logging.disable()
        serve(spec, on_ready=ready)
    except (OSError, RuntimeError) as error:
        log.exception("the mount has ended")
        words = in_words(error) if isinstance(error, OSError) else str(error)
        if "fuse_session_mount" not in words:  # libfuse has said why
            os.write(2, words.encode() + b"\n")
        return 1
    except BaseException:
        log.exception("the mount has ended")
        os.write(2, b"internal error; mount with --foreground to see more\n")
        return 1
    return 0


@contextmanager
def mounted(
    lower: Sequence[str | os.PathLike[str]],
    upper: str | os.PathLike[str] | None = None,
    work: str | os.PathLike[str] | None = None,
    mountpoint: str | os.PathLike[str] | None = None,
    *,
    data: Sequence[str | os.PathLike[str]] = (),
    options: Options | None = None,
    allow_other: bool | None = None,
    log_file: str | os.PathLike[str] | None = None,
) -> Iterator[Path]:
    """Mount a union for the length of a ``with``; yields its mount point, a temporary one if none is given.

    The daemon is a process of its own, so the union serves other programs, and this one, like any mount.
    Raises OSError with the daemon's words if it cannot be mounted. At the end it is unmounted, lazily if it
    is still in use.
    """
    temporary = tempfile.mkdtemp(prefix="pyunionfs-") if mountpoint is None else None
    point = os.fspath(mountpoint if mountpoint is not None else temporary)  # type: ignore[arg-type]
    command = [sys.executable, "-m", "pyunionfs", "mount"]
    command += ["--lower", join_layers([os.fspath(path) for path in lower], [os.fspath(path) for path in data])]
    command += ["--upper", os.fspath(upper)] if upper is not None else []
    command += ["--work", os.fspath(work)] if work is not None else []
    command += ["-o", ",".join(_option_words(options))] if options else []
    command += ["--log", os.fspath(log_file)] if log_file is not None else []
    if allow_other is not None:
        command.append("--allow-other" if allow_other else "--no-allow-other")
    try:
        _run_mount([*command, point], point)
        try:
            yield Path(point)
        finally:
            _unmount_surely(point)
    finally:
        if temporary is not None:
            os.rmdir(temporary)


def _run_mount(command: Sequence[str], point: str) -> None:
    """Run the mount command. If we are interrupted meanwhile, what it mounts is unmounted."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            _, said = process.communicate()
        except BaseException:
            process.wait()
            _unmount_surely(point)
            raise
    if process.returncode:
        raise OSError(errno.EIO, said.strip().removeprefix("pyunionfs: "))


def _unmount_surely(point: str) -> None:
    if mount.find(point) is None:
        return  # the user of the mount has unmounted it
    try:
        mount.unmount(point)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        mount.unmount(point, lazy=True)


def _option_words(options: Options) -> list[str]:
    words = []
    for name, value in options.items():
        text = "on" if value is True else "off" if value is False else value
        words.append(name if text is None else f"{name}={text}")
    return words


def escape(path: str) -> str:
    """Write a path as an element of a ``:``-separated list of layers."""
    return path.replace("\\", "\\\\").replace(":", "\\:")


def join_layers(lower: Sequence[str], data: Sequence[str] = ()) -> str:
    """Inverse of :func:`split_lower`."""
    return "".join([":".join(map(escape, lower)), *("::" + escape(path) for path in data)])


def split_lower(text: str) -> tuple[list[str], list[str]]:
    """Split ``a:b::c::d`` into the layers ``a`` and ``b`` and the data-only layers ``c`` and ``d``.

    Raises OSError(EINVAL) for an empty element, and for a layer after a data-only one (ovl_parse_param_lowerdir).
    """
    lower: list[str] = []
    data: list[str] = []
    doubled = False  # the colon before this element is
    for element in _split(text):
        if not element and (doubled or not lower):
            raise _empty_layer(text)
        if element and data and not doubled:
            raise OSError(errno.EINVAL, f"a layer follows a data-only layer in {text!r}")
        if element:
            (data if doubled else lower).append(element)
        doubled = not element
    if doubled:
        raise _empty_layer(text)
    return lower, data


def split_layers(text: str) -> list[str]:
    """Split ``a:b:c`` at its colons; ``\\:`` is a colon of a path, ``\\\\`` a backslash.

    Raises OSError(EINVAL) for an empty element.
    """
    layers = _split(text)
    if not all(layers):
        raise _empty_layer(text)
    return layers


def _split(text: str) -> list[str]:
    layers, current, chars = [], "", iter(text)
    for char in chars:
        if char == "\\":
            current += next(chars, "\\")
        elif char == ":":
            layers.append(current)
            current = ""
        else:
            current += char
    return [*layers, current]


def _empty_layer(text: str) -> OSError:
    return OSError(errno.EINVAL, f"empty layer in {text!r} (write a colon of a path as \\:)")
