"""The suite in a user namespace, where a mount keeps its marks in user.overlay.* xattrs."""

from pathlib import Path

import pytest
from inner import run_the_suite


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["kernel", "devfuse", "pyfuse3"])
def test_the_suite_in_a_user_namespace(
    implementation: str, request: pytest.FixtureRequest, requires, tmp_path: Path
) -> None:
    if request.config.getoption("--filesystem"):
        pytest.skip("runs all tests once for itself")
    requires("user_namespaces", "kernel_overlay" if implementation == "kernel" else "pyunionfs")
    run_the_suite(
        request, tmp_path, [f"{implementation}-user", f"{implementation}-user-lower"], within=["unshare", "-Urm"]
    )
