"""What the crash and fault tests share: which cases a run makes, and the line that tells how many there were."""

import os
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cases import Case
from option_sets import OPTION_SETS, OptionSet

from pyunionfs.overlay import file

_POINTS = "points"  # the user property by which a test tells of its points


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes ``case`` and ``options`` runs for each case of each set of options."""
    if "case" in metafunc.fixturenames:
        everything = metafunc.config.getoption("--long")
        pairs = [
            pytest.param(case, options, id=f"{options.name}-{case.name}")
            for options in OPTION_SETS
            for case in options.cases(everything=everything)
        ]
        metafunc.parametrize(("case", "options"), pairs)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies takes nothing with it that it has written, synced or not: so nothing need be synced."""
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda fd: None)


@pytest.fixture
def place(
    case: Case, options: OptionSet, tmp_path: Path, requires: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Where a case can work as the user that its options name. Skips one that this machine cannot run."""
    requires(*case.requires)
    if not options.user:
        yield tmp_path
        return
    requires("other_users")
    monkeypatch.setattr(file, "MAY_REOPEN_ANYTHING", False)
    with tempfile.TemporaryDirectory(prefix="pyunionfs-crash-") as path:  # pytest's are closed to other users
        os.chmod(path, 0o711)
        yield Path(path)


@pytest.fixture
def can(requires: Callable[..., None]) -> Callable[[str], bool]:
    """``can("kernel_overlay")``: whether this machine has a capability, for a part of a test that wants it."""

    def check(name: str) -> bool:
        try:
            requires(name)
        except pytest.skip.Exception:
            return False
        return True

    return check


@pytest.fixture
def tell(record_property: Callable[[str, object], None], case: Case) -> Callable[..., None]:
    """Tell the summary how many points a test has tried: ``tell("crash explorer", points=7, bad=0, known=0)``."""

    def record(who: str, *, points: int, bad: int, known: int) -> None:
        record_property(_POINTS, (who, case.name, points, bad, known))

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    told: dict[str, dict[str, list[tuple[int, int, int]]]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in (
                getattr(report, "user_properties", ()) if getattr(report, "when", "") == "call" else ()
            ):
                if name == _POINTS:
                    who, case, *counts = value
                    told.setdefault(who, {}).setdefault(case, []).append(tuple(counts))
    for who, cases in told.items():
        points, bad, known = (
            sum(count[index] for counts in cases.values() for count in counts) for index in range(3)
        )
        allowed = f" ({known} more are known)" if known else ""
        terminalreporter.line(f"{who}: {points} points in {len(cases)} operations, {bad} bad states{allowed}")
        if terminalreporter.config.get_verbosity() >= 0:
            each = [f"{case} {sum(count[0] for count in counts)}" for case, counts in cases.items()]
            terminalreporter.line(textwrap.fill("; ".join(each), 110, initial_indent="  ", subsequent_indent="  "))
