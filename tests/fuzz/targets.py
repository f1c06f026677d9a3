"""Every parser of input that a stranger may have written, as a function of bytes: what a fuzzer drives.

A target must return, or raise one of its documented ``errors``, within bounded time and memory, and touch
nothing outside of the directory that it was given. To add a parser is one line in :data:`TARGETS`.
"""

import errno
import gzip
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import archives
from archives import Picture, directory, entry, hardlink, layer, opaque, pax, symlink, whiteout

from pyunionfs import spec as specs
from pyunionfs.cli.mount import _options, _take_directories
from pyunionfs.image import config, jsons, names, reference, tar
from pyunionfs.image import pax as pax_records
from pyunionfs.image.archive import open_archive, split_reference
from pyunionfs.image.errors import ImageError
from pyunionfs.image.limits import Limits
from pyunionfs.image.store import Store
from pyunionfs.image.unpack import unpack
from pyunionfs.overlay import params
from pyunionfs.overlay.marks import TRUSTED, Metacopy, Origin, check_redirect, decode_nlink

MIB = 1 << 20
LIMITS = Limits(
    max_bytes=16 * MIB, max_layer_bytes=8 * MIB, max_remembered=8 * MIB, max_header=MIB, max_json=MIB,
    max_entries=2000, max_sparse=500, max_layers=20, max_images=20, max_file_bytes=1 << 40,
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """One parser. ``seeds`` are valid inputs, which mutations begin with."""

    run: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]
    slow: bool = False  # writes files: fewer examples

    def check(self, data: bytes) -> None:
        """Raises what the target should not."""
        try:
            self.run(data)
        except self.errors as error:
            words = str(error)
            assert "\n" not in words, "a message is one line"
            assert words.isprintable(), f"a name of a stranger's could write to the terminal: {words!r}"


# -- marks and options


def origin(data: bytes) -> None:
    found = Origin.decode(data)
    assert found is None or found.encode() == data
    assert found is None or found.plain_ino() >= 0


def metacopy(data: bytes) -> None:
    with refused(errno.EIO):
        Metacopy.check(data)
        found = Metacopy.decode(data)
        assert Metacopy.decode(found.encode()) == found or not found.algorithm


def redirect(data: bytes) -> None:
    with refused(errno.EINVAL, errno.EACCES):
        found = check_redirect(data)
        assert found
        assert not {b".", b".."} & set(found.split(b"/"))
        assert b"//" not in found
        assert found[0] == ord("/") or b"/" not in found


def nlink(data: bytes) -> None:
    names = decode_nlink(data, upper=2, lower=3)
    assert names is None or names > 0


def options(data: bytes) -> None:
    """The value of ``mount -o``, all the way to the checked parameters and the options for FUSE."""
    with refused(errno.EINVAL):
        words = _options(None, None, (os.fsdecode(data),))  # type: ignore[arg-type]
        given = _take_directories(words, [], [])
        spec = specs.MountSpec(lower=["/lower"], mountpoint="/merged", options=given, allow_other=False)
        assert "allow_other" not in spec.fuse_options()
        for privileged in (True, False):
            params.parse(spec.overlay_options(), upper=True, privileged=privileged)


def layers(data: bytes) -> None:
    text = os.fsdecode(data)
    assert specs.split_layers(specs.escape(text)) == [text] if text else True
    with refused(errno.EINVAL):
        lower, data_only = specs.split_lower(text)
        assert lower
        assert all([*lower, *data_only])
        assert specs.split_lower(":".join(map(specs.escape, lower)))[0] == lower


@contextmanager
def refused(*numbers: int) -> Iterator[None]:
    """Of all that an OSError may say, these numbers with a sentence; told on as a ValueError."""
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise
        raise ValueError(repr(error.strerror)) from error


# -- images


def image_name(data: bytes) -> None:
    text = os.fsdecode(data)
    path, chosen = split_reference(text, exists=False)
    assert text in (path, f"{path}#{chosen}")
    reference.id_prefix(text)
    reference.named_after(text, "latest")
    name = reference.normalise(text)
    assert reference.normalise(name) == name


def place(data: bytes) -> None:
    path = names.place(data).path
    assert not path.startswith(b"/")
    assert b".." not in path.split(b"/")


def read_tar(data: bytes) -> None:
    for item in (reader := tar.TarReader(stream(data), where="tar", limits=LIMITS)):
        assert sum(len(chunk) for _, chunk in reader.data()) == item.stored
        assert item.pieces is not None or item.size in (item.stored, 0)


def document(data: bytes) -> None:
    config.parse(data, where="config", limits=LIMITS)


def archive(data: bytes) -> None:
    """An archive as far as its images' layers as plain tars; nothing is unpacked."""
    with tempfile.TemporaryDirectory() as spool:
        with open_archive(io.BytesIO(data), spool=spool, limits=LIMITS, platform="linux/amd64") as opened:
            opened.images()
        assert os.listdir(spool) == []


def stream(data: bytes) -> io.BufferedReader:
    return io.BufferedReader(io.BytesIO(data))  # type: ignore[type-var]


@contextmanager
def cage() -> Iterator[Path]:
    """A directory to work in, between others that must stay as they are."""
    root = Path(tempfile.mkdtemp(prefix="pyunionfs-fuzz-"))
    try:
        for name in ("inside", "outside"):
            (root / name).mkdir()
        (root / "outside/secret").write_text("secret")
        before = outside(root)
        yield root / "inside"
        assert outside(root) == before, "something outside was touched"
    finally:
        shutil.rmtree(root)


