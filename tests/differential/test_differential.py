"""Random operations on the kernel's overlay and on ours: the same outcome at each step, the same trees."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import mounts
import pytest
import stacks
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from machine import Machine, Pair

OPTIONS = mounts.OPTION_SETS


@pytest.fixture(scope="module", params=OPTIONS)
def stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, requires: Callable[..., None]
) -> Iterator[tuple[Path, mounts.Options]]:
    """The lower layers, built once for many examples."""
    requires("kernel_overlay_userxattr" if request.param == "userxattr" else "kernel_overlay", "other_users")
    root = tmp_path_factory.mktemp(f"differential-{request.param}")
    lowers = tuple(root / f"lower{number}" for number in range(stacks.LAYERS))
    stacks.build_all(lowers, "user.overlay." if request.param == "userxattr" else "trusted.overlay.")
    yield root, OPTIONS[request.param]
    shutil.rmtree(root)


def run(stack: tuple[Path, mounts.Options], sides: dict[str, mounts.Mounter], examples: int) -> None:
    root, options = stack
    lowers = tuple(root / f"lower{number}" for number in range(stacks.LAYERS))
    pair = Pair(root, lowers, sides, options)
    machine = type("DifferentialMachine", (Machine,), {"pair": pair})
    try:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=30,
                deadline=None,
                database=None,
                derandomize=examples <= 200,  # CI sees the same runs each time; --examples 1000 explores
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        pair.close()


@pytest.mark.timeout(1200, method="signal")
def test_ours_behaves_as_the_kernels(
    stack: tuple[Path, mounts.Options], request: pytest.FixtureRequest, requires: Callable[..., None]
) -> None:
    requires("pyunionfs")
    run(stack, {"kernel": mounts.kernel, "ours": mounts.pyfuse3}, request.config.getoption("--examples"))


def test_the_kernels_behaves_as_itself(stack: tuple[Path, mounts.Options]) -> None:
    """The test's own test: nothing that it compares may differ between two runs of one implementation."""
    run(stack, {"kernel": mounts.kernel, "again": mounts.kernel}, 40)
