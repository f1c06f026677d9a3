"""Archives of every layout, compression and age; the traps; damage and bombs."""

import bz2
import hashlib
import io
import json
import lzma
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import archives
import pytest
from archives import (
    INDEX_TYPE,
    MANIFEST_TYPE,
    Members,
    Picture,
    blob_path,
    describe,
    directory,
    dumps,
    entry,
    gz,
    hardlink,
    hexdigest,
    layer,
    oci_layout,
    oci_manifest,
    outer,
    symlink,
    whiteout,
    write,
    write_directory,
    zstd,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from pyunionfs.image import oci
from pyunionfs.image.errors import ImageError
from pyunionfs.image.limits import Limits
from pyunionfs.image.reference import normalise
from pyunionfs.image.store import Image, Store

BASE = layer(directory("etc"), entry("etc/a", "one"), entry("etc/b", "two"))
TOP = layer(whiteout("etc/a"), entry("etc/c", "three"))


def picture(**fields: Any) -> Picture:
    return Picture([BASE, TOP], **fields)


def check(image: Image) -> None:
    """The image of ``picture()`` was loaded right."""
    top, base = image.lowerdirs
    assert sorted(os.listdir(base / "etc")) == ["a", "b"]
    assert sorted(os.listdir(top / "etc")) == ["a", "c"]
    assert (top / "etc/c").read_text() == "three"
    assert [item.diff_id for item in image.layers] == [f"sha256:{hexdigest(data)}" for data in (BASE, TOP)]


# -- layouts

TAR_LAYOUTS: dict[str, Callable[..., Members]] = {
    "docker legacy": archives.docker_legacy,
    "podman": archives.podman_style,
    "docker 25": archives.docker_25,
    "oci": oci_layout,
}
DIRECTORY_LAYOUTS: dict[str, Callable[..., Members]] = TAR_LAYOUTS | {"dir": archives.dir_layout}
PACKERS: dict[str, Callable[[bytes], bytes]] = {"plain": bytes, "gzip": gz, "zstd": zstd}


@pytest.mark.parametrize("pack", PACKERS)
@pytest.mark.parametrize("layout", TAR_LAYOUTS)
def test_layouts_in_a_tar(store: Store, tmp_path: Path, layout: str, pack: str) -> None:
    image = picture(tags=["app:1"], pack=PACKERS[pack])
    (loaded,) = store.load(write(tmp_path / "x.tar", outer(TAR_LAYOUTS[layout](image))))
    check(loaded)
    assert loaded.tags == ("app:1",)
    assert loaded.id == image.id
    for data, digest in zip(image.blobs, loaded.blobs, strict=True):
        with store.blob_store.open(digest) as blob:
            assert blob.read() == data
    for item, plain in zip(loaded.layers, image.layers, strict=True):
        with store.blob_store.open_plain(item.blob) as stream:
            assert stream.read() == plain


@pytest.mark.parametrize("pack", PACKERS)
@pytest.mark.parametrize("layout", DIRECTORY_LAYOUTS)
def test_layouts_in_a_directory(store: Store, tmp_path: Path, layout: str, pack: str) -> None:
    members = DIRECTORY_LAYOUTS[layout](picture(pack=PACKERS[pack]))
    (loaded,) = store.load(write_directory(tmp_path / "layout", members))
    check(loaded)


@pytest.mark.parametrize(
    "compress", [gz, bz2.compress, lzma.compress, zstd, lambda data: gz(data[:999]) + gz(data[999:])]
)
@pytest.mark.parametrize("layout", TAR_LAYOUTS)
def test_compressed_archives(store: Store, tmp_path: Path, layout: str, compress: Callable[[bytes], bytes]) -> None:
    # No suffix says what it is.
    (loaded,) = store.load(write(tmp_path / "x", compress(outer(TAR_LAYOUTS[layout](picture())))))
    check(loaded)


@pytest.mark.parametrize("compress", [bytes, gz, zstd])
def test_pipes(store: Store, compress: Callable[[bytes], bytes]) -> None:
    data = compress(outer(archives.docker_legacy(picture())))
    reading, writing = os.pipe()

    def feed() -> None:
        with os.fdopen(writing, "wb") as pipe:
            for at in range(0, len(data), 700):
                pipe.write(data[at : at + 700])
                pipe.flush()

    thread = threading.Thread(target=feed)
    thread.start()
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        (loaded,) = store.load(pipe)
    thread.join()
    check(loaded)
    assert os.listdir(store.root / "tmp") == []


def test_a_named_pipe_and_a_stream_in_memory(store: Store, tmp_path: Path) -> None:
    data = outer(oci_layout(picture()))
    (loaded,) = store.load(io.BytesIO(data))
    check(loaded)
    os.mkfifo(tmp_path / "fifo")
    thread = threading.Thread(target=(tmp_path / "fifo").write_bytes, args=(data,))
    thread.start()
    (loaded,) = Store(tmp_path / "other", sync=False).load(str(tmp_path / "fifo"))
    thread.join()
    check(loaded)


def test_a_stream_that_was_read_before(store: Store, tmp_path: Path) -> None:
    path = write(tmp_path / "x", b"preface" + outer(oci_layout(picture())))
    with path.open("rb") as file:
        file.read(7)
        (loaded,) = store.load(file)
    check(loaded)


# -- traps


def test_shared_layers_are_symlinks_that_may_come_before_their_targets(store: Store, tmp_path: Path) -> None:
    one, two = picture(tags=["one:1"]), Picture([BASE], tags=["two:1"])
    members = archives.docker_legacy(one, two)
    shared = next(name for name in members if name.endswith("/layer.tar") and members[name] == BASE)
    other = next(n for n in members if n.endswith("/layer.tar") and members[n] == BASE and n != shared)
    del members[other]
    data = outer(members, links={other: f"../{shared}"})
    loaded = store.load(write(tmp_path / "x.tar", data))
    assert [image.tags for image in loaded] == [("one:1",), ("two:1",)]
    assert loaded[0].layers[0].path == loaded[1].layers[0].path
    # And so in a directory, if someone unpacked the archive.
    unpacked = write_directory(tmp_path / "unpacked", members)
    (unpacked / other).parent.mkdir(exist_ok=True)
    (unpacked / other).symlink_to(f"../{shared}")
    assert len(Store(tmp_path / "second", sync=False).load(unpacked)) == 2


def test_members_that_are_hard_links_or_have_dots(store: Store, tmp_path: Path) -> None:
    members = {f"./{name}": data for name, data in archives.podman_style(picture()).items()}
    first = f"./{hexdigest(BASE)}.tar"
    data = members.pop(first)
    parts = [entry("elsewhere", data), hardlink(first, "elsewhere"), *(entry(n, d) for n, d in members.items())]
    (loaded,) = store.load(write(tmp_path / "x.tar", layer(*parts)))
    check(loaded)


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../../../etc/passwd", "loop/layer.tar"])
def test_symlinks_of_an_archive_stay_inside(store: Store, tmp_path: Path, target: str) -> None:
    members = archives.podman_style(picture())
    name = f"{hexdigest(BASE)}.tar"
    del members[name]
    links = {name: target, "loop/layer.tar": f"../{name}"}
    with pytest.raises(ImageError, match=r"not in the archive|circles"):
        store.load(write(tmp_path / "x.tar", outer(members, links=links)))
    unpacked = write_directory(tmp_path / "dir", members)
    (unpacked / name).symlink_to(target)
    with pytest.raises(ImageError, match=r"cannot read|not in the archive"):
        store.load(unpacked)


def test_manifest_json_is_trusted_above_the_index(store: Store, tmp_path: Path) -> None:
    members = archives.docker_25(picture())
    (loaded,) = store.load(write(tmp_path / "x.tar", outer(members)))
    check(loaded)
    del members["manifest.json"]
    with pytest.raises(ImageError, match="lists 0 layers, its configuration 2"):
        Store(tmp_path / "other", sync=False).load(write(tmp_path / "y.tar", outer(members)))


def test_the_same_layer_twice_and_layers_without_content(store: Store, tmp_path: Path) -> None:
    image = Picture([BASE, b"", BASE, layer(), TOP, b""])
    (loaded,) = store.load(write(tmp_path / "x.tar", outer(archives.docker_25(image))))
    assert len(loaded.layers) == 6
    assert loaded.lowerdirs[3] == loaded.lowerdirs[5]
    assert len(os.listdir(store.root / "layers/sha256")) == 4
    with store.blob_store.open_plain(loaded.layers[1].blob) as stream:
        assert stream.read() == b""


def test_an_image_without_layers(store: Store, tmp_path: Path) -> None:
    (loaded,) = store.load(write(tmp_path / "x.tar", outer(archives.podman_style(Picture([])))))
    assert loaded.lowerdirs == []


def test_history_with_empty_layers(store: Store, tmp_path: Path) -> None:
    steps = [
        {"created_by": "ADD"},
        {"created_by": "ENV A=b", "empty_layer": True},
        {"created_by": "RUN", "comment": "c"},
        {"created_by": "CMD", "empty_layer": True},
    ]
    (loaded,) = store.load(write(tmp_path / "x.tar", outer(archives.docker_legacy(picture(history=steps)))))
    base, top = loaded.layers
    found = [(item.step.created_by, item.layer) for item in loaded.history]
    assert found == [("ADD", base), ("ENV A=b", None), ("RUN", top), ("CMD", None)]


def test_history_that_is_missing_or_does_not_fit(store: Store, tmp_path: Path) -> None:
    for number, steps in enumerate([None, [], [{"created_by": "x"}], [{"created_by": "x"}] * 5]):
        image = picture(history=steps, tags=[f"h:{number}"])
        (loaded,) = store.load(write(tmp_path / f"{number}.tar", outer(archives.docker_legacy(image))))
        assert [item.layer for item in loaded.history if item.layer] == list(loaded.layers)


def test_configuration(store: Store, tmp_path: Path) -> None:
    config = {
        "Env": ["PATH=/bin"],
        "Entrypoint": ["/serve"],
        "Cmd": "one string",
        "User": "web",
        "WorkingDir": "/app",
    }
    image = picture(
        extra={"created": "2024-01-01T00:00:00Z", "config": config, "variant": "v8"}, architecture="arm64"
    )
    (loaded,) = store.load(write(tmp_path / "x.tar", outer(archives.docker_legacy(image))))
    assert loaded.platform == "linux/arm64/v8"
    assert loaded.created == "2024-01-01T00:00:00Z"
    assert [loaded.config.run_list(key) for key in ("Env", "Entrypoint", "Cmd")] == [
        ["PATH=/bin"],
        ["/serve"],
        ["one string"],
    ]
    assert (loaded.config.run_text("User"), loaded.config.run_text("WorkingDir")) == ("web", "/app")


def test_configurations_of_other_names(store: Store, tmp_path: Path) -> None:
    image = picture()
    for name in ("config.json", f"sha256:{hexdigest(image.config)}"):
        members: Members = {"l0": gz(BASE), "l1": TOP, name: image.config}
        members["manifest.json"] = dumps([{"Config": name, "RepoTags": None, "Layers": ["l0", "l1"]}])
        (loaded,) = Store(tmp_path / f"s{len(name)}", sync=False).load(write(tmp_path / "x.tar", outer(members)))
        check(loaded)
        assert loaded.tags == ()


# -- names


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("app", "app:latest"),
        ("app:4", "app:4"),
        ("docker.io/library/app:4", "app:4"),
        ("localhost/app:4", "app:4"),
        ("docker.io/team/app", "team/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("registry.example/a/b:v1", "registry.example/a/b:v1"),
        ("app@sha256:" + "a" * 64, "app@sha256:" + "a" * 64),
    ],
)
def test_references(written: str, normal: str) -> None:
    assert normalise(written) == normal


