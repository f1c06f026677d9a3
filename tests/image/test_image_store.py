"""The store: sharing, removing, holding, two loads at once, loads that were killed."""

import errno
import fcntl
import io
import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import archives
import pytest
import xattr
from archives import (
    Picture,
    directory,
    docker_25,
    entry,
    gz,
    hardlink,
    hexdigest,
    layer,
    oci_layout,
    opaque,
    outer,
    whiteout,
    write,
)

from pyunionfs.image.archived import ArchivedImage, ArchivedLayer
from pyunionfs.image.config import parse
from pyunionfs.image.errors import ImageError
from pyunionfs.image.extract import extract
from pyunionfs.image.limits import DEFAULT_LIMITS
from pyunionfs.image.removal import remove
from pyunionfs.image.source import Member
from pyunionfs.image.store import Progress, Store, default_root
from pyunionfs.overlay.marks import TRUSTED, USER

BASE = layer(directory("etc"), entry("etc/a", "one"), entry("etc/b", "two"))
MIDDLE = layer(whiteout("etc/a"))
TOP = layer(opaque("etc"), entry("etc/c", "three"))


def archive(path: Path, *images: Picture) -> Path:
    return write(path, outer(docker_25(*images)))


def tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


# -- what a store is


def test_reading_a_store_that_is_not_there(store: Store) -> None:
    assert store.images() == []
    assert store.tags() == {}
    with pytest.raises(ImageError, match="no image 'x' in the store: it is empty"):
        store.image("x")
    with pytest.raises(ImageError, match="it is empty"):
        remove(store, "x")
    assert not store.root.exists()


def test_default_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYUNIONFS_ROOT", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_root() == Path("/var/lib/pyunionfs")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/u")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert default_root() == Path("/home/u/.local/share/pyunionfs")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_root() == Path("/data/pyunionfs")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")  # to be ignored, says the specification
    assert default_root() == Path("/home/u/.local/share/pyunionfs")
    monkeypatch.setenv("PYUNIONFS_ROOT", "/chosen")
    assert default_root() == Path("/chosen")


def test_a_store_is_private_and_says_its_marks(store: Store, tmp_path: Path) -> None:
    store.load(archive(tmp_path / "x.tar", Picture([BASE])))
    assert stat.S_IMODE(store.root.stat().st_mode) == 0o700
    recorded = json.loads((store.root / "store.json").read_text())
    assert recorded == {"version": 1, "marks": store.marks.prefix}


def test_marks_are_chosen_once(store: Store, tmp_path: Path) -> None:
    store.load(archive(tmp_path / "x.tar", Picture([BASE], tags=["x"])))
    for marks in (USER, TRUSTED):
        (store.root / "store.json").write_text(json.dumps({"version": 1, "marks": marks.prefix}))
        assert store.marks == marks
    (store.root / "store.json").write_text(json.dumps({"version": 1, "marks": USER.prefix}))
    (image,) = store.load(archive(tmp_path / "y.tar", Picture([BASE, TOP], tags=["y"])))
    assert xattr.listxattr(str(image.lowerdirs[0] / "etc")) == (USER.opaque,)


def test_a_store_of_a_later_version(store: Store, tmp_path: Path) -> None:
    store.load(archive(tmp_path / "x.tar", Picture([BASE])))
    (store.root / "store.json").write_text('{"version": 2}')
    with pytest.raises(ImageError, match="format 2"):
        _ = store.marks


# -- sharing


def test_layers_are_unpacked_once(store: Store, tmp_path: Path) -> None:
    events: list[Progress] = []
    one = Picture([BASE, MIDDLE], tags=["one:1"])
    two = Picture([BASE, TOP], tags=["two:1"])
    (first,) = store.load(archive(tmp_path / "one.tar", one), progress=events.append)
    inode = first.layers[0].path.stat().st_ino
    (second,) = store.load(archive(tmp_path / "two.tar", two), progress=events.append)
    steps = [(event.step, event.number) for event in events if event.step in ("new", "shared")]
    assert steps == [("new", 1), ("new", 2), ("shared", 1), ("new", 2)]
    assert second.layers[0].path == first.layers[0].path
    assert second.layers[0].path.stat().st_ino == inode
    assert len(os.listdir(store.root / "layers/sha256")) == 3


