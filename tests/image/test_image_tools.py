"""Archives that the real tools write, each with storage of its own below the test's directory; no network.

The image is made by one of them from nothing, copied between the forms by skopeo, and must look the same to us
in each. podman's own view of an image, mounted, is compared with our layers in a kernel overlay.
"""

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import xattr
from archives import Picture, directory, docker_25, entry, layer, opaque, outer, symlink, whiteout, write

from pyunionfs.image.store import Image, Store


def run(*command: object, env: dict[str, str] | None = None) -> str:
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"no {command[0]} here")
    result = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, env={**os.environ, **(env or {})}
    )
    if result.returncode:
        pytest.fail(f"{command[0]} failed: {result.stderr[-600:]}")
    return result.stdout.strip()


def names(path: Path) -> list[str]:
    return sorted(str(item.relative_to(path)) for item in path.rglob("*"))


# -- skopeo: every form from every form


@pytest.fixture
def original(tmp_path: Path) -> Path:
    base = layer(directory("etc"), entry("etc/a", "one"), entry("etc/b", "two"), symlink("link", "etc"))
    top = layer(whiteout("etc/a"), directory("var"), opaque("var"), entry("var/new", "n", mode=0o4755))
    steps = [{"created_by": "ADD"}, {"created_by": "ENV A=b", "empty_layer": True}, {"created_by": "RUN"}]
    image = Picture([base, top], tags=["app:1"], history=steps, extra={"created": "2024-01-01T00:00:00Z"})
    return write(tmp_path / "original.tar", outer(docker_25(image)))


FORMS = ["docker-archive:{}/x.tar:app:2", "oci-archive:{}/x.tar:app:2", "oci:{}/layout:app:2", "dir:{}/dir"]


def load_form(tmp_path: Path, form: str) -> Image:
    path = form.format(tmp_path).split(":")[1]
    (image,) = Store(tmp_path / f"store-{form[:5]}", sync=False).load(path)
    return image


def same(one: Image, two: Image) -> None:
    assert [item.diff_id for item in one.layers] == [item.diff_id for item in two.layers]
    assert [names(item.path) for item in one.layers] == [names(item.path) for item in two.layers]
    assert [entry.layer is None for entry in one.history] == [entry.layer is None for entry in two.history]


@pytest.mark.parametrize("form", FORMS)
def test_forms_that_skopeo_writes(store: Store, tmp_path: Path, original: Path, form: str) -> None:
    (expected,) = store.load(original)
    run("skopeo", "copy", f"docker-archive:{original}", form.format(tmp_path))
    image = load_form(tmp_path, form)
    same(image, expected)
    assert image.tags == (() if form.startswith("dir:") else ("app:2",))


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_compressions_that_skopeo_writes(store: Store, tmp_path: Path, original: Path, compression: str) -> None:
    (expected,) = store.load(original)
    options = ["--dest-compress-format", compression, "--dest-compress"]
    run("skopeo", "copy", *options, f"docker-archive:{original}", f"oci-archive:{tmp_path}/x.tar:app:2")
    same(load_form(tmp_path, "oci-archive:{}/x.tar:app:2"), expected)


def test_a_dir_that_lies_about_its_layers(store: Store, tmp_path: Path, original: Path) -> None:
    (expected,) = store.load(original)
    run("skopeo", "copy", "--format", "v2s2", f"docker-archive:{original}", f"dir:{tmp_path}/dir")
    manifest = json.loads((tmp_path / "dir/manifest.json").read_text())
    assert manifest["layers"][0]["mediaType"].endswith("tar.gzip")
    same(load_form(tmp_path, "dir:{}/dir"), expected)


def test_several_images_in_one_layout(store: Store, tmp_path: Path, original: Path) -> None:
    for tag in ("one", "two"):
        run("skopeo", "copy", f"docker-archive:{original}", f"oci:{tmp_path}/many:{tag}")
    assert {tag for image in store.load(tmp_path / "many") for tag in image.tags} == {"many:one", "many:two"}
    assert store.load(f"{tmp_path}/many#two")[0].id == store.image("many:one").id


# -- umoci


def test_umoci(store: Store, tmp_path: Path) -> None:
    layout, bundle = tmp_path / "layout", tmp_path / "bundle"
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", f"{layout}:v1")
    rootless = [] if os.geteuid() == 0 else ["--rootless"]
    run("umoci", "unpack", *rootless, "--image", f"{layout}:v1", bundle)
    rootfs = bundle / "rootfs"
    (rootfs / "etc").mkdir()
    (rootfs / "etc/gone").write_text("x")
    (rootfs / "etc/kept").write_text("y")
    os.utime(rootfs / "etc/kept", ns=(0, -86_400_500_000_000))
    (rootfs / "name\udcff").write_text("not utf-8")
    xattr.setxattr(str(rootfs / "etc/kept"), "user.key", b"\0=\n")
    run("umoci", "repack", "--image", f"{layout}:v1", bundle)
    shutil.rmtree(bundle)
    run("umoci", "unpack", *rootless, "--image", f"{layout}:v1", bundle)
    (rootfs / "etc/gone").unlink()
    run("umoci", "repack", "--image", f"{layout}:v2", bundle)

    images = {image.tags: image for image in store.load(layout)}
    second = images[("layout:v2",)]
    assert len(second.layers) == 2
    assert second.layers[0].path == images[("layout:v1",)].layers[0].path
    assert stat.S_ISCHR((second.lowerdirs[0] / "etc/gone").lstat().st_mode)
    kept = second.lowerdirs[1] / "etc/kept"
    assert kept.stat().st_mtime_ns == -86_400_000_000_000  # umoci writes whole seconds
    assert xattr.getxattr(str(kept), "user.key") == b"\0=\n"
    assert (second.lowerdirs[1] / "name\udcff").read_text() == "not utf-8"


