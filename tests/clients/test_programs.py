"""Programs that bring trees and habits of their own: git, make and a compiler, venv, SQLite."""

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from pairs import Pair, needs, run
from trees import OLD_NS, snapshot


@needs("git")
def test_git(pair: Pair) -> None:
    git = ("git", "-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
    for place in pair.places:
        for command in (
            "init -q .",
            "add -A",
            "commit -qm first",
            "checkout -qb branch",
            "rm -rq data/deep",
            "mv src/util.c src/other.c",
            "commit -qam second",
            "checkout -q main",
            "status --porcelain",
        ):
            assert run(*git, *command.split(), cwd=place) == ""
        assert (place / "data/deep/er/still").exists()
        run(*git, "checkout", "-q", "branch", cwd=place)
        run(*git, "gc", "-q", cwd=place)
        run(*git, "fsck", "--strict", "--no-progress", cwd=place)
        assert run(*git, "status", "--porcelain", cwd=place) == ""
        assert run(*git, "log", "--format=%s", cwd=place) == "second\nfirst\n"
    assert "src/other.c" in pair.both("git", "ls-tree", "-r", "HEAD")
    for place in pair.places:
        shutil.rmtree(place / ".git")  # the objects have the times of the commits in them
    pair.same()


@needs("make", "cc")
def test_make_builds_and_rebuilds_what_changed(pair: Pair) -> None:
    make = ("make", "--no-print-directory", "-C", "src")
    assert "-o main.o" in pair.both(*make)
    assert pair.both("src/program") == "42\n"
    later = OLD_NS + 10 * 10**9  # than the sources, and earlier than the change to come
    for place in pair.places:
        for name in ("main.o", "util.o", "program"):
            os.utime(place / "src" / name, ns=(later, later))
        run("sed", "-i", "s/42/43/", "src/util.c", cwd=place)
    rebuilt = pair.both(*make)
    assert "-o util.o" in rebuilt
    assert "-o main.o" not in rebuilt
    assert pair.both("src/program") == "43\n"
    pair.both(*make, "-q")
    pair.same()


def test_a_virtual_environment(pair: Pair) -> None:
    if subprocess.run([sys.executable, "-c", "import ensurepip"]).returncode != 0:
        pytest.skip("this Python has no ensurepip, so venv cannot make an environment")
    env = pair.merged / "env"
    for place in pair.places:
        run(sys.executable, "-m", "venv", "--clear", "env", cwd=place)
    assert not (env / "lib/stale.py").exists()
    assert run("env/bin/python", "-c", "import sys; print(sys.prefix)", cwd=pair.merged) == f"{env}\n"
    assert str(env) in run("env/bin/python", "-m", "pip", "--version", cwd=pair.merged)
    union, native = ({name: entry.mode for name, entry in snapshot(place).items()} for place in pair.places)
    assert union == native


@pytest.mark.parametrize("journal", ["wal", "delete", "truncate", "persist"])
def test_sqlite(pair: Pair, journal: str) -> None:
    ours, theirs = (use_database(place / "data/db", journal) for place in pair.places)
    assert ours == theirs


def use_database(path: Path, journal: str) -> list[str]:
    """Two connections that see and lock each other, a rollback, a vacuum, and what remains."""
    writer, reader = sqlite3.connect(path), sqlite3.connect(path, timeout=0)
    try:
        assert writer.execute(f"pragma journal_mode={journal}").fetchall() == [(journal,)]
        count = "select count(*) from numbers"
        writer.execute("insert into numbers values (2000, 4000000)")
        assert reader.execute(count).fetchall() == [(1000,)]
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            reader.execute("insert into numbers values (3000, 9000000)")
        reader.rollback()
        writer.commit()
        assert reader.execute(count).fetchall() == [(1001,)]
        writer.execute("delete from numbers where n % 2")
        writer.rollback()
        writer.execute("update numbers set square = -square where n < 500")
        writer.commit()
        writer.execute("vacuum")
        assert writer.execute("pragma integrity_check").fetchall() == [("ok",)]
        return list(writer.iterdump())
    finally:
        reader.close()
        writer.close()