def test_loading_again_reads_no_layer(store: Store, tmp_path: Path) -> None:
    path = archive(tmp_path / "x.tar", Picture([BASE, TOP], tags=["x:1"]))
    store.load(path)
    before = tree(store.root)
    events: list[Progress] = []
    (image,) = store.load(path, progress=events.append, tag="y")
    assert {event.step for event in events} == {"shared"}
    assert image.tags == ("x:1", "y:latest")
    assert tree(store.root) == before


def test_a_layer_in_another_compression_is_the_same_layer(store: Store, tmp_path: Path) -> None:
    packed = write(tmp_path / "gz.tar", outer(oci_layout(Picture([BASE, TOP], tags=["gz:1"], pack=gz))))
    store.load(archive(tmp_path / "x.tar", Picture([BASE, MIDDLE], tags=["plain:1"])))
    (image,) = store.load(packed)
    assert len(os.listdir(store.root / "layers/sha256")) == 3
    # Both can be saved again byte for byte.
    with store.blob_store.open(image.blobs[0]) as blob:
        assert blob.read() == gz(BASE)
    with store.blob_store.open(store.image("plain:1").blobs[0]) as blob:
        assert blob.read() == BASE
    assert store.image("gz:1").manifest is not None


def test_blobs_have_the_digest_of_their_name(store: Store, tmp_path: Path) -> None:
    path = write(tmp_path / "gz.tar", outer(oci_layout(Picture([BASE], pack=gz))))
    (image,) = store.load(path)
    name = image.blobs[0].partition(":")[2]
    assert hexdigest((store.root / "blobs/sha256" / name).read_bytes()) == name
    files = store.root / "images/sha256" / image.id[7:]
    assert hexdigest((files / "config.json").read_bytes()) == image.id[7:]
    assert (files / "manifest.json").read_bytes() == image.manifest


def test_an_image_that_is_no_archives(store: Store, tmp_path: Path) -> None:
    """As a commit adds one: the layers of another image, and one more."""
    (base,) = store.load(archive(tmp_path / "x.tar", Picture([BASE], tags=["base"])))
    picture = Picture([BASE, TOP])
    members = [Member(0, unreadable), Member(len(TOP), lambda: io.FileIO(write(tmp_path / "top", TOP)))]
    layers = [
        ArchivedLayer(f"sha256:{hexdigest(data)}", "new", member, None)
        for data, member in zip(picture.layers, members, strict=True)
    ]
    config = parse(picture.config, where="new", limits=DEFAULT_LIMITS)
    image = store.add(ArchivedImage(config, ("committed:1",), tuple(layers)), where="commit")
    assert image == store.image("committed:1")
    assert image.layers[0] == base.layers[0]


def unreadable() -> io.RawIOBase:
    raise AssertionError("a layer that is here was read")


# -- finding


def test_tags_and_ids(store: Store, tmp_path: Path) -> None:
    (image,) = store.load(archive(tmp_path / "x.tar", Picture([BASE], tags=["docker.io/library/app:4"])))
    for reference in ("app:4", "localhost/app:4", image.id, image.id[7:], image.short_id, image.id[7:11]):
        assert store.image(reference) == image
    for reference in ("app", "app:5", "ffff", image.id[7:10], ""):
        with pytest.raises(ImageError, match="no image"):
            store.image(reference)
    store.tag("app:4", "other")
    assert store.image("other").tags == ("app:4", "other:latest")


