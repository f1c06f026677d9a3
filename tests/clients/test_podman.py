"""podman and buildah on pyunionfs, which they call as ``fuse-overlayfs``, as root.

Each test asserts what the person would see, and that nothing is left mounted or running.
"""

import json
import os
import signal
import sys
from pathlib import Path

from containers import (
    CHANGED,
    CHANGES,
    SHOW,
    Drove,
    Storage,
    needed,
    run,
)


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


def test_podman_maps_ids_as_root(storage: Storage) -> None:
    """podman has the layers mapped by the kernel, and tells of the mapping too; fuse-overlayfs 1.10 maps twice."""
    ids = ("--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536")
    seen = storage.run(
        "--name", "one", *ids, "img:1", "/bin/sh", "-c", f"{CHANGES}; chown 5:6 /data/new; ls -ln /data"
    )
    rows = {row[8]: (row[2], row[3]) for row in (line.split() for line in seen.splitlines()) if len(row) == 9}
    assert rows == {"dir": ("0", "0"), "new": ("5", "6")}
    (new,) = storage.root.glob("overlay/*/diff/data/new")
    assert (new.stat().st_uid, new.stat().st_gid) == (5, 6)
    storage.podman("commit", "-q", "one", "img:2")
    assert storage.run("--rm", "img:2", "/bin/sh", "-c", SHOW) == CHANGED


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
