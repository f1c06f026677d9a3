"""An upper directory becomes a layer, an image of one layer more, and an archive that is read again."""

import errno
import io
import json
import os
import stat
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import archives
import pytest
from archives import Picture, directory, docker_25, entry, layer, oci_layout, outer, write
from trees import Dir, File, HardLink, Node, Symlink, Whiteout, build

from pyunionfs import Overlay, Paths
from pyunionfs.container.changes import changes
from pyunionfs.container.commit import commit
from pyunionfs.container.instructions import apply
from pyunionfs.image import save as saving
from pyunionfs.image.audit import verify
from pyunionfs.image.errors import ImageError
from pyunionfs.image.images import Image
from pyunionfs.image.pack import write_layer
from pyunionfs.image.removal import prune
from pyunionfs.image.rootfs import import_rootfs
from pyunionfs.image.store import Store
from pyunionfs.views.union import Union

BASE = layer(
    directory("etc"),
    entry("etc/hosts", "localhost"),
    entry("etc/motd", "hello"),
    directory("data"),
    entry("data/old", "old"),
    directory("data/sub"),
    entry("data/sub/deep", "deep"),
)
LOWER: dict[str | bytes, Node] = {
    "etc": {"hosts": "localhost", "motd": "hello"},
    "data": {"old": "old", "sub": {"deep": "deep"}},
}


@pytest.fixture
def base(store: Store, tmp_path: Path) -> Image:
    steps = [{"created_by": "ADD"}]
    return store.load(write(tmp_path / "base.tar", outer(docker_25(Picture([BASE], history=steps)))))[0]


def packed(tmp_path: Path, upper: Mapping[str | bytes, Node], **more: Any) -> list[tarfile.TarInfo]:
    """The members of the layer of an upper directory over LOWER."""
    return read(pack(tmp_path, upper, **more))


def pack(tmp_path: Path, upper: Mapping[str | bytes, Node], **more: Any) -> bytes:
    for name, tree in ("lower", LOWER), ("upper", upper):
        (tmp_path / name).mkdir()
        build(tmp_path / name, tree)
    return pack_again(tmp_path, **more)


def pack_again(tmp_path: Path, **more: Any) -> bytes:
    out = io.BytesIO()
    union = Union([str(tmp_path / "lower")], str(tmp_path / "upper"), os.geteuid() != 0)
    write_layer(changes(union, **more), out)
    return out.getvalue()


