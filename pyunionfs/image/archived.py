"""What every layout of an archive comes down to: images, each a configuration and its layers' blobs."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyunionfs.image import config, jsons
from pyunionfs.image.config import Config
from pyunionfs.image.errors import ImageError, show
from pyunionfs.image.limits import Limits
from pyunionfs.image.source import Member, Source
from pyunionfs.image.streams import read_bounded

# Digests that we can verify (OCI image-spec descriptor.md, "Registered algorithms").
_DIGEST = re.compile(r"(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})")


class NotAnImageError(ImageError):
    """A manifest of something else that OCI layouts may hold: a signature, a chart, an SBOM."""


@dataclass(frozen=True, slots=True)
class ArchivedLayer:
    """One layer of an image in an archive; its blob may be compressed."""

    diff_id: str  # sha256 of the plain tar
    name: str  # of the member
    member: Member
    digest: str | None  # of the blob as it is, where the archive says


@dataclass(frozen=True, slots=True)
class ArchivedImage:
    """An image that was found whole in an archive; the blobs' content is not verified yet."""

    config: Config
    tags: tuple[str, ...]  # normalised
    layers: tuple[ArchivedLayer, ...]  # base first
    manifest: bytes | None = None  # where the layout has one that names blobs by digest
    manifest_type: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image that an archive lists: its names, as written and normalised, and how to read it."""

    names: tuple[str, ...]
    tags: tuple[str, ...]
    read: Callable[[], ArchivedImage]


def checked_digest(value: Any, *, what: str) -> str:
    """``value`` if it is a digest of an algorithm that is known here; only such become part of a path."""
    text = jsons.expect(value, str, what=what)
    if not _DIGEST.fullmatch(text):
        raise ImageError(f"{what}: {show(text)} is no sha256 or sha512 digest")
    return text


def need(source: Source, name: str, *, wanted_by: str) -> Member:
    """A member that must be there."""
    member = source.find(name)
    if member is None:
        raise ImageError(f"{source.where}: {wanted_by} names {show(name)}, which is not in the archive")
    return member


def read_document(
    source: Source, name: str, *, limits: Limits, wanted_by: str = "the layout", digest: str | None = None
) -> bytes:
    """A JSON document's bytes, bounded, and verified against its digest where that is known."""
    member = need(source, name, wanted_by=wanted_by)
    where = f"{source.where}: {show(name)}"
    with member.open() as stream:
        data = read_bounded(stream, limits.max_json, where)
    if digest is not None:
        found = hashlib.new(digest.partition(":")[0], data).hexdigest()
        if found != digest.partition(":")[2]:
            raise ImageError(f"{where}: its digest is {found[:16]}..., not {digest[:23]}...: damaged")
    return data


def read_config(source: Source, name: str, *, limits: Limits, wanted_by: str, digest: str | None) -> Config:
    """An image's configuration, verified."""
    raw = read_document(source, name, limits=limits, wanted_by=wanted_by, digest=digest)
    return config.parse(raw, where=f"{source.where}: {show(name)}", limits=limits)


def match_layers(image: Config, count: int, *, where: str) -> None:
    """A configuration and the list of blobs must agree on the number of layers. Raises ImageError."""
    if len(image.diff_ids) != count:
        raise ImageError(f"{where}: lists {count} layers, its configuration {len(image.diff_ids)}")
