"""The suite run once more by a pytest of its own, in a process that is limited or privileged otherwise."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest


def run_the_suite(
    request: pytest.FixtureRequest, tmp_path: Path, variants: Sequence[str], *, within: Sequence[str]
) -> None:
    """Run all but the slow tests on each of ``variants``, by the command ``within``, and expect them to pass."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", "-rfE"]
    command += [f"--basetemp={tmp_path / 'inner'}", f"--rootdir={request.config.rootpath}"]
    for variant in variants:
        command += ["--filesystem", variant]
    done = subprocess.run(
        [*within, *command, os.fspath(Path(__file__).parent)],
        cwd=request.config.rootpath,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
