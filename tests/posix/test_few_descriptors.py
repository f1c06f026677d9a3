"""The suite on a daemon that may have no more than 64 descriptors: they are a budget, not a way to fail."""

from pathlib import Path

import pytest
from inner import run_the_suite


@pytest.mark.slow
def test_the_suite_with_64_descriptors(request: pytest.FixtureRequest, requires, tmp_path: Path) -> None:
    if request.config.getoption("--filesystem"):
        pytest.skip("runs all tests once for itself")
    requires("pyunionfs")
    run_the_suite(request, tmp_path, ["devfuse-lower"], within=["sh", "-c", 'ulimit -n 64; exec "$@"', "sh"])
