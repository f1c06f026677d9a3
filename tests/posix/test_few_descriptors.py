"""The suite on a daemon that may have no more than 64 descriptors: they are a budget, not a way to fail."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_suite_with_64_descriptors(request: pytest.FixtureRequest, requires, tmp_path: Path) -> None:
    if request.config.getoption("--filesystem"):
        pytest.skip("runs all tests once for itself")
    requires("pyunionfs")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", "-rfE"]
    command += [f"--basetemp={tmp_path / 'inner'}", f"--rootdir={request.config.rootpath}"]
    command += ["--filesystem", "devfuse-lower", os.fspath(Path(__file__).parent)]
    done = subprocess.run(
        ["sh", "-c", 'ulimit -n 64; exec "$@"', "sh", *command],
        cwd=request.config.rootpath,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
