"""Owners that are shown, or kept, in another way than the layers' filesystem has them: as fuse-overlayfs does."""

import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import mounts
import pytest
from mounts import Layers
from ordinary import as_a_person, owned_by_a_person
from trees import Dir, File, build

from pyunionfs import Overlay, Paths
from pyunionfs.overlay import ownership
from pyunionfs.vfs import Caller, SetAttr

TREE = {
    "root": File("x", 0o644),
    "one": File("x", 0o4755, 1, 1),
    "many": Dir({"in": File("x", 0o600, 70_000, 70_000)}, 0o2750, 1000, 1000),
}
MAPPING = "0:1000:1:1:110000:65536"


@pytest.fixture
def layers(tmp_path: Path, requires: Callable[..., None]) -> Layers:
    requires("pyunionfs", "other_users")
    layers = Layers.create(tmp_path)
    build(layers.lower[0], TREE)
    return layers


@contextmanager
def fuse_overlayfs(layers: Layers, options: Mapping[str, str | bool]) -> Iterator[Path]:
    words = [f"lowerdir={layers.lower[0]}", f"upperdir={layers.upper}", f"workdir={layers.work}"]
    words += [name if value is True else f"{name}={value}" for name, value in options.items()]
    subprocess.run(["fuse-overlayfs", "-o", ",".join(words), layers.merged], check=True, timeout=30)
    try:
        yield layers.merged
    finally:
        mounts.unmount(layers.merged)


def owners(root: Path) -> dict[str, tuple[int, int, str]]:
    found = {}
    for path in sorted([root, *root.rglob("*")]):
        st = path.lstat()
        found[str(path.relative_to(root))] = st.st_uid, st.st_gid, stat.filemode(st.st_mode)
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"uidmapping": MAPPING, "gidmapping": MAPPING},
        {"uidmapping": MAPPING},
        {"squash_to_root": True},
        {"squash_to_uid": "7", "squash_to_gid": "8"},
    ],
    ids=str,
)
def test_ids_are_shown_as_by_fuse_overlayfs(layers: Layers, options: Mapping[str, str | bool]) -> None:
    if shutil.which("fuse-overlayfs") is None:
        pytest.skip("fuse-overlayfs is not installed")
    told = {}
    for name, mounter in {"theirs": fuse_overlayfs, "ours": mounts.ours}.items():
        mine = layers.with_upper(layers.upper.parent / name)
        with mounter(mine, options) as merged:
            before = owners(merged)
            if "uidmapping" in options and "gidmapping" in options:
                os.chmod(merged / "one", 0o640)
                os.chown(merged / "root", 110_004, 110_005)
            told[name] = before, owners(merged), owners(mine.upper).get("root")
    assert told["ours"] == told["theirs"]


def test_mapped_ids_are_mapped_back(layers: Layers) -> None:
    options = {"uidmapping": MAPPING, "gidmapping": MAPPING}
    with mounts.ours(layers, options) as merged:
        assert owners(merged)["many/in"] == (65534, 65534, "-rw-------")
        assert owners(merged)["one"] == (110_000, 110_000, "-rwsr-xr-x")
        os.chown(merged / "root", 110_004, 1000)
        assert owners(merged)["root"] == (110_004, 1000, "-rw-r--r--")
    assert owners(layers.upper)["root"] == (5, 0, "-rw-r--r--")


def test_what_the_kernel_has_mapped_is_not_mapped_again(layers: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
    """As podman --uidmap has it for root: the lower layers are on mounts that map ids, the upper one is not."""
    os.chown(layers.lower[0] / "one", 100_001, 100_002)
    monkeypatch.setattr(ownership, "is_idmapped", lambda path: path == os.fsencode(layers.lower[0]))
    options = {"uidmapping": ":0:100000:65536", "gidmapping": ":0:100000:65536"}
    with Overlay(layers.lower, layers.upper, options=options) as overlay:
        files = Paths(overlay)
        assert (files.stat("one").uid, files.stat("one").gid) == (100_001, 100_002)
        assert files.stat("root").uid == 165_534, "an id that the kernel has no mapping for: nobody, inside"
        files.write_bytes("one", b"changed")
        assert (files.stat("one").uid, files.stat("one").gid) == (100_001, 100_002)
    assert owners(layers.upper)["one"][:2] == (1, 2)


def test_no_mount_of_this_machine_maps_ids_unasked(layers: Layers) -> None:
    assert not ownership.is_idmapped(os.fsencode(layers.lower[0]))


@pytest.mark.parametrize("text", ["1:2", "a:b:c", "0:1:2:3", "-1:0:1", f"{1 << 32}:0:1"])
def test_a_malformed_mapping_is_refused(layers: Layers, text: str) -> None:
    with pytest.raises(OSError, match="uidmapping"):
        Overlay(layers.lower, layers.upper, options={"uidmapping": text})


def test_podmans_empty_first_mapping_is_understood(layers: Layers) -> None:
    with Overlay(layers.lower, layers.upper, options={"uidmapping": ":0:100000:65536"}) as overlay:
        assert Paths(overlay).stat("one").uid == 100_001


@pytest.mark.parametrize(("value", "name"), [("1", "security.fuseoverlayfs"), ("2", "user.containers")])
def test_owner_and_mode_are_kept_in_an_xattr(layers: Layers, value: str, name: str) -> None:
    name += ".override_stat"
    options = {"xattr_permissions": value}
    with mounts.ours(layers, options) as merged:
        (merged / "new").write_bytes(b"x")
        (merged / "dir").mkdir()
        os.chmod(merged / "new", 0o4711)
        os.chown(merged / "dir", 1234, 5678)
        os.chmod(merged / "many/in", 0o444)
        os.symlink("new", merged / "link")
        seen = owners(merged)
        assert seen["new"] == (0, 0, "-rws--x--x")
        assert seen["dir"] == (1234, 5678, "drwxr-xr-x")
        assert seen["many/in"] == (70_000, 70_000, "-r--r--r--")
        assert seen["many"] == (1000, 1000, "drwxr-s---")
        for path in merged.rglob("*"):
            assert name not in os.listxattr(path, follow_symlinks=False)
        with pytest.raises(PermissionError):
            os.setxattr(merged / "new", name, b"0:0:4777")
    assert os.getxattr(layers.upper / "many/in", name) == b"70000:70000:444"
    assert owners(layers.upper)["many/in"] == (0, 0, "-rw-r--r--")
    below = Layers((layers.upper, *layers.lower), *[layers.upper.parent / name for name in ("u2", "w2", "merged")])
    below.upper.mkdir()
    below.work.mkdir()
    with mounts.ours(below, options) as merged:
        assert owners(merged) == seen
        os.chmod(merged / "new", 0o600)
        assert owners(merged)["new"] == (0, 0, "-rw-------")


def give_away(layers: Layers) -> int:
    with Overlay(layers.lower, layers.upper, layers.work, options={"xattr_permissions": "2"}) as overlay:
        ino = overlay.lookup(overlay.root.ino, b"file").ino
        attr = overlay.setattr(ino, SetAttr(uid=0, gid=5, mode=0o4755), Caller(0, 0))
        return 0 if (attr.uid, attr.gid, attr.mode) == (0, 5, 0o104755) else 2


def test_an_ordinary_user_may_give_objects_away(tmp_path: Path, requires: Callable[..., None]) -> None:
    requires("other_users")
    with owned_by_a_person(tmp_path.name, {"file": "x"}) as layers:
        assert as_a_person(lambda: give_away(layers)) == 0
        assert os.getxattr(layers.upper / "file", "user.containers.override_stat") == b"0:5:4755"
