"""containerd keeps its snapshots on pyunionfs."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from containers import (
    CHANGED,
    CHANGES,
    SHOW,
    Drove,
    Ours,
    needed,
    run,
)


@pytest.mark.timeout(300, method="signal")
def test_containerd_keeps_its_snapshots_on_us(place: Path, image: Path, helper: Path, drove: Drove) -> None:
    """Import, run, and run again after the snapshotter was killed; nothing is left when all is removed."""
    needed("containerd", "ctr", "runc", "mount.fuse3")
    pytest.importorskip("grpc")
    drove(run("containerd", "--version"))
    ours = Ours(place)
    ours("image", "import", image, "img:1")
    ours("image", "save", "img:1", "-o", place / "ours.tar")
    config = place / "containerd.toml"
    config.write_text(
        'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        f'[proxy_plugins.pyunionfs]\ntype = "snapshot"\naddress = "{place / "snap.sock"}"\n'
    )
    path = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    serving = [sys.executable, "-m", "pyunionfs", "snapshotter", "--address", place / "snap.sock"]
    serving += ["--root", place / "snapshots"]
    command = ["containerd", "-c", config, "-a", place / "c.sock", "--root", place / "cr", "--state", place / "cs"]
    log = place / "containerd.log"
    ctr = ["ctr", "-a", str(place / "c.sock")]
    with ExitStack() as stack:
        snapshotter = stack.enter_context(ended(answering(serving)))
        with log.open("wb") as output:
            daemon = stack.enter_context(ended(subprocess.Popen(command, env=path, stdout=output, stderr=output)))
        deadline = time.monotonic() + 30
        while b"containerd successfully booted" not in log.read_bytes():
            if daemon.poll() is not None or time.monotonic() > deadline:
                pytest.skip(f"containerd does not run here: {log.read_text().strip().splitlines()[-1]}")
            time.sleep(0.1)
        run(*ctr, "images", "import", "--snapshotter", "pyunionfs", place / "ours.tar")
        seen = ctr_run(ctr, path, "/bin/sh", "-c", f"mount | grep ' / '; {CHANGES}; {SHOW}")
        assert seen == f"overlay on / type fuse.pyunionfs {seen.split('pyunionfs ')[1].splitlines()[0]}\n{CHANGED}"
        snapshotter.kill()
        snapshotter.wait()
        stack.enter_context(ended(answering(serving)))
        assert ctr_run(ctr, path, "/bin/cat", "/data/old") == "old\n"
        assert "Committed" in run(*ctr, "snapshots", "--snapshotter", "pyunionfs", "ls")
        for key in run(*ctr, "snapshots", "--snapshotter", "pyunionfs", "ls").splitlines()[1:]:
            if "Active" in key:  # of an attempt that failed
                run(*ctr, "snapshots", "--snapshotter", "pyunionfs", "rm", key.split()[0])
        run(*ctr, "images", "rm", "--sync", "docker.io/library/img:1")
        for _ in range(100):
            if not list((place / "snapshots/snapshots").iterdir()):
                break
            time.sleep(0.1)
        assert not list((place / "snapshots/snapshots").iterdir())


def ctr_run(ctr: Sequence[str], env: dict[str, str], *command: str) -> str:
    """Run a container by ctr, again where containerd was not able to.

    It needs a while until it tries to reach a snapshotter again ("unavailable"); and the reaper of its shim may
    take the exit status of a mount helper before the shim sees it ("ECHILD", which it tries ten times itself).
    """
    words = ["run", "--rm", "--snapshotter", "pyunionfs", "--runc-binary", "runc", "docker.io/library/img:1"]
    for attempt in range(30):
        whole = [*ctr, *words, f"{command[0][1:].replace('/', '-')}-{attempt}", *command]
        done = subprocess.run(whole, env=env, capture_output=True, text=True, check=False, timeout=60)
        if "unavailable" not in done.stderr and "ECHILD" not in done.stderr:
            break
        time.sleep(0.5)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def ended(process: "subprocess.Popen[bytes]") -> Iterator["subprocess.Popen[bytes]"]:
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def answering(command: Sequence[str | Path]) -> "subprocess.Popen[bytes]":
    """A process that has said that it answers."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"answering")
    process.stdout.close()
    return process
