"""A union beside a plain directory of the same content, and running programs in both.

The union has two lower layers that hold parts of the same directories, so that a program reads
through a merge, copies up what it changes, and leaves whiteouts behind.
"""

import os
import shutil
import sqlite3
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from trees import OLD_NS, File, HardLink, Snapshot, Symlink, Whiteout, build, diff, snapshot

BOTTOM = {
    "src": {
        "main.c": '#include <stdio.h>\n#include "util.h"\nint main(void) { printf("%d\\n", answer()); }\n',
        "util.c": "int answer(void) { return 1; }\n",
        "util.h": "int answer(void);\n",
        "Makefile": (
            "CFLAGS = -O1\n"
            "program: main.o util.o\n\t$(CC) -o $@ main.o util.o\n"
            "main.o: main.c util.h\nutil.o: util.c util.h\n"
        ),
    },
    "data": {
        "words": "".join(f"word{number * 7919 % 1000:03}\n" for number in range(1000)),
        "linked": HardLink("data/words"),
        "symlink": Symlink("words"),
        "run": File("#!/bin/sh\necho ran\n", mode=0o755),
        "removed": "a layer above hides this\n",
        "deep": {"er": {"still": "still\n" * 5000}},
    },
    "log": {"app.log": "first line\n"},
    "env": {"lib": {"stale.py": "raise SystemExit('left over')\n"}},
}
TOP = {
    "src": {"util.c": "int answer(void) { return 42; }\n"},
    "data": {"more": "word000\nword999\nanother\n", "removed": Whiteout(), "deep": {"beside": "beside\n"}},
    "log": {"new.log": ""},
}


def build_layers(root: Path) -> tuple[Path, Path]:
    """Two lowers, the top one first, below ``root``; the bottom one has a database as well."""
    top, bottom = root / "top", root / "bottom"
    build(top, TOP)
    build(bottom, BOTTOM)
    connection = sqlite3.connect(bottom / "data/db")
    connection.execute("create table numbers (n integer primary key, square integer)")
    connection.executemany("insert into numbers values (?, ?)", [(n, n * n) for n in range(1000)])
    connection.commit()
    connection.close()
    for path in (bottom / "data/db", bottom / "data", top, bottom):
        os.utime(path, ns=(OLD_NS, OLD_NS))
    return top, bottom


def merge_natively(layers: tuple[Path, Path], target: Path) -> None:
    """What the union of the layers has to show, made without any union."""
    top, bottom = layers
    subprocess.run(["cp", "-aT", bottom, target], check=True)
    subprocess.run(["cp", "-aT", "--remove-destination", top, target], check=True)
    (target / "data/removed").unlink()
    for name in ("data/deep", "data", "."):
        os.utime(target / name, ns=(OLD_NS, OLD_NS))


@dataclass(frozen=True)
class Pair:
    merged: Path
    native: Path
    elsewhere: Path  # outside of both, for archives and copies

    @property
    def places(self) -> tuple[Path, Path]:
        return self.merged, self.native

    def both(self, *argv: str | Path) -> str:
        """Run it in the union and natively; both must succeed and say the same, which is returned."""
        ours, theirs = (run(*argv, cwd=place) for place in self.places)
        assert ours == theirs, f"{argv}: in the union\n{ours}\nand natively\n{theirs}"
        return ours

    def same(self) -> None:
        """The trees are equal: names, modes, owners, contents, hard links, xattrs, and old times."""
        equal(snapshot(self.merged), snapshot(self.native))


def equal(union: Snapshot, native: Snapshot) -> None:
    difference = diff(union, native, names=("union", "native"))
    assert not difference, difference


def run(*argv: str | Path, cwd: Path) -> str:
    environment = os.environ | {"LC_ALL": "C", "TZ": "UTC", "HOME": str(cwd), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{argv}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")