def outside(root: Path) -> dict[str, tuple[int, int, int, int, int]]:
    """What an escape would change: of what is in there, and of the way to it."""
    paths = [root / "outside", root / "outside/secret", *(path for path in root.iterdir() if path.name != "inside")]
    status = {str(path): path.lstat() for path in [*paths, Path("/"), root]}
    return {p: (s.st_mode, s.st_uid, s.st_nlink, s.st_size, s.st_mtime_ns) for p, s in status.items()}


def unpack_layer(data: bytes) -> None:
    with cage() as inside:
        for name in ("lower", "diff", "trash"):
            (inside / name).mkdir()
        (inside / "lower/below").write_text("below")
        (inside / "lower/out").symlink_to("../../outside")
        marks, below = TRUSTED, [str(inside / "lower")]
        unpack(stream(data), inside / "diff", marks=marks, trash=inside / "trash", limits=LIMITS, below=below)


def load(data: bytes) -> None:
    """From an archive's bytes to unpacked layers; what a failure leaves is nothing."""
    with cage() as inside:
        store = Store(inside / "store", sync=False)
        try:
            for image in store.load(io.BytesIO(data), limits=LIMITS):
                assert store.image(image.id).id == image.id
        finally:
            assert os.listdir(inside / "store/tmp") == []


# -- seeds

LAYER = layer(
    directory("etc"),
    entry("etc/hosts", b"127.0.0.1 localhost\n", mode=0o644, uid=1, mtime=1_000_000_000),
    symlink("etc/out", "../../outside"),
    symlink("up", "../../outside"),
    entry("up/escaped", b"x"),
    hardlink("etc/again", "etc/hosts"),
    whiteout("etc/motd"),
    opaque("var"),
    entry("a-name-of-more-than-a-hundred-bytes/" + "x" * 90, b"long"),
    entry("xattrs", b"x", records={"SCHILY.xattr.user.name": b"\0value", "mtime": "1.5"}),
    entry("dev/null", type=b"3", major=1, minor=3),
    entry("fifo", type=b"6"),
)
BORROWING = layer(entry("first", b"x"), hardlink("borrowed", "below"), hardlink("out2", "out"))
SPARSE = layer(
    pax({"GNU.sparse.map": "0,2,50,3", "GNU.sparse.size": "100"}),
    entry("sparse", b"abcde"),
    pax({"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "new", "GNU.sparse.realsize": "9"}),
    entry("old", b"1\n0\n3\n".ljust(512, b"\0") + b"abc"),
)
PICTURE = Picture([LAYER, layer(entry("file", b"x"), whiteout("etc/hosts"))], history=[{"created_by": "RUN"}])
PACKED = Picture([LAYER], pack=archives.gz)
ARCHIVES = (
    archives.outer(archives.docker_legacy(PICTURE)),
    archives.outer(archives.podman_style(PICTURE)),
    archives.outer(archives.oci_layout(PACKED)),
    archives.outer(archives.docker_25(PICTURE)),
    gzip.compress(archives.outer(archives.podman_style(PICTURE)), mtime=0),
    archives.zstd(archives.outer(archives.oci_layout(PACKED))),
)
REFERENCES = (b"docker.io/library/app:4", b"localhost:5000/a/b:t@sha256:" + b"0" * 64, b"0123abcd")

TARGETS: dict[str, Target] = {
    "origin": Target(origin, (), (Origin(1, b"\1\2\3\4\0\0\0\0", bytes(16)).encode(),)),
    "metacopy": Target(metacopy, (ValueError,), (Metacopy(1, bytes(32)).encode(), b"", b"\0\4\0\0")),
    "redirect": Target(redirect, (ValueError,), (b"name", b"/a/b/c", b"/a\0b")),
    "nlink": Target(nlink, (), (b"U+1", b"L-12")),
    "options": Target(
        options,
        (ValueError,),
        (b"redirect_dir=on,index=on,xino=auto", b"ro,lowerdir=/a:/b::/c", b"lowerdir+=/a,datadir+=/b"),
    ),
    "layers": Target(layers, (ValueError,), (b"/a:/b\\:c:/d\\\\", b"a", b"/a:/b::/c::/d")),
    "image_name": Target(image_name, (ImageError,), REFERENCES),
    "place": Target(place, (ImageError,), (b"a/.wh.b", b"a/.wh..wh..opq", b"../.wh..wh.plnk/x", b"/./a//b/../c")),
    "pax": Target(
        lambda data: list(pax_records.records(data, where="pax")), (ImageError,), (archives.record("path", "a/b"),)
    ),
    "json": Target(
        lambda data: jsons.parse(data, where="j", limits=LIMITS), (ImageError,), (b'{"a": [1, "\\u00e9"]}',)
    ),
    "config": Target(document, (ImageError,), (PICTURE.config,)),
    "tar": Target(read_tar, (ImageError,), (LAYER, SPARSE)),
    "archive": Target(archive, (ImageError,), ARCHIVES),
    "unpack": Target(unpack_layer, (ImageError,), (LAYER, SPARSE, BORROWING), slow=True),
    "load": Target(load, (ImageError,), ARCHIVES, slow=True),
}