def test_a_tag_moves(store: Store, tmp_path: Path) -> None:
    (old,) = store.load(archive(tmp_path / "x.tar", Picture([BASE], tags=["app"])))
    (new,) = store.load(archive(tmp_path / "y.tar", Picture([TOP], tags=["app"])))
    assert store.image("app") == new
    assert store.image(old.id).tags == ()
    assert [image.tags for image in store.images()] == [("app:latest",), ()]


def test_an_ambiguous_id(store: Store, tmp_path: Path) -> None:
    (image,) = store.load(archive(tmp_path / "x.tar", Picture([BASE])))
    other = image.id[7:15] + "0" * 56
    (store.root / "images/sha256" / other).mkdir()
    with pytest.raises(ImageError, match="start of 2 image ids"):
        store.image(image.id[7:15])


def test_lowerdirs_are_top_to_bottom(store: Store, tmp_path: Path) -> None:
    (image,) = store.load(archive(tmp_path / "x.tar", Picture([BASE, MIDDLE, TOP])))
    assert image.lowerdirs == [item.path for item in reversed(image.layers)]
    assert image.size == len("onetwothree")


def test_a_layer_whose_root_is_opaque_hides_those_below(store: Store, tmp_path: Path) -> None:
    wipe = layer(entry(".wh..wh..opq"), entry("new"))
    (image,) = store.load(archive(tmp_path / "x.tar", Picture([BASE, wipe, MIDDLE])))
    assert image.lowerdirs == [image.layers[2].path, image.layers[1].path]


# -- removing


def test_removing_a_tag_then_the_image(store: Store, tmp_path: Path) -> None:
    (image,) = store.load(archive(tmp_path / "x.tar", Picture([BASE, TOP], tags=["a", "b"])))
    removed = remove(store, "a")
    assert (removed.tags, removed.images, removed.layers) == (("a:latest",), (), ())
    removed = remove(store, "b")
    assert removed.images == (image.id,)
    assert set(removed.layers) == {item.diff_id for item in image.layers}
    for name in ("layers/sha256", "images/sha256", "blobs/sha256", "tmp"):
        assert os.listdir(store.root / name) == []
    assert store.tags() == {}


def test_layers_of_other_images_stay(store: Store, tmp_path: Path) -> None:
    store.load(
        archive(tmp_path / "x.tar", Picture([BASE, MIDDLE], tags=["one"]), Picture([BASE, TOP], tags=["two"]))
    )
    removed = remove(store, "one")
    assert removed.layers == (f"sha256:{hexdigest(MIDDLE)}",)
    two = store.image("two")
    assert all(path.is_dir() for path in two.lowerdirs)
    for digest in two.blobs:
        store.blob_store.open(digest).close()
    assert len(os.listdir(store.root / "blobs/sha256")) == 2


def test_an_id_removes_all_tags(store: Store, tmp_path: Path) -> None:
    (image,) = store.load(archive(tmp_path / "x.tar", Picture([BASE], tags=["a", "b"])))
    assert remove(store, image.short_id).tags == ("a:latest", "b:latest")
    assert store.images() == []


def test_layers_in_use_are_not_removed(store: Store, tmp_path: Path) -> None:
    (image,) = store.load(archive(tmp_path / "x.tar", Picture([BASE], tags=["a"])))
    with store.hold(image) as lowerdirs:
        assert lowerdirs == image.lowerdirs
        with pytest.raises(OSError, match="in use by a mount") as caught:
            remove(store, "a")
        assert caught.value.errno == errno.EBUSY
        assert store.image("a") == image
    remove(store, "a")


def test_an_incomplete_image_is_repaired_by_loading(store: Store, tmp_path: Path) -> None:
    path = archive(tmp_path / "x.tar", Picture([BASE, TOP], tags=["a"]))
    (image,) = store.load(path)
    image.layers[0].directory.rename(tmp_path / "stolen")
    with pytest.raises(ImageError, match="incomplete; load it again"):
        store.image("a")
    assert store.images() == []
    assert store.load(path) == [image]


