"""Two mounts over the same lower layers, and room on them for many examples.

Mounting is dear, so one pair of mounts serves many examples, each of which works in a *copy* of a tree of its own:
``<tree>-<copy>/r`` in every layer. Used-up copies mean new upper directories and new mounts.
"""

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Self

from . import stacks
from .mounting import Layers, Mounter, Options
from .stacks import Shape
from .steps import Side
from .trees import Dir, Snapshot, build, snapshot

TREES = 16
COPIES = 6
_ROTATIONS = 4  # the kernel takes a page of options, and each layer is a path


class Pair:
    """The mounts, and which copies are in use."""

    def __init__(self, root: Path, sides: Mapping[str, Mounter], options: Options, shape: Shape) -> None:
        self.names = tuple(sides)
        self.shape = shape
        self.lacking: frozenset[str] = frozenset()  # rules that one side has no operation for
        self._root = root
        self._sides = sides
        self._options = options
        self._seed = ""
        self._focus: int | None = None
        self._lowers: tuple[Path, ...] = ()
        self._copies: dict[int, int] = {}
        self._used: dict[int, int] = {}
        self._rotations = 0
        self._batch = 0
        self._layers: dict[str, Layers] = {}
        self._stack = contextlib.ExitStack()

    def build(self, seed: str) -> None:
        """New lower layers, with all copies of all trees that the seed gives."""
        self._seed = seed
        self._build(dict.fromkeys(range(TREES), COPIES))

    def _build(self, copies: dict[int, int]) -> None:
        self.close()
        self._copies = copies
        self._lowers = tuple(self._root / f"lower{number}" for number in range(stacks.LAYERS))
        for tree, count in copies.items():
            layers = self.layers_of(tree)
            for copy in range(count):
                self._build_copy(_copy_name(tree, copy), layers)

    def focus(self, tree: int) -> None:
        """From now on all examples are on this tree: a divergence is to be shrunk, with hundreds of attempts."""
        self._focus = tree

    def tree(self, wanted: int) -> int:
        """The tree for an example that asks for this one."""
        return wanted if self._focus is None else self._focus

    def build_these(self, trees: list[list[Dir]]) -> list[str]:
        """New lower layers with a copy of each of these trees: the names of the copies, "" where it cannot be."""
        self.close()
        self._lowers = tuple(self._root / f"lower{number}" for number in range(stacks.LAYERS))
        for lower in self._lowers:  # also if no tree can be built
            lower.mkdir(exist_ok=True)
        names = []
        for number, layers in enumerate(trees):
            try:
                self._build_copy(_copy_name(number, 0), layers)
            except FileNotFoundError:  # a hard link whose file is left out
                names.append("")
            else:
                names.append(_copy_name(number, 0))
        self._fresh()
        return names

    def layers_of(self, tree: int) -> list[Dir]:
        """What the copies of a tree hold, from the top layer to the bottom."""
        return stacks.layers_of(f"{self._seed}/{tree}", self.shape)

    def _build_copy(self, copy: str, layers: list[Dir]) -> None:
        for lower, directory in zip(self._lowers, layers, strict=True):
            build(lower / copy, {"r": stacks.placed(directory, f"/{copy}")})

    def take(self, tree: int) -> str:
        """The name of an unused copy of a tree."""
        if tree == self._focus and len(self._copies) > 1:
            self._build({tree: TREES * COPIES})
        if not self._layers or self._used.get(tree, 0) >= self._copies[tree] or not self._alive():
            self._fresh()
        copy = self._used.get(tree, 0)
        self._used[tree] = copy + 1
        return _copy_name(tree, copy)

    def sides(self, copy: str) -> tuple[Side, Side]:
        one, two = (Side(name, layers.merged / copy / "r") for name, layers in self._layers.items())
        return one, two

    def views(self, copy: str) -> dict[str, tuple[Snapshot, Snapshot]]:
        """What each side shows of a copy, and what it has written: the snapshots of merged and of upper."""
        os.chdir("/")
        merged = [snapshot(layers.merged / copy, ghosts=True) for layers in self._layers.values()]
        uppers = [layers.upper / copy for layers in self._layers.values()]
        written = [snapshot(path, upper=True) if path.exists() else {} for path in uppers]
        return {"merged": (merged[0], merged[1]), "upper": (written[0], written[1])}

    def remount(self) -> None:
        """Both sides; nothing may be held open."""
        self._stack.close()
        self._mount()

    def rotate(self) -> bool:
        """Each upper directory becomes the topmost lower layer of its side; False when there were enough."""
        if self._rotations == _ROTATIONS:
            return False
        self._rotations += 1
        self._stack.close()
        for name, layers in self._layers.items():
            below = self._root / f"{name}-{self._batch}" / f"u{self._rotations}"
            layers.upper.rename(below)
            shutil.rmtree(layers.work)
            layers.upper.mkdir()
            layers.work.mkdir()
            self._layers[name] = replace(layers, lower=(below, *layers.lower))
        self._mount()
        return True

    def close(self) -> None:
        """Unmount, and remove the layers."""
        os.chdir("/")
        self._stack.close()
        for name in self._layers:
            shutil.rmtree(self._root / f"{name}-{self._batch}")
        self._layers.clear()
        for lower in self._lowers:
            shutil.rmtree(lower, ignore_errors=not lower.exists())
        self._lowers = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _alive(self) -> bool:
        try:
            for layers in self._layers.values():
                os.statvfs(layers.merged)
        except OSError:
            return False
        return True

    def _fresh(self) -> None:
        os.chdir("/")
        self._stack.close()
        for name in self._layers:
            shutil.rmtree(self._root / f"{name}-{self._batch}")
        self._batch += 1
        self._rotations = 0
        self._used.clear()
        for name in self.names:
            made = Layers.create(self._root / f"{name}-{self._batch}", lowers=0)
            self._layers[name] = replace(made, lower=self._lowers)
        self._mount()

    def _mount(self) -> None:
        for name, layers in self._layers.items():
            self._stack.enter_context(self._sides[name](layers, self._options))


def _copy_name(tree: int, copy: int) -> str:
    return f"{tree:02}-{copy}"
