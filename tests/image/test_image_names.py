"""What names in a layer mean."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyunionfs.image.errors import ImageError
from pyunionfs.image.names import Kind, place, resolve


@pytest.mark.parametrize(
    ("name", "kind", "path"),
    [
        (b"a/b", Kind.ENTRY, b"a/b"),
        (b"./a//b/", Kind.ENTRY, b"a/b"),
        (b"/abs", Kind.ENTRY, b"abs"),
        (b"../../evil", Kind.ENTRY, b"evil"),
        (b"a/../../b", Kind.ENTRY, b"b"),
        (b"./", Kind.ENTRY, b""),
        (b"/", Kind.ENTRY, b""),
        (b"a/..", Kind.ENTRY, b""),
        (b".wh.x", Kind.WHITEOUT, b"x"),
        (b"d/.wh.x", Kind.WHITEOUT, b"d/x"),
        (b"d/.wh.sub/", Kind.WHITEOUT, b"d/sub"),
        (b".wh. ", Kind.WHITEOUT, b" "),
        (b".wh....", Kind.WHITEOUT, b"..."),
        (b".wh..hidden", Kind.WHITEOUT, b".hidden"),
        (b".wh..wh..opq", Kind.OPAQUE, b""),
        (b"d/.wh..wh..opq", Kind.OPAQUE, b"d"),
        (b".wh..wh.plnk", Kind.IGNORED, b".wh..wh.plnk"),
        (b".wh..wh.plnk/123.45", Kind.IGNORED, b".wh..wh.plnk/123.45"),
        (b".wh..wh.aufs", Kind.IGNORED, b".wh..wh.aufs"),
        (b".wh", Kind.ENTRY, b".wh"),
        (b"x.wh.y", Kind.ENTRY, b"x.wh.y"),
    ],
)
def test_places(name: bytes, kind: Kind, path: bytes) -> None:
    found = place(name)
    assert (found.kind, found.path) == (kind, path)


@pytest.mark.parametrize(
    "name", [b".wh.", b".wh..", b".wh...", b"d/.wh..", b"d/.wh.", b"a\0b", b"x" * 256, b".wh.x/below", b"d/.wh.x/y"]
)
def test_refused(name: bytes) -> None:
    with pytest.raises(ImageError):
        place(name)


@given(st.lists(st.sampled_from([b"", b".", b"..", b"a", b"bb", b"\xff"])).map(b"/".join))
def test_a_name_stays_in_the_root(name: bytes) -> None:
    parts = resolve(name)
    assert not {b"", b".", b".."} & set(parts)
    assert resolve(b"/".join(parts)) == parts