def test_directories_that_may_not_be_entered_are_removed(store: Store, tmp_path: Path) -> None:
    store.load(
        archive(tmp_path / "x.tar", Picture([layer(directory("d", 0), directory("d/e", 0), entry("d/e/f"))]))
    )
    remove(store, "app:1")
    assert os.listdir(store.root / "layers/sha256") == os.listdir(store.root / "tmp") == []


# -- hard links to lower layers


def test_a_layer_that_borrows_belongs_to_one_stack(store: Store, tmp_path: Path) -> None:
    other = layer(entry("etc/a", "other"))
    borrowing = layer(hardlink("copy", "etc/a"))
    (one,) = store.load(archive(tmp_path / "x.tar", Picture([BASE, borrowing], tags=["one"])))
    (two,) = store.load(archive(tmp_path / "y.tar", Picture([other, borrowing], tags=["two"])))
    assert (one.layers[1].path / "copy").read_text() == "one"
    assert (two.layers[1].path / "copy").read_text() == "other"
    with store.blob_store.open_plain(two.layers[1].blob) as stream:
        assert stream.read() == borrowing
    with pytest.raises(ImageError, match="hard link to 'etc/a', which is not earlier"):
        store.load(archive(tmp_path / "z.tar", Picture([borrowing], tags=["three"])))
    paths = extract(store, two, tmp_path / "out")
    assert (paths[1] / "copy").read_text() == "other"
    remove(store, "one")
    assert store.image("two") == two


# -- extracting


def test_extract(store: Store, tmp_path: Path) -> None:
    (image,) = store.load(archive(tmp_path / "x.tar", Picture([BASE, MIDDLE, TOP])))
    paths = extract(store, image, tmp_path / "out")
    assert [path.name for path in paths] == [f"{n:02d}-{item.short_id}" for n, item in enumerate(image.layers)]
    assert sorted(os.listdir(tmp_path / "out")) == sorted(path.name for path in paths)
    for path, item in zip(paths, image.layers, strict=True):
        assert tree(path) == tree(item.path)
    assert stat.S_ISCHR((paths[1] / "etc/a").lstat().st_mode)
    assert xattr.listxattr(str(paths[2] / "etc")) == (store.marks.opaque,)
    with pytest.raises(OSError, match="not empty") as caught:
        extract(store, image, tmp_path / "out")
    assert caught.value.errno == errno.ENOTEMPTY


def test_extract_notices_a_damaged_store(store: Store, tmp_path: Path) -> None:
    (image,) = store.load(archive(tmp_path / "x.tar", Picture([BASE])))
    (blob,) = (store.root / "blobs/sha256").iterdir()
    blob.write_bytes(archives.zstd(TOP))
    with pytest.raises(ImageError, match="damaged"):
        extract(store, image, tmp_path / "out")


# -- many at once, and killed

LOAD = """
    import sys
    from pyunionfs.image.store import Store
    Store(sys.argv[1], sync=False).load(sys.argv[2], progress=lambda event: print(event.step, flush=True))
"""


