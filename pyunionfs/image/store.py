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

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import xattr

from pyunionfs.image import jsons
from pyunionfs.image.archive import open_archive, split_reference
from pyunionfs.image.archived import ArchivedImage
from pyunionfs.image.blobs import BlobStore
from pyunionfs.image.errors import ImageError, show
from pyunionfs.image.images import Image, ImageStore, not_found
from pyunionfs.image.layers import Layer, LayerStore
from pyunionfs.image.limits import DEFAULT_LIMITS, Limits
from pyunionfs.image.reference import id_prefix, named, normalised
from pyunionfs.image.streams import Meter
from pyunionfs.image.workspace import hold, locked, sweep, to_json, workspace, write_atomically
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
        self.temporary = self.root / "tmp"
        self.blob_store = BlobStore(self.root / "blobs")
        self.layer_store = LayerStore(self.root / "layers" / "sha256", self.temporary, self.blob_store, sync=sync)
        self.image_store = ImageStore(self.root / "images" / "sha256", self.temporary, self.layer_store)

    # -- reading

    @property
    def exists(self) -> bool:
        """Whether anything was ever loaded: a directory without ``store.json`` is none of ours."""
        return (self.root / "store.json").exists()

    @property
    def marks(self) -> Namespace:
        """Which xattrs carry the marks of this store's layers: ``overlay.marks.TRUSTED`` or ``USER``.

        With USER, a kernel mount of the layers needs the option ``userxattr``. Raises ImageError for a
        store of a later version of this program.
        """
        path = self.root / "store.json"
        if not self.exists:
            return TRUSTED if os.geteuid() == 0 else USER
        with jsons.damage(path):
            table = json.loads(path.read_bytes())
            version = table["version"]
        if version != _VERSION:
            raise ImageError(f"{self.root}: a store of format {version}, this program reads {_VERSION}")
        with jsons.damage(path):
            return TRUSTED if table["marks"] == TRUSTED.prefix else USER

    def tags(self) -> dict[str, str]:
        """All tags, each with its image's id."""
        path = self.root / "tags.json"
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return {}
        with jsons.damage(path):
            table = jsons.expect(json.loads(content), dict, what="tags")
            return {name: jsons.expect(value, str, what=name) for name, value in table.items()}

    def images(self) -> list[Image]:
        """All images, by their first tag; those without one come last."""
        tags = self.tags()
        found = (self.image_store.find(i, tags_of(i, tags)) for i in self.image_store.ids())
        return sorted((i for i in found if i is not None), key=lambda i: (not i.tags, i.tags, i.id))

    def image(self, reference: str) -> Image:
        """The image of a tag (``app:4``, ``app`` for ``app:latest``), or of an id or the start of one.

        Raises ImageError if there is none, or more than one of that start.
        """
        tags = self.tags()
        image_id = self.resolve(reference, tags)
        image = self.image_store.find(image_id, tags_of(image_id, tags))
        if image is None:
            raise ImageError(f"{self.root}: image {image_id} is incomplete; load it again")
        return image

    def resolve(self, reference: str, tags: dict[str, str]) -> str:
        """The id of an image. Raises ImageError if there is none, or more than one of that start."""
        image_id = tags.get(normalised(reference) or "")
        if image_id is not None:
            return image_id
        prefix = id_prefix(reference)
        ids = [i for i in self.image_store.ids() if prefix and i.startswith("sha256:" + prefix)]
        if len(ids) > 1:
            raise ImageError(f"{reference!r} is the start of {len(ids)} image ids; give more digits")
        if not ids:
            raise not_found(reference, sorted(tags))
        return ids[0]

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
        with workspace(self.temporary / f"{name}-{os.getpid()}", done=lambda: False) as directory:
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
        new_name = (named(tag),) if tag is not None else None
        self._prepare()
        with ExitStack() as stack:
            stack.enter_context(locked(self.root / "lock", exclusive=False))
            sweep(self.temporary)
            opened = stack.enter_context(
                open_archive(
                    archive,
                    spool=os.fspath(self.temporary),
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
            sweep(self.temporary)
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
        if self.image_store.find(image.config.id) is not None:
            for number, archived in enumerate(image.layers, 1):
                _tell(listen, image, number, "shared", archived.member.size)
            return
        layers: list[Layer] = []
        for number, archived in enumerate(image.layers, 1):
            tell = partial(_tell, listen, image, number)
            layer, new = self.layer_store.add(
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
        self.image_store.add(image, layers)

    def _prepare(self) -> None:
        """Make the store's directories if need be, and record which marks it can use."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("tmp", "layers/sha256", "images/sha256", "blobs/sha256"):
            (self.root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(self.root / "tags.lock", exclusive=True):
            if not (self.root / "store.json").exists():
                marks = _probe_marks(self.temporary)
                table = {"version": _VERSION, "marks": marks.prefix}
                write_atomically(self.root / "store.json", to_json(table))

    def tag(self, reference: str, name: str) -> None:
        """Give an image one more name. Raises ImageError."""
        with locked(self.root / "lock", exclusive=False) if self.exists else ExitStack():
            self._tag(self.image(reference).id, (named(name),))

    def _tag(self, image_id: str, names: Sequence[str]) -> None:
        if names:
            self.change_tags(lambda table: table | dict.fromkeys(names, image_id))

    def change_tags(self, change: Callable[[dict[str, str]], dict[str, str]]) -> None:
        """Write all tags anew, made of what they are."""
        with locked(self.root / "tags.lock", exclusive=True):
            write_atomically(self.root / "tags.json", to_json(dict(sorted(change(self.tags()).items()))))


def _tell(listen: Callable[[Progress], object], image: ArchivedImage, number: int, step: str, done: int) -> None:
    layer = image.layers[number - 1]
    size, count = layer.member.size, len(image.layers)
    listen(Progress(step, done, size, image.config.id, layer.diff_id, number, count))


def tags_of(image_id: str, tags: dict[str, str]) -> tuple[str, ...]:
    """The names of one image, sorted."""
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
