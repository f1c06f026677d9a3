"""A store with one image, ``app:1``, and the commands on it, by each runtime and by none."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import mounts
import pytest
from archives import Picture, directory, docker_25, entry, layer, outer, symlink, write
from namespaces import MountNamespace
from ours import Ours

PASSWD = "root:x:0:0::/root:/bin/sh\napp:x:12:34::/home/app:/bin/sh\n"
GROUP = "app:x:34:\nextra:x:77:app\n"
APPLETS = (
    "ln",
    "sh",
    "ls",
    "cat",
    "sleep",
    "id",
    "hostname",
    "ps",
    "echo",
    "rm",
    "env",
    "ip",
    "mount",
    "pwd",
    "kill",
)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox is not installed (./dev test --clients installs it)")
    data = Path(busybox).read_bytes()
    if b"ld-linux" in data[:4096]:
        pytest.skip("the busybox here is not a static one")
    base = layer(
        *(directory(name) for name in ("bin", "etc", "data", "proc", "dev", "sys", "tmp")),
        entry("bin/busybox", data, mode=0o755),
        *(symlink(f"bin/{applet}", "busybox") for applet in APPLETS),
        entry("etc/passwd", PASSWD),
        entry("etc/group", GROUP),
        entry("data/old", "old"),
    )
    config = {"config": {"Env": ["A=image", "B=image"], "Cmd": ["/bin/pwd"], "WorkingDir": "/data"}}
    return write(tmp_path / "app.tar", outer(docker_25(Picture([base], extra=config))))


@contextmanager
def without_hybrid_cgroups() -> Iterator[Sequence[str]]:
    """What to put before a command, for it not to see version 2 of cgroups beside version 1: crun refuses both."""
    if not os.path.ismount("/sys/fs/cgroup/unified"):
        yield ()
        return
    namespace = MountNamespace()
    try:
        subprocess.run([*namespace.enter, "umount", "/sys/fs/cgroup/unified"], check=True)
        yield namespace.enter
    finally:
        namespace.end()


@pytest.fixture(params=["runc", "crun", "none"])
def ours(
    request: pytest.FixtureRequest, tmp_path: Path, image: Path, requires: Callable[..., None]
) -> Iterator[Ours]:
    requires("pyunionfs", "devices")
    if request.param != "none" and shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    with without_hybrid_cgroups() if request.param == "crun" else nullcontext(()) as enter:
        made = Ours(tmp_path / "store", request.param, enter)
        made("image", "load", image)
        tried = made.attempt("run", "--rm", *made.runtime, "app:1", "/bin/echo")
        if request.param != "none" and tried.returncode:
            pytest.skip(f"{request.param} does not run here: {tried.stderr.splitlines()[0]}")
        yield made
        for name in made("ps", "-aq").split():
            made("rm", "-f", name)
    assert not [point for point in mounts.mount_points() if point.is_relative_to(tmp_path)]
    assert not mounts.daemons(tmp_path)
