"""Unpacking an image's layers beside each other, into a directory outside of the store."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from pyunionfs.image import blobs
from pyunionfs.image.images import Image
from pyunionfs.image.layers import Layer
from pyunionfs.image.store import Store
from pyunionfs.image.tree import remove_tree
from pyunionfs.image.unpack import unpack


def extract(store: Store, image: Image, directory: str | Path) -> list[Path]:
    """Unpack the layers into ``directory``: ``00-<short id>`` is the base. Returns their paths, base first.

    The result is in the overlay's form with this store's marks: ``lowerdir=`` may name the directories, top to
    bottom. The directory is made; it must be empty if it exists. Raises ImageError, OSError.
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
        _unpack_again(store, layer, path, trash, list(reversed(paths)))
        remove_tree(os.fspath(trash))
        paths.append(path)
    return paths


def _unpack_again(store: Store, layer: Layer, path: Path, trash: Path, below: Sequence[Path]) -> None:
    where = f"{store.root}: layer {layer.short_id}"
    blobs.read(
        store.blob_store.member(layer.blob),
        lambda stream: unpack(
            stream,
            path,
            marks=store.marks,
            trash=trash,
            where=where,
            below=[os.fspath(item) for item in below],
        ),
        where=where,
        diff_id=layer.diff_id,
        digest=None,
    )
