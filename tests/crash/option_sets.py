"""The mount options under which the cases are run, and whose daemon it is that has them."""

from dataclasses import dataclass

from cases import CASES, CLOSED, CLOSED_REDIRECTING, REDIRECTING, Case
from syscalls import USER
from unions import Options


@dataclass(frozen=True, eq=False)
class OptionSet:
    """Mount options, and which cases they bear upon: those with one of the words in their name.

    The others are the same calls once more, so only the long profile makes them.
    """

    name: str
    options: Options
    words: tuple[str, ...]
    user: int = 0  # whose daemon it is; 0: of who runs the tests

    @property
    def known_to_kernel(self) -> bool:
        """Whether the kernel mounts with these options: some it keeps for root."""
        return not ({"userxattr", "redirect_dir"} <= self.options.keys() and self.options["redirect_dir"] == "on")

    def cases(self, *, everything: bool) -> list[Case]:
        redirecting = self.options.get("redirect_dir") == "on"
        possible = CASES + (REDIRECTING if redirecting else [])
        if self.user:
            closed = CLOSED + (CLOSED_REDIRECTING if redirecting else [])
            possible = closed + [case for case in possible if "other_users" not in case.requires]
        return [case for case in possible if everything or self.concerns(case)]

    def concerns(self, case: Case) -> bool:
        return any(word in case.name for word in self.words)


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
    OptionSet(
        "person",
        {"userxattr": True, "redirect_dir": "nofollow"},
        ("closed", "rmdir"),
        USER,
    ),
    OptionSet(
        "person-all",
        {"userxattr": True, "redirect_dir": "on", "metacopy": "on", "index": "on"},
        ("closed", "rename a lower directory"),
        USER,
    ),
]
