"""The on-disk format: values that the kernel wrote, and round trips."""

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyunionfs.overlay import marks
from pyunionfs.overlay.marks import TRUSTED, USER, Origin

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
