"""A chapter of both stories: the same container started by containerd, whose snapshots are on pyunionfs."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from telling import Story

CONFIG = """version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[proxy_plugins.pyunionfs]
  type = "snapshot"
  address = "{home}/snapshots.sock"
"""
# The reaper of containerd's shim may take the exit status of a mount helper before the shim sees it.
NOT_HIS_FAULT = ("ECHILD", "no child processes")


@contextmanager
def daemon(command: Sequence[str | Path], log: Path, ready: str) -> Iterator[None]:
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            for _ in range(300):
                if ready in log.read_text():
                    break
                if process.poll() is not None:
                    sys.exit(f"{command[0]} does not run here: {log.read_text().strip().splitlines()[-1]}")
                time.sleep(0.1)
            yield
        finally:
            process.terminate()
            process.wait(30)


def only_layers_left(snapshots: Path, *, layers: int) -> None:
    """containerd collects the snapshot of a removed container after ``ctr run --rm`` has ended."""
    for _ in range(300):
        if len(os.listdir(snapshots)) == layers:
            return
        time.sleep(0.1)
    sys.exit(f"containerd keeps more than {layers} snapshots: {sorted(os.listdir(snapshots))}")


def missing() -> str:
    """Why this chapter cannot be told."""
    programs = [name for name in ("containerd", "ctr", "runc", "mount.fuse3") if shutil.which(name) is None]
    if programs:
        return f"{programs[0]} is not installed"
    has_grpc = subprocess.run([sys.executable, "-c", "import grpc"], capture_output=True).returncode == 0
    return "" if has_grpc else "grpcio is not installed (the extra 'snapshotter')"


def containerd(story: Story, home: Path, number: int) -> None:
    """``app.tar`` in the story's directory holds the image ``app:2``."""
    if reason := missing():
        print(f"chapter {number}, on containerd, is left out: {reason}", file=sys.stderr)
        return
    story.chapter(f"{number}. The same by containerd")
    story.tell("""
        containerd, and Kubernetes through it, asks a *snapshotter* for the root of each container. A few lines tell
        it of ours, which keeps the layers as directories, each once.
    """)
    (home / "containerd.toml").write_text(CONFIG.format(home=home))
    os.environ["CONTAINERD_ADDRESS"] = str(home / "containerd.sock")
    os.environ["CONTAINERD_SNAPSHOTTER"] = "pyunionfs"
    story.run("cat containerd.toml")
    serve: list[str | Path] = [
        "pyunionfs",
        "snapshotter",
        "--address",
        home / "snapshots.sock",
        "--root",
        home / "snapshots",
    ]
    run: list[str | Path] = ["containerd", "-c", home / "containerd.toml", "-a", os.environ["CONTAINERD_ADDRESS"]]
    run += ["--root", home / "containerd", "--state", home / "containerd-state"]
    with ExitStack() as stack:
        stack.enter_context(daemon(serve, home / "snapshotter.log", "answering"))
        stack.enter_context(daemon(run, home / "containerd.log", "containerd successfully booted"))
        story.run("ctr images import app.tar | grep -o 'unpacking.*done'")
        story.run(
            "ctr run --rm docker.io/library/app:2 four sh -c \"mount | grep ' on / '; cat /greeting; ls /etc\"",
            again=NOT_HIS_FAULT,
            between="ctr containers rm four; ctr snapshots rm four",
        )
        story.tell("A layer is a committed snapshot. What is in it lies in a directory.")
        story.run("ctr snapshots ls | grep -c Committed")
        only_layers_left(home / "snapshots/snapshots", layers=2)
        story.run("find snapshots -name greeting -o -name motd | sort")
        subprocess.run(["ctr", "images", "rm", "--sync", "docker.io/library/app:2"], capture_output=True)
