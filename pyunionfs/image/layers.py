"""The unpacked layers of a store: each once, named after its diff id, whatever images have it.

``layers/sha256/HEX/diff`` is the directory to mount, ``layer.json`` beside it says what is in it. A layer that
borrows files of those below (hard links across layers) is right for one stack only: ``HEX+CHAIN``, the first
digits of the chain id of that stack (OCI image-spec config.md, "Layer ChainID").
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyunionfs.image import blobs, jsons
from pyunionfs.image.archived import ArchivedLayer
from pyunionfs.image.blobs import BlobStore
from pyunionfs.image.limits import Limits
from pyunionfs.image.report import UnpackReport
from pyunionfs.image.streams import Meter
from pyunionfs.image.unpack import unpack
from pyunionfs.image.workspace import (
    own_directories,
    sync_directory,
    sync_filesystem,
    to_json,
    workspace,
    write_atomically,
)
from pyunionfs.overlay.marks import Namespace

_CHAIN_DIGITS = 16
_NAME = re.compile(rf"[0-9a-f]{{64}}(\+[0-9a-f]{{{_CHAIN_DIGITS}}})?")


@dataclass(frozen=True, slots=True)
class Layer:
    """An unpacked layer."""

    diff_id: str  # "sha256:..." of its plain tar
    path: Path  # the directory to mount
    blob: str  # digest of the blob it came from; equal to diff_id for a plain one
    report: UnpackReport

    @property
    def size(self) -> int:
        """The sum of its files, in bytes."""
        return self.report.size

    @property
    def files(self) -> int:
        """How many names it has, whiteouts not counted."""
        report = self.report
        return (
            report.files + report.directories + report.symlinks + report.hard_links + report.devices + report.fifos
        )

    @property
    def directory(self) -> Path:
        """Of the store, with ``diff`` and ``layer.json``."""
        return self.path.parent

    @property
    def short_id(self) -> str:
        """The first 12 hex digits of the diff id."""
        return self.diff_id.partition(":")[2][:12]


def chain_id(diff_ids: Sequence[str]) -> str:
    """The name of a stack of layers, base first; empty for no layer."""
    chain = ""
    for diff_id in diff_ids:
        chain = f"sha256:{hashlib.sha256(f'{chain} {diff_id}'.encode()).hexdigest()}" if chain else diff_id
    return chain


class LayerStore:
    """The directory ``layers`` of a store; ``temporary`` is a directory on the same filesystem."""

    def __init__(self, root: Path, temporary: Path, blob_store: BlobStore, *, sync: bool) -> None:
        self._root = root
        self._temporary = temporary
        self._blobs = blob_store
        self._sync = sync

    def find(self, diff_id: str, below: Sequence[str]) -> Layer | None:
        """The layer, if it is here, for a stack on the layers ``below`` (diff ids, base first)."""
        digits = diff_id.partition(":")[2]
        chain = chain_id(below).partition(":")[2][:_CHAIN_DIGITS]
        for name in (digits, f"{digits}+{chain}"):
            path = self._root / name / "layer.json"
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            with jsons.damage(path):
                table = json.loads(content)
                blob = jsons.expect(table["blob"], str, what="blob")
                return Layer(diff_id, self._root / name / "diff", blob, UnpackReport.from_json(table["report"]))
        return None

    def directories(self) -> set[Path]:
        """Of all layers."""
        return own_directories(self._root, _NAME)

    def add(
        self,
        archived: ArchivedLayer,
        below: Sequence[Layer],
        *,
        marks: Namespace,
        where: str,
        limits: Limits,
        total: Meter,
        progress: Callable[[int], object],
    ) -> tuple[Layer, bool]:
        """The layer, unpacked from its blob unless it is here, and whether it is new.

        ``below`` is the stack it lies on, base first. ``total`` counts the plain bytes of a whole load,
        ``progress`` hears the bytes of the blob that were read. Raises ImageError, OSError; then nothing
        of it is left.
        """
        under = [layer.diff_id for layer in below]
        digits = archived.diff_id.partition(":")[2]
        where = f"{where}: layer {archived.name!r}"

        def here() -> bool:
            layer = self.find(archived.diff_id, under)
            # A manifest names blobs; a layer that came in another blob does not have this one.
            return layer is not None and (archived.digest is None or bool(self._blobs.find(archived.digest)))

        if not here():
            with workspace(self._temporary / digits, done=here) as directory:
                if directory is not None:
                    new = self.find(archived.diff_id, under) is None
                    self._build(directory, archived, below, marks, where, limits, total, progress)
                    layer = self.find(archived.diff_id, under)
                    assert layer is not None
                    return layer, new
        layer = self.find(archived.diff_id, under)
        assert layer is not None
        return layer, False

    def _build(
        self,
        directory: Path,
        archived: ArchivedLayer,
        below: Sequence[Layer],
        marks: Namespace,
        where: str,
        limits: Limits,
        total: Meter,
        progress: Callable[[int], object],
    ) -> None:
        new, trash, kept = directory / "layer", directory / "trash", directory / "blob"
        for path in (new, new / "diff", trash):
            path.mkdir(mode=0o700)
        read = Meter(archived.member.size, where)
        blob = blobs.read(
            archived.member,
            lambda stream: unpack(
                stream,
                new / "diff",
                marks=marks,
                trash=trash,
                where=where,
                limits=limits,
                below=[os.fspath(layer.path) for layer in reversed(lowerdirs(below))],
            ),
            where=where,
            diff_id=archived.diff_id,
            digest=archived.digest,
            keep=kept,
            on_plain=(Meter(limits.max_layer_bytes, where), total),
            on_stored=(read, lambda piece: progress(read.count)),
        )
        write_atomically(
            new / "layer.json",
            to_json({"diff_id": blob.diff_id, "blob": blob.digest, "report": blob.result.to_json()}),
        )
        if self._sync:
            sync_filesystem(directory)
        self._blobs.install(kept, blob.digest, blob.compression)
        self._install(new, blob.result.borrowed, archived.diff_id, [layer.diff_id for layer in below])

    def _install(self, new: Path, borrowed: bool, diff_id: str, below: Sequence[str]) -> None:
        name = diff_id.partition(":")[2]
        if borrowed:
            name += "+" + chain_id(below).partition(":")[2][:_CHAIN_DIGITS]
        if not (self._root / name).exists():
            os.rename(new, self._root / name)
            sync_directory(self._root)


def lowerdirs(layers: Sequence[Layer]) -> list[Layer]:
    """The layers, base first, that count: those under a layer with an opaque root are hidden.

    An overlay does not look at the opaque mark of a root (ovl_get_root in fs/overlayfs/super.c), so it is
    here that ``.wh..wh..opq`` at the top of a layer takes effect.
    """
    for position in range(len(layers) - 1, 0, -1):
        if layers[position].report.opaque_root:
            return list(layers[position:])
    return list(layers)
