"""``pyunionfs verify`` itself: it finds what differs, makes it small, shows it, and leaves nothing behind."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mounts import Layers, Options, kernel, mount_points

from pyunionfs.verify import runner, shrink
from pyunionfs.verify.divergences import DIVERGENCES
from pyunionfs.verify.mounting import OPTION_SETS
from pyunionfs.verify.run import Finding
from pyunionfs.verify.script import script
from pyunionfs.verify.steps import Name, Step
from pyunionfs.verify.trees import Dir

COMMAND = [sys.executable, "-m", "pyunionfs", "verify"]


@contextmanager
def redirecting(layers: Layers, options: Options) -> Iterator[Path]:
    """A wrong side: it renames directories of lower layers, which the options say it should not."""
    with kernel(layers, {**options, "redirect_dir": "on"}) as merged:
        yield merged


def entries(directory: Dir) -> int:
    return sum(1 + (entries(node) if isinstance(node, Dir) else 0) for node in directory.entries.values())


@pytest.mark.timeout(600, method="signal")
def test_a_difference_is_found_and_made_small(quick_root: Path, requires: Callable[..., None]) -> None:
    requires("other_users")
    options = OPTION_SETS["redirect_dir=nofollow"]
    report = runner.verify(
        options, ops=5000, seed=1, root=quick_root, sides={"kernel": kernel, "wrong": redirecting}
    )
    assert report.finding is not None
    assert "rename" in report.finding.difference
    assert "EXDEV" in report.finding.difference
    assert len(report.finding.steps) == 1
    assert sum(map(entries, report.finding.layers)) <= 3
    assert not list(quick_root.iterdir())

    text = script(report.finding, options, "a test")
    done = subprocess.run(["sh", "-s", "kernel"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("rename(")
    assert "-> 'EXDEV'" in done.stdout


def test_paths_are_made_shorter_by_one_directory() -> None:
    step = Step("rename", (Name("b/d"), Name("a/c/e"), 0))
    attempts = list(shrink._shortened(Finding(f"outcome of {step}\n  kernel: 'EXDEV'", [], [(step, "EXDEV")])))
    paths = [("d", "a/c/e"), ("b/d", "c/e"), ("b/d", "a/e")]
    assert [attempt.steps[0][0].arguments for attempt in attempts] == [(*two, 0) for two in paths]
    assert all(shrink._kind(attempt) == f"outcome of {attempt.steps[0][0]}" for attempt in attempts)
    assert all(isinstance(path, Name) for attempt in attempts for path in attempt.steps[0][0].arguments[:2])


def test_the_kernel_compared_with_itself(requires: Callable[..., None], tmp_path: Path) -> None:
    requires("kernel_overlay", "other_users")
    done = subprocess.run(
        [*COMMAND, "--self-test", "--ops", "100", "--seed", "5", "--json", "--in", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["sets"]
    assert row["difference"] is None
    assert row["operations"] >= 100
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_after_an_interrupt(number: int, requires: Callable[..., None], tmp_path: Path) -> None:
    requires("pyunionfs", "kernel_overlay", "other_users")
    # A job in the background of a shell ignores SIGINT, and hands that on.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    command = [*COMMAND, "--ops", "100000", "--in", tmp_path]
    with subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=heed) as process:
        # It is made just before the first mount. (A glob would trip over what is removed beside it.)
        while not any("merged" in names for _, names, _ in os.walk(tmp_path)):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert b"Traceback" not in said
    assert not list(tmp_path.iterdir())
    assert not [path for path in mount_points() if path.is_relative_to(tmp_path)]


TERMINATED_ONCE = """
import os, signal, sys
from pyunionfs.cli import verify

done = iter(range(1_000_000))
verify._advance = lambda *_: os.kill(os.getpid(), signal.SIGTERM) if next(done) == 5 else None
verify.verify(sys.argv[1:])
"""


def test_a_signal_in_an_example_is_not_taken_for_a_difference(
    requires: Callable[..., None], tmp_path: Path
) -> None:
    """hypothesis tries again what raises SystemExit."""
    requires("kernel_overlay", "other_users")
    command = [sys.executable, "-c", TERMINATED_ONCE, "--self-test", "--ops", "200", "--in", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, ""), done.stderr
    assert not list(tmp_path.iterdir())


def test_without_hypothesis_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "hypothesis.py").write_text("raise ModuleNotFoundError('hypothesis')")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        COMMAND, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False
    )
    assert done.returncode == 2
    assert "pyunionfs[verify]" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_what_cannot_be_mounted_is_said(requires: Callable[..., None], tmp_path: Path) -> None:
    requires("kernel_overlay")
    command = [*COMMAND, "--self-test", "--option", "index=perhaps", "--in", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "index=perhaps" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_known_differences_are_listed() -> None:
    done = subprocess.run([*COMMAND, "--list-divergences", "--json"], capture_output=True, text=True, check=True)
    assert [row["name"] for row in json.loads(done.stdout)] == [item.name for item in DIVERGENCES]
    assert all(row["reason"] and row["handling"] for row in json.loads(done.stdout))
