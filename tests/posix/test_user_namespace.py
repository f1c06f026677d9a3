"""The suite in a user namespace, where a mount keeps its marks in user.overlay.* xattrs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["kernel", "devfuse", "pyfuse3"])
def test_the_suite_in_a_user_namespace(
    implementation: str, request: pytest.FixtureRequest, requires, tmp_path: Path
) -> None:
    if request.config.getoption("--filesystem"):
        pytest.skip("runs all tests once for itself")
    requires("user_namespaces", "kernel_overlay" if implementation == "kernel" else "pyunionfs")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", "-rfE"]
    command += [f"--basetemp={tmp_path / 'inner'}", f"--rootdir={request.config.rootpath}"]
    for variant in (f"{implementation}-user", f"{implementation}-user-lower"):
        command += ["--filesystem", variant]
    done = subprocess.run(
        ["unshare", "-Urm", *command, os.fspath(Path(__file__).parent)],
        cwd=request.config.rootpath,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
