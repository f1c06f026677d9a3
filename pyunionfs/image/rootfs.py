"""``image import``: a tar of a root directory becomes an image of one layer, as ``docker import`` makes it."""

import hashlib
import io
import json
import platform
from functools import partial
from pathlib import Path

from pyunionfs.image import config as configs
from pyunionfs.image.archived import ArchivedImage, ArchivedLayer
from pyunionfs.image.compression import open_plain
from pyunionfs.image.images import Image
from pyunionfs.image.limits import DEFAULT_LIMITS
from pyunionfs.image.reference import named
from pyunionfs.image.source import Member
from pyunionfs.image.store import Store
from pyunionfs.image.streams import CHUNK

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


def import_rootfs(
    store: Store, tar: Path, *, tag: str | None = None, message: str = "", epoch: int | None
) -> Image:
    """Add an image whose one layer is a tar, plain or compressed; ``epoch`` is when it was made, in seconds.

    Raises ImageError for what is no tar, or has what no layer may have; OSError.
    """
    member = Member(tar.stat().st_size, partial(io.FileIO, tar))
    digest = hashlib.sha256()
    with open_plain(member.open(), where=str(tar))[0] as plain:
        for piece in iter(partial(plain.read, CHUNK), b""):
            digest.update(piece)
    diff_id = f"sha256:{digest.hexdigest()}"
    created = configs.creation_time(epoch)
    table = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "created": created,
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": created, "comment": message or f"imported from {tar.name}"}],
    }
    raw = json.dumps(table, sort_keys=True, separators=(",", ":")).encode()
    parsed = configs.parse(raw, where="the new configuration", limits=DEFAULT_LIMITS)
    layer = ArchivedLayer(diff_id, tar.name, member, None)
    return store.add(ArchivedImage(parsed, (named(tag),) if tag else (), (layer,)), where=str(tar))
