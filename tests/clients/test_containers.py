"""Container tools whose storage is pyunionfs: podman, buildah and dockerd call it as ``fuse-overlayfs``.

Each test asserts what the person would see, and that nothing is left mounted or running.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import mounts
import pytest

CHANGES = "echo new >/data/new; rm /data/old; rm -r /data/dir; mkdir /data/dir; echo y >/data/dir/y"
CHANGED = "/data:\ndir\nnew\n\n/data/dir:\ny\n"
SHOW = "ls /data /data/dir"
APPLETS = ("sh", "ls", "cat", "echo", "rm", "mkdir", "mount", "grep", "sleep", "touch")
ULIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000")  # not above our own
Drove = Callable[[str], None]


def run(*command: str | Path, env: dict[str, str] | None = None, fails: bool = False) -> str:
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode != 0) == fails, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def needed(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (./dev test --clients installs it)")


@pytest.fixture
def place(requires: Callable[..., None]) -> Iterator[Path]:
    """Where a tool keeps everything; afterwards nothing is mounted there, and nobody serves it.

    A short path: with a long one podman waits 20 seconds for each container, whatever mounts it.
    """
    requires("pyunionfs", "devices")
    path = Path(tempfile.mkdtemp(prefix="c-"))
    yield path
    left = [point for point in mounts.mount_points() if point.is_relative_to(path)]
    for point in reversed(left):
        subprocess.run(["umount", "-l", point], check=False)
    deadline = time.monotonic() + 10
    while (alive := mounts.daemons(path)) and time.monotonic() < deadline:
        time.sleep(0.1)
    shutil.rmtree(path)
    assert not left
    assert not alive


@pytest.fixture
def helper(place: Path) -> Path:
    """The program under the name that the tools call."""
    directory = place / "bin"
    directory.mkdir()
    (directory / "fuse-overlayfs").symlink_to(Path(sys.executable).with_name("pyunionfs"))
    return directory / "fuse-overlayfs"


@pytest.fixture
def image(place: Path) -> Path:
    """A root directory with a shell, as a tar."""
    needed("busybox")
    root = place / "rootfs"
    for directory in ("bin", "data/dir", "tmp", "proc", "dev", "sys"):
        (root / directory).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "", root / "bin/busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "data/old").write_text("old\n")
    (root / "data/dir/x").write_text("x\n")
    run("tar", "-C", root, "-cf", place / "rootfs.tar", ".")
    return place / "rootfs.tar"


# ---- podman and buildah


class Storage:
    """A store of containers/storage with ``mount_program``."""

    def __init__(self, place: Path, helper: Path) -> None:
        self.root = place / "storage"
        conf = place / "storage.conf"
        conf.write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{self.root}"\nrunroot = "{place / "run"}"\n'
            f'[storage.options.overlay]\nmount_program = "{helper}"\n'
        )
        self.env = {**os.environ, "CONTAINERS_STORAGE_CONF": str(conf), "TMPDIR": str(place)}

    def podman(self, *words: str | Path, fails: bool = False) -> str:
        command = ["podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs", *words]
        return run(*command, env=self.env, fails=fails)

    def run(self, *words: str) -> str:
        return self.podman("run", "--network", "none", *ULIMITS, *words)

    def buildah(self, *words: str | Path) -> str:
        return run("buildah", *words, env=self.env)


@pytest.fixture
def storage(place: Path, helper: Path, image: Path, drove: Drove) -> Iterator[Storage]:
    needed("podman", "runc")
    drove(run("podman", "--version"))
    made = Storage(place, helper)
    made.podman("import", image, "img:1")
    try:
        yield made
    finally:
        made.podman("rm", "-af", "-t", "0")
        made.podman("rmi", "-af")


def test_podman_runs_commits_and_runs_again(storage: Storage, place: Path) -> None:
    seen = storage.run("--name", "one", "img:1", "/bin/sh", "-c", f"mount | grep ' / '; {CHANGES}")
    assert seen.startswith("fuse-overlayfs on / type fuse.pyunionfs (rw,")
    changes = {line for line in storage.podman("diff", "one").splitlines() if "/data/" in line}
    assert changes == {"C /data/dir", "A /data/dir/y", "D /data/dir/x", "A /data/new", "D /data/old"}
    diff = Path(json.loads(storage.podman("inspect", "one"))[0]["GraphDriver"]["Data"]["UpperDir"])
    assert mounts_of(diff / "data/old") == "whiteout"
    assert os.getxattr(diff / "data/dir", "trusted.overlay.opaque") == b"y"
    storage.podman("commit", "-q", "one", "img:2")
    assert storage.run("--rm", "img:2", "/bin/sh", "-c", SHOW) == CHANGED
    assert storage.run("--rm", "--read-only", "img:1", "/bin/sh", "-c", "cat /data/old") == "old\n"
    storage.podman("save", "-q", "-o", place / "saved.tar", "img:2")
    storage.podman("rm", "one")
    storage.podman("rmi", "-af")
    storage.podman("load", "-q", "-i", place / "saved.tar")
    assert storage.run("--rm", "img:2", "/bin/sh", "-c", SHOW) == CHANGED
    image = [sys.executable, "-m", "pyunionfs", "image", "--root", place / "ours"]
    assert "img:2" in run(*image, "load", place / "saved.tar")


def mounts_of(path: Path) -> str:
    status = path.lstat()
    return "whiteout" if path.is_char_device() and status.st_rdev == 0 else "no whiteout"


def test_podman_containers_share_layers_and_survive_a_kill(storage: Storage) -> None:
    for name in ("one", "two"):
        storage.run("-d", "--name", name, "img:1", "/bin/sleep", "1000")
    served = json.loads(run(sys.executable, "-m", "pyunionfs", "mounts", "--json"))
    lowers = [item["lower"] for item in served if item["mountpoint"].startswith(str(storage.root))]
    assert len(lowers) == 2
    assert os.path.realpath(lowers[0][0]) == os.path.realpath(lowers[1][0])
    storage.podman("exec", "one", "/bin/sh", "-c", "echo mine >/tmp/mine")
    storage.podman("exec", "two", "/bin/cat", "/tmp/mine", fails=True)
    os.kill(int(storage.podman("inspect", "-f", "{{.State.Pid}}", "one")), signal.SIGKILL)
    assert storage.podman("wait", "one").strip() == "137"
    storage.podman("start", "one")
    assert storage.podman("exec", "one", "/bin/cat", "/tmp/mine") == "mine\n"


def test_buildah_builds_by_hand(storage: Storage, drove: Drove) -> None:
    needed("buildah")
    drove(run("buildah", "--version"))
    container = storage.buildah("from", "--pull-never", "localhost/img:1").strip()
    merged = Path(storage.buildah("mount", container).strip())
    run("sh", "-c", CHANGES.replace("/data", f"{merged}/data"))
    storage.buildah("umount", container)
    storage.buildah("commit", "-q", container, "img:built")
    storage.buildah("rm", container)
    assert storage.run("--rm", "localhost/img:built", "/bin/sh", "-c", SHOW) == CHANGED


# ---- dockerd


class Docker:
    """A client of a daemon of our own."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def __call__(self, *words: str | Path, fails: bool = False) -> str:
        return run("docker", "-H", f"unix://{self._socket}", *words, fails=fails)

    def run(self, *words: str) -> str:
        return self("run", "--network", "none", *words)


