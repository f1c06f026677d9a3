"""The mounts that are compared: the directories of a union, and a context manager for each implementation.

The kernel's defaults differ from machine to machine, so each option is said. ``nodev`` and ``nosuid`` in the
options are flags of the mount, not of the overlay.
"""

import errno
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .. import daemon, linux
from ..spec import TRANSPORT_OPTIONS

Options = Mapping[str, str | bool]
Mounter = Callable[..., AbstractContextManager[Path]]

_FLAGS = {"ro": 1, "nosuid": 2, "nodev": linux.MS_NODEV, "noexec": 8}

# redirect_dir=off means "follow" where the module parameter redirect_always_follow is set.
PLAIN: Options = {
    "index": "off",
    "metacopy": "off",
    "redirect_dir": "off",
    "xino": "off",
    "nfs_export": "off",
    "uuid": "auto",
}
USERXATTR: Options = {**PLAIN, "redirect_dir": "nofollow", "userxattr": True}

OPTION_SETS: Mapping[str, Options] = {
    "plain": PLAIN,
    "userxattr": USERXATTR,
    "redirect_dir=on": {**PLAIN, "redirect_dir": "on"},
    "redirect_dir=follow": {**PLAIN, "redirect_dir": "follow"},
    "redirect_dir=nofollow": {**PLAIN, "redirect_dir": "nofollow"},
    "metacopy=on": {**PLAIN, "metacopy": "on", "redirect_dir": "on"},
    "index=on": {**PLAIN, "index": "on"},
    "xino=on": {**PLAIN, "xino": "on"},
    "nfs_export=on": {**PLAIN, "nfs_export": "on", "index": "on"},
    "all-on": {**PLAIN, "redirect_dir": "on", "metacopy": "on", "index": "on", "xino": "on"},
}


def prefix_of(options: Options) -> str:
    """Where a mount with these options keeps its marks."""
    return "user.overlay." if options.get("userxattr") else "trusted.overlay."


@dataclass(frozen=True)
class Layers:
    """The directories of one union: lowers from top to bottom, upper, work, and where to mount it."""

    lower: tuple[Path, ...]
    upper: Path
    work: Path
    merged: Path

    @classmethod
    def create(cls, root: Path, *, lowers: int = 1) -> "Layers":
        """Make empty directories below ``root``; those that exist are taken as they are."""
        lower = tuple(root / f"lower{number}" for number in range(lowers))
        layers = cls(lower, root / "upper", root / "work", root / "merged")
        for path in (*lower, layers.upper, layers.work, layers.merged):
            path.mkdir(parents=True, exist_ok=True)
        return layers

    def with_upper(self, root: Path) -> "Layers":
        """The same lowers under another upper, workdir and mount point below ``root``."""
        other = Layers.create(root, lowers=0)
        return Layers(self.lower, other.upper, other.work, other.merged)


def kernel_words(options: Options) -> list[str]:
    """The options as ``mount -t overlay -o`` takes them."""
    return [key if value is True else f"{key}={value}" for key, value in options.items()]


@contextmanager
def kernel(layers: Layers, options: Options = PLAIN, *, read_only: bool = False) -> Iterator[Path]:
    """The kernel's overlayfs."""
    data = [] if "lowerdir" in options else ["lowerdir=" + ":".join(str(path) for path in layers.lower)]
    if not read_only:
        data += [f"upperdir={layers.upper}", f"workdir={layers.work}"]
    ours = _FLAGS.keys() | TRANSPORT_OPTIONS
    data += kernel_words({key: value for key, value in options.items() if key not in ours})
    flags = sum(bit for key, bit in _FLAGS.items() if options.get(key))
    _mount_kernel(layers.merged, flags, ",".join(data))
    try:
        yield layers.merged
    finally:
        unmount(layers.merged)


def _mount_kernel(target: Path, flags: int, data: str) -> None:
    """With index=on, an upper directory is in use until its last mount is gone, be it in another namespace."""
    for attempt in range(40):
        try:
            linux.mount(b"overlay", os.fsencode(target), b"overlay", flags, os.fsencode(data))
        except OSError as error:
            if error.errno != errno.EBUSY or attempt == 39:
                raise OSError(error.errno, f"mount -t overlay -o {data}: {error.strerror}", str(target)) from None
            time.sleep(0.01 * attempt)
        else:
            return


@contextmanager
def pyunionfs(
    layers: Layers, options: Options = PLAIN, *, read_only: bool = False, data: Sequence[Path] = ()
) -> Iterator[Path]:
    """Ours, served by a daemon."""
    upper, work = (None, None) if read_only else (layers.upper, layers.work)
    with daemon.mounted(layers.lower, upper, work, layers.merged, data=data, options=options) as path:
        yield path


@contextmanager
def memory(path: Path) -> Iterator[Path]:
    """A tmpfs: many small files come and go, for which a disk is slow."""
    linux.mount(b"tmpfs", os.fsencode(path), b"tmpfs", 0, b"mode=700")
    try:
        yield path
    finally:
        linux.umount2(os.fsencode(path), linux.MNT_DETACH)


def unmount(target: Path) -> None:
    """Unmount, waiting out short-lived users; detach as the last resort, so that nothing stays behind."""
    for attempt in range(40):
        try:
            linux.umount2(os.fsencode(target), 0)
        except OSError as error:
            if error.errno == errno.EINVAL:  # no mount point any more
                return
            if error.errno != errno.EBUSY:
                raise
            time.sleep(0.01 * attempt)
        else:
            return
    linux.umount2(os.fsencode(target), linux.MNT_DETACH)
    raise OSError(errno.EBUSY, f"somebody still uses {target}; it was detached")


def able(mounter: Mounter, options: Options, root: Path) -> str:
    """Whether a mount with these options can be made and written to: "" or why not."""
    try:
        with mounter(Layers.create(root), options) as merged:
            (merged / "file").write_bytes(b"")
    except OSError as error:
        return daemon.in_words(error)
    return ""


def let_go_of_fuse() -> None:
    """Detach what the private namespace has inherited of FUSE mounts: or their daemons would live on after their
    unmount for as long as this runs."""
    with open("/proc/self/mountinfo", "rb") as lines:
        mounts = [line.split(b" ") for line in lines]
    for fields in reversed(mounts):
        if fields[fields.index(b"-") + 1].startswith(b"fuse"):
            point = re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), fields[4])
            with suppress(OSError):
                linux.umount2(point, linux.MNT_DETACH)
