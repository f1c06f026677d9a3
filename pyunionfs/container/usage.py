"""What a store takes on disk: ``system df``."""

import os
import stat
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .run import Runner

_BLOCK = 512  # bytes, of st_blocks


@dataclass(frozen=True, slots=True)
class Usage:
    """How much of a kind there is, how many are in use, and how many bytes those have that are not."""

    kind: str
    total: int
    active: int
    size: int
    reclaimable: int


def usage(runner: Runner) -> list[Usage]:
    """Layers and blobs are in use if a container has an image of theirs; containers if they run."""
    store = runner.store
    containers = runner.containers.all()
    used = {item.image for item in containers}
    active = [image for image in store.images() if image.id in used]
    needed = {store.blob_store.find(digest) for image in active for digest in image.blobs}
    return [
        _sum("Layers", store.layer_store.directories(), {layer.directory for i in active for layer in i.layers}),
        _sum("Blobs", store.blob_store.all(), {path for path in needed if path is not None}),
        _sum(
            "Containers",
            [item.directory for item in containers],
            {item.directory for item in containers if item.state == "running"},
        ),
    ]


def _sum(kind: str, paths: Iterable[Path], active: Collection[Path]) -> Usage:
    sizes: Mapping[Path, int] = {path: on_disk(path) for path in paths}
    idle = sum(size for path, size in sizes.items() if path not in active)
    return Usage(kind, len(sizes), len(sizes.keys() & set(active)), sum(sizes.values()), idle)


def on_disk(path: Path) -> int:
    """The bytes of the blocks of what is there and below, on one filesystem; several names of a file count once."""
    device = os.lstat(path).st_dev
    seen: set[int] = set()
    total = 0
    stack = [os.fspath(path)]
    while stack:
        name = stack.pop()
        st = os.lstat(name)
        if st.st_dev != device or st.st_ino in seen:
            continue
        seen.add(st.st_ino)
        total += st.st_blocks * _BLOCK
        if stat.S_ISDIR(st.st_mode):
            stack += [entry.path for entry in os.scandir(name)]
    return total
