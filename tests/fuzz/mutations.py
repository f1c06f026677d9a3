"""Changing valid input: bytes, pieces, numbers, tar headers whose checksum is made right again, JSON values."""

import json
from typing import Any

import archives
from hypothesis import strategies as st

INTERESTING = (0, 1, 2, 7, 8, 0x2E, 0x2F, 0x30, 0x37, 0x7F, 0x80, 0xFE, 0xFF)
PIECES = (
    *(
        b"../",
        b"/",
        b"\0",
        b"\n",
        b"..",
        b".wh.",
        b".wh..wh..opq",
        b"\xff\xff",
        b"-1",
        b"9" * 20,
        b"\x80" + b"\xff" * 11,
    ),
    *(b"../outside", b"up/", b"\x1b[2J", b",", b":", b"=", b"\\", b"sha256:", b"{", b"[", b'"', b"true"),
)


@st.composite
def mutated(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """A seed with some changes, or, now and then, any bytes."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=2000))
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 5))):
        _change(draw, data)
    return rechecksummed(bytes(data)) if draw(st.booleans()) else bytes(data)


def _change(draw: st.DrawFn, data: bytearray) -> None:
    at = draw(st.integers(0, max(len(data) - 1, 0)))
    if draw(st.booleans()):
        at -= at % 512  # in the header of some entry
        at += draw(st.sampled_from((0, 1, 100, 108, 124, 135, 136, 148, 156, 157, 257, 263, 329, 345, 483)))
    match draw(st.integers(0, 5)):
        case 0:
            data[at : at + 1] = bytes([draw(st.sampled_from(INTERESTING))])
        case 1:
            piece = draw(st.sampled_from(PIECES))
            data[at : at + len(piece)] = piece
        case 2:
            data[at:at] = draw(st.sampled_from(PIECES))
        case 3:
            del data[at : at + draw(st.sampled_from((1, 12, 512, 1024)))]
        case 4:
            data[at:at] = data[at : at + draw(st.sampled_from((1, 512, 1024, 2048)))]
        case 5:
            data[at : at + 1] = bytes([draw(st.integers(0, 255))])


def rechecksummed(data: bytes) -> bytes:
    """Every block that looks like a tar header gets the checksum that it should have."""
    blocks = [data[at : at + 512] for at in range(0, len(data), 512)]
    return b"".join(archives.with_checksum(b) if len(b) == 512 and b[257:262] == b"ustar" else b for b in blocks)


ODD_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.text(max_size=20),
    st.sampled_from(["../outside", "/etc/passwd", "sha256:" + "0" * 64, "\x1b[2J", "blobs/sha256/..", "a" * 5000]),
    st.lists(st.text(max_size=5), max_size=3), st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)  # fmt: skip


@st.composite
def mutated_json(draw: st.DrawFn, document: bytes) -> bytes:
    """A document in which some values are others, gone, or there twice."""
    value: Any = json.loads(document)
    for _ in range(draw(st.integers(0, 3))):
        value = _replace(draw, value)
    return json.dumps(value).encode()


def _replace(draw: st.DrawFn, value: Any) -> Any:
    if isinstance(value, dict) and value and draw(st.integers(0, 3)):
        key = draw(st.sampled_from(sorted(value)))
        return {**value, key: _replace(draw, value[key])} if draw(st.integers(0, 5)) else without(value, key)
    if isinstance(value, list) and value and draw(st.integers(0, 3)):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], _replace(draw, value[at]), *value[at:][draw(st.integers(0, 1)) :]]
    return draw(ODD_VALUES)


def without(table: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in table.items() if name != key}


@st.composite
def archive_of(draw: st.DrawFn, layer: bytes) -> bytes:
    """A whole archive whose digests are right, of a layer and of documents that are mutated."""
    layers = [draw(mutated((layer,))) for _ in range(draw(st.integers(1, 2)))]
    pack = draw(st.sampled_from((bytes, archives.gz, archives.zstd)))
    extra = draw(
        st.dictionaries(st.sampled_from(("history", "config", "rootfs", "os", "created")), ODD_VALUES, max_size=1)
    )
    picture = archives.Picture(layers, extra=extra, pack=pack)
    layouts = (archives.docker_legacy, archives.podman_style, archives.oci_layout, archives.docker_25)
    members = draw(st.sampled_from(layouts))(picture)
    for name in ("manifest.json", "index.json"):
        if name in members and draw(st.booleans()):
            members[name] = draw(mutated_json(members[name]))
    return archives.outer(members)
