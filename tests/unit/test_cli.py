"""The command line as people meet it: help that teaches, one clear line for each error, exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pyunionfs", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("command", [[], ["mount"], ["umount"], ["mounts"], ["explain"], ["diff"], ["image"]])
def test_every_command_has_a_help_text_that_teaches(command: list[str]) -> None:
    done = run(*command, "--help")
    assert done.returncode == 0
    assert len(done.stdout.split()) > 30
    assert done.stderr == ""


def test_version() -> None:
    assert "0.1.0" in run("--version").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["mount", "/tmp"], 2, "--lower or by --image"),
        (["mount", "--lower", "/a", "--image", "/b", "/tmp"], 2, "--lower or by --image"),
        (["mount", "--lower", "/a", "--work", "/w", "/tmp"], 2, "give --upper too"),
        (["mount", "--lower", "/does/not/exist", "{tmp}"], 1, "lower layer /does/not/exist: No such file"),
        (["mount", "--lower", "{tmp}", "{tmp}/none"], 1, "is not a directory"),
        (["mount", "--lower", "{tmp}:::{tmp}", "{tmp}"], 1, "empty layer"),
        (["mount", "--lower", "{tmp}", "-o", "what=ever", "{tmp}"], 1, "unknown mount option 'what'"),
        (["mount", "--lower", "/usr", "--upper", "{tmp}", "{tmp}"], 1, "is inside the upper directory"),
        (["mount", "--lower", "/usr", "--foreground", "--upper", "{tmp}/none", "{tmp}"], 1, "does not exist"),
        (["umount", "{tmp}"], 1, "is not mounted by pyunionfs"),
        (["explain", "{tmp}/x"], 1, "is on no mount of pyunionfs"),
        (["diff", "{tmp}/none"], 1, "is not a directory"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_errors_are_one_clear_line(tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    done = run(*[argument.format(tmp=tmp_path) for argument in arguments])
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    if code == 1:
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("pyunionfs: ")


def test_views_on_a_union_that_is_not_mounted(tmp_path: Path) -> None:
    for name in ("a", "b", "u"):
        (tmp_path / name).mkdir()
    (tmp_path / "b/file").write_text("hello")
    layers = ["--lower", f"{tmp_path}/a:{tmp_path}/b"]
    told = run("explain", *layers, "--upper", tmp_path / "u", "/file")
    assert told.returncode == 0
    assert "provided by: lower 1" in told.stdout
    as_json = json.loads(run("explain", *layers, "--json", "file").stdout)
    assert as_json[0]["provider"] == "lower 1"
    (tmp_path / "u/new").touch()
    assert run("diff", *layers, tmp_path / "u").stdout == "A /new\n"
    assert json.loads(run("diff", "--json", *layers, tmp_path / "u").stdout) == [{"path": "/new", "kind": "A"}]


def test_shell_completion_is_there() -> None:
    import os

    environment = os.environ | {"_PYUNIONFS_COMPLETE": "bash_source"}
    program = "from pyunionfs.cli import main; main(prog_name='pyunionfs')"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False
    )
    assert "_pyunionfs_completion" in done.stdout


def test_info_tells_what_there_is(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pyunionfs", "info", "--json", "--root", tmp_path / "store"],
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout)
    assert (told["Images"], told["Containers"], told["Root"]) == (0, 0, str(tmp_path / "store"))
    assert told["BackingFilesystem"] != "unknown"
    assert not (tmp_path / "store").exists()
