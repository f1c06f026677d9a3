"""Writing layers and archives for the tests, odd and hostile ones included.

Tars are written by hand, byte by byte, since the standard library refuses to write most of what is tested.
"""

import gzip
import hashlib
import io
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

from pyunionfs.image.limits import DEFAULT_LIMITS, Limits
from pyunionfs.image.report import UnpackReport
from pyunionfs.image.unpack import unpack
from pyunionfs.overlay.marks import TRUSTED, Namespace

END = bytes(1024)
Bytes = bytes | str


def raw(value: Bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


# -- tars


def numeric(value: int, width: int) -> bytes:
    """Octal, or base 256 where that does not fit."""
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    return bytes([0x80 if value >= 0 else 0xFF]) + value.to_bytes(width - 1, "big", signed=value < 0)


def header(
    name: Bytes,
    size: int = 0,
    *,
    type: bytes = b"0",
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 0,
    link: Bytes = b"",
    major: int = 0,
    minor: int = 0,
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
) -> bytes:
    block = struct.pack(
        "100s8s8s8s12s12s8s1s100s8s32s32s8s8s155s12x",
        raw(name),
        numeric(mode, 8),
        numeric(uid, 8),
        numeric(gid, 8),
        numeric(size, 12),
        numeric(mtime, 12),
        b" " * 8,
        type,
        raw(link),
        magic,
        b"user",
        b"group",
        numeric(major, 8),
        numeric(minor, 8),
        prefix,
    )
    return with_checksum(block)


def with_checksum(block: bytes) -> bytes:
    block = block[:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def record(key: Bytes, value: Bytes) -> bytes:
    """One PAX record, with its own length in it."""
    body = b" " + raw(key) + b"=" + raw(value) + b"\n"
    length = len(body)
    while length != len(body) + len(str(length)):
        length = len(body) + len(str(length))
    return str(length).encode() + body


def pax(records: Mapping[str, Bytes] | bytes, *, type: bytes = b"x") -> bytes:
    data = records if isinstance(records, bytes) else b"".join(record(k, v) for k, v in records.items())
    return header("PaxHeaders/x", len(data), type=type) + padded(data)


def entry(name: Bytes, data: Bytes = b"", *, records: Mapping[str, Bytes] | None = None, **fields: Any) -> bytes:
    """A whole entry; long names go into a PAX header by themselves."""
    records = dict(records or {})
    if len(raw(name)) > 100:
        records.setdefault("path", name)
    if len(raw(fields.get("link", b""))) > 100:
        records.setdefault("linkpath", fields["link"])
        fields["link"] = b""
    content = raw(data)
    start = pax(records) if records else b""
    return start + header(raw(name)[:100], len(content), **fields) + padded(content)


def directory(name: Bytes, mode: int = 0o755, **fields: Any) -> bytes:
    return entry(name, type=b"5", mode=mode, **fields)


def symlink(name: Bytes, target: Bytes, **fields: Any) -> bytes:
    return entry(name, type=b"2", link=target, mode=0o777, **fields)


def hardlink(name: Bytes, target: Bytes, **fields: Any) -> bytes:
    return entry(name, type=b"1", link=target, **fields)


def whiteout(name: str) -> bytes:
    above, _, base = name.rpartition("/")
    return entry(f"{above}/.wh.{base}" if above else f".wh.{base}", mode=0)


def opaque(name: str) -> bytes:
    return entry(f"{name}/.wh..wh..opq", mode=0)


def layer(*entries: bytes, end: bytes = END) -> bytes:
    return b"".join(entries) + end


# -- unpacking one layer


def unpack_layer(
    tmp_path: Path,
    *entries: bytes,
    end: bytes = END,
    marks: Namespace = TRUSTED,
    limits: Limits = DEFAULT_LIMITS,
    below: Sequence[Path] = (),
    name: str = "diff",
) -> tuple[Path, UnpackReport]:
    target, trash = tmp_path / name, tmp_path / f"{name}.trash"
    target.mkdir(mode=0o700)
    trash.mkdir(mode=0o700)
    stream = io.BufferedReader(io.BytesIO(layer(*entries, end=end)))  # type: ignore[type-var]
    report = unpack(
        stream,
        target,
        marks=marks,
        trash=trash,
        where="layer.tar",
        limits=limits,
        below=[str(path) for path in below],
    )
    return target, report


# -- archives


def hexdigest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def gz(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


@dataclass
class Picture:
    """An image to be written: its layers' plain tars, base first."""

    layers: list[bytes]
    tags: list[str] | None = field(default_factory=lambda: ["app:1"])
    history: list[dict[str, Any]] | None = None
    architecture: str = "amd64"
    extra: dict[str, Any] = field(default_factory=dict)
    pack: Callable[[bytes], bytes] = bytes  # what the layout does to a layer

    @property
    def config(self) -> bytes:
        table: dict[str, Any] = {
            "architecture": self.architecture,
            "os": "linux",
            "config": {"Env": ["A=b"], "Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hexdigest(item)}" for item in self.layers]},
        }
        if self.history is not None:
            table["history"] = self.history
        return dumps(table | self.extra)

    @property
    def id(self) -> str:
        return f"sha256:{hexdigest(self.config)}"

    @property
    def blobs(self) -> list[bytes]:
        return [self.pack(item) for item in self.layers]


Members = dict[str, bytes]


def outer(members: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> bytes:
    """A tar with these members, symlinks first."""
    parts = [symlink(name, target) for name, target in (links or {}).items()]
    return layer(*parts, *(entry(name, data) for name, data in members.items()))


def docker_legacy(*images: Picture) -> Members:
    """docker save until 24: a directory a layer."""
    members: Members = {}
    table = []
    for image in images:
        paths = []
        for number, blob in enumerate(image.blobs):
            identity = hexdigest(f"{image.id}{number}".encode())
            members |= {f"{identity}/VERSION": b"1.0", f"{identity}/json": b"{}", f"{identity}/layer.tar": blob}
            paths.append(f"{identity}/layer.tar")
        name = f"{hexdigest(image.config)}.json"
        members[name] = image.config
        table.append({"Config": name, "RepoTags": image.tags, "Layers": paths})
    return members | {"manifest.json": dumps(table)}


def podman_style(*images: Picture) -> Members:
    """podman and skopeo: layers at the top, named by their digest."""
    members: Members = {}
    table = []
    for image in images:
        paths = [f"{hexdigest(item)}.tar" for item in image.layers]
        members |= dict(zip(paths, image.blobs, strict=True))
        name = f"{hexdigest(image.config)}.json"
        members[name] = image.config
        table.append({"Config": name, "RepoTags": image.tags, "Layers": paths})
    return members | {"manifest.json": dumps(table)}


def blob_path(data: bytes) -> str:
    return f"blobs/sha256/{hexdigest(data)}"


def describe(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{hexdigest(data)}", "size": len(data)} | more


MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"


def oci_manifest(image: Picture, layer_type: str = "application/vnd.oci.image.layer.v1.tar+gzip") -> bytes:
    return dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": describe(image.config, CONFIG_TYPE),
            "layers": [describe(blob, layer_type) for blob in image.blobs],
        }
    )


def oci_blobs(image: Picture) -> Members:
    return {blob_path(data): data for data in (*image.blobs, image.config, oci_manifest(image))}


def oci_layout(*images: Picture, annotations: Sequence[dict[str, str]] = ()) -> Members:
    members: Members = {"oci-layout": dumps({"imageLayoutVersion": "1.0.0"})}
    listed = []
    for number, image in enumerate(images):
        members |= oci_blobs(image)
        names = (
            annotations[number] if annotations else {"org.opencontainers.image.ref.name": (image.tags or [""])[0]}
        )
        listed.append(describe(oci_manifest(image), MANIFEST_TYPE, annotations=names))
    return members | {"index.json": dumps({"schemaVersion": 2, "manifests": listed})}


def docker_25(*images: Picture) -> Members:
    """An OCI layout with manifest.json, as docker 25 and later write it, whose own manifests lack their layers."""
    members: Members = {}
    table, listed = [], []
    for image in images:
        members |= {blob_path(data): data for data in (*image.blobs, image.config)}
        paths = [blob_path(data) for data in image.blobs]
        table.append({"Config": blob_path(image.config), "RepoTags": image.tags, "Layers": paths})
        broken = dumps({"schemaVersion": 2, "config": describe(image.config, CONFIG_TYPE), "layers": []})
        members[blob_path(broken)] = broken
        listed.append(describe(broken, MANIFEST_TYPE))
    return members | {
        "manifest.json": dumps(table),
        "index.json": dumps({"schemaVersion": 2, "manifests": listed}),
        "oci-layout": dumps({"imageLayoutVersion": "1.0.0"}),
        "repositories": b"{}",
    }


def dir_layout(image: Picture) -> Members:
    """skopeo's dir: the media types claim gzip whatever the blobs are."""
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": describe(image.config, "application/vnd.docker.container.image.v1+json"),
        "layers": [describe(b, "application/vnd.docker.image.rootfs.diff.tar.gzip") for b in image.blobs],
    }
    members = {hexdigest(data): data for data in (*image.blobs, image.config)}
    return members | {"manifest.json": dumps(manifest), "version": b"Directory Transport Version: 1.1\n"}


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def write_directory(path: Path, members: Mapping[str, bytes]) -> Path:
    for name, data in members.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path
