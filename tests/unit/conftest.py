"""Layers for tests of the core in process: no mount, any user."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import mounts
import pytest
from trees import build

sys.path.insert(0, str(Path(__file__).parent))

from checkcase import BASE, TOP, Case
from unitstack import TREE_BASE, TREE_TOP, Stack

from pyunionfs import Overlay, Paths
from pyunionfs.overlay.marks import TRUSTED, USER


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


@pytest.fixture(params=["trusted", "user"])
def case(request: pytest.FixtureRequest, requires: Callable[..., None], tmp_path: Path) -> Case:
    requires(f"{request.param}_xattrs")
    layers = mounts.Layers.create(tmp_path, lowers=2)
    for path, tree in zip(layers.lower, (TOP, BASE), strict=True):
        build(path, tree)
    (layers.work / "work").mkdir()
    return Case(layers.lower, layers.upper, layers.work, (TRUSTED if request.param == "trusted" else USER).prefix)
