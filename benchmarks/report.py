"""From seconds to what is shown and kept: the table, the JSON file, the chart, and the machine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

BASELINE = "kernel"
RIVAL = "fuse-overlayfs"
_SLOWER = 1.25


@dataclass(frozen=True)
class Measured:
    """One run of a workload."""

    seconds: float
    cpu: float  # seconds, of the daemon
    memory: float  # MiB, of the daemon, afterwards
    handled: int  # files or bytes


@dataclass
class Results:
    machine: dict[str, str]
    settings: dict[str, Any]
    filesystems: list[str]
    titles: dict[str, str]  # of each workload
    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # workload, filesystem
    cpu: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # seconds, of the daemons
    memory: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # MiB, of the daemons
    failures: list[str] = field(default_factory=list)

    def add(self, workload: str, filesystem: str, measured: Measured) -> None:
        for kind, value in (("seconds", measured.seconds), ("cpu", measured.cpu), ("memory", measured.memory)):
            getattr(self, kind).setdefault(workload, {}).setdefault(filesystem, []).append(round(value, 4))

    def median(self, workload: str, filesystem: str) -> float | None:
        measured = self.seconds.get(workload, {}).get(filesystem)
        return statistics.median(measured) if measured else None

    def ratio(self, workload: str, filesystem: str, to: str) -> float | None:
        ours, theirs = self.median(workload, filesystem), self.median(workload, to)
        return ours / theirs if ours and theirs else None

    def mean_ratio(self, filesystem: str, to: str) -> float | None:
        """The geometric mean: the only one that does not depend on who is the baseline."""
        ratios = [ratio for name in self.titles if (ratio := self.ratio(name, filesystem, to))]
        return statistics.geometric_mean(ratios) if ratios else None

    def comparisons(self) -> list[tuple[str, str]]:
        """Which filesystem is set against which: all against the kernel, ours against fuse-overlayfs."""
        rivals = [rival for rival in (BASELINE, RIVAL) if rival in self.filesystems]
        return [
            (name, rival)
            for name in self.filesystems
            for rival in rivals
            if name != rival and name != BASELINE and (rival == BASELINE or name.startswith("pyunionfs"))
        ]


def table(results: Results) -> Table:
    rivals = [(name, rival) for name, rival in results.comparisons() if rival == RIVAL]
    shown = Table(caption="medians, and as multiples of what the kernel takes: below 1 is faster")
    shown.add_column("workload", no_wrap=True)
    for name in results.filesystems:
        shown.add_column(f"{_lines(name)}\ns", justify="right", no_wrap=True)
    for name, rival in rivals:
        shown.add_column(f"{_lines(name)}\nx {rival}", justify="right", style="bold")
    for workload, title in results.titles.items():
        cells = [_cell(results, workload, name) for name in results.filesystems]
        shown.add_row(title, *cells, *(_ratio(results.ratio(workload, *pair)) for pair in rivals))
    shown.add_section()
    means = [_ratio(results.mean_ratio(name, BASELINE)) for name in results.filesystems]
    shown.add_row("geometric mean", *means, *(_ratio(results.mean_ratio(*pair)) for pair in rivals))
    return shown


def _cell(results: Results, workload: str, name: str) -> str:
    seconds = results.median(workload, name)
    if seconds is None:
        return "-"
    ratio = results.ratio(workload, name, BASELINE)
    return f"{seconds:.3f}" + (f" [bold]{ratio:5.2f}x[/bold]" if ratio and name != BASELINE else "")


def _lines(name: str) -> str:
    """The name of a filesystem as the head of a column."""
    return re.sub(r"[:+]", "\n", name)


def costs(results: Results) -> Table:
    """What the daemons used; the kernel's overlay has none."""
    names = [name for name in results.filesystems if name.partition(":")[0] != BASELINE]
    shown = Table(caption="medians; CPU of the daemon during the workload, and its memory (PSS) afterwards")
    shown.add_column("workload", no_wrap=True)
    for name in names:
        shown.add_column(f"{_lines(name)}\nCPU s", justify="right")
        shown.add_column("MiB", justify="right")
    for workload, title in results.titles.items():
        cells = []
        for name in names:
            for kind, form in ((results.cpu, ".2f"), (results.memory, ".0f")):
                measured = kind.get(workload, {}).get(name)
                cells.append(format(statistics.median(measured), form) if measured else "-")
        shown.add_row(title, *cells)
    return shown