@pytest.mark.parametrize(
    "written", ["", ":4", "app:", "-x", "a b", "app:4\n", "x" * 600, "a:" + "t" * 200, "../x", "\x1b[31m"]
)
def test_no_references(written: str) -> None:
    with pytest.raises(ImageError, match="no image reference"):
        normalise(written)


@pytest.fixture
def several(tmp_path: Path) -> Path:
    images = [
        picture(tags=["docker.io/library/app:1", "localhost/app:latest"]),
        Picture([BASE], tags=["other:2"]),
        Picture([TOP], tags=None),
    ]
    return write(tmp_path / "several.tar", outer(archives.docker_legacy(*images)))


def test_all_images_of_an_archive(store: Store, several: Path) -> None:
    assert [image.tags for image in store.load(several)] == [("app:1", "app:latest"), ("other:2",), ()]


@pytest.mark.parametrize(
    "reference", ["app:1", "app", "localhost/app:1", "docker.io/library/app:1", "docker.io/library/app:latest"]
)
def test_one_image_of_several(store: Store, several: Path, reference: str) -> None:
    (loaded,) = store.load(f"{several}#{reference}")
    check(loaded)
    assert len(store.images()) == 1


def test_one_image_by_its_id(store: Store, several: Path) -> None:
    wanted = Picture([TOP]).id
    (loaded,) = store.load(several, reference=wanted[7:19])
    assert loaded.id == wanted