def start_load(store: Store, path: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", textwrap.dedent(LOAD), str(store.root), str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def big_layer(count: int = 400) -> bytes:
    return layer(*(entry(f"d{n % 7}/f{n}", bytes([n % 256]) * 9000) for n in range(count)))


def assert_sound(store: Store, image: Picture) -> None:
    loaded = store.image(image.id)
    for item, data in zip(loaded.layers, image.layers, strict=True):
        with store.blob_store.open_plain(item.blob) as stream:
            assert stream.read() == data
        assert item.report.files == len([p for p in item.path.rglob("*") if p.is_file()])
    assert os.listdir(store.root / "tmp") == []


def test_two_loads_at_once(store: Store, tmp_path: Path) -> None:
    image = Picture([big_layer(), BASE, big_layer(300)], tags=["big"])
    path = archive(tmp_path / "x.tar", image)
    processes = [start_load(store, path) for _ in range(4)]
    results = [(process, *process.communicate(timeout=120)) for process in processes]
    for process, output, errors in results:
        assert (process.returncode, errors) == (0, "")
        assert output.count("new") + output.count("shared") == 3
    assert_sound(store, image)


def test_loads_in_threads(store: Store, tmp_path: Path) -> None:
    shared = big_layer(100)
    images = [Picture([shared, layer(entry(str(n)))], tags=[f"t:{n}"]) for n in range(4)]
    paths = [archive(tmp_path / f"{n}.tar", image) for n, image in enumerate(images)]
    threads = [threading.Thread(target=store.load, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [image.tags for image in store.images()] == [(f"t:{n}",) for n in range(4)]
    assert len(os.listdir(store.root / "layers/sha256")) == 5


@pytest.mark.parametrize("moment", range(0, 60, 6))
def test_a_killed_load_leaves_nothing_half_done(store: Store, tmp_path: Path, moment: int) -> None:
    image = Picture([big_layer(), big_layer(300)], tags=["big"])
    path = archive(tmp_path / "x.tar", image)
    process = start_load(store, path)
    assert process.stdout is not None
    for _ in range(moment):
        if not process.stdout.readline():
            break
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert errors == ""
    # What readers see is whole layers, and an image only when all are there.
    for found in store.images():
        assert len(found.layers) == 2
    if (store.root / "layers/sha256").is_dir():
        for name in os.listdir(store.root / "layers/sha256"):
            report = json.loads((store.root / "layers/sha256" / name / "layer.json").read_text())["report"]
            files = [p for p in (store.root / "layers/sha256" / name / "diff").rglob("*") if p.is_file()]
            assert len(files) == report["files"]
    store.load(path)
    assert_sound(store, image)


def test_a_failed_load_leaves_nothing(store: Store, tmp_path: Path) -> None:
    bad = layer(entry("good", "x"), entry("bad", type=b"Z"))
    with pytest.raises(ImageError, match="unknown entry type"):
        store.load(archive(tmp_path / "x.tar", Picture([bad])))
    for name in ("layers/sha256", "images/sha256", "blobs/sha256", "tmp"):
        assert os.listdir(store.root / name) == []
    assert store.tags() == {}


def test_temporary_directories_in_use_are_not_swept(store: Store, tmp_path: Path) -> None:
    store.load(archive(tmp_path / "x.tar", Picture([BASE])))
    (store.root / "tmp/busy").mkdir()
    (store.root / "tmp/dead/deep/er").mkdir(parents=True)
    fd = os.open(store.root / "tmp/busy", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    store.load(archive(tmp_path / "y.tar", Picture([TOP])))
    assert os.listdir(store.root / "tmp") == ["busy"]
    os.close(fd)
    store.load(archive(tmp_path / "z.tar", Picture([MIDDLE])))
    assert os.listdir(store.root / "tmp") == []


def test_removing_waits_for_loads(store: Store, tmp_path: Path) -> None:
    store.load(archive(tmp_path / "x.tar", Picture([BASE], tags=["x"])))
    with (store.root / "lock").open("rb+") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        thread = threading.Thread(target=remove, args=(store, "x"))
        thread.start()
        time.sleep(0.2)
        assert len(store.images()) == 1
    thread.join(timeout=30)
    assert store.images() == []


def test_no_descriptor_is_left_open(store: Store, tmp_path: Path) -> None:
    path = archive(tmp_path / "x.tar", Picture([BASE, TOP]))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        (image,) = store.load(path)
        remove(store, image.id)
        with pytest.raises(ImageError):
            store.load(write(tmp_path / "y.tar", path.read_bytes()[:5000]))
    assert len(os.listdir("/proc/self/fd")) == before


def test_syncing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert len(store.load(archive(tmp_path / "x.tar", Picture([BASE])))) == 1