def slower_than_before(results: Results, stored: Path) -> list[str]:
    """What has become slower by a quarter than in the stored run, as a multiple of the kernel's time."""
    if not stored.exists():
        return []
    known = json.loads(stored.read_text())
    before = Results(**{name: known[name] for name in ("machine", "settings", "filesystems", "titles", "seconds")})
    found = []
    for workload, title in results.titles.items():
        for name in results.filesystems:
            was, now = before.ratio(workload, name, BASELINE), results.ratio(workload, name, BASELINE)
            if name.startswith("pyunionfs") and was and now and now > _SLOWER * was:
                found.append(f"{title}: {name} takes {now:.2f} times the kernel's time, {was:.2f} when last stored")
    return found


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def save(results: Results, stem: Path) -> list[Path]:
    """``stem``.json always, ``stem``.svg where there is something to set against the kernel."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    written = [stem.with_suffix(".json")]
    written[0].write_text(json.dumps(asdict(results), indent=1) + "\n")
    if any(rival == BASELINE for _, rival in results.comparisons()):
        written.append(stem.with_suffix(".svg"))
        chart(results, written[1])
    return written


def chart(results: Results, path: Path) -> None:
    """A line for each workload, with a mark where each filesystem stands, as a multiple of the kernel's time; on a
    log scale, so that twice and half are equally far."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "pyunionfs"  # the same figures give the same file
    from matplotlib import pyplot

    names = [name for name, rival in results.comparisons() if rival == BASELINE]
    workloads = [name for name in results.titles if any(results.ratio(name, n, BASELINE) for n in names)]
    figure, axes = pyplot.subplots(figsize=(9, 2 + 0.3 * len(workloads)))
    for name, (color, marker) in zip(names, _marks(names), strict=True):
        places = [(ratio, row) for row, w in enumerate(workloads) if (ratio := results.ratio(w, name, BASELINE))]
        is_default = name == "pyunionfs"
        axes.scatter(
            [ratio for ratio, _ in places],
            [row for _, row in places],
            s=60 if is_default else 28,
            color=color,
            marker=marker,
            label=name,
            zorder=3 if is_default else 2,
        )
        for ratio, row in places if is_default else ():
            axes.annotate(f"{ratio:.2g}", (ratio, row - 0.3), ha="center", va="bottom", fontsize=7)
    _dress(axes, [results.titles[name] for name in workloads])
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _dress(axes: Any, titles: Sequence[str]) -> None:
    axes.set_xscale("log")
    axes.margins(y=0.02)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(titles)), titles)
    axes.grid(axis="y", color="#e0e0e0", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    axes.set_xlabel("time taken, kernel's overlay = 1 (log scale; left is faster)")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.4, 1), ncols=3, fontsize=8)


def _marks(names: Sequence[str]) -> list[tuple[str, str]]:
    """Ours are round and coloured."""
    ours = iter(["#1f77b4", "#17becf", "#9467bd", "#2ca02c", "#ff7f0e", "#8c564b"] * len(names))
    theirs = iter(["D", "s", "^"] * len(names))
    return [(next(ours), "o") if name.startswith("pyunionfs") else ("#909090", next(theirs)) for name in names]


# ---- the machine


def machine(directory: Path) -> dict[str, str]:
    """What a reader needs to compare these figures with their own."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    model = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.1f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "filesystem": _filesystem(directory),
        "python": f"{platform.python_version()}, which itself takes {_start_of_python():.3f} s to start",
        "pyunionfs": _distribution("pyunionfs"),
        "pyfuse3": _distribution("pyfuse3"),
        "libfuse": _said(["pkg-config", "--modversion", "fuse3"]) or _said(["fusermount3", "--version"]),
        "unionfs-fuse": _said(["unionfs", "--version"], r"unionfs-fuse version: ([\d.]+)"),
        "mergerfs": _said(["mergerfs", "--version"]),
        "fuse-overlayfs": _said(["fuse-overlayfs", "--version"], r"fuse-overlayfs: version ([\d.]+)"),
    }


def _start_of_python() -> float:
    """Seconds, the median of some."""
    taken = []
    for _ in range(9):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def _filesystem(directory: Path) -> str:
    """The type of the filesystem that holds ``directory``: of its mounts, the one of its device."""
    device = os.stat(directory).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == wanted:
            return after.split()[0]
    return "unknown"


def _distribution(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _said(argv: list[str], pattern: str = r"(\d+(?:\.\d+)+)") -> str:
    """The version number in what a program prints: the first, or the one that ``pattern`` finds."""
    if shutil.which(argv[0]) is None:
        return "not installed"
    said = subprocess.run(argv, capture_output=True, text=True).stdout
    number = re.search(pattern, said)
    return number[1] if number else ""