def test_a_wrong_choice_says_what_there_is(store: Store, several: Path) -> None:
    with pytest.raises(ImageError, match=r"several\.tar: no image 'app:9'; it has 'app:1, app:latest, other:2'"):
        store.load(f"{several}#app:9")
    with pytest.raises(ImageError, match="choose one of its images"):
        store.load(several, single=True)
    with pytest.raises(ImageError, match="choose one of its images"):
        store.load(several, tag="new")
    assert store.images() == []


def test_a_hash_in_a_file_name(store: Store, tmp_path: Path) -> None:
    path = write(tmp_path / "x#app:1", outer(archives.docker_legacy(picture())))
    assert store.load(str(path))[0].tags == ("app:1",)
    assert store.load(f"{path}#app:1")[0].tags == ("app:1",)


@pytest.mark.parametrize(
    ("annotations", "tags"),
    [
        ({"org.opencontainers.image.ref.name": "docker.io/library/x:4"}, ("x:4",)),
        ({"org.opencontainers.image.ref.name": "4", "io.containerd.image.name": "docker.io/library/x:4"}, ("x:4",)),
        ({"org.opencontainers.image.ref.name": "4"}, ("ci:4",)),
        ({}, ()),
    ],
)
def test_names_in_an_index(
    store: Store, tmp_path: Path, annotations: dict[str, str], tags: tuple[str, ...]
) -> None:
    path = write(tmp_path / "ci.tar.gz", gz(outer(oci_layout(picture(), annotations=[annotations]))))
    (loaded,) = store.load(path)
    assert loaded.tags == tags
    for name in annotations.values():
        assert store.load(f"{path}#{name}")[0].id == loaded.id