@pytest.fixture
def docker(place: Path, helper: Path, image: Path, drove: Drove) -> Iterator[Docker]:
    needed("dockerd", "docker", "runc", "containerd")
    socket, log = place / "s", place / "dockerd.log"
    command = ["dockerd", "--data-root", place / "d", "--exec-root", place / "e", "-H", f"unix://{socket}"]
    command += ["--pidfile", place / "p", "--storage-driver", "fuse-overlayfs"]
    command += ["--iptables=false", "--ip6tables=false", "--bridge=none"]
    env = {**os.environ, "PATH": f"{helper.parent}:{os.environ['PATH']}"}
    with log.open("wb") as output, subprocess.Popen(command, env=env, stdout=output, stderr=output) as daemon:
        try:
            deadline = time.monotonic() + 30
            while "API listen" not in log.read_text():
                if daemon.poll() is not None or time.monotonic() > deadline:
                    pytest.skip(f"dockerd does not run here: {log.read_text().strip().splitlines()[-1]}")
                time.sleep(0.1)
            drove(run("dockerd", "--version"))
            client = Docker(socket)
            client("import", image, "img:1")
            yield client
            for container in client("ps", "-aq").split():
                client("rm", "-f", container)
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(30)


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


# ---- images that go round


class Ours:
    """Our own commands, on a store of their own."""

    def __init__(self, place: Path) -> None:
        self._env = {**os.environ, "PYUNIONFS_ROOT": str(place / "ours")}

    def __call__(self, *words: str | Path) -> str:
        return run(sys.executable, "-m", "pyunionfs", *words, env=self._env)


