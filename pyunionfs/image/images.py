"""The images of a store: a configuration, a manifest where there was one, and names for the layers.

``images/sha256/ID/`` holds ``config.json`` and ``manifest.json`` byte for byte as they were in the archive
(so their digests hold), and ``image.json``: which layers and blobs belong to it.
"""

import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyunionfs.image import config, jsons
from pyunionfs.image.archived import ArchivedImage
from pyunionfs.image.config import Config, Step
from pyunionfs.image.errors import ImageError
from pyunionfs.image.layers import Layer, LayerStore, lowerdirs
from pyunionfs.image.limits import DEFAULT_LIMITS
from pyunionfs.image.workspace import own_directories, sync_directory, to_json, workspace, write_atomically

_NAME = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """A build step and the layer it made; None for steps that changed only the configuration."""

    step: Step
    layer: Layer | None


@dataclass(frozen=True, slots=True)
class Image:
    """An image in a store."""

    id: str  # "sha256:..." of the configuration
    tags: tuple[str, ...]
    config: Config
    layers: tuple[Layer, ...]  # base first
    blobs: tuple[str, ...]  # digests of the layers' blobs as the archive had them, in the same order
    manifest: bytes | None  # OCI or v2s2, where the archive had one
    manifest_type: str
    loaded: float  # seconds since the epoch

    @property
    def short_id(self) -> str:
        """The first 12 hex digits of the id."""
        return self.id.partition(":")[2][:12]

    @property
    def size(self) -> int:
        """The sum of the layers' files, in bytes."""
        return sum(layer.size for layer in self.layers)

    @property
    def created(self) -> str:
        """When it was built, RFC 3339; empty if unknown."""
        return self.config.text("created")

    @property
    def platform(self) -> str:
        """``os/architecture[/variant]``."""
        parts = (self.config.text(key) for key in ("os", "architecture", "variant"))
        return "/".join(part for part in parts if part)

    @property
    def lowerdirs(self) -> list[Path]:
        """The layers' directories, top to bottom: what a union takes as ``lowerdir``."""
        return [layer.path for layer in reversed(lowerdirs(self.layers))]

    @property
    def history(self) -> list[HistoryEntry]:
        """The build steps, oldest first, each beside its layer.

        A history may be missing or too short (images made by other tools than builders): layers that no step
        speaks of come last, with an empty step.
        """
        layers = iter(self.layers)
        entries = [HistoryEntry(s, None if s.empty else next(layers, None)) for s in self.config.history]
        return entries + [HistoryEntry(Step("", "", "", "", False), layer) for layer in layers]


class ImageStore:
    """The directory ``images`` of a store."""

    def __init__(self, root: Path, temporary: Path, layers: LayerStore) -> None:
        self._root = root
        self._temporary = temporary
        self._layers = layers

    def ids(self) -> Iterator[str]:
        """The ids of all images, in the order of their digits."""
        yield from sorted("sha256:" + path.name for path in own_directories(self._root, _NAME))

    def path(self, image_id: str) -> Path:
        """The directory of an image."""
        return self._root / image_id.partition(":")[2]

    def find(self, image_id: str, tags: tuple[str, ...] = ()) -> Image | None:
        """The image if it is here with all its layers."""
        path = self.path(image_id)
        try:
            content, raw = ((path / name).read_bytes() for name in ("image.json", "config.json"))
        except FileNotFoundError:
            return None
        with jsons.damage(path / "image.json"):
            table = json.loads(content)
            blobs = tuple(jsons.strings(table["blobs"], what="blobs"))
            kind, loaded = str(table["manifest_type"]), float(table["loaded"])
        parsed = config.parse(raw, where=os.fspath(path / "config.json"), limits=DEFAULT_LIMITS)
        layers: list[Layer] = []
        for position, diff_id in enumerate(parsed.diff_ids):
            layer = self._layers.find(diff_id, parsed.diff_ids[:position])
            if layer is None:
                return None
            layers.append(layer)
        manifest = path / "manifest.json"
        return Image(
            image_id,
            tags,
            parsed,
            tuple(layers),
            blobs,
            manifest.read_bytes() if manifest.exists() else None,
            kind,
            loaded,
        )

    def add(self, archived: ArchivedImage, layers: list[Layer]) -> None:
        """Write an image whose layers are here; nothing happens if it is here already."""
        image_id = archived.config.id
        target = self.path(image_id)
        blobs = [item.digest or layer.blob for item, layer in zip(archived.layers, layers, strict=True)]
        table: dict[str, Any] = {
            "id": image_id,
            "blobs": blobs,
            "manifest_type": archived.manifest_type,
            "loaded": time.time(),
        }
        with workspace(self._temporary / f"image-{target.name}", done=target.exists) as directory:
            if directory is None:
                return
            write_atomically(directory / "config.json", archived.config.raw)
            if archived.manifest is not None:
                write_atomically(directory / "manifest.json", archived.manifest)
            write_atomically(directory / "image.json", to_json(table))
            os.rename(directory, target)
            sync_directory(self._root)


def not_found(reference: str, tags: list[str]) -> ImageError:
    """The error for a reference that the store does not know."""
    there = "it has " + ", ".join(tags[:10]) + (", ..." if len(tags) > 10 else "") if tags else "it is empty"
    return ImageError(f"no image {reference!r} in the store: {there}")
