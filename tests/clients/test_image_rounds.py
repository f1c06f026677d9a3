"""Images go round: from docker and podman to us, changed, and back to all of them."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from containers import (
    CHANGED,
    CHANGES,
    SHOW,
    Docker,
    Drove,
    Ours,
    Storage,
    needed,
    run,
)


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


def changed_in_a_container_of_ours(place: Path, archive: Path) -> Path:
    """Load, run, commit, save: an archive of ``img:2``."""
    ours = Ours(place)
    ours("image", "load", archive)
    script = f"{CHANGES}; busybox chown 12:34 /data/new; busybox chmod 4750 /data/new"
    ours("run", "--name", "one", "img:1", "/bin/busybox", "sh", "-c", script)
    ours("commit", "-m", "changed by us", "-c", 'CMD ["/bin/ls"]', "one", "img:2")
    ours("image", "save", "img:2", "-o", place / "ours.tar")
    ours("rm", "one")
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
def test_what_our_container_has_changed_goes_round(docker: Docker, place: Path, storage: Storage) -> None:
    """docker save, our load, run, commit and save; docker and podman run it, and we what they save of it."""
    docker("save", "-o", place / "docker.tar", "img:1")
    archive = changed_in_a_container_of_ours(place, place / "docker.tar")
    docker("load", "-i", archive)
    assert docker.run("--rm", "img:2", "/bin/busybox", "sh", "-c", LOOK) == LOOKED
    storage.podman("load", "-q", "-i", archive)
    storage.podman("save", "-q", "-o", place / "podman.tar", "docker.io/library/img:2")
    ours = Ours(place)
    ours("image", "rm", "img:2")
    ours("image", "load", place / "podman.tar")
    assert ours("run", "--rm", "img:2", "/bin/busybox", "sh", "-c", LOOK) == LOOKED


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
