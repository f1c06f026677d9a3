"""Layers for tests of the core in process: no mount, any user."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from trees import build

sys.path.insert(0, str(Path(__file__).parent))

from unitstack import TREE_BASE, TREE_TOP, Stack

from pyunionfs import Overlay, Paths


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    for name, tree in (("top", TREE_TOP), ("base", TREE_BASE), ("upper", {})):
        (tmp_path / name).mkdir()
        build(tmp_path / name, tree)
    top, base, upper = tmp_path / "top", tmp_path / "base", tmp_path / "upper"
    overlay = Overlay([top, base], upper)
    stack = Stack(top, base, upper, overlay, Paths(overlay))
    try:
        yield stack
    finally:
        stack.overlay.close()
