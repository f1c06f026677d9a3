"""The README's library example runs as it stands, and the commands it names exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pyunionfs.overlay.params import OPTIONS

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_library_example_runs(requires: object, tmp_path: Path) -> None:
    requires("pyunionfs")  # type: ignore[operator]
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"TMPDIR": str(tmp_path)}, check=False
    )
    assert done.stderr == ""
    assert done.stdout == "[b'hosts']\n127.0.0.1 localhost\n10.0.0.7 db\n\nTrue\n"


@pytest.mark.parametrize("command", sorted(set(re.findall(r"^\$ pyunionfs ([\w-]+)", README, flags=re.MULTILINE))))
def test_commands_of_the_tour_exist(command: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pyunionfs", command, "--help"], capture_output=True, check=False)
    assert done.returncode == 0


def test_files_that_it_names_exist() -> None:
    root = Path(__file__).parents[2]
    for name in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (root / name).exists(), name


TESTS = sorted(set(re.findall(r"`(tests/[\w/]+\.py(?:::\w+)?)`", README)))


@pytest.mark.parametrize("name", TESTS)
def test_the_feature_table_names_tests(name: str) -> None:
    path, _, function = name.partition("::")
    source = (Path(__file__).parents[2] / path).read_text()
    assert not function or f"def {function}(" in source


def test_every_mount_option_is_explained() -> None:
    (section,) = re.findall(r"^## Mount options\n(.*?)^## ", README, flags=re.DOTALL | re.MULTILINE)
    for option in OPTIONS:
        assert f"`{option.name}" in section, option.name
