"""An image archive of any layout: which images are in it, and their blobs.

``source`` gives the members, ``docker`` and ``oci`` know the layouts, this module tells them apart and
chooses. Nothing is unpacked here and no layer is read: that is ``store``'s business.
"""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from pyunionfs.image import docker, jsons, oci
from pyunionfs.image.archived import ArchivedImage, Candidate, NotAnImageError, read_document
from pyunionfs.image.errors import ImageError, show
from pyunionfs.image.limits import DEFAULT_LIMITS, Limits
from pyunionfs.image.reference import id_prefix, normalised
from pyunionfs.image.source import Source, open_source


def split_reference(archive: str, *, exists: bool) -> tuple[str, str | None]:
    """``ci.tar#app:4`` as path and reference; a ``#`` in the name of a file that exists is part of it."""
    path, mark, reference = archive.rpartition("#")
    return (path, reference) if mark and path and reference and not exists else (archive, None)


class Archive:
    """The images of an archive. A context manager: it closes ``source`` at the end.

    ``kind`` is the layout's name as skopeo has it: ``docker-archive``, ``oci`` or ``dir``.
    """

    def __init__(self, source: Source, *, limits: Limits = DEFAULT_LIMITS, platform: str | None = None) -> None:
        """``platform`` (``linux/arm64``) chooses among the manifests of an index. Raises ImageError."""
        self.source = source
        self._limits = limits
        self._platform = platform
        self.kind, self.candidates = self._recognise()
        if not self.candidates:
            raise ImageError(f"{source.where}: holds no image")
        if len(self.candidates) > limits.max_images:
            raise ImageError(f"{source.where}: more than the allowed {limits.max_images} images")

    def __enter__(self) -> "Archive":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.source.close()

    def _recognise(self) -> tuple[str, list[Candidate]]:
        source, limits = self.source, self._limits
        if source.find(docker.MANIFEST) is not None:
            table, raw = self._document(docker.MANIFEST)
            where = f"{source.where}: {docker.MANIFEST}"
            if isinstance(table, list):
                return "docker-archive", docker.candidates(source, table, limits)
            manifest = jsons.expect(table, dict, what=where)
            layout = oci.dir_layout(source, limits, self._platform)
            return "dir", [Candidate((), (), lambda: oci.read_image(layout, manifest, raw, (), where=where))]
        if source.find(oci.INDEX) is not None:
            index, _ = self._document(oci.INDEX)
            table = jsons.expect(index, dict, what=f"{source.where}: {oci.INDEX}")
            return "oci", oci.candidates(oci.oci_layout(source, limits, self._platform), table)
        raise docker.refuse_other(source)

    def _document(self, name: str) -> tuple[Any, bytes]:
        raw = read_document(self.source, name, limits=self._limits)
        return jsons.parse(raw, where=f"{self.source.where}: {name}", limits=self._limits), raw

    def images(self, reference: str | None = None) -> list[ArchivedImage]:
        """All images, or the one that ``reference`` names: a name as written, normalised, or an id's start.

        Raises ImageError where the archive is damaged, or has no such image; then it says what it has.
        """
        if reference is None:
            return self._all()
        for candidate in self.candidates:
            if reference in candidate.names or normalised(reference) in candidate.tags:
                return [candidate.read()]
        prefix = id_prefix(reference)
        if prefix is not None:
            for candidate in self.candidates:
                image = candidate.read()
                if image.config.id.startswith("sha256:" + prefix):
                    return [image]
        raise ImageError(f"{self.source.where}: no image {show(reference)}; it has {self._listing()}")

    def ambiguous(self) -> ImageError:
        """The error for an archive of several images of which one must be chosen."""
        return ImageError(f"{self.source.where}: choose one of its images with #NAME:TAG: {self._listing()}")

    def _listing(self) -> str:
        names = [tag for candidate in self.candidates for tag in candidate.tags or candidate.names]
        return show(", ".join(names)) if names else f"{len(self.candidates)} without a name"

    def _all(self) -> list[ArchivedImage]:
        """Every image; other artifacts are passed over unless there is nothing else."""
        found: list[ArchivedImage] = []
        refused: NotAnImageError | None = None
        for candidate in self.candidates:
            try:
                found.append(candidate.read())
            except NotAnImageError as error:
                refused = error
        if refused is not None and not found:
            raise refused
        return found


def open_archive(
    archive: str | Path | BinaryIO,
    *,
    spool: str,
    limits: Limits = DEFAULT_LIMITS,
    platform: str | None = None,
    progress: Callable[[int], object] | None = None,
) -> Archive:
    """Open an archive; see :func:`~pyunionfs.image.source.open_source` for ``spool`` and ``progress``."""
    source = open_source(archive, spool=spool, limits=limits, progress=progress)
    try:
        return Archive(source, limits=limits, platform=platform)
    except BaseException:
        source.close()
        raise