def test_names_that_are_no_references_are_dropped(store: Store, tmp_path: Path) -> None:
    image = picture(tags=["<none>:<none>", "\x1b[31m", "good"])
    assert store.load(write(tmp_path / "x.tar", outer(archives.docker_legacy(image))))[0].tags == ("good:latest",)
    names = [{"org.opencontainers.image.ref.name": "free: text/"}]
    path = write(tmp_path / "y.tar", outer(oci_layout(Picture([TOP]), annotations=names)))
    assert store.load(f"{path}#free: text/")[0].tags == ()


def test_a_new_name(store: Store, several: Path) -> None:
    (loaded,) = store.load(f"{several}#other:2", tag="mine")
    assert loaded.tags == ("mine:latest",)


# -- indexes and platforms


def index_of(*descriptors: dict[str, Any]) -> bytes:
    return dumps({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": list(descriptors)})


def platform_descriptor(image: Picture, name: str) -> dict[str, Any]:
    system, _, architecture = name.partition("/")
    architecture, _, variant = architecture.partition("/")
    platform = {"os": system, "architecture": architecture} | ({"variant": variant} if variant else {})
    return describe(oci_manifest(image), MANIFEST_TYPE, platform=platform)


def multi_platform(names: dict[str, Picture], *, nested: int = 1) -> Members:
    """An image for several platforms, with an attestation, in an index below ``index.json``."""
    members: Members = {"oci-layout": b"{}"}
    for image in names.values():
        members |= archives.oci_blobs(image)
    attestation = describe(
        b"no such blob",
        MANIFEST_TYPE,
        platform={"os": "unknown", "architecture": "unknown"},
        annotations={"vnd.docker.reference.type": "attestation-manifest"},
    )
    index = index_of(attestation, *(platform_descriptor(image, name) for name, image in names.items()))
    for _ in range(nested):
        members[blob_path(index)] = index
        index = index_of(describe(index, INDEX_TYPE, annotations={"org.opencontainers.image.ref.name": "app:1"}))
    return members | {"index.json": index}


OTHERS = {"linux/s390x": Picture([TOP], architecture="s390x"), "windows/amd64": Picture([b""])}


@pytest.mark.parametrize("nested", [0, 1, 3])
def test_this_machines_platform_is_preferred(store: Store, tmp_path: Path, nested: int) -> None:
    members = multi_platform(OTHERS | {oci.this_platform(): picture()}, nested=nested)
    (loaded,) = store.load(write(tmp_path / "x.tar", outer(members)))
    check(loaded)


def test_a_platform_that_was_asked_for(store: Store, tmp_path: Path) -> None:
    path = write(tmp_path / "x.tar", outer(multi_platform(OTHERS | {oci.this_platform(): picture()})))
    assert store.load(path, platform="linux/s390x")[0].platform == "linux/s390x"
    with pytest.raises(ImageError, match="no image for 'linux/riscv64'; it has 'linux/s390x, windows/amd64"):
        store.load(path, platform="linux/riscv64")


def test_the_only_platform_is_taken(store: Store, tmp_path: Path) -> None:
    one = {"linux/s390x": OTHERS["linux/s390x"]}
    assert len(store.load(write(tmp_path / "x.tar", outer(multi_platform(one))))) == 1
    with pytest.raises(ImageError, match="no image for"):
        store.load(write(tmp_path / "y.tar", outer(multi_platform(OTHERS))))


def test_variants() -> None:
    group = [platform_descriptor(picture(), name) for name in ("linux/arm/v6", "linux/arm/v7", "linux/arm64")]
    chosen = [
        oci.platform_of(oci.choose_platform(group, name, where="x"))
        for name in ("linux/arm/v7", "linux/arm/v8", "linux/arm64/v8")
    ]
    assert chosen == ["linux/arm/v7", "linux/arm/v6", "linux/arm64"]


def test_indexes_without_end(store: Store, tmp_path: Path) -> None:
    members = multi_platform({oci.this_platform(): picture()}, nested=8)
    with pytest.raises(ImageError, match="nested deeper"):
        store.load(write(tmp_path / "x.tar", outer(members)))


def test_other_artifacts_are_passed_over(store: Store, tmp_path: Path) -> None:
    signature = dumps({"config": describe(b"{}", "application/vnd.dev.cosign.config"), "layers": []})
    members = oci_layout(picture()) | {blob_path(signature): signature, blob_path(b"{}"): b"{}"}
    index = json.loads(members["index.json"])
    only = dumps(index | {"manifests": [describe(signature, MANIFEST_TYPE)]})
    index["manifests"].insert(0, describe(signature, MANIFEST_TYPE))
    (loaded,) = store.load(write(tmp_path / "x.tar", outer(members | {"index.json": dumps(index)})))
    check(loaded)
    with pytest.raises(ImageError, match=r"cosign.*not an image"):
        store.load(write(tmp_path / "y.tar", outer(members | {"index.json": only})))


def test_v2s2_manifests_in_an_index(store: Store, tmp_path: Path) -> None:
    image = picture(pack=gz)
    manifest = archives.dir_layout(image)["manifest.json"]
    members = archives.oci_blobs(image) | {blob_path(manifest): manifest}
    members["index.json"] = index_of(describe(manifest, "application/vnd.docker.distribution.manifest.v2+json"))
    (loaded,) = store.load(write(tmp_path / "x.tar", outer(members)))
    check(loaded)
    assert loaded.manifest == manifest


# -- damage


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("pack", PACKERS)
@pytest.mark.parametrize("layout", TAR_LAYOUTS)
def test_damaged_layers(store: Store, tmp_path: Path, layout: str, pack: str) -> None:
    image = picture(pack=PACKERS[pack])
    members = TAR_LAYOUTS[layout](image)
    damaged = next(name for name, data in members.items() if data == image.blobs[1])
    members[damaged] = flip(members[damaged])
    with pytest.raises(ImageError, match=rf"x\.tar: layer '{damaged}': .*(damaged|cut short)"):
        store.load(write(tmp_path / "x.tar", outer(members)))
    assert store.images() == []
    assert len(os.listdir(store.root / "layers/sha256")) == 1  # the sound one below
    assert os.listdir(store.root / "tmp") == []


@pytest.mark.parametrize("layout", TAR_LAYOUTS)
def test_damaged_configurations_and_manifests(store: Store, tmp_path: Path, layout: str) -> None:
    image = picture()
    members = TAR_LAYOUTS[layout](image)
    for data in (image.config, oci_manifest(image)):
        for name in [n for n, d in members.items() if d == data]:
            broken = members | {name: data.replace(b"amd64", b"arm64").replace(b"2", b"3")}
            with pytest.raises(ImageError, match=r"x\.tar: .*damaged"):
                store.load(write(tmp_path / "x.tar", outer(broken)))


def test_a_wrong_diff_id(store: Store, tmp_path: Path) -> None:
    members = archives.podman_style(picture())
    members[f"{hexdigest(TOP)}.tar"] = layer(entry("other"))
    with pytest.raises(ImageError, match=r"its digest is|uncompressed tar"):
        store.load(write(tmp_path / "x.tar", outer(members)))


def test_a_wrong_size(store: Store, tmp_path: Path) -> None:
    image = picture()
    members = oci_layout(image)
    members[blob_path(TOP)] = TOP + b"x"
    with pytest.raises(ImageError, match=r"has \d+ bytes, not \d+: damaged"):
        store.load(write(tmp_path / "x.tar", outer(members)))


@pytest.mark.parametrize("layout", TAR_LAYOUTS)
def test_cut_archives(store: Store, tmp_path: Path, layout: str) -> None:
    data = outer(TAR_LAYOUTS[layout](picture()))
    for cut in [*range(0, len(data) - 1024, 777), 1, 511, 513]:
        with pytest.raises(ImageError, match=r"x\.tar: "):
            store.load(write(tmp_path / "x.tar", data[:cut]))
    for cut in range(10, len(gz(data)), 999):
        with pytest.raises(ImageError, match=r"x\.tar: "):
            store.load(write(tmp_path / "x.tar", gz(data)[:cut]))
    assert store.images() == []


def test_missing_members(store: Store, tmp_path: Path) -> None:
    for layout in TAR_LAYOUTS.values():
        members = layout(picture())
        for name in members:
            if name.endswith((".tar", ".json")) or name.startswith("blobs/"):
                rest = {n: d for n, d in members.items() if n != name}
                try:
                    store.load(write(tmp_path / "x.tar", outer(rest)))
                except ImageError as error:
                    assert str(error).startswith(f"{tmp_path}/x.tar: ")  # noqa: PT017


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "neither a tar nor"),
        (b"hello" * 1000, "neither a tar nor"),
        (b"PK\3\4" + bytes(600), "neither a tar nor"),
        (gz(b"hello"), "neither a tar nor"),
        (layer(), "not an image archive"),
        (layer(entry("etc/passwd")), "not an image archive"),
        (outer({"manifest.json": b"[]"}), "holds no image"),
        (outer({"index.json": b"{}"}), "holds no image"),
        (outer({"repositories": b"{}"}), "older than 1.10"),
        (layer(symlink("manifest.json", "manifest.json")), "circles"),
    ],
)
def test_other_files(store: Store, tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=rf"x\.tar: .*{words}"):
        store.load(write(tmp_path / "x.tar", data))


