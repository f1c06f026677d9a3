"""What is wrong in a store: digests that are not what they should be, parts that are missing or left over.

A process that is killed at any moment leaves a store that is sound but for leftovers: what is made is made aside
and put in place in one step, an image after its layers; and an image goes before its layers do. Whatever else is
found here was done by something else.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from pyunionfs.image import blobs
from pyunionfs.image.errors import ImageError
from pyunionfs.image.images import Image
from pyunionfs.image.removal import descriptions, unneeded_blobs, user
from pyunionfs.image.store import Store
from pyunionfs.image.streams import drain
from pyunionfs.image.workspace import abandoned, discard, is_held, locked, sweep


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong; ``repair`` puts it right without losing anything, None: only a person can."""

    where: str
    words: str
    repair: Callable[[], object] | None = None


def verify(store: Store, image: Image) -> list[str]:
    """Read all that is stored of an image, and compare the digests; returns what is wrong, in sentences."""
    wrong = [] if image.config.id == image.id else [f"its configuration is another: {image.config.id}"]
    for layer, digest in zip(image.layers, image.blobs, strict=True):
        where = f"layer {layer.short_id}"
        if not layer.path.is_dir():
            wrong.append(f"{where}: it is not unpacked any more")
        try:
            kept = digest if store.blob_store.keeps_as_is(digest) else None
            blobs.read(store.blob_store.member(digest), drain, where=where, diff_id=layer.diff_id, digest=kept)
        except ImageError as error:
            wrong.append(str(error))
    return wrong


def audit(store: Store, *, repair: bool) -> list[Fault]:
    """Compare the parts of a store with each other, and put right what can be; waits for those who load.

    Returns what was wrong. What is in the layers is not read: that is :func:`verify`. Raises ImageError, OSError.
    """
    if not store.exists:
        return []
    with locked(store.root / "lock", exclusive=True):
        found = list(_faults(store))
        if repair:
            for fault in found:
                if fault.repair is not None:
                    fault.repair()
    return found


def _faults(store: Store) -> Iterator[Fault]:
    whole: list[Image] = []
    faults: list[Fault] = []
    for image_id in store.image_store.ids():
        image = _read(store, image_id)
        if isinstance(image, Fault):
            faults.append(image)
        else:
            yield from _missing_blobs(store, image)
            whole.append(image)
    faults += _absent(store)
    yield from faults
    yield from _leftovers(store, whole, removable=not faults)


def _read(store: Store, image_id: str) -> Image | Fault:
    where = f"image {image_id.partition(':')[2][:12]}"
    try:
        image = store.image_store.find(image_id)
    except ImageError as error:
        return Fault(where, str(error))
    if image is None:
        return Fault(where, "a part of it is missing; load it again, or remove it")
    if image.config.id != image_id:
        return Fault(where, f"its configuration is that of {image.config.id}")
    return image


def _missing_blobs(store: Store, image: Image) -> Iterator[Fault]:
    for layer, digest in zip(image.layers, image.blobs, strict=True):
        if not layer.path.is_dir():
            yield Fault(f"layer {layer.short_id}", "not unpacked any more; remove the image, and load it again")
        if store.blob_store.find(digest) is None:
            yield Fault(f"image {image.short_id}", f"cannot be saved: blob {digest[:19]} is missing")


def _absent(store: Store) -> Iterator[Fault]:
    """Images that are spoken of and not there; no removal leaves that, so something is lost."""
    ids = set(store.image_store.ids())
    try:
        for name, image_id in store.tags().items():
            if image_id not in ids:
                yield Fault(f"tag {name}", "the image is not there; load it again, or remove the tag")
    except ImageError as error:
        yield Fault("tags", str(error))
    for path in descriptions(store):
        with suppress(ImageError, OSError):
            image_id, name = user(path)
            if image_id not in ids:
                yield Fault(f"container {name}", f"its image {image_id[:19]} is not there")


def _leftovers(store: Store, images: list[Image], *, removable: bool) -> Iterator[Fault]:
    """What nobody needs; where an image is damaged or lost, what it needs is not known, and nothing is removed."""
    used = {layer.directory for image in images for layer in image.layers}
    for directory in sorted(store.layer_store.directories() - used):
        held = is_held(directory)
        words = "no image has it, but a mount" if held else "no image has it"
        drop = partial(discard, store.temporary, directory) if removable and not held else None
        yield Fault(f"layer {directory.name[:12]}", words, drop)
    for path in sorted(unneeded_blobs(store, images)):
        yield Fault(f"blob {path.name[:12]}", "no image has it", path.unlink if removable else None)
    if store.temporary.is_symlink() or not store.temporary.is_dir():
        make = None if os.path.lexists(store.temporary) else partial(store.temporary.mkdir, mode=0o700)
        yield Fault("tmp", "not a directory", make)
        return
    for path in abandoned(store.temporary):
        yield Fault(f"tmp/{path.name}", "left by a process that was killed", partial(sweep, store.temporary))
