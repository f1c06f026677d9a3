"""``pyunionfs check`` as people and programs meet it: exit codes, JSON, lines that are safe to print."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from trees import Whiteout, build


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pyunionfs", "check", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def union(tmp_path: Path, requires: Callable[..., None]) -> list[str | Path]:
    """The arguments for a union with twelve whiteouts that hide nothing."""
    requires("user_xattrs")
    build(tmp_path, {"lower": {"file": "x"}, "upper": {f"gone{i}": Whiteout() for i in range(12)}, "work": {}})
    return ["--userxattr", "--lower", tmp_path / "lower", "--work", tmp_path / "work", tmp_path / "upper"]


def test_help_documents_the_exit_codes() -> None:
    done = run("--help")
    assert done.returncode == 0
    for words in ("Exit codes", "--repair", "2  wrong usage"):
        assert words in done.stdout


def test_findings_are_lines_in_groups(union: list[str | Path]) -> None:
    done = run(*union)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0] == "warning: whiteouts that hide nothing [stale-whiteout]"
    assert lines[1] == "  gone0   no lower layer shows anything of this name  repairable"
    assert lines[11] == "  ... and 2 more; --all lists them"
    assert lines[-1].endswith("upper: 12 warnings in 12 objects; --repair takes care of 12")
    assert "gone9" in run("--all", *union).stdout


def test_a_repair_says_what_it_did(union: list[str | Path]) -> None:
    done = run("--repair", *union)
    assert done.returncode == 0
    assert "gone0   no lower layer shows anything of this name  repaired" in done.stdout
    assert done.stdout.endswith("upper: 12 repaired, nothing wrong any more in 12 objects\n")
    assert run(*union).stdout.endswith("upper: nothing wrong in 0 objects\n")


def test_json_has_stable_keys(union: list[str | Path]) -> None:
    done = run("--json", *union)
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert set(told) == {"findings", "notes", "summary"}
    assert told["summary"] == {"info": 0, "warning": 12, "error": 0, "repaired": 0, "objects": 12}
    assert told["findings"][0] == {
        "name": "stale-whiteout",
        "severity": "warning",
        "in": "upper",
        "path": "gone0",
        "message": "no lower layer shows anything of this name",
        "repair": "remove",
        "repaired": False,
    }
    repaired = json.loads(run("--json", "--repair", *union).stdout)
    assert all(item["repaired"] for item in repaired["findings"])


def test_names_do_nothing_to_a_terminal(union: list[str | Path]) -> None:
    upper = os.fsencode(union[-1])
    for name in (b"a\x1b[31m\n", b"b\xff", "ü".encode()):
        os.mknod(os.path.join(upper, name), stat.S_IFCHR)
    shown = run("--all", *union).stdout
    assert "\x1b" not in shown
    assert r"a\x1b[31m\n" in shown
    assert r"b\xff" in shown
    assert "ü" in shown
    assert json.loads(run("--json", *union).stdout)["summary"]["warning"] == 15


def test_data_only_layers_and_colons(union: list[str | Path], tmp_path: Path) -> None:
    build(tmp_path, {"a:b": {"gone0": "x"}, "data": {}, "more": {}})
    lower = f"{tmp_path}/a\\:b:{tmp_path}/lower::{tmp_path}/data::{tmp_path}/more"
    done = run("-o", "userxattr", "--lower", lower, "--work", tmp_path / "work", tmp_path / "upper")
    assert done.stdout.endswith("upper: 11 warnings in 12 objects; --repair takes care of 11\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{tmp}"], "Missing option '--lower'"),
        (["--lower", "{tmp}/none", "{tmp}"], "lower layer {tmp}/none: No such file"),
        (["--lower", "{tmp}/l", "{tmp}/none"], "upper directory {tmp}/none: No such file"),
        (["--lower", "{tmp}/l", "{tmp}/l/f"], "upper directory {tmp}/l/f: Not a directory"),
        (["--lower", "{tmp}/l", "--work", "{tmp}/none", "{tmp}/u"], "work directory {tmp}/none: No such file"),
        (["--lower", "{tmp}/l", "{tmp}/l"], "as a lower layer and as the upper"),
        (["--lower", "{tmp}/l:", "{tmp}/u"], "empty layer"),
        (["-o", "index=on", "--lower", "{tmp}/l", "{tmp}/u"], "Invalid value for '-o'"),
    ],
)
def test_what_cannot_be_checked_is_exit_code_2(tmp_path: Path, arguments: list[str], words: str) -> None:
    build(tmp_path, {"l": {"f": "x"}, "u": {}})
    done = run(*[argument.format(tmp=tmp_path) for argument in arguments])
    assert done.returncode == 2
    assert words.format(tmp=tmp_path) in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
