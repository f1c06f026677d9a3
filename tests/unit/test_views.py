"""explain and diff, on unions that are not mounted."""

import os
from pathlib import Path

import pytest
from unitstack import Stack

from pyunionfs.views.diff import diff
from pyunionfs.views.explain import Explanation, explain
from pyunionfs.views.union import Union


@pytest.fixture
def union(stack: Stack) -> Union:
    return Union([str(stack.top), str(stack.base)], str(stack.upper), stack.overlay.uses_user_xattrs)


def rules(answer: Explanation) -> list[int]:
    return [row.rule for row in answer.rows]


def test_explain_a_file_that_several_layers_have(union: Union) -> None:
    answer = explain(union, b"both")
    assert rules(answer) == [6, 2, 0]
    assert answer.provider == "lower 0"
    assert answer.on_write == "copies up 3 bytes, then writes to the copy"
    assert answer.on_delete == "creates a whiteout"


def test_explain_what_a_whiteout_hides(union: Union) -> None:
    answer = explain(union, b"gone")
    assert not answer.exists
    assert rules(answer) == [6, 1, 0]
    assert [row.found for row in answer.rows] == ["-", "whiteout", "file, 10 bytes, mode 0644"]
    assert answer.on_write == "creates it in the upper directory"


def test_explain_after_changes(union: Union, stack: Stack) -> None:
    stack.files.write_bytes("dir/sub/deep", b"longer")
    answer = explain(union, b"/dir/sub/deep")
    assert rules(answer) == [2, 0, 0]
    assert answer.provider == "upper"
    assert answer.on_write.startswith("writes in place")
    assert answer.on_delete == "replaces it by a whiteout"
    stack.files.write_bytes("mine", b"")
    assert explain(union, b"mine").on_delete.startswith("removes it")


def test_explain_counts_the_parents_of_a_copy_up(union: Union) -> None:
    assert (
        explain(union, b"dir/sub/deep").on_write
        == "copies up 1 bytes and 2 parent directories, then writes to the copy"
    )


def test_explain_a_path_whose_parent_is_gone(union: Union) -> None:
    answer = explain(union, b"gone/below")
    assert answer.path == "/gone"
    assert not answer.exists


def test_explain_the_root_and_a_read_only_union(stack: Stack) -> None:
    answer = explain(Union([str(stack.top), str(stack.base)], None, stack.overlay.uses_user_xattrs), b"")
    assert answer.path == "/"
    assert answer.on_write.startswith("EROFS")


def test_diff_in_docker_s_words(union: Union, stack: Stack) -> None:
    stack.files.write_bytes("new", b"")
    stack.files.write_bytes("only", b"changed")
    stack.files.unlink("both")
    stack.files.write_bytes("dir/sub/deep", b"changed")
    stack.files.chmod("empty", 0o700)
    assert [(change.kind, change.path) for change in diff(union)] == [
        ("D", "/both"),
        ("C", "/dir/sub/deep"),
        ("C", "/empty"),
        ("A", "/new"),
        ("C", "/only"),
    ]


def test_diff_of_a_directory_that_was_made_again(union: Union, stack: Stack) -> None:
    for name in ("dir/sub/deep", "dir/from-base", "dir/from-top", "dir/shared"):
        stack.files.unlink(name)
    stack.files.rmdir("dir/sub")
    stack.files.rmdir("dir")
    stack.files.mkdir("dir")
    stack.files.write_bytes("dir/shared", b"mine")
    found = {(change.kind, change.path) for change in diff(union)}
    assert found == {
        ("C", "/dir"),
        ("D", "/dir/from-base"),
        ("D", "/dir/from-top"),
        ("D", "/dir/sub"),
        ("C", "/dir/shared"),
    }


def test_diff_without_lower_layers_uses_the_marks(stack: Stack) -> None:
    stack.files.write_bytes("new", b"")
    stack.files.chmod("only", 0o600)
    stack.files.unlink("both")
    alone = Union([], str(stack.upper), stack.overlay.uses_user_xattrs)
    assert [(change.kind, change.path) for change in diff(alone)] == [("D", "/both"), ("A", "/new"), ("C", "/only")]


def test_views_leave_no_descriptor_and_no_trace(union: Union, stack: Stack, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd")), sorted(os.listdir(tmp_path)), sorted(os.listdir(stack.upper))
    explain(union, b"dir/shared")
    diff(union)
    assert (
        len(os.listdir("/proc/self/fd")),
        sorted(os.listdir(tmp_path)),
        sorted(os.listdir(stack.upper)),
    ) == before