def read(tar: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        return opened.getmembers()


def names(members: list[tarfile.TarInfo]) -> list[str]:
    return [member.name for member in members]


# -- members


def test_what_is_new_and_what_is_changed(tmp_path: Path) -> None:
    upper = {"etc": {"hosts": File("new", 0o4755, 3, 4)}, "new": {"link": Symlink("../etc"), "empty": {}}}
    members = packed(tmp_path, upper)
    assert names(members) == ["etc", "etc/hosts", "new", "new/empty", "new/link"]
    hosts, link = members[1], members[4]
    assert (hosts.mode, hosts.uid, hosts.gid, hosts.uname, hosts.gname) == (0o4755, 3, 4, "", "")
    assert hosts.mtime == int(hosts.mtime)
    assert (link.type, link.linkname) == (tarfile.SYMTYPE, "../etc")


def test_a_whiteout_hides_what_is_below_and_nothing_else(tmp_path: Path, requires: Callable[..., None]) -> None:
    requires("devices")
    members = packed(tmp_path, {"etc": {"motd": Whiteout(), "nothing": Whiteout()}, "data": Whiteout()})
    assert names(members) == [".wh.data", "etc", "etc/.wh.motd"]
    assert all(member.isreg() and member.size == 0 for member in members if ".wh." in member.name)


def test_an_opaque_directory_says_so_first(tmp_path: Path, requires: Callable[..., None]) -> None:
    requires("devices")
    opaque = {"trusted.overlay.opaque": b"y"}
    upper = {"data": Dir({"a": "", "old": "kept"}, xattrs=opaque), "etc": {"new": Dir({"x": ""}, xattrs=opaque)}}
    members = packed(tmp_path, upper)
    assert names(members) == ["data", "data/.wh..wh..opq", "data/a", "data/old", "etc", "etc/new", "etc/new/x"]


def test_names_of_one_file_are_links(tmp_path: Path) -> None:
    members = packed(tmp_path, {"a": "data", "b": HardLink("a"), "d": {"c": HardLink("a")}})
    assert [(member.name, member.type, member.linkname) for member in members] == [
        ("a", tarfile.REGTYPE, ""),
        ("b", tarfile.LNKTYPE, "a"),
        ("d", tarfile.DIRTYPE, ""),
        ("d/c", tarfile.LNKTYPE, "a"),
    ]


def test_a_moved_directory_is_there_as_a_whole(tmp_path: Path, requires: Callable[..., None]) -> None:
    """A tar has no redirects."""
    requires("devices")
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    build(tmp_path / "lower", LOWER)
    options = {"redirect_dir": "on"}
    with Overlay([tmp_path / "lower"], tmp_path / "upper", tmp_path / "work", options=options) as overlay:
        files = Paths(overlay)
        files.write_bytes("/data/added", b"x")
        files.rename("/data", "/moved")
        files.unlink("/moved/old")
    members = read(pack_again(tmp_path))
    assert names(members) == [".wh.data", "moved", "moved/added", "moved/sub", "moved/sub/deep"]
    assert members[-1].size == 4


def test_a_metacopy_has_its_data(tmp_path: Path, requires: Callable[..., None]) -> None:
    requires("devices")
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    build(tmp_path / "lower", LOWER)
    options = {"redirect_dir": "on", "metacopy": "on"}
    with Overlay([tmp_path / "lower"], tmp_path / "upper", tmp_path / "work", options=options) as overlay:
        Paths(overlay).chmod("/etc/motd", 0o600)
    with tarfile.open(fileobj=io.BytesIO(pack_again(tmp_path))) as tar:
        assert tar.getmember("etc/motd").mode == 0o600
        found = tar.extractfile("etc/motd")
        assert found is not None
        assert found.read() == b"hello"


def test_of_the_xattrs_only_capabilities_are_kept(tmp_path: Path, requires: Callable[..., None]) -> None:
    requires("devices")
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    members = packed(tmp_path, {"a": File("x", xattrs={"security.capability": capability, "user.mine": b"1"})})
    assert members[0].pax_headers["SCHILY.xattr.security.capability"].encode("utf-8") == capability
    assert not [key for key in members[0].pax_headers if "user." in key]


def test_names_and_numbers_that_no_old_tar_holds(tmp_path: Path, requires: Callable[..., None]) -> None:
    requires("devices")
    long = "n" * 200
    members = packed(tmp_path, {long: {b"\xff\xfe": File("x", uid=3_000_000_000)}, "ümlaut": ""})
    assert names(members) == [long, f"{long}/\udcff\udcfe", "ümlaut"]
    assert members[1].uid == 3_000_000_000


def test_what_a_tar_cannot_hold(tmp_path: Path) -> None:
    (tmp_path / "lower").mkdir()
    (tmp_path / "upper").mkdir()
    os.mknod(tmp_path / "upper" / "socket", stat.S_IFSOCK | 0o600)
    assert read(pack_again(tmp_path)) == []
    (tmp_path / "upper" / ".wh.name").touch()
    with pytest.raises(OSError, match="would hide another") as caught:
        pack_again(tmp_path)
    assert caught.value.errno == errno.EINVAL


def test_the_same_changes_make_the_same_bytes(tmp_path: Path) -> None:
    upper = {"b": "1", "a": {"z": "2", "y": "3"}, "etc": {"hosts": "new"}}
    one, two = tmp_path / "one", tmp_path / "two"
    for place in (one, two):
        place.mkdir()
    first = pack(one, upper, latest=1000)
    second = pack(two, dict(reversed(upper.items())), latest=1000)
    assert first == second
    assert {member.mtime for member in read(first)} == {1000}


# -- images


def changed(tmp_path: Path, upper: Mapping[str | bytes, Node]) -> Path:
    path = tmp_path / "upper"
    path.mkdir()
    build(path, upper)
    return path


def test_a_commit_is_an_image_of_one_layer_more(store: Store, base: Image, tmp_path: Path) -> None:
    upper = changed(tmp_path, {"etc": {"hosts": "changed"}, "new": "x"})
    made = commit(
        store,
        base,
        upper,
        tag="app:2",
        message="changed",
        author="somebody",
        instructions=['CMD ["/bin/run", "it"]', "ENV B=2 A=3", "LABEL a=b", "USER 5", "EXPOSE 80 53/udp"],
    )
    assert made.tags == ("app:2",)
    assert [item.diff_id for item in made.layers[:-1]] == [item.diff_id for item in base.layers]
    assert made.layers[0].path == base.layers[0].path
    run = made.config.run
    assert (run["Cmd"], run["Env"], run["User"]) == (["/bin/run", "it"], ["B=2", "A=3"], "5")
    assert (run["Labels"], run["ExposedPorts"]) == ({"a": "b"}, {"80/tcp": {}, "53/udp": {}})
    last = made.history[-1]
    assert (last.step.comment, last.step.author, last.layer) == ("changed", "somebody", made.layers[-1])
    with Overlay(made.lowerdirs) as overlay:
        files = Paths(overlay)
        assert files.read_bytes("/etc/hosts") == b"changed"
        assert files.read_bytes("/etc/motd") == b"hello"
        assert files.read_bytes("/new") == b"x"


def test_what_is_unchanged_makes_no_layer(store: Store, base: Image, tmp_path: Path) -> None:
    made = commit(store, base, changed(tmp_path, {}), message="nothing")
    assert [item.diff_id for item in made.layers] == [item.diff_id for item in base.layers]
    assert made.history[-1].layer is None
    assert made.history[-1].step.empty
    assert made.id != base.id


def test_with_a_date_the_same_changes_are_the_same_image(
    store: Store, base: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    upper = changed(tmp_path, {"new": "x"})
    one, two = (commit(store, base, upper) for _ in range(2))
    assert one.id == two.id
    assert one.created == "2001-09-09T01:46:40Z"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(ImageError, match="not a number of seconds"):
        commit(store, base, upper)


@pytest.mark.parametrize(
    ("before", "line", "after"),
    [
        ({}, "CMD run it", {"Cmd": ["/bin/sh", "-c", "run it"]}),
        ({"Cmd": ["x"]}, 'entrypoint ["/a"]', {"Entrypoint": ["/a"]}),
        ({"Env": ["A=1", "B=2"]}, "ENV A=5", {"Env": ["B=2", "A=5"]}),
        ({}, 'ENV A="x y" B=z', {"Env": ["A=x y", "B=z"]}),
        ({}, "ENV A x y", {"Env": ["A=x y"]}),
        ({"Volumes": None}, 'VOLUME ["/a", "/b"]', {"Volumes": {"/a": {}, "/b": {}}}),
        ({}, "WORKDIR /srv", {"WorkingDir": "/srv"}),
    ],
)
def test_lines_of_a_dockerfile(before: dict[str, Any], line: str, after: dict[str, Any]) -> None:
    apply(before, line)
    assert before == after


@pytest.mark.parametrize("line", ["RUN true", "CMD", "", 'CMD ["a", 1]', "CMD [a]", "LABEL a=b c"])
def test_lines_that_cannot_be_committed(line: str) -> None:
    with pytest.raises(ImageError):
        apply({}, line)


# -- archives


def save(store: Store, *references: str, **more: Any) -> dict[str, bytes]:
    out = io.BytesIO()
    saving.save(
        store,
        [(store.image(name), [] if name.startswith("sha256:") else [name]) for name in references],
        out,
        **more,
    )
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        files = {member.name: tar.extractfile(member) for member in tar if member.isfile()}
        return {name: file.read() for name, file in files.items() if file is not None}


@pytest.mark.parametrize("pack_by", [bytes, archives.gz, archives.zstd], ids=["plain", "gzip", "zstd"])
@pytest.mark.parametrize("layout", [docker_25, oci_layout])
def test_a_layer_comes_out_as_it_was_loaded(
    store: Store, tmp_path: Path, layout: Callable[..., dict[str, bytes]], pack_by: Callable[[bytes], bytes]
) -> None:
    picture = Picture([BASE, layer(entry("x", "y"))], pack=pack_by)
    store.load(write(tmp_path / "app.tar", outer(layout(picture))), tag="app:1")
    members = save(store, "app:1")
    (manifest,) = json.loads(members["manifest.json"])
    assert manifest["RepoTags"] == ["app:1"]
    assert members[manifest["Config"]] == picture.config
    assert [members[path] for path in manifest["Layers"]] == picture.blobs
    for path, data in members.items():
        if path.startswith("blobs/"):
            assert path == f"blobs/sha256/{archives.hexdigest(data)}"


@pytest.mark.parametrize("compression", [None, "gzip", "zstd"])
@pytest.mark.parametrize("layout", saving.FORMATS)
def test_what_is_saved_is_loaded_again(
    store: Store, base: Image, tmp_path: Path, layout: str, compression: str | None
) -> None:
    commit(store, base, changed(tmp_path, {"new": "x"}), tag="app:2")
    out = io.BytesIO()
    image = store.image("app:2")
    saving.save(store, [(image, ["app:2"]), (base, ["app:1"])], out, layout=layout, compression=compression)
    other = Store(tmp_path / "other", sync=False)
    loaded = other.load(write(tmp_path / "out.tar", out.getvalue()))
    assert {(item.id, item.tags) for item in loaded} == {(image.id, ("app:2",)), (base.id, ("app:1",))}
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        blobs = [name for name in tar.getnames() if name.startswith("blobs/sha256/")]
        assert len(blobs) == len(set(blobs)) == 6  # two configurations, two manifests, two layers: one is shared
        assert ("manifest.json" in tar.getnames()) == (layout == "docker")


def test_the_same_images_make_the_same_archive(store: Store, base: Image) -> None:
    assert save(store, "app:1") == save(store, "app:1")
    members = save(store, base.id)
    assert json.loads(members["manifest.json"])[0]["RepoTags"] is None
    assert "repositories" not in members


# -- what is stored


def test_a_root_directory_becomes_an_image(store: Store, tmp_path: Path) -> None:
    for name, pack_by in (("plain", bytes), ("gz", archives.gz), ("zst", archives.zstd)):
        made = import_rootfs(store, write(tmp_path / f"{name}.tar", pack_by(BASE)), tag=f"{name}:1", epoch=0)
        assert made.layers[0].diff_id == f"sha256:{archives.hexdigest(BASE)}"
        assert made.created == "1970-01-01T00:00:00Z"
        assert made.tags == (f"{name}:1",)
    with Overlay(store.image("gz:1").lowerdirs) as overlay:
        assert Paths(overlay).read_bytes("/data/old") == b"old"
    with pytest.raises(ImageError):
        import_rootfs(store, write(tmp_path / "no.tar", b"nothing of a tar" * 100), epoch=0)


@pytest.mark.parametrize("pack_by", [bytes, archives.gz], ids=["plain", "gzip"])
def test_damage_is_found(store: Store, tmp_path: Path, pack_by: Callable[[bytes], bytes]) -> None:
    (image,) = store.load(write(tmp_path / "app.tar", outer(oci_layout(Picture([BASE], pack=pack_by)))))
    assert verify(store, image) == []
    (blob,) = [path for path in (store.root / "blobs").rglob("*") if path.is_file()]
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    (wrong,) = verify(store, image)
    assert wrong.startswith(f"layer {image.layers[0].short_id}")
    blob.unlink()
    (wrong,) = verify(store, image)
    assert "the store has no blob" in wrong


def test_what_nobody_calls_by_name_is_pruned(store: Store, base: Image, tmp_path: Path) -> None:
    made = commit(store, base, changed(tmp_path, {"new": "x"}))
    assert [item.images for item in prune(store)] == [(made.id,)]
    assert [item.id for item in store.images()] == [base.id]
    assert not made.layers[-1].path.exists()
    assert made.layers[0].path.exists()