def test_no_file(store: Store, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        store.load(tmp_path / "missing.tar")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="not an image archive"):
        store.load(tmp_path / "empty")


DEEP = b"[" * 100_000 + b"]" * 100_000
HUGE = b"[" + b'"x",' * 2_000_000 + b'"x"]'
BAD_JSON = [
    DEEP,
    HUGE,
    b"{",
    b"[1",
    b"nonsense",
    b"\xff\xfe",
    b"[NaN]",
    b'["' + b"\\",
    b"[" + b"1" * 10_000 + b"]",
    b"",
]


@pytest.mark.parametrize("number", range(len(BAD_JSON)))
def test_json_bombs(store: Store, tmp_path: Path, number: int) -> None:
    bomb = BAD_JSON[number]
    image = picture()
    sound = archives.docker_legacy(image)
    config = f"{hexdigest(bomb)}.json"
    cases: list[Members] = [
        {"manifest.json": bomb},
        {"index.json": bomb},
        sound | {"manifest.json": dumps([{"Config": config, "Layers": []}]), config: bomb},
        oci_layout(image) | {"index.json": index_of(describe(bomb, MANIFEST_TYPE)), blob_path(bomb): bomb},
    ]
    for members in cases:
        with pytest.raises(ImageError, match=r"x\.tar: .*(JSON|bytes|expected)"):
            store.load(write(tmp_path / "x.tar", outer(members)))


