"""Go round: each round measures each workload on each filesystem in turn, on a fresh upper.

The filesystems take turns inside a round, and the order of turns moves on from round to round, so
that a machine that gets slower or busier does it to all of them alike. The medians are compared.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import report
from benchmarks.filesystems import Cost, Filesystem, mounted, parse, remove, spread, unmount_below
from benchmarks.inputs import MIB, Inputs, Workload
from benchmarks.workloads import WORKLOADS

RESULTS = Path(__file__).parent / "results"
DEFAULT = (
    *("kernel", "fuse-overlayfs", "unionfs-fuse", "mergerfs"),
    *("pyunionfs", "pyunionfs:idle=halt", "pyunionfs:channel=uring+enable_uring=on"),
    *("pyunionfs:passthrough=on", "pyunionfs:writeback=on", "pyunionfs:transport=pyfuse3"),
)
_TRIES = 3
QUICK = {"files": 1000, "tar_files": 500, "big": 64 * MIB}


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("./dev bench", description=__doc__)
    names = ", ".join(workload.name for workload in WORKLOADS)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="how often each is measured (3)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the files, 64 MiB in place of 1 GiB")
    parser.add_argument("--only", action="append", metavar="NAME", help=f"repeatable; one of: {names}")
    parser.add_argument(
        "--filesystems",
        default=",".join(DEFAULT),
        metavar="LIST",
        help="comma-separated; each may carry mount options: pyunionfs:transport=pyfuse3+noatime",
    )
    parser.add_argument("--dir", type=Path, help="where to work (the system's temporary directory)")
    parser.add_argument("--output", help="the name of the files in benchmarks/results (latest, or quick)")
    options = parser.parse_args(argv)
    unknown = set(options.only or ()) - {workload.name for workload in WORKLOADS}
    if unknown:
        parser.error(f"unknown workload: {', '.join(sorted(unknown))}")
    try:
        options.filesystems = parse(options.filesystems)
    except ValueError as error:
        parser.error(str(error))
    return options


def drop_caches() -> bool:
    """Dentries, inodes and clean pages; the dirty ones are written first, which calms the disk too."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


def drops() -> list[str]:
    """How often somebody has dropped the caches of this machine."""
    return [line for line in Path("/proc/vmstat").read_text().splitlines() if line.startswith("drop_")]


def measure(workload: Workload, filesystem: Filesystem, inputs: Inputs) -> report.Measured:
    """One measurement; those that somebody disturbed by dropping the caches are taken again."""
    for _ in range(_TRIES):
        before, measured = _measure(workload, filesystem, inputs)
        if drops() == before:
            return measured
    raise RuntimeError(f"somebody dropped the caches each of {_TRIES} times")


def _measure(workload: Workload, filesystem: Filesystem, inputs: Inputs) -> tuple[list[str], report.Measured]:
    """On a fresh mount with an empty upper; with how often the caches had been dropped when it began."""
    beginning = time.perf_counter()
    with mounted(filesystem, workload.layers(inputs), inputs.root) as merged:
        if workload.start:
            os.listdir(merged)
            seconds = time.perf_counter() - beginning
            return drops(), report.Measured(seconds, 0.0, Cost.of(merged).memory, 0)
        drop_caches()
        before = drops()
        if workload.first is not None:
            workload.first(merged, inputs)
        if workload.warm:
            workload.run(merged, inputs)
        cost = Cost.of(merged)
        begun = time.perf_counter()
        handled = workload.run(merged, inputs)
        seconds = time.perf_counter() - begun
        after = Cost.of(merged)
        return before, report.Measured(seconds, after.cpu - cost.cpu, after.memory, handled)


def go_round(
    chosen: list[Workload],
    filesystems: list[Filesystem],
    inputs: Inputs,
    results: report.Results,
    rounds: int,
) -> None:
    console = Console(stderr=True)
    handled: dict[str, tuple[int, str]] = {}
    for number in range(rounds):
        turn = number % len(filesystems)
        for workload in chosen:
            for filesystem in filesystems[turn:] + filesystems[:turn]:
                if not filesystem.is_for(workload.name):
                    continue
                label = f"{workload.name} on {filesystem.name}"
                try:
                    with console.status(f"round {number + 1} of {rounds}: {label}"):
                        measured = measure(workload, filesystem, inputs)
                    expected, first = handled.setdefault(workload.name, (measured.handled, filesystem.name))
                    if measured.handled != expected:
                        raise RuntimeError(f"handled {measured.handled}, where {first} handled {expected}")
                except Exception as error:  # one that fails is reported, and the others are measured
                    said = getattr(error, "stderr", None) or ""
                    results.failures.append(f"{label}: {error} {said}".strip())
                    console.print(f"[red]failed:[/red] {results.failures[-1]}", highlight=False)
                else:
                    results.add(workload.name, filesystem.name, measured)


def main(argv: Sequence[str]) -> int:
    options = arguments(argv)
    console = Console(soft_wrap=True, highlight=False)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `finally` runs
    filesystems = []
    for filesystem in options.filesystems:
        if reason := filesystem.missing():
            console.print(f"left out: {filesystem.name}: {reason}")
        else:
            filesystems.append(filesystem)
    if not filesystems:
        return 1

    chosen = [workload for workload in WORKLOADS if not options.only or workload.name in options.only]
    root = Path(tempfile.mkdtemp(prefix="pyunionfs-bench-", dir=options.dir)).resolve()
    spread(root)
    try:
        inputs = Inputs(root, **(QUICK if options.quick else {}))
        for layer in inputs.lower:
            layer.mkdir()
        for workload in chosen:
            workload.prepare(inputs)
        dropped = drop_caches()
        cold = "a fresh mount" + (", and the kernel's caches dropped" if dropped else " (not root: caches kept)")
        results = report.Results(
            machine=report.machine(root),
            settings={
                "rounds": options.rounds,
                "files": inputs.files,
                "tar_files": inputs.tar_files,
                "big_mib": inputs.big // MIB,
                "cold": cold,
            },
            filesystems=[filesystem.name for filesystem in filesystems],
            titles={workload.name: workload.title for workload in chosen},
        )
        for name, value in (results.machine | results.settings).items():
            console.print(f"{name + ':':16}{value}")
        go_round(chosen, filesystems, inputs, results, options.rounds)
    finally:
        unmount_below(root)
        remove(root)

    name = options.output or ("quick" if options.quick else "latest")
    console.width = max(console.width, 60 + 24 * len(filesystems))  # a table that wraps cannot be compared
    console.print(report.table(results))
    console.print(report.costs(results))
    for line in report.slower_than_before(results, RESULTS / f"{name}.json"):
        console.print(f"[yellow]warning:[/yellow] {line}")
    for path in report.save(results, RESULTS / name):
        console.print(f"written: {os.path.relpath(path)}")
    return 1 if results.failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
