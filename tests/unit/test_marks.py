"""The on-disk format: values that the kernel wrote, and round trips."""

import errno
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyunionfs.overlay import marks
from pyunionfs.overlay.marks import TRUSTED, USER, Metacopy, Origin

KERNEL_ORIGIN = bytes.fromhex("00fb1d00010000000000000000000000000000000031622100c6ff9361")
"""trusted.overlay.origin of a copy made by Linux 6.18 on ext4 (inode 0x216231)."""


def test_an_origin_of_the_kernel_is_understood_and_written_alike() -> None:
    origin = Origin.decode(KERNEL_ORIGIN)
    assert origin is not None
    assert origin.plain_ino() == 0x216231
    assert origin.uuid == bytes(16)
    assert origin.encode() == KERNEL_ORIGIN


@given(st.integers(0, 255), st.binary(max_size=64), st.binary(min_size=16, max_size=16))
def test_origin_round_trip(kind: int, handle: bytes, uuid: bytes) -> None:
    origin = Origin(kind, handle, uuid)
    assert Origin.decode(origin.encode()) == origin


@given(st.binary(max_size=64))
def test_any_origin_value_is_decoded_or_ignored(value: bytes) -> None:
    origin = Origin.decode(value)
    assert origin is None or origin.encode() == value


@pytest.mark.parametrize(
    "damaged", [b"", KERNEL_ORIGIN[:-1], b"\1" + KERNEL_ORIGIN[1:], b"\0\0" + KERNEL_ORIGIN[2:]]
)
def test_a_damaged_origin_is_ignored(damaged: bytes) -> None:
    assert Origin.decode(damaged) is None


def test_only_device_0_0_is_a_whiteout() -> None:
    assert marks.is_whiteout_device(stat.S_IFCHR, 0)
    assert not marks.is_whiteout_device(stat.S_IFCHR, 1)
    assert not marks.is_whiteout_device(stat.S_IFBLK, 0)
    assert not marks.is_whiteout_device(stat.S_IFREG, 0)


@pytest.mark.parametrize("namespace", [TRUSTED, USER])
def test_names_of_users_are_escaped_and_never_private(namespace: marks.Namespace) -> None:
    name = namespace.opaque
    assert namespace.is_private(name)
    stored = namespace.escape(name)
    assert not namespace.is_private(stored)
    assert namespace.unescape(stored) == name
    twice = namespace.escape(stored)
    assert namespace.unescape(twice) == stored
    for other in ("user.x", "security.capability", "system.posix_acl_access"):
        assert namespace.escape(other) == namespace.unescape(other) == other
        assert not namespace.is_private(other)


def test_each_mark_is_private() -> None:
    for namespace in (TRUSTED, USER):
        for name in (namespace.opaque, namespace.whiteout, namespace.origin, namespace.impure):
            assert namespace.is_private(name)
    assert not USER.is_private(TRUSTED.opaque)


def test_an_origin_tells_the_upper_layer_apart() -> None:
    origin = Origin(1, b"handle!!", bytes(16), upper=True)
    assert Origin.decode(origin.encode()) == origin
    assert origin.encode() != Origin(1, b"handle!!", bytes(16)).encode()


@given(st.integers(1, 255), st.binary(min_size=1, max_size=64))
def test_metacopy_round_trip(algorithm: int, digest: bytes) -> None:
    mark = Metacopy(algorithm, digest)
    assert Metacopy.decode(mark.encode()) == mark
    assert Metacopy().encode() == b""
    assert Metacopy.decode(b"") == Metacopy()


@given(st.binary(min_size=1, max_size=80))
def test_any_metacopy_value_is_decoded_or_refused(value: bytes) -> None:
    if len(value) >= 4 and value[0] == 0 and value[1] == len(value):
        assert len(Metacopy.decode(value).digest) == len(value) - 4
    else:
        with pytest.raises(OSError, match="malformed") as caught:
            Metacopy.decode(value)
        assert caught.value.errno == errno.EIO


@pytest.mark.parametrize("value", [b"", b"/", b"//", b"a/b", b"/a/", b"/a//b", b"\0"])
def test_a_malformed_redirect_is_refused(value: bytes) -> None:
    with pytest.raises(OSError) as caught:
        marks.check_redirect(value)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("value", [b".", b"..", b"/..", b"/a/../../b", b"/a/."])
def test_a_redirect_does_not_climb(value: bytes) -> None:
    with pytest.raises(OSError, match="leave") as caught:
        marks.check_redirect(value)
    assert caught.value.errno == errno.EACCES


@pytest.mark.parametrize("value", [b"a", b"/a", b"/a/b c/\xff"])
def test_a_redirect_is_a_name_or_an_absolute_path(value: bytes) -> None:
    assert marks.check_redirect(value) == marks.check_redirect(value + b"\0rest") == value


@given(st.integers(1, 1000), st.integers(1, 1000), st.integers(1, 1000))
def test_link_counts_are_kept_relative(names: int, upper: int, lower: int) -> None:
    by_upper = marks.encode_nlink(names, upper=upper)
    assert marks.decode_nlink(by_upper, upper=upper, lower=lower) == names
    assert marks.decode_nlink(by_upper, upper=upper + 1, lower=lower) == names + 1
    by_lower = marks.encode_nlink(names, lower=lower)
    assert marks.decode_nlink(by_lower, upper=upper, lower=lower) == names


@pytest.mark.parametrize(
    "value", [None, b"", b"U", b"U+", b"U+-1", b"X+1", b"U1", b"U+1x", b"U+99999999999999", b"U-5"]
)
def test_a_link_count_that_says_nothing_is_ignored(value: bytes | None) -> None:
    assert marks.decode_nlink(value, upper=1, lower=1) is None