@pytest.mark.parametrize(
    "manifest",
    [
        3,
        "text",
        [3],
        [{}],
        [{"Config": 3, "Layers": []}],
        [{"Config": "c", "Layers": "l"}],
        [{"Config": "c", "Layers": [3]}],
        [{"Config": "c", "Layers": [], "RepoTags": "x:1"}],
        [{"Config": "../../../etc/passwd", "Layers": []}],
        [{"Config": "c", "Layers": ["/etc/passwd"]}],
        {"schemaVersion": 2},
        {"schemaVersion": 2, "config": {"digest": "sha256:../../x"}},
        {"schemaVersion": 2, "config": {"digest": "md5:abc"}},
        {"schemaVersion": 2, "config": 3},
        {"schemaVersion": 1, "fsLayers": []},
        {"manifests": [3]},
        {"manifests": [{"platform": 3}]},
    ],
)
def test_manifests_of_other_shapes(store: Store, tmp_path: Path, manifest: Any) -> None:
    members = {"manifest.json": dumps(manifest), "c": b'{"rootfs":{"diff_ids":[]}}'}
    for path in (write(tmp_path / "x.tar", outer(members)), write_directory(tmp_path / "x.tar.d", members)):
        with pytest.raises(ImageError, match=r"x\.tar"):
            store.load(path)


