"""Writing an archive that docker (of all ages), podman, skopeo and containerd load.

One tar holds both layouts: the blobs, once, with ``oci-layout`` and ``index.json`` (OCI image-spec
image-layout.md), and ``manifest.json`` and ``repositories`` that name the same blobs (docker image spec v1.2). A
layer that was loaded comes out byte for byte, unless it is to be compressed otherwise. The same images make the
same archive.
"""

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from pyunionfs.image.compression import detect
from pyunionfs.image.config import sha256
from pyunionfs.image.images import Image
from pyunionfs.image.reference import full_name
from pyunionfs.image.store import Store
from pyunionfs.image.streams import CHUNK

FORMATS = ("docker", "oci")
COMPRESSIONS = ("gzip", "zstd")
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_SUFFIX = {None: "", "gzip": "+gzip", "zstd": "+zstd"}
_ZSTD_LEVEL = 3


Readable = io.FileIO | io.BufferedReader | io.BytesIO


@dataclass(frozen=True, slots=True)
class _Blob:
    """The bytes of one member, and what they are."""

    digest: str
    size: int
    open: Callable[[], Readable]
    media_type: str = ""

    @property
    def path(self) -> str:
        return "blobs/" + self.digest.replace(":", "/")

    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


@dataclass(slots=True)
class _Archive:
    """What is going to be written."""

    blobs: dict[str, _Blob] = field(default_factory=dict)  # by path
    layers: dict[str, _Blob] = field(default_factory=dict)  # by the digest that the store has
    index: list[dict[str, Any]] = field(default_factory=list)
    manifest: list[dict[str, Any]] = field(default_factory=list)
    repositories: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, blob: _Blob) -> _Blob:
        self.blobs[blob.path] = blob
        return blob


def save(
    store: Store,
    images: Sequence[tuple[Image, Sequence[str]]],
    out: BinaryIO,
    *,
    layout: str = "docker",
    compression: str | None = None,
) -> None:
    """Write images, each with the names that it is to have, into a plain tar.

    ``layout`` ``docker`` is for everybody, ``oci`` leaves out what only docker reads; ``compression`` is that of
    layers that have another one. Raises ImageError, OSError.
    """
    archive = _Archive()
    with store.workspace("save") as scratch:
        for image, names in images:
            _add(archive, store, image, names, compression, scratch)
        documents = {"index.json": _json(_index(archive)), "oci-layout": _json({"imageLayoutVersion": "1.0.0"})}
        if layout == "docker":
            documents["manifest.json"] = _json(archive.manifest)
            if archive.repositories:
                documents["repositories"] = _json(archive.repositories)
        _write(out, documents, archive.blobs.values())


def _add(
    archive: _Archive, store: Store, image: Image, names: Sequence[str], compression: str | None, scratch: Path
) -> None:
    config = archive.add(_document(image.config.raw, _CONFIG))
    for digest in image.blobs:
        if digest not in archive.layers:  # images share them
            archive.layers[digest] = archive.add(_layer(store, digest, compression, scratch))
    stack = [archive.layers[digest] for digest in image.blobs]
    manifest = archive.add(_manifest(image, config, stack))
    platform = {key: image.config.text(key) for key in ("architecture", "os", "variant") if image.config.text(key)}
    entry = {**manifest.descriptor(), "platform": platform}
    for name in names or ("",):
        archive.index.append({**entry, **({"annotations": _annotations(name)} if name else {})})
    archive.manifest.append(
        {"Config": config.path, "RepoTags": list(names) or None, "Layers": [blob.path for blob in stack]}
    )
    for name in names:
        repository, _, tag = name.rpartition(":")
        top = image.config.diff_ids[-1].partition(":")[2] if image.layers else ""
        archive.repositories.setdefault(repository, {})[tag] = top


def _annotations(name: str) -> dict[str, str]:
    return {
        "io.containerd.image.name": full_name(name),
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }


def _manifest(image: Image, config: _Blob, layers: Sequence[_Blob]) -> _Blob:
    """The image's own manifest, if it names these blobs; or one that does."""
    if image.manifest is not None and image.manifest_type:
        table = json.loads(image.manifest)
        if [item["digest"] for item in table.get("layers", ())] == [blob.digest for blob in layers]:
            return _document(image.manifest, image.manifest_type)
    table = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": config.descriptor(),
        "layers": [blob.descriptor() for blob in layers],
    }
    return _document(_json(table), _MANIFEST)


def _document(raw: bytes, media_type: str) -> _Blob:
    return _Blob(sha256(raw), len(raw), partial(io.BytesIO, raw), media_type)


def _index(archive: _Archive) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": _INDEX, "manifests": archive.index}


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


# -- layers


def _layer(store: Store, digest: str, compression: str | None, scratch: Path) -> _Blob:
    with store.blob_store.open(digest) as stream:
        had = detect(stream.peek(16))
    if compression is None or had == compression:
        opener, size = partial(store.blob_store.open, digest), store.blob_store.size(digest)
        return _Blob(digest, size, opener, _LAYER + _SUFFIX.get(had, ""))
    path = scratch / digest.replace(":", "-")
    with store.blob_store.open_plain(digest) as plain, path.open("wb") as packed:
        _COMPRESS[compression](plain, packed)
    with path.open("rb") as packed:
        made = hashlib.file_digest(packed, "sha256").hexdigest()
    return _Blob(f"sha256:{made}", path.stat().st_size, partial(io.FileIO, path), _LAYER + _SUFFIX[compression])


def _gzip(plain: BinaryIO, packed: BinaryIO) -> None:
    with gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as stream:
        shutil.copyfileobj(plain, stream, CHUNK)


def _zstd(plain: BinaryIO, packed: BinaryIO) -> None:
    zstandard.ZstdCompressor(level=_ZSTD_LEVEL).copy_stream(plain, packed)


_COMPRESS: Mapping[str, Callable[[BinaryIO, BinaryIO], None]] = {"gzip": _gzip, "zstd": _zstd}


# -- the tar


def _write(out: BinaryIO, documents: Mapping[str, bytes], blobs: Iterable[_Blob]) -> None:
    """Members in the order of their names, of no time and nobody."""
    members = {name: (len(data), partial(io.BytesIO, data)) for name, data in documents.items()}
    opened: dict[str, tuple[int, Callable[[], Readable]]] = {**members}
    opened |= {blob.path: (blob.size, blob.open) for blob in blobs}
    directories = {os.path.dirname(path) for path in opened if "/" in path} | {"blobs"}
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted({*opened, *directories}):
            info = tarfile.TarInfo(name)
            if name in directories:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(info)
                continue
            info.size, open_ = opened[name]
            info.mode = 0o644
            with open_() as stream:
                tar.addfile(info, stream)
