"""An image's configuration: the JSON document whose digest is the image's id.

Sources: OCI image-spec config.md, docker image spec v1.2 ("Image JSON Description"). Read once, checked
where it matters to us (layers, history), and otherwise kept as it is.
"""

import hashlib
import os
import re
import time
from dataclasses import dataclass
from typing import Any

from pyunionfs.image import jsons
from pyunionfs.image.errors import ImageError, show
from pyunionfs.image.limits import Limits

_DIFF_ID = re.compile(r"sha256:[0-9a-f]{64}")


def sha256(data: bytes) -> str:
    """``sha256:`` and the hex digest."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def source_date_epoch() -> int | None:
    """SOURCE_DATE_EPOCH in seconds (reproducible-builds.org), None where it is not set. Raises ImageError for what
    is no number."""
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if not text:
        return None
    if not text.isdecimal():
        raise ImageError(f"SOURCE_DATE_EPOCH={text}: not a number of seconds")
    return int(text)


def creation_time(epoch: int | None) -> str:
    """What an image that is made now has as ``created``: now, or ``epoch`` in seconds; RFC 3339."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))


@dataclass(frozen=True, slots=True)
class Step:
    """One build step of the history; ``empty`` steps (ENV, CMD...) made no layer."""

    created: str  # RFC 3339, or empty
    created_by: str
    comment: str
    author: str
    empty: bool


@dataclass(frozen=True, slots=True)
class Config:
    """A configuration that was checked; ``table`` is the whole document."""

    raw: bytes
    table: dict[str, Any]
    diff_ids: tuple[str, ...]  # base first, "sha256:..."
    history: tuple[Step, ...]

    @property
    def id(self) -> str:
        """The image's id, ``sha256:...`` of the document."""
        return sha256(self.raw)

    def text(self, key: str) -> str:
        """A string at the top (created, architecture, os, variant, author), empty if absent."""
        value = self.table.get(key)
        return value if isinstance(value, str) else ""

    @property
    def run(self) -> dict[str, Any]:
        """How to run it: Env, Entrypoint, Cmd, User, WorkingDir, Labels, ..."""
        value = self.table.get("config")
        return value if isinstance(value, dict) else {}

    def run_list(self, key: str) -> list[str]:
        """``Env``, ``Entrypoint`` or ``Cmd``; a lone string (old builders) is a list of one."""
        value = self.run.get(key)
        if isinstance(value, str):
            return [value]
        return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []

    def run_text(self, key: str) -> str:
        """``User`` or ``WorkingDir``, empty if absent."""
        value = self.run.get(key)
        return value if isinstance(value, str) else ""


def parse(raw: bytes, *, where: str, limits: Limits) -> Config:
    """Read a configuration. Raises ImageError for one without ``rootfs.diff_ids`` of sha256 digests."""
    table = jsons.expect(jsons.parse(raw, where=where, limits=limits), dict, what=where)
    rootfs = jsons.member(table, "rootfs", dict, {}, what=where)
    if "diff_ids" not in rootfs:
        raise ImageError(f"{where}: no rootfs.diff_ids, so this is not the configuration of an image")
    diff_ids = jsons.strings(rootfs["diff_ids"], what=f"{where}: rootfs.diff_ids")
    for diff_id in diff_ids:
        if not _DIFF_ID.fullmatch(diff_id):
            raise ImageError(f"{where}: {show(diff_id)} is no sha256 digest")
    if len(diff_ids) > limits.max_layers:
        raise ImageError(f"{where}: {len(diff_ids)} layers, more than the allowed {limits.max_layers}")
    history = jsons.member(table, "history", list, [], what=where)
    steps = tuple(_step(item, where=f"{where}: history") for item in history)
    return Config(raw, table, tuple(diff_ids), steps)


def _step(item: Any, *, where: str) -> Step:
    table = jsons.expect(item, dict, what=where)
    created, created_by, comment, author = (
        jsons.member(table, key, str, "", what=where) for key in ("created", "created_by", "comment", "author")
    )
    return Step(created, created_by, comment, author, jsons.member(table, "empty_layer", bool, False, what=where))
