"""Many users of one thing: a file that is being copied up, names that are swapped, a directory that is listed."""

import os
import random
import subprocess
import sys
from collections import Counter
from errno import EEXIST, ENOENT
from pathlib import Path

import pytest
import syscalls
from mounts import Layers, Mounter
from processes import in_processes
from trees import build

SIZE = 32 << 20
WRITERS = 8


def test_bytes_appended_during_a_copy_up_are_all_there(layers: Layers, union: Mounter) -> None:
    """The first append copies 32 MiB; the others come in the middle of it, and some only read."""
    original = random.Random(0).randbytes(1 << 20) * (SIZE >> 20)
    (layers.lower[0] / "log").write_bytes(original)
    lines = [
        b"%d:%03d %s\n" % (number, line, b"." * number * 50) for number in range(WRITERS) for line in range(50)
    ]
    with union(layers) as merged:

        def work(number: int) -> None:
            if number >= WRITERS:
                for at in range(0, SIZE, SIZE // 64):
                    with (merged / "log").open("rb") as file:
                        assert os.pread(file.fileno(), 4096, at) == original[at : at + 4096]
                return
            with (merged / "log").open("ab", buffering=0) as file:
                for line in lines[number * 50 : number * 50 + 50]:
                    assert file.write(line) == len(line)

        in_processes(WRITERS + 2, work)
        data = (merged / "log").read_bytes()
    assert data[:SIZE] == original
    assert sorted(data[SIZE:].splitlines(keepends=True)) == sorted(lines)
    assert (layers.upper / "log").read_bytes() == data


def test_writers_of_different_parts_of_a_file_that_is_copied_up(layers: Layers, union: Mounter) -> None:
    (layers.lower[0] / "file").write_bytes(b"\0" * SIZE)
    part = SIZE // WRITERS
    with union(layers) as merged:

        def work(number: int) -> None:
            with (merged / "file").open("r+b", buffering=0) as file:
                for at in range(number * part, (number + 1) * part, part // 32):
                    os.pwrite(file.fileno(), bytes([number + 1]) * 1000, at)

        in_processes(WRITERS, work)
        data = (merged / "file").read_bytes()
    expected = b"".join((bytes([n + 1]) * 1000).ljust(part // 32, b"\0") * 32 for n in range(WRITERS))
    assert data == expected


@pytest.mark.parametrize("where", ["lower", "upper"])
def test_names_that_are_swapped_by_many_lose_no_file(layers: Layers, union: Mounter, where: str) -> None:
    """Each move is an exchange, or goes to a free name: no file may vanish, none may be there twice."""
    names = [f"dir{number % 3}/file{number}" for number in range(12)]
    directories = {f"dir{number}": {} for number in range(3)}
    build(layers.lower[0], directories)
    files = {name: name for name in names[::2]}
    for name in files:
        if where == "lower":
            (layers.lower[0] / name).write_text(name)
    with union(layers) as merged:
        if where == "upper":
            for name in files:
                (merged / name).write_text(name)

        def work(number: int) -> None:
            choose = random.Random(number)
            for _ in range(150):
                old, new = choose.sample(names, 2)
                flags = choose.choice([syscalls.RENAME_EXCHANGE, syscalls.RENAME_NOREPLACE])
                try:
                    syscalls.renameat2(merged / old, merged / new, flags)
                except OSError as error:
                    if error.errno not in (ENOENT, EEXIST):
                        raise

        in_processes(WRITERS, work)
        shown = sorted(path.read_text() for path in merged.glob("dir*/*"))
        assert shown == sorted(files)
    with union(layers) as merged:
        assert sorted(path.read_text() for path in merged.glob("dir*/*")) == shown


def test_one_of_many_renames_of_a_file_wins(layers: Layers, union: Mounter) -> None:
    build(layers.lower[0], {"dir": {f"token{number}": str(number) for number in range(20)}})
    with union(layers) as merged:

        def work(number: int) -> None:
            for token in range(20):
                try:
                    os.rename(merged / "dir" / f"token{token}", merged / "dir" / f"won{token}-by{number}")
                except FileNotFoundError:
                    pass

        in_processes(WRITERS, work)
        names = os.listdir(merged / "dir")
        assert sorted(int(name[3:].partition("-")[0]) for name in names) == list(range(20))


CHURN = """
import os, sys
number = 0
while True:
    number += 1
    name = f"churn{number % 50}"
    open(name, "w").close()
    os.rename(name, name + ".renamed")
    try:
        os.unlink(f"churn{number * 7 % 50}.renamed")
    except FileNotFoundError:
        pass
    if number == 10:
        print("busy", flush=True)
"""


@pytest.mark.parametrize("readers", [4])
def test_a_listing_during_changes_has_all_that_stayed_and_nothing_twice(
    layers: Layers, union: Mounter, readers: int
) -> None:
    """POSIX leaves open what is seen of names that come and go; the others must be there, once (readdir(3p))."""
    stable = {f"a-rather-long-name-that-stays-{number:04}" for number in range(600)}
    build(layers.lower[0], {"dir": dict.fromkeys(sorted(stable)[::2], "")})
    build(layers.upper, {"dir": dict.fromkeys(sorted(stable)[1::2], "")})
    with union(layers) as merged:
        command = [sys.executable, "-IS", "-c", CHURN]
        with subprocess.Popen(command, cwd=merged / "dir", stdout=subprocess.PIPE) as churn:
            try:
                assert churn.stdout is not None
                assert churn.stdout.readline() == b"busy\n"

                def work(number: int) -> None:
                    for _ in range(15):
                        seen = Counter(names_of(merged / "dir"))
                        assert stable <= set(seen)
                        assert [name for name in stable if seen[name] != 1] == []

                in_processes(readers, work)
                assert churn.poll() is None
            finally:
                churn.kill()


def names_of(path: Path) -> list[str]:
    with os.scandir(path) as entries:
        return [entry.name for entry in entries]


def test_a_directory_in_use_is_removed_and_made_again(layers: Layers, union: Mounter) -> None:
    """Some make files in it, one removes it with all its content: no file outlives its directory."""
    build(layers.lower[0], {"dir": {"lower": "x"}})
    with union(layers) as merged:

        def work(number: int) -> None:
            for step in range(60):
                try:
                    if number == 0:
                        for name in os.listdir(merged / "dir"):
                            os.unlink(merged / "dir" / name)
                        os.rmdir(merged / "dir")
                        os.mkdir(merged / "dir")
                    else:
                        (merged / "dir" / f"{number}-{step}").write_text("x")
                except OSError as error:
                    # Native directories too: it is gone, or not empty, or another one has been made meanwhile.
                    if type(error) not in (FileNotFoundError, FileExistsError) and "not empty" not in str(error):
                        raise

        in_processes(WRITERS, work)
        left = sorted(os.listdir(merged / "dir"))
        assert all((merged / "dir" / name).read_text() in ("x", "") for name in left)
    with union(layers) as merged:
        assert sorted(os.listdir(merged / "dir")) == left
