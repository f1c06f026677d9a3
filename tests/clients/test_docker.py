"""dockerd on pyunionfs, by its fuse-overlayfs driver."""

import os
import signal
from pathlib import Path

import pytest
from containers import (
    CHANGED,
    CHANGES,
    SHOW,
    Docker,
)


@pytest.mark.timeout(300, method="signal")
def test_docker_runs_commits_saves_and_runs_again(docker: Docker, place: Path) -> None:
    assert "Storage Driver: fuse-overlayfs" in docker("info")
    seen = docker.run("--name", "one", "img:1", "/bin/sh", "-c", f"mount | grep ' / '; {CHANGES}")
    assert seen.startswith("fuse-overlayfs on / type fuse.pyunionfs (rw,")
    changes = set(docker("diff", "one").splitlines())
    assert changes == {"C /data", "C /data/dir", "A /data/dir/y", "D /data/dir/x", "A /data/new", "D /data/old"}
    docker("commit", "-m", "changed", "one", "img:2")
    assert docker("history", "--format", "{{.Comment}}", "img:2").splitlines()[0] == "changed"
    assert docker.run("--rm", "img:2", "/bin/sh", "-c", SHOW) == CHANGED
    docker("save", "-o", place / "saved.tar", "img:2")
    docker("rm", "one")
    docker("rmi", "img:2", "img:1")
    docker("load", "-i", place / "saved.tar")
    assert docker.run("--rm", "img:2", "/bin/sh", "-c", SHOW) == CHANGED


@pytest.mark.timeout(300, method="signal")
def test_a_killed_docker_container_starts_again(docker: Docker) -> None:
    docker.run("-d", "--name", "one", "img:1", "/bin/sleep", "1000")
    docker("exec", "one", "/bin/sh", "-c", "echo mine >/tmp/mine; rm /data/old")
    os.kill(int(docker("inspect", "-f", "{{.State.Pid}}", "one")), signal.SIGKILL)
    docker("wait", "one")
    assert "Exited (137)" in docker("ps", "-a", "--format", "{{.Status}}")
    docker("start", "one")
    assert docker("exec", "one", "/bin/sh", "-c", "cat /tmp/mine; ls /data/old || echo gone") == "mine\ngone\n"
    docker("kill", "one")
