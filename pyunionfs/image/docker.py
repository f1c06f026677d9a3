"""Archives with a ``manifest.json``: ``docker save`` of all ages, podman's and skopeo's docker-archive.

Source: docker image spec v1.2, "Combined Image JSON + Filesystem Changeset Format". Since docker 25 the
same tar is an OCI layout too, whose index has had errors; what ``docker load`` reads is this file, so it is
trusted above the index.
"""

import re
from functools import partial
from typing import Any

from pyunionfs.image import jsons
from pyunionfs.image.archived import (
    ArchivedImage,
    ArchivedLayer,
    Candidate,
    match_layers,
    need,
    read_config,
)
from pyunionfs.image.errors import ImageError
from pyunionfs.image.limits import Limits
from pyunionfs.image.reference import normalised
from pyunionfs.image.source import Source

MANIFEST = "manifest.json"

# Names that promise a digest: blobs/sha256/<hex>, <hex>.json, sha256:<hex>. Others (config.json) are free.
_BLOB = re.compile(r"(?:\./)?blobs/sha256/([0-9a-f]{64})")
_CONFIG = re.compile(r"(?:(?:\./)?blobs/sha256/|sha256:)?([0-9a-f]{64})(?:\.json)?")


def candidates(source: Source, table: list[Any], limits: Limits) -> list[Candidate]:
    """The images that a ``manifest.json`` lists."""
    where = f"{source.where}: {MANIFEST}"
    found = []
    for item in table:
        entry = jsons.expect(item, dict, what=where)
        names = tuple(jsons.strings(entry.get("RepoTags"), what=f"{where}: RepoTags"))
        tags = tuple(dict.fromkeys(filter(None, map(normalised, names))))
        found.append(Candidate(names, tags, partial(_read, source, entry, tags, limits)))
    return found


def _read(source: Source, entry: dict[str, Any], tags: tuple[str, ...], limits: Limits) -> ArchivedImage:
    where = f"{source.where}: {MANIFEST}"
    name = jsons.expect(entry.get("Config"), str, what=f"{where}: Config")
    promised = _CONFIG.fullmatch(name)
    digest = f"sha256:{promised[1]}" if promised else None
    config = read_config(source, name, limits=limits, wanted_by=MANIFEST, digest=digest)
    paths = jsons.strings(entry.get("Layers"), what=f"{where}: Layers")
    match_layers(config, len(paths), where=where)
    return ArchivedImage(config, tags, tuple(map(partial(_layer, source), config.diff_ids, paths)))


def _layer(source: Source, diff_id: str, path: str) -> ArchivedLayer:
    blob = _BLOB.fullmatch(path)
    member = need(source, path, wanted_by=MANIFEST)
    return ArchivedLayer(diff_id, path, member, f"sha256:{blob[1]}" if blob else None)


def refuse_other(source: Source) -> ImageError:
    """The error for an archive that has neither a manifest.json nor an index.json."""
    if source.find("repositories") is not None:
        return ImageError(f"{source.where}: written by a docker older than 1.10: it has no manifest.json")
    return ImageError(
        f"{source.where}: no manifest.json and no index.json: not an image archive "
        "(a plain root filesystem, as `docker export` writes it, has no layers)"
    )