def changed_by_us(place: Path, archive: Path) -> Path:
    """Load, mount, change, commit, save: an archive of ``img:2``."""
    ours, merged = Ours(place), place / "merged"
    ours("image", "load", archive)
    for directory in (merged, place / "upper"):
        directory.mkdir()
    ours("mount", "--image", "img:1", "--upper", place / "upper", merged)
    run("sh", "-c", CHANGES.replace("/data", f"{merged}/data"))
    os.chown(merged / "data/new", 12, 34)
    (merged / "data/new").chmod(0o4750)
    run("setcap", "cap_net_raw+ep", merged / "data/dir/y")
    ours("umount", merged)
    ours("image", "commit", "-m", "changed by us", "-c", 'CMD ["/bin/ls"]', "img:1", place / "upper", "img:2")
    ours("image", "save", "img:2", "-o", place / "ours.tar")
    return place / "ours.tar"


LOOK = f"{SHOW}; busybox stat -c '%u %g %a' /data/new; busybox wc -c </data/new"
LOOKED = f"{CHANGED}12 34 4750\n4\n"


@pytest.mark.timeout(300, method="signal")
def test_an_image_of_docker_goes_round(docker: Docker, place: Path, storage: Storage, drove: Drove) -> None:
    """docker save, our load, mount, commit and save; and docker, podman and skopeo read it."""
    needed("setcap", "skopeo")
    drove(run("skopeo", "--version"))
    docker("save", "-o", place / "docker.tar", "img:1")
    archive = changed_by_us(place, place / "docker.tar")
    docker("load", "-i", archive)
    assert docker("history", "--format", "{{.Comment}}", "img:2").splitlines()[0] == "changed by us"
    assert docker.run("--rm", "img:2", "/bin/busybox", "sh", "-c", LOOK) == LOOKED
    storage.podman("load", "-q", "-i", archive)
    assert storage.run("--rm", "docker.io/library/img:2", "/bin/busybox", "sh", "-c", LOOK) == LOOKED
    mounted = storage.podman("image", "mount", "docker.io/library/img:2").strip()
    assert "cap_net_raw=ep" in run("getcap", f"{mounted}/data/dir/y")
    storage.podman("image", "umount", "docker.io/library/img:2")
    layers = json.loads(run("skopeo", "inspect", f"docker-archive:{archive}"))["Layers"]
    assert json.loads(run("skopeo", "inspect", f"oci-archive:{archive}"))["Layers"] == layers
    docker("save", "-o", place / "again.tar", "img:2")
    image = json.loads(Ours(place)("image", "load", "--json", place / "again.tar"))
    assert [item["Id"] for item in image] == [docker("inspect", "-f", "{{.Id}}", "img:2").strip()]


@pytest.mark.timeout(300, method="signal")
def test_containerd_imports_what_we_save(place: Path, image: Path, storage: Storage, drove: Drove) -> None:
    needed("containerd", "ctr", "setcap")
    drove(run("containerd", "--version"))
    storage.podman("save", "-q", "-o", place / "podman.tar", "img:1")
    archive = changed_by_us(place, place / "podman.tar")
    socket = place / "c.sock"
    config = place / "containerd.toml"
    config.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
    command = ["containerd", "-c", config, "-a", socket, "--root", place / "cr", "--state", place / "cs"]
    log = place / "containerd.log"
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as daemon:
        try:
            deadline = time.monotonic() + 30
            while b"containerd successfully booted" not in log.read_bytes():
                if daemon.poll() is not None or time.monotonic() > deadline:
                    pytest.skip(f"containerd does not run here: {log.read_text().strip().splitlines()[-1]}")
                time.sleep(0.1)
            ctr = ["ctr", "-a", str(socket), "images"]
            run(*ctr, "import", "--snapshotter", "native", archive)
            assert "docker.io/library/img:2 " in run(*ctr, "ls")
            merged = place / "seen"
            merged.mkdir()
            run(*ctr, "mount", "--snapshotter", "native", "docker.io/library/img:2", merged)
            assert run("ls", merged / "data", merged / "data/dir").replace(str(merged), "") == CHANGED
            assert "cap_net_raw=ep" in run("getcap", merged / "data/dir/y")
            run(*ctr, "unmount", merged)
        finally:
            daemon.terminate()
            daemon.wait(30)


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
