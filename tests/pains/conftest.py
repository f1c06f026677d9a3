"""What the complaints need beyond the fixtures of all tests: options to come, filesystems."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import mounts
import pytest
import syscalls
from mounts import Layers, Options
from ordinary import ordinary_user  # noqa: F401 - a fixture

from pyunionfs import Overlay


@pytest.fixture
def with_options(layers: Layers) -> Callable[..., Options]:
    """``with_options(redirect_dir="on")``: options for a mount; skips while the program refuses them."""

    def check(**options: str) -> Options:
        try:
            Overlay(layers.lower, options=options).close()
        except OSError as error:
            pytest.skip(f"{', '.join(options)}: {error.strerror}")
        return {**mounts.PLAIN, **options}

    return check


@pytest.fixture
def filesystem() -> Iterator[Callable[..., Path]]:
    """``filesystem(path, "ramfs")`` mounts a fresh one on an existing directory, for the length of the test."""
    with ExitStack() as stack:

        def mount(path: Path, kind: str, options: str = "") -> Path:
            syscalls.mount("none", path, kind, options)
            stack.callback(mounts.unmount, path)
            return path

        yield mount
