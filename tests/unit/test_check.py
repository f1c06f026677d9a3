"""The check of an upper directory: each class of findings made by hand, repaired or deliberately not."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from checkcase import Case, names, origin_of
from trees import Dir, Fifo, File, HardLink, Opaque, Symlink, Whiteout, build

from pyunionfs.check import PROBLEMS
from pyunionfs.overlay.marks import TRUSTED, USER

# -- whiteouts and opaque directories -----------------------------------------------------------------------


def test_a_sound_upper_directory(case: Case) -> None:
    case.put(dir={"top": Whiteout(), "base": "2+", "new": {"x": Fifo()}}, data=Whiteout(), link=Symlink("file"))
    build(case.upper, {"other": Opaque({"mine": "x"}, prefix=case.prefix)})
    assert case.found() == set()
    assert case.repair() == set()


def test_whiteouts_that_hide_nothing(case: Case) -> None:
    case.put(dir={"never": Whiteout(), "gone": Whiteout(), "top": Whiteout()}, nothing=Whiteout(), file=Whiteout())
    stale = {("stale-whiteout", path) for path in ("dir/never", "dir/gone", "nothing")}
    assert case.found() == stale
    assert case.repair() == set()
    assert sorted(os.listdir(case.upper / "dir")) == ["top"]


def test_whiteouts_with_nothing_below_their_directory(case: Case) -> None:
    opaque = Opaque({"x": Whiteout(), "in": {"y": Whiteout()}}, prefix=case.prefix)
    case.put(new={"w": Whiteout()}, other=opaque, file={"w": Whiteout()})
    pure = {("pure-whiteout", path) for path in ("new/w", "other/x", "other/in/y", "file/w")}
    assert case.found() == pure
    assert case.repair() == set()


def test_a_whiteout_follows_the_redirect_of_its_directory(case: Case) -> None:
    case.put(moved={"x": Whiteout(), "base": Whiteout(), "in": {"deep": Whiteout(), "shallow": Whiteout()}})
    case.put(other=Whiteout(), dir=Whiteout())
    case.mark("moved", redirect=b"other")
    case.mark("moved/in", redirect=b"/dir/sub")
    assert case.found() == {("stale-whiteout", "moved/base"), ("stale-whiteout", "moved/in/shallow")}
    assert case.repair() == set()


def test_a_whiteout_below_an_opaque_directory_of_a_middle_layer(case: Case) -> None:
    os.setxattr(case.lower[0] / "dir", case.prefix + "opaque", b"y")
    case.put(dir={"base": Whiteout(), "top": Whiteout()})
    assert case.found() == {("stale-whiteout", "dir/base")}


def test_xattr_whiteouts(case: Case) -> None:
    hidden = File("", xattrs={case.prefix + "whiteout": b"y"})
    case.put(dir=Dir({"top": hidden, "never": hidden}, xattrs={case.prefix + "opaque": b"x"}), other={"x": hidden})
    unmarked = ("unmarked-whiteout", "other/x")
    assert case.found() == {("stale-whiteout", "dir/never"), unmarked}
    assert case.repair() == {unmarked}


def test_an_opaque_directory_over_nothing_is_noted_and_left(case: Case) -> None:
    case.put(new=Opaque(prefix=case.prefix), file=Opaque(prefix=case.prefix), dir=Opaque(prefix=case.prefix))
    expected = {("needless-opaque", "new"), ("needless-opaque", "file")}
    assert case.found() == expected
    assert not case.check().bad
    assert case.repair() == expected


def test_whiteouts_of_archives(case: Case) -> None:
    build(case.upper, {".wh.file": "", "new": {".wh..wh..opq": ""}})
    assert case.repair() == {("tar-whiteout", ".wh.file"), ("tar-whiteout", "new/.wh..wh..opq")}


# -- redirects ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"nowhere", b"/dir/nowhere", b"/nowhere/sub", b"file", b"/dir/gone"])
def test_redirects_to_nowhere(case: Case, value: bytes) -> None:
    case.put(moved={"w": Whiteout()})
    case.mark("moved", redirect=value)
    assert case.repair() == {("dangling-redirect", "moved")}, "its whiteouts may be of use when the layer is back"


@pytest.mark.parametrize("value", [b"", b"/", b"//dir", b"/dir/", b"dir/sub", b"..", b"/dir/../dir", b".", b"a\0b"])
def test_malformed_redirects(case: Case, value: bytes) -> None:
    case.put(moved={"w": Whiteout()})
    case.mark("moved", redirect=value)
    assert case.repair() == {("malformed-redirect", "moved")}


def test_two_directories_that_show_one(case: Case) -> None:
    case.put(dir={}, one={}, two={})
    case.mark("one", redirect=b"/dir/sub")
    case.mark("two", redirect=b"dir")
    assert case.repair() == {("double-redirect", "two")}


def test_a_redirect_out_of_an_opaque_directory(case: Case) -> None:
    case.put(new=Opaque({"moved": {"deep": Whiteout()}, "lost": {}}, prefix=case.prefix))
    case.mark("new/moved", redirect=b"/dir/sub")
    case.mark("new/lost", redirect=b"sub")
    assert case.found() == {("needless-opaque", "new"), ("dangling-redirect", "new/lost")}


def test_redirects_of_lower_layers_are_followed(case: Case) -> None:
    build(case.lower[0], {"renamed": Dir({}, xattrs={case.prefix + "redirect": b"/other"})})
    case.put(renamed={"x": Whiteout(), "y": Whiteout()})
    assert case.found() == {("stale-whiteout", "renamed/y")}
    os.setxattr(case.lower[0] / "renamed", case.prefix + "redirect", b"a/b")
    assert case.found() == {("unreadable", "renamed")}, "a look-up would fail too"


# -- metacopies ---------------------------------------------------------------------------------------------


def metacopy(case: Case, path: str, size: int = 5, *, value: bytes = b"", **marks: bytes) -> None:
    (case.upper / path).parent.mkdir(exist_ok=True)
    (case.upper / path).touch()
    os.truncate(case.upper / path, size)
    case.mark(path, metacopy=value, **marks)


def test_metacopies_with_data_below(case: Case) -> None:
    metacopy(case, "data")
    metacopy(case, "renamed", redirect=b"data")
    metacopy(case, "dir/moved", redirect=b"/data")
    metacopy(case, "file", 3)
    metacopy(case, "digest", value=bytes((0, 36, 0, 1)) + bytes(32), redirect=b"data")
    assert case.found() == set()


def test_metacopies_without_data(case: Case) -> None:
    metacopy(case, "nothing")
    metacopy(case, "dir/gone")  # behind a whiteout
    metacopy(case, "other")  # over a directory
    metacopy(case, "lost", redirect=b"/dir/nowhere")
    metacopy(case, "malformed", redirect=b"a/b")
    metacopy(case, "new/data")
    expected = {("missing-data", path) for path in ("nothing", "dir/gone", "other", "lost", "new/data")}
    assert case.repair() == expected | {("malformed-redirect", "malformed")}


def test_a_metacopy_of_another_size(case: Case) -> None:
    metacopy(case, "data", 4)
    assert case.repair() == {("metacopy-size", "data")}


@pytest.mark.parametrize("value", [b"\0", b"\0\4\0", b"\1\4\0\0", b"\0\5\0\0", b"\0\4\0\0x"])
def test_malformed_metacopy_marks(case: Case, value: bytes) -> None:
    metacopy(case, "data", value=value)
    assert case.repair() == {("malformed-metacopy", "data")}


def test_data_only_layers(case: Case, tmp_path: Path) -> None:
    build(tmp_path / "blobs", {"ab": {"cdef": "123"}})
    case.data = (tmp_path / "blobs",)
    for name, target in (("there", b"/ab/cdef"), ("missing", b"/ab/none"), ("up", b"/ab")):
        mark = {case.prefix + "metacopy": b"", case.prefix + "redirect": target}
        build(case.lower[1], {name: File("abc", xattrs=mark)})
        metacopy(case, name, 3)
    metacopy(case, "direct", 3, redirect=b"/ab/cdef")  # the kernel wants a lower metacopy in between
    assert case.found() == {("missing-data", path) for path in ("missing", "up", "direct")}
    case.data = ()
    assert ("missing-data", "there") in case.found()


# -- marks --------------------------------------------------------------------------------------------------


def test_strange_marks(case: Case) -> None:
    case.put(new="x", dir={})
    case.mark("new", future=b"1", opaque=b"y", **{"overlay.opaque": b"y"})
    case.mark("dir", opaque=b"n", metacopy=b"", impure=b"y")
    assert case.repair() == {
        ("unknown-mark", "new"),
        ("meaningless-mark", "new"),
        ("meaningless-mark", "dir"),
    }


def test_marks_of_the_other_namespace(case: Case, requires: Callable[..., None]) -> None:
    requires("trusted_xattrs")
    other = USER.prefix if case.prefix == TRUSTED.prefix else TRUSTED.prefix
    build(case.upper, {"dir": Opaque({}, prefix=other)})
    assert case.repair() == {("foreign-mark", "dir"), ("other-namespace", ".")}
    case.mark("dir", impure=b"y")
    assert case.repair() == {("foreign-mark", "dir")}, "those of a union inside"
    assert not case.check().bad


def test_missing_impure(case: Case, requires: Callable[..., None]) -> None:
    requires("handles")
    case.put(data="12345+", dir={"top": "1+", "linked": "x"}, copy={})
    build(case.lower[1], {"one": "1", "two": HardLink("one")})
    case.mark("dir/top", origin=origin_of(case.lower[0] / "dir/top"))
    case.mark("dir/linked", origin=origin_of(case.lower[1] / "one"))
    case.mark("copy", origin=b"")
    report = case.check()
    if not any("handles" in note for note in report.notes):
        assert names(report.findings) == {("missing-impure", "dir")}
        times = (case.upper / "dir").stat().st_mtime_ns
        assert case.repair() == set()
        assert os.getxattr(case.upper / "dir", case.prefix + "impure") == b"y"
        assert (case.upper / "dir").stat().st_mtime_ns == times


def test_origins(case: Case, requires: Callable[..., None]) -> None:
    requires("handles", "trusted_xattrs")
    victim = case.lower[0] / "victim"
    victim.touch()
    case.put(stale="x", malformed="x", other={})
    case.mark("stale", origin=origin_of(victim))
    case.mark("malformed", origin=b"\0\xfb?")
    case.mark("other", origin=origin_of(case.lower[0] / "file"))
    victim.unlink()
    expected = {("stale-origin", "stale"), ("malformed-origin", "malformed"), ("stale-origin", "other")}
    assert case.repair() == expected
    assert not case.check().bad


def test_every_problem_has_a_plain_name() -> None:
    assert len(PROBLEMS) > 25
    for name, problem in PROBLEMS.items():
        assert name == problem.name == str(problem)
        assert name.replace("-", "").isalpha()
        assert not problem.heading.endswith(".")
