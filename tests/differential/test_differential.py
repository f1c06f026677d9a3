"""Random operations on the kernel's overlay and on ours: the same outcome at each step, the same trees.

The machine is ``pyunionfs verify``'s. Here it makes the same runs each time, of each set of mount options.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pyunionfs.verify import runner
from pyunionfs.verify.mounting import OPTION_SETS, Options
from pyunionfs.verify.script import script

OPS = 1000  # for each set of options
LONG_OPS = 20_000
PLAIN_OPS = 3000
SELF_OPS = 400
LONG_SELF_OPS = 5000


def run(
    options_set: str,
    root: Path,
    ops: int,
    sides: object = runner.KERNEL_AND_OURS,
    *,
    extra: Options | None = None,
) -> None:
    options = {**OPTION_SETS[options_set], **(extra or {})}
    report = runner.verify(options, ops=ops, seed=1, root=root, sides=sides)
    assert report.steps >= ops or report.finding
    if report.finding is not None:
        pytest.fail(report.finding.difference + "\n" + script(report.finding, options, "tests/differential"))


@pytest.mark.timeout(1800, method="signal")
@pytest.mark.parametrize("options_set", OPTION_SETS)
def test_ours_behaves_as_the_kernels(
    options_set: str, quick_root: Path, request: pytest.FixtureRequest, requires: Callable[..., None]
) -> None:
    requires("pyunionfs", "kernel_overlay", "other_users")
    if why := runner.missing(OPTION_SETS[options_set], runner.KERNEL_AND_OURS, quick_root):
        pytest.skip(why)
    ops = PLAIN_OPS if options_set in ("plain", "userxattr") else OPS
    run(options_set, quick_root, LONG_OPS if request.config.getoption("--long") else ops)


@pytest.mark.timeout(1800, method="signal")
@pytest.mark.parametrize("option", ["transport=pyfuse3", "noopen=off", "channel=block"])
def test_so_does_each_way_to_serve_it(
    option: str, quick_root: Path, request: pytest.FixtureRequest, requires: Callable[..., None]
) -> None:
    requires("pyunionfs", "kernel_overlay", "other_users")
    name, _, value = option.partition("=")
    ops = LONG_OPS if request.config.getoption("--long") else OPS
    run("plain", quick_root, ops, extra={name: value})


@pytest.mark.timeout(600, method="signal")
@pytest.mark.parametrize("options_set", OPTION_SETS)
def test_the_kernels_behaves_as_itself(
    options_set: str, quick_root: Path, request: pytest.FixtureRequest, requires: Callable[..., None]
) -> None:
    """The test's own test: nothing that it compares may differ between two runs of one implementation."""
    requires("kernel_overlay", "other_users")
    if why := runner.missing(OPTION_SETS[options_set], runner.KERNEL_TWICE, quick_root):
        pytest.skip(why)
    ops = LONG_SELF_OPS if request.config.getoption("--long") else SELF_OPS
    run(options_set, quick_root, ops, runner.KERNEL_TWICE)


@pytest.mark.timeout(900, method="signal")
def test_in_a_user_namespace(tmp_path: Path, request: pytest.FixtureRequest, requires: Callable[..., None]) -> None:
    requires("pyunionfs", "user_namespaces", "kernel_overlay_userxattr")
    ops = LONG_OPS if request.config.getoption("--long") else OPS
    command = [sys.executable, "-m", "pyunionfs", "verify", "--options-set", "userxattr", "--seed", "1"]
    done = subprocess.run(
        ["unshare", "-Urm", *command, "--ops", str(ops), "--in", os.fspath(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no difference" in done.stdout
    assert not list(tmp_path.iterdir())
