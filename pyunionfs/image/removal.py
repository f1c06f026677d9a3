"""Removing images from a store, with the layers and blobs that only they have."""

import errno
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pyunionfs.image import jsons
from pyunionfs.image.errors import ImageError
from pyunionfs.image.images import Image, not_found
from pyunionfs.image.layers import Layer
from pyunionfs.image.reference import normalised
from pyunionfs.image.store import Store, tags_of
from pyunionfs.image.workspace import discard, is_held, locked


@dataclass(frozen=True, slots=True)
class Removed:
    """What was taken away."""

    tags: tuple[str, ...]
    images: tuple[str, ...]  # ids
    layers: tuple[str, ...]  # diff ids


def remove(store: Store, reference: str) -> Removed:
    """Remove a tag, its image if that was the last tag, and the layers that no other image has.

    An id, or the start of one, removes the image with all its tags. Raises ImageError if there is no such image,
    or a container has it; OSError (EBUSY) if a layer is in use by a mount.
    """
    if not store.exists:
        raise not_found(reference, [])
    with locked(store.root / "lock", exclusive=True):
        tags = store.tags()
        image_id = store.resolve(reference, tags)
        mine = tags_of(image_id, tags)
        named = normalised(reference)
        if named in mine and len(mine) > 1:
            store.change_tags(lambda table: {name: i for name, i in table.items() if name != named})
            return Removed((named,), (), ())
        return Removed(mine, (image_id,), _remove_image(store, image_id))


def prune(store: Store, *, everything: bool = False) -> list[Removed]:
    """Remove the images that no container has: those without a tag, or with ``everything`` all of them."""
    used = {image_id for image_id, _ in map(user, descriptions(store))}
    unused = [image for image in store.images() if image.id not in used and (everything or not image.tags)]
    return [remove(store, image.id) for image in unused]


def descriptions(store: Store) -> Iterator[Path]:
    """Of the containers of a store (container/containers.py)."""
    return store.root.glob("containers/*/container.json")


def user(description: Path) -> tuple[str, str]:
    """The id of the image that a container has, and the container's name. Raises ImageError, OSError."""
    with jsons.damage(description):
        table = json.loads(description.read_bytes())
        return str(table["image"]), str(table["name"])


def _remove_image(store: Store, image_id: str) -> tuple[str, ...]:
    """Returns the diff ids of the layers that went with it."""
    for used, name in map(user, descriptions(store)):
        if used == image_id:
            raise ImageError(f"the image is that of container {name} (rm removes it)")
    others = [_whole(store, i) for i in store.image_store.ids() if i != image_id]
    kept = [image for image in others if image is not None]
    layers: list[Layer] = []
    blobs: list[Path] = []
    if len(kept) == len(others):  # what a damaged image has is not known: then all layers and blobs stay
        directories = {layer.directory for image in kept for layer in image.layers}
        image = _whole(store, image_id)
        layers = [] if image is None else [i for i in image.layers if i.directory not in directories]
        blobs = unneeded_blobs(store, kept)
    for layer in layers:
        if is_held(layer.directory):
            raise OSError(errno.EBUSY, f"layer {layer.short_id} is in use by a mount")
    store.change_tags(lambda table: {name: i for name, i in table.items() if i != image_id})
    if store.image_store.path(image_id).exists():
        discard(store.temporary, store.image_store.path(image_id))
    for directory in {layer.directory for layer in layers}:
        discard(store.temporary, directory)
    for path in blobs:
        path.unlink()
    return tuple(dict.fromkeys(layer.diff_id for layer in layers))


def _whole(store: Store, image_id: str) -> Image | None:
    """An image, unless something of it is missing or damaged."""
    try:
        return store.image_store.find(image_id)
    except ImageError:
        return None


def unneeded_blobs(store: Store, images: Iterable[Image]) -> list[Path]:
    """The files of blobs that none of these images has."""
    digests = {digest for image in images for digest in (*image.blobs, *(layer.blob for layer in image.layers))}
    needed = {store.blob_store.find(digest) for digest in digests}
    return [path for path in store.blob_store.all() if path not in needed]
