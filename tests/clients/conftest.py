"""The fixture of the tests of real programs: each runs on pyunionfs, and on the kernel's overlay.

What fails on the kernel's overlay is a wrong test. Its ``index=on`` makes hard links behave as natively.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import mounts
import pytest
from mounts import Layers
from pairs import Pair, build_layers, merge_natively
from trees import OLD_NS, snapshot

import pyunionfs

_DROVE = "a program driven"


@contextmanager
def ours(layers: Layers) -> Iterator[Path]:
    """As a person mounts it: without any option."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("/dev/fuse is missing or not ours to open")
    with pyunionfs.mounted(lower=list(layers.lower), upper=layers.upper, work=layers.work) as path:
        yield Path(path)


@contextmanager
def kernel(layers: Layers) -> Iterator[Path]:
    with ExitStack() as stack:
        try:
            merged = stack.enter_context(mounts.kernel(layers, {**mounts.PLAIN, "index": "on"}))
        except OSError as error:
            pytest.skip(f"the kernel's overlay cannot be mounted here: {error.strerror}")
        yield merged


Mount = Callable[[Layers], AbstractContextManager[Path]]


@contextmanager
def pyfuse3(layers: Layers) -> Iterator[Path]:
    """Through libfuse."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("/dev/fuse is missing or not ours to open")
    with mounts.pyfuse3(layers, {}) as path:
        yield path


@pytest.fixture(params=[ours, pyfuse3, kernel], ids=["pyunionfs", "pyfuse3", "kernel"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    mount: Mount = request.param
    lower = build_layers(tmp_path)
    for name in ("native", "upper", "work", "merged", "elsewhere"):
        (tmp_path / name).mkdir()
    merge_natively(lower, tmp_path / "native")
    os.utime(tmp_path / "upper", ns=(OLD_NS, OLD_NS))
    before = [snapshot(layer, upper=True) for layer in lower]
    with mount(Layers(lower, tmp_path / "upper", tmp_path / "work", tmp_path / "merged")) as merged:
        yield Pair(merged, tmp_path / "native", tmp_path / "elsewhere")
    assert [snapshot(layer, upper=True) for layer in lower] == before, "a lower layer has changed"


@pytest.fixture
def drove(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Tell the summary which version of a program a test has driven."""
    return lambda version: record_property(_DROVE, version.strip())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Which programs there were."""
    versions = {
        str(value)
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == _DROVE
    }
    if versions:
        terminalreporter.section("programs driven")
        for version in sorted(versions):
            terminalreporter.write_line(version)
