"""Whether an upper directory is in use now: by a mount of ours, which locks it, or by one of the kernel's."""

import fcntl
import os
import re
from collections.abc import Iterator

from ..overlay.layer import Layer


def in_use(upper: Layer) -> str:
    """Who uses an upper directory, in words; "" if nobody does as far as can be seen."""
    fd = os.open(b"/proc/self/fd/%d" % upper.root.fd, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "a mount of pyunionfs"
    finally:
        os.close(fd)
    return kernel_mount(upper)


def kernel_mount(upper: Layer) -> str:
    """Where the kernel's overlay has this upper directory mounted, in any mount namespace that can be seen."""
    for root, line in _overlay_mounts():
        point, options = line.split(" ")[4], line.rpartition(" ")[2]
        match = re.search(r"(?:^|,)upperdir=((?:\\,|[^,])*)", options)
        if match and _is_same(upper, root, _unescape(match[1].replace("\\,", ","))):
            return f"the overlay mounted at {os.fsdecode(_unescape(point))}"
    return ""


def _overlay_mounts() -> Iterator[tuple[str, str]]:
    """The root directory of a mount namespace, and a line of its mountinfo."""
    seen: set[tuple[int, int]] = set()
    for pid in ["self", *filter(str.isdigit, os.listdir("/proc"))]:
        try:
            namespace = os.stat(f"/proc/{pid}/ns/mnt")
            if (namespace.st_dev, namespace.st_ino) in seen:
                continue
            with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
                found = [line.rstrip("\n") for line in lines if " - overlay " in line]
        except OSError:
            continue  # it has ended, or is not ours to look into
        seen.add((namespace.st_dev, namespace.st_ino))
        yield from ((f"/proc/{pid}/root", line) for line in found)


def _is_same(upper: Layer, root: str, path: bytes) -> bool:
    if not path.startswith(b"/"):  # relative to a directory that nobody knows any more: better safe than sorry
        return (b"/" + os.path.realpath(upper.path).lstrip(b"/")).endswith(b"/" + path.removeprefix(b"./"))
    try:
        st = os.stat(os.fsencode(root) + path)
    except OSError:
        return False
    mine = os.fstat(upper.root.fd)
    return (st.st_dev, st.st_ino) == (mine.st_dev, mine.st_ino)


def _unescape(text: str) -> bytes:
    """Undo the octal escapes of mountinfo."""
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), os.fsencode(text))
