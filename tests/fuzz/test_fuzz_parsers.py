"""Fuzzing the parsers of strangers' input (``targets``), and replaying what was ever found (``corpus``).

The runs are the same each time; ``--long`` makes many more, and some that are guided by coverage, for which
``drive.py`` has as many hours as one likes.
"""

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import archive_of, mutated
from targets import LAYER, MIB, TARGETS, Target

CORPUS = Path(__file__).parent / "corpus"
GUIDED_SECONDS = 20
MEMORY = 512 * MIB  # beyond what the process has


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Asking for more fails with MemoryError, which no target documents."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture
def fuzz(request: pytest.FixtureRequest) -> Callable[[Target, st.SearchStrategy[bytes]], None]:
    def run(target: Target, inputs: st.SearchStrategy[bytes]) -> None:
        count = 100 if target.slow else 300
        chosen = settings(
            max_examples=count * (50 if request.config.getoption("--long") else 1),
            derandomize=not request.config.getoption("--long"),
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        with bounded_memory():
            chosen(given(inputs)(target.check))()

    return run


@pytest.mark.timeout(900, method="signal")
@pytest.mark.parametrize("name", TARGETS)
def test_mutated_input(name: str, fuzz: Callable[[Target, st.SearchStrategy[bytes]], None]) -> None:
    target = TARGETS[name]
    for seed in target.seeds:
        target.run(seed)  # valid, or mutations of it would test nothing
    fuzz(target, mutated(target.seeds))


@pytest.mark.timeout(900, method="signal")
def test_archives_whose_digests_are_right(fuzz: Callable[[Target, st.SearchStrategy[bytes]], None]) -> None:
    """So that mutations get past the digests, to the unpacking."""
    fuzz(TARGETS["load"], archive_of(LAYER))


@pytest.mark.parametrize("name", TARGETS)
def test_input_that_is_guided_by_coverage(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if not request.config.getoption("--long"):
        pytest.skip("in the long profile")
    pytest.importorskip("atheris", reason="needs atheris: pip install 'pyunionfs[fuzz]'")
    command = [sys.executable, CORPUS.parent / "drive.py", name, str(GUIDED_SECONDS)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stderr[-5000:]


@pytest.mark.parametrize("name", sorted(str(path.relative_to(CORPUS)) for path in CORPUS.glob("*/*")))
def test_the_corpus(name: str, request: pytest.FixtureRequest) -> None:
    with bounded_memory():
        TARGETS[name.partition("/")[0]].check((CORPUS / name).read_bytes())


def test_each_folder_of_the_corpus_is_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= set(TARGETS)
