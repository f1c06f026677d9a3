"""The check of what is deep, wide or damaged at random: it ends, and never fails."""

import os
import random
import stat
from collections.abc import Callable

import pytest
from checkcase import LEVELS, Case, deep, names
from hypothesis import given
from hypothesis import strategies as st
from trees import Dir, Fifo, File, Node, Symlink, Whiteout, build

from pyunionfs.check.below import names_of_redirect
from pyunionfs.overlay.marks import Metacopy, Origin, parse_nlink


def test_deep_trees(case: Case) -> None:
    with deep(case.upper / "deep", case.lower[1] / "deep") as (upper, lower):
        for name in ("x", "y"):
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=upper)
        os.mknod("x", stat.S_IFREG, 0, dir_fd=lower)
        report = case.check(repair=True)
        assert names(report.findings) == {("stale-whiteout", "deep/" + "d/" * LEVELS + "y")}
        assert case.found() == set()


def test_wide_trees(case: Case) -> None:
    wide = case.upper / "wide"
    build(case.upper, {"wide": {"0": ""}})
    for number in range(1, 20_000):
        os.link(wide / "0", wide / str(number))
    report = case.check(repair=True)
    assert report.objects > 20_000
    assert names(report.findings) == set()


@pytest.mark.parametrize("seed", range(25))
def test_no_damage_ends_the_check(case: Case, seed: int) -> None:
    """Random objects with random marks everywhere, in the lower layers too: it finds, and never fails."""
    choices = random.Random(seed)
    for root in (*case.lower, case.upper, case.work / "work", case.work / "index"):
        build(root, random_tree(choices, case.prefix, 3))
    open_fds = len(os.listdir("/proc/self/fd"))
    before = case.check()
    case.check(repair=True)
    after = case.check(repair=True)
    assert not any(item.repaired for item in after.findings)
    assert len(after.findings) <= len(before.findings)
    assert len(os.listdir("/proc/self/fd")) == open_fds


MARKS = (
    "opaque",
    "redirect",
    "origin",
    "impure",
    "nlink",
    "upper",
    "uuid",
    "metacopy",
    "whiteout",
    "protattr",
    "x",
)
VALUES = (b"", b"y", b"x", b"/", b"a", b"/a", b"/b/a", b"..", b"a/b", b"\0\4\0\0", b"\0\xfb\x15\0\1" + bytes(16))


def random_tree(choices: random.Random, prefix: str, depth: int) -> dict[str | bytes, Node]:
    tree: dict[str | bytes, Node] = {}
    for name in ("a", "b", "c", "#1", ".wh.a", "new\nline", b"\xff", "incompat", "00fb15000100" + "0" * 30):
        if name in tree or choices.random() < 0.4:
            continue
        marks = {prefix + choices.choice(MARKS): choices.choice(VALUES) for _ in range(choices.randrange(3))}
        kinds: list[Callable[[], Node]] = [
            Whiteout,
            Fifo,
            lambda: Symlink(choices.choice(("/", "..", "a"))),
            lambda marks=marks: File(choices.choice(("", "data")), xattrs=marks),  # type: ignore[misc]
        ]
        if depth:
            kinds += [lambda marks=marks: Dir(random_tree(choices, prefix, depth - 1), xattrs=marks)] * 3  # type: ignore[misc]
        tree[name] = choices.choice(kinds)()
    return tree


@given(st.binary(max_size=64))
def test_any_value_is_decoded_or_refused_with_a_reason(value: bytes) -> None:
    def links(value: bytes) -> int:
        return parse_nlink(value, upper=1, lower=2)

    for decode in (Origin.parse, Origin.of_index_name, names_of_redirect, Metacopy.parse, links):
        said = ""
        try:
            decode(value)
        except ValueError as error:
            said = str(error) or "nothing"
        assert said != "nothing"


@given(st.integers(0, 255), st.binary(max_size=64), st.binary(min_size=16, max_size=16))
def test_handles_of_the_core_are_understood(kind: int, fid: bytes, uuid: bytes) -> None:
    value = Origin(kind, fid, uuid).encode()
    assert Origin.parse(value) == Origin.of_index_name(value.hex().encode()) == Origin(kind, fid, uuid)
