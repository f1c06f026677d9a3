"""What a workload is, and what lies in the layers before any of them runs.

``prepare`` puts what a workload needs into the layers, once, before any mount. ``run`` is what is
timed: it gets the merged directory, and returns how much it handled (files or bytes), which has to
be the same on every filesystem: a fast wrong answer is an error here.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20


@dataclass(frozen=True)
class Inputs:
    """Two lower layers and what lies outside the union, all below ``root``."""

    root: Path
    files: int = 10_000
    tar_files: int = 5_000
    big: int = 1024 * MIB

    @property
    def lower(self) -> tuple[Path, ...]:
        return self.root / "top", self.root / "bottom"

    @property
    def tar(self) -> Path:
        return self.root / "files.tar"

    @property
    def wheel(self) -> Path:
        return self.root / "some-1.0-py3-none-any.whl"

    @property
    def repository(self) -> Path:
        return self.root / "repository"

    @property
    def names(self) -> list[str]:
        """The files of the tree in an order that no listing has; the same in every run."""
        names = [f"tree/{number % 100:02}/{number:05}" for number in range(self.files)]
        random.Random(0).shuffle(names)
        return names

    def stack(self, count: int) -> tuple[Path, ...]:
        """So many lower layers with short names: the kernel takes one page of options."""
        return tuple(self.root / "l" / f"{number:x}" for number in range(count))


Prepare = Callable[[Inputs], None]
Run = Callable[[Path, Inputs], int]


@dataclass(frozen=True)
class Workload:
    name: str
    title: str
    prepare: Prepare
    run: Run
    warm: bool = False  # run once, unmeasured, before the measured run; else on a cold mount
    first: Run | None = None  # what else has to be run before, unmeasured
    start: bool = False  # what is timed is the mount itself, until its root is listed
    lowers: int = 0  # as many layers of Inputs.stack in place of the two

    def layers(self, inputs: Inputs) -> tuple[Path, ...]:
        return inputs.stack(self.lowers) if self.lowers else inputs.lower


def tree(inputs: Inputs) -> None:
    """4 KiB files in 100 directories, all in the bottom layer; the top one hides every tenth."""
    top, bottom = inputs.lower
    if (bottom / "tree").exists():
        return
    for number, name in enumerate(inputs.names):
        for layer in (bottom, top) if number % 10 == 0 else (bottom,):
            (layer / name).parent.mkdir(parents=True, exist_ok=True)
            (layer / name).write_bytes(random.Random(number).randbytes(4096))


def big(inputs: Inputs) -> None:
    _, bottom = inputs.lower
    if not (bottom / "big").exists():
        block = random.Random(0).randbytes(MIB)
        with (bottom / "big").open("wb") as file:
            for _ in range(inputs.big // MIB):
                file.write(block)


def tarball(inputs: Inputs) -> None:
    if inputs.tar.exists():
        return
    source = inputs.root / "tar"
    for number in range(inputs.tar_files):
        file = source / f"new/{number % 50:02}/{number:05}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(random.Random(number).randbytes(random.Random(number).randrange(8192)))
    subprocess.run(["tar", "-C", source, "-cf", inputs.tar, "new"], check=True)
    shutil.rmtree(source)


def nothing(inputs: Inputs) -> None:
    """Writing wants no input."""


def listing(inputs: Inputs) -> None:
    """One directory with ten times as many empty files as the tree has."""
    _, bottom = inputs.lower
    if not (bottom / "listing").exists():
        (bottom / "listing").mkdir()
        for number in range(inputs.files * 10):
            (bottom / "listing" / f"{number:06}").touch()


def middling(inputs: Inputs) -> None:
    """Files of 1 MiB."""
    _, bottom = inputs.lower
    if not (bottom / "middling").exists():
        (bottom / "middling").mkdir()
        for number in range(inputs.files // 100):
            (bottom / "middling" / f"{number}").write_bytes(random.Random(number).randbytes(MIB))


def stack(inputs: Inputs) -> None:
    """Layer upon layer, each with a few files in directories that all have."""
    layers = inputs.stack(500)
    if layers[0].exists():
        return
    for depth, layer in enumerate(layers):
        for number in range(4):
            file = layer / f"dir{number}" / f"{depth}"
            file.parent.mkdir(parents=True)
            file.write_bytes(b"x")


def sources(inputs: Inputs) -> None:
    """A program in C of as many files as make takes a while for."""
    _, bottom = inputs.lower
    if (bottom / "source").exists():
        return
    (bottom / "source").mkdir()
    count = inputs.files // 100
    for number in range(count):
        code = "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n"
        code += "".join(f"int f{number}_{n}(int x) {{ return x * {n} + {number}; }}\n" for n in range(20))
        (bottom / "source" / f"f{number}.c").write_text(code)
    (bottom / "source" / "main.c").write_text("int main(void) { return 0; }\n")
    names = " ".join(["main.o", *(f"f{number}.o" for number in range(count))])
    (bottom / "source" / "Makefile").write_text(f"main: {names}\n\tcc -o $@ $^\n")


def wheel(inputs: Inputs) -> None:
    """A package for pip with as many modules as a few usual ones have together."""
    path = inputs.wheel
    if path.exists():
        return
    metadata = "some-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(inputs.tar_files // 5):
            archive.writestr(f"some/part{number % 20}/module{number}.py", f"x = {number}\n" * 50)
        archive.writestr(f"{metadata}/METADATA", "Metadata-Version: 2.1\nName: some\nVersion: 1.0\n")
        archive.writestr(f"{metadata}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{metadata}/RECORD", "")


def repository(inputs: Inputs) -> None:
    """A git repository of what the tar holds, outside the union."""
    if inputs.repository.exists():
        return
    tarball(inputs)
    inputs.repository.mkdir()
    subprocess.run(["tar", "-C", inputs.repository, "-xf", inputs.tar], check=True)
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "all"]):
        run_git(inputs.repository, *words)


def run_git(directory: Path, *words: str | Path) -> None:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    command = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *words]
    subprocess.run(command, cwd=directory, env=environment, check=True, capture_output=True)
