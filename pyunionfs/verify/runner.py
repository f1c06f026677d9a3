"""A whole verification: rounds of examples until enough has been done, or a divergence is found and made small."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis.stateful import run_state_machine_as_test

from .. import linux
from . import operations, shrink
from .machine import Machine
from .mounting import Layers, Mounter, Options, able, kernel, prefix_of, pyunionfs
from .pair import COPIES, TREES, Pair
from .run import Bench, Diverged, Finding
from .stacks import ACL, Shape

STEPS = 40  # of an example, at most
_EXAMPLES = TREES * COPIES * 2 // 3  # of a round: then most copies have been used, and new trees are due
_FEW = 20  # hypothesis begins with the simplest examples, so a round should have some more

KERNEL_AND_OURS: Mapping[str, Mounter] = {"kernel": kernel, "pyunionfs": pyunionfs}
KERNEL_TWICE: Mapping[str, Mounter] = {"kernel": kernel, "kernel again": kernel}


@dataclass(frozen=True)
class Report:
    """What came of one set of options."""

    steps: int
    examples: int
    seconds: float
    lacking: tuple[str, ...]
    finding: Finding | None


def missing(options: Options, sides: Mapping[str, Mounter], root: Path) -> str:
    """Why these options cannot be verified here, "" if they can."""
    for name, mounter in sides.items():
        with _scratch(root) as scratch:
            if why := able(mounter, options, scratch):
                return f"{name}: {why}"
    return ""


def verify(
    options: Options,
    *,
    ops: int,
    seed: int,
    root: Path,
    sides: Mapping[str, Mounter] = KERNEL_AND_OURS,
    progress: Callable[[int], None] = lambda steps: None,
) -> Report:
    """Do ``ops`` random operations on both sides, in a new directory below ``root`` that is removed again."""
    began = time.monotonic()
    options = {**options, "nodev": True, "nosuid": True}
    with _scratch(root) as scratch, _place(), Pair(scratch, sides, options, shape_of(options, scratch)) as pair:
        pair.lacking = lacking(sides, options, scratch)
        bench = Bench(pair, progress)
        number = 0
        while bench.steps < ops and bench.finding is None:
            pair.build(f"{seed}/{number}")
            _round(bench, seed * 1_000_003 + number, max(_FEW, min(_EXAMPLES, (ops - bench.steps) // STEPS)))
            number += 1
        finding = shrink.smaller(pair, bench.finding) if bench.finding else None
    seconds = time.monotonic() - began
    return Report(bench.steps, bench.examples, seconds, tuple(sorted(pair.lacking)), finding)


def _round(bench: Bench, seed: int, examples: int) -> None:
    machine = hypothesis.seed(seed)(type("Verify", (Machine,), {"bench": bench}))
    settings = hypothesis.settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )
    # Flaky: the example that hypothesis ends with was rejected, for there had been enough of them.
    with suppress(Diverged, hypothesis.errors.Flaky), hypothesis.reporting.with_reporter(lambda text: None):
        run_state_machine_as_test(machine, settings=settings)


def shape_of(options: Options, root: Path) -> Shape:
    """What the lower layers may hold: what these options, this filesystem and this user allow."""
    with _scratch(root) as scratch:
        return Shape(
            prefix=prefix_of(options),
            redirects=options.get("redirect_dir") in ("on", "follow"),
            metacopy=options.get("metacopy") == "on",
            index=options.get("index") == "on",
            exported=options.get("nfs_export") == "on",
            acls=_works(os.setxattr, scratch, "system.posix_acl_access", ACL),
            owners=_works(os.chown, scratch, 1000, 1000),
            handles=_works(_open_by_handle, scratch),
            opens=options.get("transport") == "pyfuse3" or options.get("noopen") == "off",
            devices=_works(os.mknod, scratch / "device", 0o020600, os.makedev(1, 3)),
        )


def _open_by_handle(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.close(
            linux.open_by_handle_at(fd, *linux.name_to_handle_at(linux.AT_FDCWD, os.fsencode(path)), os.O_PATH)
        )
    finally:
        os.close(fd)


def lacking(sides: Mapping[str, Mounter], options: Options, root: Path) -> frozenset[str]:
    """The rules for which one side has no operation, or answers them in general terms only."""
    found = set()
    for mounter in sides.values():
        with _scratch(root) as scratch, mounter(Layers.create(scratch), options) as merged:
            file = merged / "file"
            file.write_bytes(b"x" * 100_000)
            if not _works(operations.allocate, str(file), 3, 4096, 4096):
                found.add("allocate")
            if not _works(operations.make_unnamed, str(merged), str(merged / "new"), b""):
                found.add("make_unnamed")
            with operations.opened(str(file), os.O_RDWR) as fd:
                os.truncate(fd, 0)
                os.pwrite(fd, b"x", 100_000)
                if os.lseek(fd, 0, os.SEEK_DATA) == 0:  # there is a hole
                    found.add("seek_data")
    return frozenset(found)


def _works(function: Callable[..., object], *arguments: object) -> bool:
    try:
        function(*arguments)
    except OSError:
        return False
    return True


@contextmanager
def _scratch(root: Path) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="pyunionfs-verify-", dir=root))
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextmanager
def _place() -> Iterator[None]:
    """Steps move the working directory and want a known umask; both are as before afterwards."""
    where, umask = Path.cwd(), os.umask(0o022)
    try:
        yield
    finally:
        os.chdir(where)
        os.umask(umask)
