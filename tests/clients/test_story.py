"""The story of a container runs from its first line to its last, and its pages show what it prints."""

import difflib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mounts
import pytest

STORY = Path(__file__).parents[2] / "examples/container-story"


@pytest.mark.timeout(300, method="signal")
@pytest.mark.parametrize(
    ("script", "page", "programs"),
    [
        ("ours.py", "OURS.md", ["busybox", "runc", "containerd", "mount.fuse3"]),
        ("with_docker.py", "DOCKER.md", ["busybox", "runc", "docker", "dockerd", "mount.fuse3"]),
    ],
)
def test_the_page_is_what_the_script_prints(
    script: str, page: str, programs: list[str], requires: Callable[..., None]
) -> None:
    requires("pyunionfs", "devices", "trusted_xattrs")
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (./dev test --clients installs it)")
    done = subprocess.run(
        [sys.executable, STORY / script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    if "dockerd does not run here" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr
    kept = (STORY / page).read_text().splitlines()
    assert not list(difflib.unified_diff(kept, done.stdout.splitlines(), page, "now", lineterm=""))
    assert not [point for point in mounts.mount_points() if "/story-" in str(point)]