# -- buildah and podman


class Storage:
    """buildah and podman with all their files below one directory, whose name podman wants short."""

    def __init__(self, path: Path) -> None:
        engine = {
            "lock_type": "file",
            "tmp_dir": f"{path}/tmp",
            "static_dir": f"{path}/lib",
            "events_logger": "none",
        }
        lines = ["[engine]", *(f'{key} = "{value}"' for key, value in engine.items())]
        (path / "containers.conf").write_text("\n".join(lines) + "\n")
        self.options = ["--root", path / "root", "--runroot", path / "run", "--storage-driver", "vfs"]
        self.environment = {"CONTAINERS_CONF": str(path / "containers.conf")}

    def __call__(self, program: str, *arguments: object) -> str:
        return run(program, *self.options, *arguments, env=self.environment)


@pytest.fixture
def storage() -> Iterator[Storage]:
    if os.geteuid() != 0:
        pytest.skip("needs a user namespace set up for buildah")
    path = Path(tempfile.mkdtemp(prefix="pu-"))
    try:
        yield Storage(path)
    finally:
        with open("/proc/self/mounts") as mounts:
            for target in [line.split()[1] for line in mounts if line.split()[1].startswith(f"{path}/")]:
                subprocess.run(["umount", target], check=True)
        shutil.rmtree(path)


def build(storage: Storage, tmp_path: Path) -> None:
    """Three layers from nothing: files, a deletion, a directory emptied and filled again."""
    source = tmp_path / "source"
    (source / "etc").mkdir(parents=True)
    for name in ("a", "b", "c"):
        (source / "etc" / name).write_text(name)
    (source / "etc/suid").write_text("s")
    (source / "etc/suid").chmod(0o4711)
    os.link(source / "etc/a", source / "hard")
    (source / "soft").symlink_to("etc/a")

    def change(image: str, result: str, action: Callable[[Path], None]) -> None:
        container = storage("buildah", "from", "--pull-never", image)
        mounted = Path(storage("buildah", "mount", container))
        action(mounted)
        storage("buildah", "umount", container)
        storage("buildah", "commit", container, result)
        storage("buildah", "rm", container)

    def empty(root: Path) -> None:
        shutil.rmtree(root / "etc")
        (root / "etc").mkdir()
        (root / "etc/new").write_text("new")

    change(
        "scratch",
        "localhost/built:1",
        lambda root: shutil.copytree(source, root, dirs_exist_ok=True, symlinks=True),
    )
    change("localhost/built:1", "localhost/built:2", lambda root: (root / "etc/b").unlink())
    change("localhost/built:2", "localhost/built:3", empty)


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive", "docker-dir", "oci-dir"])
def test_what_buildah_builds_and_podman_saves(store: Store, storage: Storage, tmp_path: Path, form: str) -> None:
    build(storage, tmp_path)
    target = tmp_path / "saved"
    storage("podman", "save", "-q", "--format", form, "-o", target, "localhost/built:3")
    (image,) = store.load(target)
    if form != "docker-dir":
        assert image.tags == ("built:3",)
    assert len(image.layers) == 3
    assert [item.report.whiteouts for item in image.layers][:2] == [0, 1]
    assert stat.S_ISCHR((image.layers[1].path / "etc/b").lstat().st_mode)
    base = image.layers[0].path
    assert stat.S_IMODE((base / "etc/suid").stat().st_mode) == 0o4711
    assert os.readlink(base / "soft") == "etc/a"
    inspected = json.loads(storage("podman", "image", "inspect", "localhost/built:3"))[0]
    assert [item.diff_id for item in image.layers] == inspected["RootFS"]["Layers"]
    assert image.id.endswith(inspected["Id"]) or form.startswith("docker")


def test_podman_and_we_show_the_same_files(store: Store, storage: Storage, tmp_path: Path) -> None:
    build(storage, tmp_path)
    storage("podman", "save", "-q", "-o", tmp_path / "saved.tar", "localhost/built:3")
    (image,) = store.load(tmp_path / "saved.tar")
    theirs = Path(storage("podman", "image", "mount", "localhost/built:3"))
    merged = tmp_path / "merged"
    merged.mkdir()
    stack = ":".join(map(str, image.lowerdirs))
    mounted = subprocess.run(["mount", "-t", "overlay", "-o", f"ro,lowerdir={stack}", "overlay", merged])
    if mounted.returncode:
        pytest.skip("the kernel's overlay cannot be mounted here")
    try:
        assert names(merged) == names(theirs)
        for name in names(theirs):
            one, two = (merged / name).lstat(), (theirs / name).lstat()
            assert (one.st_mode, one.st_uid, one.st_gid) == (two.st_mode, two.st_uid, two.st_gid)
            if stat.S_ISREG(one.st_mode):
                assert (merged / name).read_bytes() == (theirs / name).read_bytes()
    finally:
        subprocess.run(["umount", merged], check=True)
        storage("podman", "image", "umount", "localhost/built:3")


def test_podman_loads_the_example(storage: Storage, tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "examples" / "make_archive.py"
    for options in ([], ["--oci"]):
        run(sys.executable, script, tmp_path / "web.tar", *options)
        assert "web:1" in storage("podman", "load", "-q", "-i", tmp_path / "web.tar")
