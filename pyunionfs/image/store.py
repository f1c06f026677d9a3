"""The store: images loaded from archives, each layer unpacked once and ready to be mounted.

::

    store.json                         format version, and which xattrs carry the overlay's marks
    tags.json                          {"app:4": "sha256:..."}
    images/sha256/ID/                  config.json, manifest.json, image.json
    layers/sha256/DIFF_ID/diff/        the directory to mount; layer.json beside it
    blobs/sha256/...                   the layers' tars, to save an image byte for byte as it came
    tmp/                               work in progress; what dead processes left is swept at the next load

Loading holds a shared lock on the store, removing an exclusive one; a mount holds a shared lock on each of its
layers (:meth:`Store.hold`), so they are not removed below it.
"""

import errno
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import xattr

from pyunionfs.image import blobs
from pyunionfs.image.archive import open_archive, split_reference
from pyunionfs.image.archived import ArchivedImage
from pyunionfs.image.blobs import BlobStore
from pyunionfs.image.errors import ImageError, show
from pyunionfs.image.images import Image, ImageStore, not_found
from pyunionfs.image.layers import Layer, LayerStore
from pyunionfs.image.limits import DEFAULT_LIMITS, Limits
from pyunionfs.image.reference import id_prefix, normalise, normalised
from pyunionfs.image.streams import Meter, drain
from pyunionfs.image.tree import remove_tree
from pyunionfs.image.unpack import unpack
from pyunionfs.image.workspace import hold, is_held, locked, sweep, to_json, workspace, write_atomically
from pyunionfs.overlay.marks import OPAQUE_YES, TRUSTED, USER, Namespace

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a load is: ``done`` of ``total`` bytes (0 if unknown) of one step.

    ``step`` is ``spool`` (copying a pipe or a compressed archive), ``layer`` (unpacking), ``new`` or
    ``shared`` (a layer is there now, or was there before).
    """

    step: str
    done: int = 0
    total: int = 0
    image: str = ""  # id
    layer: str = ""  # diff id
    number: int = 0  # of the layer in its image, from 1
    layers: int = 0


@dataclass(frozen=True, slots=True)
class Removed:
    """What :meth:`Store.remove` took away."""

    tags: tuple[str, ...]
    images: tuple[str, ...]  # ids
    layers: tuple[str, ...]  # diff ids


def default_root() -> Path:
    """$PYUNIONFS_ROOT; else /var/lib/pyunionfs for root, and the user's data directory for others.

    The latter is $XDG_DATA_HOME/pyunionfs or ~/.local/share/pyunionfs (XDG Base Directory Specification).
    """
    chosen = os.environ.get("PYUNIONFS_ROOT")
    if chosen:
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/var/lib/pyunionfs")
    data = os.environ.get("XDG_DATA_HOME", "")
    return (Path(data) if os.path.isabs(data) else Path.home() / ".local/share") / "pyunionfs"


class Store:
    """A store at ``root``, which the first load makes.

    ``sync=False`` skips what makes a load outlive a power failure (a load interrupted by anything else leaves
    nothing half done in any case).
    """

    def __init__(self, root: str | Path | None = None, *, sync: bool = True) -> None:
        self.root = Path(root) if root is not None else default_root()
        self._temporary = self.root / "tmp"
        self._blobs = BlobStore(self.root / "blobs")
        self._layers = LayerStore(self.root / "layers" / "sha256", self._temporary, self._blobs, sync=sync)
        self._images = ImageStore(self.root / "images" / "sha256", self._temporary, self._layers)

    # -- reading

    @property
    def marks(self) -> Namespace:
        """Which xattrs carry the marks of this store's layers: ``overlay.marks.TRUSTED`` or ``USER``.

        With USER, a kernel mount of the layers needs the option ``userxattr``. Raises ImageError for a
        store of a later version of this program.
        """
        try:
            table = json.loads((self.root / "store.json").read_bytes())
        except FileNotFoundError:
            return TRUSTED if os.geteuid() == 0 else USER
        if table.get("version") != _VERSION:
            raise ImageError(
                f"{self.root}: a store of format {table.get('version')}, this program reads {_VERSION}"
            )
        return TRUSTED if table["marks"] == TRUSTED.prefix else USER

    def tags(self) -> dict[str, str]:
        """All tags, each with its image's id."""
        try:
            table: dict[str, str] = json.loads((self.root / "tags.json").read_bytes())
        except FileNotFoundError:
            return {}
        return table

    def images(self) -> list[Image]:
        """All images, by their first tag; those without one come last."""
        tags = self.tags()
        found = (self._images.find(i, _tags_of(i, tags)) for i in self._images.ids())
        return sorted((i for i in found if i is not None), key=lambda i: (not i.tags, i.tags, i.id))

    def image(self, reference: str) -> Image:
        """The image of a tag (``app:4``, ``app`` for ``app:latest``), or of an id or the start of one.

        Raises ImageError if there is none, or more than one of that start.
        """
        tags = self.tags()
        image_id = self._resolve(reference, tags)
        image = self._images.find(image_id, _tags_of(image_id, tags))
        if image is None:
            raise ImageError(f"{self.root}: image {image_id} is incomplete; load it again")
        return image

    def _resolve(self, reference: str, tags: dict[str, str]) -> str:
        image_id = tags.get(normalised(reference) or "")
        if image_id is not None:
            return image_id
        prefix = id_prefix(reference)
        ids = [i for i in self._images.ids() if prefix and i.startswith("sha256:" + prefix)]
        if len(ids) > 1:
            raise ImageError(f"{reference!r} is the start of {len(ids)} image ids; give more digits")
        if not ids:
            raise not_found(reference, sorted(tags))
        return ids[0]

    def lowerdirs(self, image: Image) -> list[Path]:
        """The image's layers, top to bottom, ready for a union; none for an image without layers."""
        return image.lowerdirs

    def open_blob(self, digest: str) -> io.BufferedReader:
        """A layer's blob, byte for byte as the archive had it; ``digest`` from :attr:`Image.blobs`."""
        return self._blobs.open(digest)

    def blob_size(self, digest: str) -> int:
        """How many bytes :meth:`open_blob` gives."""
        return self._blobs.size(digest)

    def open_plain(self, digest: str) -> io.BufferedReader:
        """The plain tar of a layer's blob."""
        return self._blobs.open_plain(digest)

    def open_layer(self, layer: Layer) -> BinaryIO:
        """A layer's plain tar, whose sha256 is its diff id."""
        return self._blobs.open_plain(layer.blob)

    @contextmanager
    def hold(self, image: Image) -> Iterator[list[Path]]:
        """The lowerdirs, which cannot be removed meanwhile; for as long as something is mounted on them."""
        with ExitStack() as stack:
            for layer in image.layers:
                stack.callback(os.close, hold(layer.directory))
            yield image.lowerdirs

    @contextmanager
    def keeping(self, image: Image) -> Iterator[None]:
        """No image is removed meanwhile. Raises ImageError if this one has been."""
        with locked(self.root / "lock", exclusive=False):
            self.image(image.id)
            yield

    # -- loading

    @contextmanager
    def workspace(self, name: str) -> Iterator[Path]:
        """A directory for what is not complete yet, on the filesystem of the store; it is gone afterwards, also
        when the process is killed, once something is loaded."""
        self._prepare()
        with workspace(self._temporary / f"{name}-{os.getpid()}", done=lambda: False) as directory:
            assert directory is not None
            yield directory

    def load(
        self,
        archive: str | Path | BinaryIO,
        *,
        reference: str | None = None,
        tag: str | None = None,
        single: bool = False,
        platform: str | None = None,
        limits: Limits = DEFAULT_LIMITS,
        progress: Callable[[Progress], object] | None = None,
    ) -> list[Image]:
        """Load the images of an archive: of ``docker save``, podman, skopeo, an OCI layout, a directory.

        A path may end in ``#app:4`` to choose one image, as ``reference`` does; ``single`` refuses an archive of
        several where none is chosen. ``tag`` names that one anew, ``platform`` (``linux/arm64``) chooses from a
        multi-platform image. A tag that another image had moves to the new one. Raises ImageError for a bad
        archive, OSError; then what was complete is kept, and nothing is half done.
        """
        if isinstance(archive, str) and reference is None:
            archive, reference = split_reference(archive, exists=os.path.lexists(archive))
        listen = progress or (lambda _: None)
        new_name = (normalise(tag),) if tag is not None else None
        self._prepare()
        with ExitStack() as stack:
            stack.enter_context(locked(self.root / "lock", exclusive=False))
            sweep(self._temporary)
            opened = stack.enter_context(
                open_archive(
                    archive,
                    spool=os.fspath(self._temporary),
                    limits=limits,
                    platform=platform,
                    progress=lambda done: listen(Progress("spool", done)),
                )
            )
            found = opened.images(reference)
            if len(found) > 1 and (single or new_name is not None):
                raise opened.ambiguous()
            total = Meter(limits.max_bytes, opened.source.where)
            for image in found:
                self._load_image(image, opened.source.where, limits, total, listen)
                self._tag(image.config.id, new_name or image.tags)
        return [self.image(image.config.id) for image in found]

    def add(self, image: ArchivedImage, *, where: str, limits: Limits = DEFAULT_LIMITS) -> Image:
        """Add an image that comes from elsewhere than an archive: a commit, say.

        Its layers' members may be any readers of tars; those of layers that are here are not read. ``where``
        names it in messages. Raises ImageError, OSError as :meth:`load`.
        """
        self._prepare()
        with locked(self.root / "lock", exclusive=False):
            sweep(self._temporary)
            self._load_image(image, where, limits, Meter(limits.max_bytes, where), lambda _: None)
            self._tag(image.config.id, image.tags)
        return self.image(image.config.id)

    def _load_image(
        self,
        image: ArchivedImage,
        where: str,
        limits: Limits,
        total: Meter,
        listen: Callable[[Progress], object],
    ) -> None:
        if self._images.find(image.config.id) is not None:
            for number, archived in enumerate(image.layers, 1):
                _tell(listen, image, number, "shared", archived.member.size)
            return
        layers: list[Layer] = []
        for number, archived in enumerate(image.layers, 1):
            tell = partial(_tell, listen, image, number)
            layer, new = self._layers.add(
                archived,
                layers,
                marks=self.marks,
                where=where,
                limits=limits,
                total=total,
                progress=partial(tell, "layer"),
            )
            layers.append(layer)
            tell("new" if new else "shared", archived.member.size)
        self._images.add(image, layers)

    def _prepare(self) -> None:
        """Make the store's directories if need be, and record which marks it can use."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("tmp", "layers/sha256", "images/sha256", "blobs/sha256"):
            (self.root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(self.root / "tags.lock", exclusive=True):
            if not (self.root / "store.json").exists():
                marks = _probe_marks(self._temporary)
                table = {"version": _VERSION, "marks": marks.prefix}
                write_atomically(self.root / "store.json", to_json(table))

    def tag(self, reference: str, name: str) -> None:
        """Give an image one more name. Raises ImageError."""
        with locked(self.root / "lock", exclusive=False) if self.root.exists() else ExitStack():
            self._tag(self.image(reference).id, (normalise(name),))

    def _tag(self, image_id: str, names: Sequence[str]) -> None:
        if names:
            with locked(self.root / "tags.lock", exclusive=True):
                table = self.tags() | dict.fromkeys(names, image_id)
                write_atomically(self.root / "tags.json", to_json(dict(sorted(table.items()))))

    # -- removing

    def remove(self, reference: str) -> Removed:
        """Remove a tag, its image if that was the last tag, and the layers that no other image has.

        An id, or the start of one, removes the image with all its tags. Raises ImageError if there is no
        such image, OSError (EBUSY) if a layer is in use by a mount.
        """
        if not self.root.exists():
            raise not_found(reference, [])
        with locked(self.root / "lock", exclusive=True):
            tags = self.tags()
            image_id = self._resolve(reference, tags)
            mine = _tags_of(image_id, tags)
            named = normalised(reference)
            if named in mine and len(mine) > 1:
                self._write_tags({name: i for name, i in tags.items() if name != named})
                return Removed((named,), (), ())
            return self._remove_image(image_id, tags)

    def _remove_image(self, image_id: str, tags: dict[str, str]) -> Removed:
        for user in self._users(image_id):
            raise ImageError(f"the image is that of container {user} (rm removes it)")
        others = [i for i in self._images.ids() if i != image_id]
        kept = [image for image in map(self._images.find, others) if image is not None]
        directories = {layer.directory for image in kept for layer in image.layers}
        image = self._images.find(image_id)
        layers = [] if image is None else [i for i in image.layers if i.directory not in directories]
        for layer in layers:
            if is_held(layer.directory):
                raise OSError(errno.EBUSY, f"layer {layer.short_id} is in use by a mount")
        mine = _tags_of(image_id, tags)
        self._write_tags({name: i for name, i in tags.items() if i != image_id})
        self._discard(self._images.path(image_id))
        for directory in {layer.directory for layer in layers}:
            self._discard(directory)
        self._remove_blobs(kept)
        return Removed(mine, (image_id,), tuple(dict.fromkeys(layer.diff_id for layer in layers)))

    def _users(self, image_id: str) -> Iterator[str]:
        """The names of the containers that have an image (container/containers.py)."""
        for path in self.root.glob("containers/*/container.json"):
            table = json.loads(path.read_bytes())
            if table["image"] == image_id:
                yield table["name"]

    def _write_tags(self, tags: dict[str, str]) -> None:
        with locked(self.root / "tags.lock", exclusive=True):
            write_atomically(self.root / "tags.json", to_json(tags))

    def _discard(self, directory: Path) -> None:
        """Take a directory away in one step, then delete it; a crash in between leaves it to the next sweep."""
        doomed = self._temporary / f"removed-{os.getpid()}-{directory.name}"
        os.rename(directory, doomed)
        remove_tree(os.fspath(doomed))

    def _remove_blobs(self, kept: Sequence[Image]) -> None:
        digests = {digest for image in kept for digest in image.blobs}
        digests |= {layer.blob for image in kept for layer in image.layers}
        needed = {self._blobs.find(digest) for digest in digests}
        for path in self._blobs.all():
            if path not in needed:
                path.unlink()

    def prune(self) -> list[Removed]:
        """Remove the images that have neither a tag nor a container."""
        removed = []
        for image in self.images():
            if not image.tags and not any(self._users(image.id)):
                removed.append(self.remove(image.id))
        return removed

    # -- verifying

    def verify(self, image: Image) -> list[str]:
        """Read all that is stored of an image, and compare the digests; returns what is wrong, in sentences."""
        wrong = [] if image.config.id == image.id else [f"its configuration is another: {image.config.id}"]
        for layer, digest in zip(image.layers, image.blobs, strict=True):
            where = f"layer {layer.short_id}"
            if not layer.path.is_dir():
                wrong.append(f"{where}: it is not unpacked any more")
            try:
                kept = digest if self._blobs.keeps_as_is(digest) else None
                blobs.read(self._blobs.member(digest), drain, where=where, diff_id=layer.diff_id, digest=kept)
            except ImageError as error:
                wrong.append(str(error))
        return wrong

    # -- extracting

    def extract(self, image: Image, directory: str | Path) -> list[Path]:
        """Unpack the layers beside each other into ``directory``: ``00-<short id>`` is the base.

        The result is in the overlay's form with this store's marks: ``lowerdir=`` may name the directories, top
        to bottom. The directory is made; it must be empty if it exists. Raises ImageError, OSError.
        """
        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        if any(target.iterdir()):
            raise OSError(errno.ENOTEMPTY, f"{target} is not empty")
        paths: list[Path] = []
        trash = target / ".trash"
        for number, layer in enumerate(image.layers):
            path = target / f"{number:02d}-{layer.short_id}"
            path.mkdir(mode=0o700)
            trash.mkdir(mode=0o700)
            self._unpack_again(layer, path, trash, list(reversed(paths)))
            remove_tree(os.fspath(trash))
            paths.append(path)
        return paths

    def _unpack_again(self, layer: Layer, path: Path, trash: Path, below: Sequence[Path]) -> None:
        where = f"{self.root}: layer {layer.short_id}"
        blobs.read(
            self._blobs.member(layer.blob),
            lambda stream: unpack(
                stream,
                path,
                marks=self.marks,
                trash=trash,
                where=where,
                below=[os.fspath(item) for item in below],
            ),
            where=where,
            diff_id=layer.diff_id,
            digest=None,
        )


def _tell(listen: Callable[[Progress], object], image: ArchivedImage, number: int, step: str, done: int) -> None:
    layer = image.layers[number - 1]
    size, count = layer.member.size, len(image.layers)
    listen(Progress(step, done, size, image.config.id, layer.diff_id, number, count))


def _tags_of(image_id: str, tags: dict[str, str]) -> tuple[str, ...]:
    return tuple(sorted(name for name, i in tags.items() if i == image_id))


def _probe_marks(directory: Path) -> Namespace:
    """The marks that this process may write here. Raises ImageError if none."""
    probe = directory / f"probe-{os.getpid()}"
    probe.mkdir(mode=0o700)
    try:
        for marks in (TRUSTED, USER):
            try:
                xattr.setxattr(os.fspath(probe), marks.opaque, OPAQUE_YES)
                return marks
            except OSError:
                continue
    finally:
        probe.rmdir()
    raise ImageError(f"{show(os.fspath(directory))}: this filesystem keeps no xattrs, which the layers' marks need")
