"""The mount options under which the cases are run; those that pyunionfs does not have yet are left out."""

import functools
import tempfile
from collections.abc import Sequence
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
    more: Sequence[Case] = ()

    def cases(self, *, everything: bool) -> list[Case]:
        chosen = [case for case in CASES if everything or any(word in case.name for word in self.words)]
        return [*chosen, *self.more]


OPTION_SETS = [
    OptionSet("plain", {}, ("",)),
    OptionSet(
        "userxattr",
        {"userxattr": True, "redirect_dir": "nofollow"},
        ("rmdir", "rename a new directory", "mkdir over"),
    ),
    OptionSet("redirect_dir", {"redirect_dir": "on"}, ("directory over", "exchange"), REDIRECTING),
    OptionSet("metacopy", {"metacopy": "on", "redirect_dir": "on"}, ("metadata", "lower file", "lower hard link")),
    OptionSet("index", {"index": "on"}, ("link", "lower hard", "over a whiteout", "rename a lower file")),
    OptionSet(
        "all",
        {"redirect_dir": "on", "metacopy": "on", "index": "on", "xino": "on"},
        ("link a lower file", "rename a deep"),
        REDIRECTING,
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
