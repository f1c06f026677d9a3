"""The check of a work directory: leftovers, what refuses a mount, and the index."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from checkcase import Case, deep, names, origin_of
from trees import HardLink, Whiteout, build

from pyunionfs.check import check


def test_leftovers_are_removed_however_deep(case: Case) -> None:
    build(case.work, {"index": {"#2": {"x": "y"}}})
    build(case.work / "work", {"#3": "half a copy", "#4": Whiteout()})
    with deep(case.work / "work" / "#1f"):
        expected = {("leftover", f"WORK/{path}") for path in ("work/#1f", "work/#3", "index/#2")}
        assert case.found() == expected | {("kept-whiteout", "WORK/work/#4")}
        assert case.repair() == set()
    assert os.listdir(case.work / "work") == []


def test_volatile_is_for_people_to_judge(case: Case) -> None:
    build(case.work / "work", {"incompat": {"volatile": {}, "quantum": {}}, "#1": "x"})
    expected = {("volatile", "WORK/work/incompat/volatile"), ("incompatible", "WORK/work/incompat/quantum")}
    assert case.found() == expected | {("leftover", "WORK/work/#1")}
    assert case.repair() == expected


def test_without_a_work_directory_the_default_one_is_taken(case: Case) -> None:
    report = check(case.upper, case.lower, userxattr=case.userxattr)
    assert any("no work directory" in note for note in report.notes)
    build(case.upper.parent, {".upper.work": {"work": {"#1": "x"}}})
    assert names(check(case.upper, case.lower, userxattr=case.userxattr).findings) == {("leftover", "WORK/work/#1")}


@pytest.fixture
def indexed(case: Case, requires: Callable[..., None]) -> Case:
    """An upper directory with an index, as index=on leaves it; three lower names of one file, one copied up."""
    requires("handles", "trusted_xattrs")
    build(case.lower[0], {"one": "1", "two": HardLink("one"), "three": HardLink("one"), "single": "x"})
    (case.work / "index").mkdir()
    os.setxattr(case.work / "index", case.prefix + "upper", origin_of(case.upper))
    case.mark(".", origin=origin_of(case.lower[0]), impure=b"y")
    entry = index_entry(case, case.lower[0] / "one", nlink=b"U+1")
    os.link(entry, case.upper / "one")
    return case


def index_entry(case: Case, lower: Path, **marks: bytes) -> Path:
    entry = case.work / "index" / origin_of(lower).hex()
    entry.write_text("copy")
    for name, value in {"origin": origin_of(lower), **marks}.items():
        os.setxattr(entry, case.prefix + name, value)
    return entry


def test_a_sound_index(indexed: Case) -> None:
    assert indexed.found() == set()
    build(indexed.upper, {"two": Whiteout()})
    (indexed.upper / "one").unlink()  # still what the union shows for "three"
    assert indexed.repair() == set()
    os.mknod(indexed.work / "index" / origin_of(indexed.lower[0] / "single").hex(), stat.S_IFCHR)
    assert indexed.repair() == set()


def test_orphans_of_the_index(indexed: Case) -> None:
    entry = index_entry(indexed, indexed.lower[0] / "single")
    shown = f"WORK/index/{entry.name}"
    assert indexed.found() == {("orphan-index", shown)}
    assert indexed.repair() == set()
    (one,) = (indexed.work / "index").iterdir()
    (indexed.upper / "one").unlink()
    os.setxattr(one, indexed.prefix + "nlink", b"U-1")
    assert indexed.repair() == set()
    assert list((indexed.work / "index").iterdir()) == []


def test_what_may_be_the_last_copy_is_kept_where_the_lower_layers_are_others(indexed: Case) -> None:
    entry = index_entry(indexed, indexed.lower[0] / "single")
    build(indexed.upper, {"nothing": Whiteout()})
    os.removexattr(indexed.upper, indexed.prefix + "origin")
    assert indexed.repair() == {("orphan-index", f"WORK/index/{entry.name}")}
    indexed.mark(".", origin=origin_of(indexed.lower[1]))
    build(indexed.upper, {"nothing": Whiteout()})
    assert indexed.repair() == {
        ("orphan-index", f"WORK/index/{entry.name}"),
        ("stale-whiteout", "nothing"),
        ("other-lower", "."),
    }


def test_stale_entries_of_the_index(indexed: Case) -> None:
    victim = indexed.lower[1] / "victim"
    victim.touch()
    stale = index_entry(indexed, victim)
    victim.unlink()
    other = index_entry(indexed, indexed.lower[0] / "single", origin=origin_of(indexed.lower[0] / "file"))
    shown = {("stale-index", f"WORK/index/{entry.name}") for entry in (stale, other)}
    assert indexed.found() == shown
    assert indexed.repair() == {("stale-index", f"WORK/index/{other.name}")}, "nobody knows whose data it is"
    os.link(other, indexed.upper / "its data")
    assert indexed.repair() == set()


@pytest.mark.parametrize("name", ["x", "0" * 42, "00fb", "00FB1D00" + "0" * 50, "00fc1d00" + "0" * 50, "zz" * 29])
def test_index_entries_with_names_that_are_no_handles(indexed: Case, name: str) -> None:
    build(indexed.work / "index", {name: "x"})
    assert indexed.repair() == {("malformed-index", f"WORK/index/{name}")}


def test_index_entries_that_are_damaged(indexed: Case) -> None:
    (one,) = (indexed.work / "index").iterdir()
    shown = {("malformed-index", f"WORK/index/{one.name}")}
    (indexed.upper / "one").unlink()
    for value in (b"", b"U", b"U+", b"X+1", b"U*1", b"U+1x", b"U+" + b"1" * 20):
        os.setxattr(one, indexed.prefix + "nlink", value)
        assert indexed.repair() == shown, value
    os.removexattr(one, indexed.prefix + "nlink")
    assert indexed.repair() == shown
    os.removexattr(one, indexed.prefix + "origin")
    assert indexed.repair() == shown


def test_directory_entries_of_the_index(indexed: Case) -> None:
    build(indexed.upper, {"dir": {}, "gone": {}})
    gone = origin_of(indexed.upper / "gone")
    (indexed.upper / "gone").rmdir()
    index = indexed.work / "index"
    expected = set()
    for lower, upper in (
        ("dir", origin_of(indexed.upper / "dir")),
        ("dir/sub", gone),
        ("dir/top", origin_of(indexed.upper / "one")),
        ("file", None),
    ):
        entry = index / origin_of(indexed.lower[0] / lower).hex()
        entry.mkdir()
        if upper is not None:
            os.setxattr(entry, indexed.prefix + "upper", upper)
        if lower != "dir":
            expected.add(("orphan-index", f"WORK/index/{entry.name}"))
    assert indexed.repair() == expected


def test_an_index_of_another_upper_directory(indexed: Case) -> None:
    os.setxattr(indexed.work / "index", indexed.prefix + "upper", origin_of(indexed.lower[1]))
    assert indexed.repair() == {("other-upper", "WORK/index")}
    os.setxattr(indexed.work / "index", indexed.prefix + "upper", b"\0")
    assert indexed.repair() == {("other-upper", "WORK/index")}
