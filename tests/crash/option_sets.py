"""The mount options under which the cases are run; those that pyunionfs does not have yet are left out."""

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cases import CASES, REDIRECTING, Case
from mounts import Layers
from unions import Options, union_of


@dataclass(frozen=True, eq=False)
class OptionSet:
    """Mount options, and which cases they bear upon: those with one of the words in their name.

    The others are the same calls once more, so only the long profile makes them.
    """

    name: str
    options: Options
    words: tuple[str, ...]

    def cases(self, *, everything: bool) -> list[Case]:
        possible = CASES + (REDIRECTING if self.options.get("redirect_dir") == "on" else [])
        return [case for case in possible if everything or any(word in case.name for word in self.words)]


OPTION_SETS = [
    OptionSet("plain", {}, ("",)),
    OptionSet("userxattr", {"userxattr": True, "redirect_dir": "nofollow"}, ("rmdir", "over the whiteout of one")),
    OptionSet(
        "redirect_dir",
        {"redirect_dir": "on"},
        (
            "rename a lower directory",
            "rename a merged",
            "rename a renamed",
            "exchange lower directories",
            "over a merged one",
        ),
    ),
    OptionSet(
        "metacopy",
        {"metacopy": "on", "redirect_dir": "on"},
        ("metadata", "chmod a lower file", "append to a lower", "link a lower file", "rename a lower file over"),
    ),
    OptionSet("index", {"index": "on"}, ("hard link", "link a lower file", "chmod a lower")),
    OptionSet(
        "all",
        {"redirect_dir": "on", "metacopy": "on", "index": "on", "xino": "on"},
        ("hard link", "metadata", "rename a merged", "rename a renamed"),
    ),
]


@functools.cache
def refusal(options: OptionSet) -> str | None:
    """Why a union with these options cannot be had yet, None if it can."""
    with tempfile.TemporaryDirectory(prefix="pyunionfs-probe-") as root:
        layers = Layers.create(Path(root))
        try:
            union_of(layers, options.options).close()
        except OSError as error:
            if "not supported yet" not in str(error):
                raise
            return str(error)
    return None
