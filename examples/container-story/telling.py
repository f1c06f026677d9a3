"""How a story is told: each command is typed, and what it prints becomes part of a page in Markdown.

What differs from run to run (ids, times, pids, the directory) is written in one way, so the page that is kept is
the page that the next run makes: a test compares them.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

APPLETS = (
    "sh",
    "cat",
    "echo",
    "hostname",
    "id",
    "ip",
    "ls",
    "mount",
    "grep",
    "ps",
    "rm",
    "sleep",
    "readlink",
    "pwd",
)
_ATTEMPTS = 30


class Story:
    """Tells, types, and shows."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._names: dict[str, str] = {}  # of ids, in the order in which they come
        self._rules: list[tuple[re.Pattern[str], str]] = [
            (re.compile(re.escape(str(home))), "/story"),
            (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z| \+0000 UTC)?"), "2026-01-01 12:00:00"),
            (re.compile(r"[A-Z][a-z][a-z] +\d+ \d\d:\d\d"), "Jan  1 12:00"),
            (re.compile(r"\b\d+(\.\d+)?( ?)([kM]B)"), r"2\2\3"),  # the shell is not everywhere of one size
            (re.compile(r"\b(Less than a|About an?|\d+) (second|minute)s?( ago)?"), r"a moment\3"),
        ]

    def chapter(self, title: str) -> None:
        print(f"\n## {title}\n")

    def tell(self, text: str) -> None:
        print("\n".join(line.strip() for line in text.strip().splitlines()) + "\n")

    def run(
        self,
        command: str,
        *,
        fails: bool = False,
        hide: str = "",
        again: Sequence[str] = (),
        between: str = "true",
    ) -> str:
        """Type a command and show what it prints; ``hide`` is a pattern whose matches are shown as a number of
        their own. One that fails with some of the words of ``again`` is typed again, after ``between``. Ends the
        story if the command fails where it should not, or the other way round."""
        for _ in range(_ATTEMPTS):
            done = self._type(command)
            if not (done.returncode and any(words in done.stdout for words in again)):
                break
            self._type(between)
        if (done.returncode != 0) != fails:
            sys.exit(f"the story has failed: {command!r} ended with {done.returncode}\n{done.stdout}")
        shown = done.stdout.rstrip("\n")
        if hide:
            shown = re.sub(hide, "4711", shown)
        print(f"```console\n$ {self._same(command)}\n{self._same(shown)}".rstrip("\n") + "\n```\n", flush=True)
        return done.stdout

    def _type(self, command: str) -> "subprocess.CompletedProcess[str]":
        words = ["bash", "-c", command]
        return subprocess.run(words, cwd=self._home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def _same(self, text: str) -> str:
        for rule, same in self._rules:
            text = rule.sub(same, text)
        return re.sub(r"\b[0-9a-f]{12}(?:[0-9a-f]{52})?\b", self._id, text)

    def _id(self, found: "re.Match[str]") -> str:
        """The same name for an id and for its first digits."""
        if not re.search(r"[a-f]", found[0]) or not re.search(r"\d", found[0]):
            return found[0]
        number = self._names.setdefault(found[0][:12], f"{len(self._names) + 1:x}" * 12)
        return (number * 6)[: len(found[0])]


def expect(condition: bool, what: str) -> None:
    """What is told must be so."""
    if not condition:
        sys.exit(f"the story has failed: {what}")


def rootfs(home: Path) -> None:
    """A root directory with a shell, and little else."""
    busybox = shutil.which("busybox")
    if busybox is None:
        sys.exit("the story needs busybox (package busybox-static)")
    root = home / "rootfs"
    for directory in ("bin", "etc", "proc", "dev", "sys", "tmp"):
        (root / directory).mkdir(parents=True)
    shutil.copy(busybox, root / "bin/busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/motd").write_text("welcome\n")
    (root / "etc/old").write_text("from the image\n")
    for path in sorted(root.rglob("*")):
        os.utime(path, (0, 0), follow_symlinks=False)
    words = ["tar", "--sort=name", "--owner=0", "--group=0", "-C", os.fspath(root)]
    subprocess.run([*words, "-cf", home / "rootfs.tar", "."], check=True)


@contextmanager
def told_in_a_place_of_its_own() -> Iterator[Path]:
    """A directory that is gone afterwards."""
    home = Path(tempfile.mkdtemp(prefix="story-"))
    try:
        rootfs(home)
        yield home
    finally:
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            if line.split()[1].startswith(f"{home}/"):
                subprocess.run(["umount", "-l", line.split()[1]], check=False)
        shutil.rmtree(home, ignore_errors=True)
