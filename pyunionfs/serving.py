"""What serves a mount, whichever process does: the union with its log, and what the mount tells of itself."""

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from . import events
from ._version import __version__
from .overlay.fs import Overlay
from .spec import MountSpec, option_words
from .transport import mount
from .transport.mount import Info

log = logging.getLogger(__name__)


def union(spec: MountSpec, *, adopt: Sequence[int] | None = None) -> Overlay:
    """Open the union of a mount; ``adopt`` as for :class:`.overlay.fs.Overlay`, which says what is raised."""
    overlay = Overlay(
        spec.lower, spec.upper, spec.work, data=spec.data, options=spec.overlay_options(), adopt=adopt
    )
    overlay.subscribe(_log_event)
    return overlay


def info(spec: MountSpec, overlay: Overlay, transport: str) -> Info:
    """What :mod:`.transport.mount` reads from the root's xattr."""
    known: dict[str, Any] = asdict(spec)
    known["options"] = dict(word.partition("=")[::2] for word in option_words(spec.options))
    known |= {
        "started_by": os.getpid(),
        "version": __version__,
        "work": overlay.work_path,
        "transport": transport,
        "userxattr": overlay.uses_user_xattrs,
    }
    return lambda more: mount.encode_info({**known, "pid": os.getpid(), **more})


def start_log(spec: MountSpec) -> None:
    """Have problems and copy-ups reported where the mount wants them."""
    if spec.log_file is None and not spec.foreground:
        logging.disable()
        return
    handler = logging.FileHandler(spec.log_file) if spec.log_file is not None else logging.StreamHandler(sys.stderr)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", handlers=[handler])


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