@pytest.mark.parametrize(
    "config",
    [
        3,
        {},
        {"rootfs": []},
        {"rootfs": {"diff_ids": [3]}},
        {"rootfs": {"diff_ids": ["sha256:../../evil"]}},
        {"rootfs": {"diff_ids": ["sha512:" + "a" * 128]}},
        {"rootfs": {"diff_ids": []}, "history": {}},
        {"rootfs": {"diff_ids": []}, "history": [3]},
        {"rootfs": {"diff_ids": []}, "history": [{"empty_layer": "yes"}]},
        {"rootfs": {"diff_ids": ["sha256:" + "a" * 64]}},
    ],
)
def test_configurations_of_other_shapes(store: Store, tmp_path: Path, config: Any) -> None:
    members = {"manifest.json": dumps([{"Config": "c", "Layers": []}]), "c": dumps(config)}
    with pytest.raises(ImageError, match=r"x\.tar: "):
        store.load(write(tmp_path / "x.tar", outer(members)))


# -- bounds


def bomb(size: int) -> Picture:
    return Picture([layer(entry("zeros", bytes(size)))], pack=gz)


def test_bombs(store: Store, tmp_path: Path) -> None:
    path = write(tmp_path / "x.tar", outer(archives.docker_25(bomb(10_000_000))))
    assert path.stat().st_size < 100_000
    with pytest.raises(ImageError, match=r"layer .*more than the allowed 1000000 bytes"):
        store.load(path, limits=Limits(max_layer_bytes=1_000_000))
    with pytest.raises(ImageError, match="more than the allowed 1000000 bytes"):
        store.load(path, limits=Limits(max_bytes=1_000_000))
    assert os.listdir(store.root / "layers/sha256") == os.listdir(store.root / "tmp") == []
    outer_bomb = write(tmp_path / "y.tar.gz", gz(bytes(20_000_000)))
    with pytest.raises(ImageError, match="more than the allowed 1000000 bytes"):
        store.load(outer_bomb, limits=Limits(max_bytes=1_000_000))


