"""Where the differential tests keep their layers."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyunionfs.verify.mounting import memory


@pytest.fixture(scope="module")
def quick_root(tmp_path_factory: pytest.TempPathFactory, requires: Callable[..., None]) -> Iterator[Path]:
    """A directory on a tmpfs: these tests make and remove hundreds of thousands of files."""
    requires("kernel_overlay")
    with memory(tmp_path_factory.mktemp("quick")) as root:
        yield root
