"""Two lower layers, an upper directory, and the union of them: what most unit tests begin with."""

from dataclasses import dataclass
from pathlib import Path

from trees import Whiteout

from pyunionfs import Overlay, Paths
from pyunionfs.overlay.marks import TRUSTED, USER

TREE_TOP = {"both": "top", "dir": {"from-top": "1", "shared": "top"}, "over-dir": "a file", "gone": Whiteout()}
TREE_BASE = {
    "both": "base",
    "dir": {"from-base": "2", "shared": "base", "sub": {"deep": "3"}},
    "over-dir": {"hidden": "x"},
    "gone": "still here",
    "only": "base only",
    "empty": {},
}


@dataclass
class Stack:
    """Two lower layers, an upper directory, and the union of them."""

    top: Path
    base: Path
    upper: Path
    overlay: Overlay
    files: Paths

    @property
    def prefix(self) -> str:
        return (USER if self.overlay.uses_user_xattrs else TRUSTED).prefix

    def remount(self) -> None:
        """End this union and begin another one on the same directories."""
        self.overlay.close()
        self.overlay = Overlay([self.top, self.base], self.upper)
        self.files = Paths(self.overlay)