def test_counts(store: Store, tmp_path: Path) -> None:
    path = write(tmp_path / "x.tar", outer(archives.docker_legacy(Picture([b""] * 20))))
    with pytest.raises(ImageError, match="20 layers, more than the allowed 10"):
        store.load(path, limits=Limits(max_layers=10))
    with pytest.raises(ImageError, match="more than the allowed 5 entries"):
        store.load(path, limits=Limits(max_entries=5))
    many = [{"Config": "c", "Layers": []}] * 20
    path = write(tmp_path / "y.tar", outer({"manifest.json": dumps(many), "c": b'{"rootfs":{"diff_ids":[]}}'}))
    with pytest.raises(ImageError, match="more than the allowed 10 images"):
        store.load(path, limits=Limits(max_images=10))


def test_other_digests(store: Store, tmp_path: Path) -> None:
    image = picture(pack=gz)
    members = archives.oci_blobs(image)
    table = json.loads(oci_manifest(image))
    for number, blob in enumerate(image.blobs):
        digest = hashlib.sha512(blob).hexdigest()
        table["layers"][number]["digest"] = f"sha512:{digest}"
        members[f"blobs/sha512/{digest}"] = members.pop(blob_path(blob))
    manifest = dumps(table)
    members |= {blob_path(manifest): manifest, "index.json": index_of(describe(manifest, MANIFEST_TYPE))}
    (loaded,) = store.load(write(tmp_path / "x.tar", outer(members)))
    check(loaded)
    with store.blob_store.open(loaded.blobs[0]) as blob_stream:
        assert blob_stream.read() == image.blobs[0]
    broken = next(name for name in members if "sha512" in name)
    members[broken] = flip(members[broken])
    with pytest.raises(ImageError, match="damaged"):
        Store(tmp_path / "other", sync=False).load(write(tmp_path / "x.tar", outer(members)))


@settings(max_examples=150, deadline=None)
@given(st.data())
def check_noise(data: st.DataObject) -> None:
    """Whatever is changed in an archive, the load works or says what is wrong."""
    layout = data.draw(st.sampled_from(list(TAR_LAYOUTS.values())))
    raw = bytearray(outer(layout(picture())))
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory(prefix="pyunionfs-noise-") as scratch:
        store = Store(Path(scratch) / "store", sync=False)
        try:
            images = store.load(write(Path(scratch) / "x.tar", bytes(raw)))
        except ImageError as error:
            assert str(error).startswith(f"{scratch}/x.tar: ")  # noqa: PT017
        else:
            assert store.images() == images
        assert os.listdir(store.root / "tmp") == []


def test_noise() -> None:
    check_noise()


def test_messages_cannot_write_to_the_terminal(store: Store, tmp_path: Path) -> None:
    evil = layer(entry("\x1b[31mevil\n", type=b"Z"))
    with pytest.raises(ImageError) as caught:
        store.load(write(tmp_path / "x.tar", outer(archives.docker_legacy(Picture([evil])))))
    assert str(caught.value).isprintable()
