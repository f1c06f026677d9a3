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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from . import serving
from .handover import InstalledCode
from .spec import MountSpec, Options, join_layers, option_words
from .transport import mount
from .transport import options as transport_options

log = logging.getLogger(__name__)

_READY = b"\0"
_TRANSPORTS = {"devfuse": ".transport.devfuse", "pyfuse3": ".transport.libfuse"}


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
        transport = "devfuse" if suits_directly() else "pyfuse3"
    with serving.union(spec) as overlay:
        serve_by = importlib.import_module(_TRANSPORTS[transport], __package__).serve  # one loads no other
        serve_by(
            overlay,
            spec.mountpoint,
            spec.fuse_options(),
            options,
            info=serving.info(spec, overlay, transport),
            on_ready=on_ready,
            successor=InstalledCode(spec, overlay),
        )


def run(spec: MountSpec) -> None:
    """Mount as ``spec.foreground`` says: here, until the unmount, or by :func:`start`. Raises OSError."""
    if not spec.foreground:
        start(spec)
        return
    serving.start_log(spec)
    try:
        serve(spec)
    except RuntimeError as error:
        raise OSError(errno.EIO, str(error)) from None


def suits_directly() -> bool:
    """Whether the kernel speaks a version of FUSE that the direct transport does: 7.31, of Linux 5.4."""
    return kernel_release() >= (5, 4)


def kernel_release() -> tuple[int, int]:
    """The first two numbers of this kernel's release, (0, 0) if it has none."""
    numbers = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


def start(spec: MountSpec) -> int:
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
        os._exit(_daemon(spec, writing))
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


def _daemon(spec: MountSpec, report: int) -> int:
    """The daemon's process: whatever is said before the mount answers goes to who waits for it."""
    os.setsid()
    spec = spec.absolute()
    os.chdir("/")  # so as not to keep another filesystem busy
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(report, 2)  # libfuse and fusermount3 explain themselves on stderr
    for name in os.listdir("/proc/self/fd"):  # Python's own are not inheritable: these are of who started us
        if int(name) > 2 and _is_inheritable(int(name)):
            os.close(int(name))

    def ready() -> None:
        os.write(report, _READY)  # EPIPE: who asked for the mount was killed, and it is undone
        os.dup2(null, 2)
        os.close(report)

    try:
        serving.start_log(spec)
        serve(spec, on_ready=ready)
    except (OSError, RuntimeError) as error:
        log.exception("the mount has ended")
        words = in_words(error) if isinstance(error, OSError) else str(error)
        if "fuse_session_mount" not in words:  # libfuse has said why
            _say(words)
        return 1
    except BaseException:
        log.exception("the mount has ended")
        _say("internal error; mount with --foreground to see more")
        return 1
    return 0


def _say(words: str) -> None:
    with suppress(BrokenPipeError):  # nobody listens any more
        os.write(2, words.encode() + b"\n")


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
    command += ["-o", ",".join(option_words(options))] if options else []
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
