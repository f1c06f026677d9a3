"""OCI layouts (``index.json`` and ``blobs/``), and skopeo's ``dir`` (one manifest, blobs beside it).

Sources: OCI image-spec image-layout.md, image-index.md, manifest.md; docker distribution manifest v2-2.
A document is what its keys say: ``manifests`` makes an index, ``config`` and ``layers`` an image manifest.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from pyunionfs.image import jsons
from pyunionfs.image.archived import (
    ArchivedImage,
    ArchivedLayer,
    Candidate,
    NotAnImageError,
    checked_digest,
    match_layers,
    need,
    read_config,
    read_document,
)
from pyunionfs.image.errors import ImageError, show
from pyunionfs.image.limits import Limits
from pyunionfs.image.reference import named_after, normalised
from pyunionfs.image.source import Source

INDEX = "index.json"
_MAX_NESTING = 4  # an index in an index in ...; one level is usual
_MAX_INDEX = 1000  # manifests in one index
_REF_NAME = "org.opencontainers.image.ref.name"
_FULL_NAME = "io.containerd.image.name"
_REFERENCE_TYPE = "vnd.docker.reference.type"  # BuildKit: attestation-manifest
_CONFIG_TYPES = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
)
_GO_NAMES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "i386": "386", "ppc64le": "ppc64le"}
_VARIANTS = {"armv7l": ("arm", "v7"), "armv6l": ("arm", "v6")}


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a layout keeps its blobs."""

    source: Source
    limits: Limits
    blob: Callable[[str], str]  # digest -> member
    document: Callable[[str], str]  # digest of a manifest -> member
    platform: str | None  # "os/architecture[/variant]" that must be taken

    def read(self, descriptor: dict[str, Any], *, wanted_by: str) -> tuple[dict[str, Any], bytes]:
        """The manifest or index that a descriptor names, verified."""
        where = f"{self.source.where}: {wanted_by}"
        digest = checked_digest(descriptor.get("digest"), what=f"{where}: digest")
        name = self.document(digest)
        raw = read_document(self.source, name, limits=self.limits, wanted_by=wanted_by, digest=digest)
        where = f"{self.source.where}: {show(name)}"
        return jsons.expect(jsons.parse(raw, where=where, limits=self.limits), dict, what=where), raw


def oci_layout(source: Source, limits: Limits, platform: str | None) -> Layout:
    """``blobs/ALGORITHM/HEX`` for everything."""

    def blob(digest: str) -> str:
        return "blobs/" + digest.replace(":", "/")

    return Layout(source, limits, blob, blob, platform)


def dir_layout(source: Source, limits: Limits, platform: str | None) -> Layout:
    """``HEX`` for blobs, ``HEX.manifest.json`` for manifests (containers/image, directory transport)."""

    def blob(digest: str) -> str:
        return digest.partition(":")[2]

    return Layout(source, limits, blob, lambda digest: blob(digest) + ".manifest.json", platform)


def descriptors(table: dict[str, Any], *, where: str) -> list[dict[str, Any]]:
    """The manifests of an index that are images: those of attestations are left out."""
    found = []
    for item in jsons.member(table, "manifests", list, [], what=where)[: _MAX_INDEX + 1]:
        descriptor = jsons.expect(item, dict, what=f"{where}: manifests")
        platform = jsons.member(descriptor, "platform", dict, {}, what=f"{where}: manifests")
        attested = _annotations(descriptor, where).get(_REFERENCE_TYPE) == "attestation-manifest"
        if not attested and platform.get("os") != "unknown":
            checked_digest(descriptor.get("digest"), what=f"{where}: digest")
            found.append(descriptor)
    if len(found) > _MAX_INDEX:
        raise ImageError(f"{where}: more than the allowed {_MAX_INDEX} manifests")
    return found


def _annotations(table: dict[str, Any], where: str) -> dict[str, Any]:
    return jsons.member(table, "annotations", dict, {}, what=where)


def candidates(layout: Layout, table: dict[str, Any]) -> list[Candidate]:
    """The images of an ``index.json``: one a name, or one a manifest where there are no names.

    Manifests of the same name for several platforms are one image, from which the platform chooses.
    """
    where = f"{layout.source.where}: {INDEX}"
    groups: dict[object, list[dict[str, Any]]] = {}
    seen: Counter[object] = Counter()
    for descriptor in descriptors(table, where=where):
        names, platform = _names(descriptor, where), platform_of(descriptor)
        seen[names, platform] += 1
        # The second of a platform is another image.
        groups.setdefault((names, seen[names, platform] if platform else descriptor["digest"]), []).append(
            descriptor
        )
    found = []
    for group in groups.values():
        names = _names(group[0], where)
        tags = _tags(layout.source, group[0], where)
        found.append(Candidate(names, tags, partial(_read_group, layout, group, tags)))
    return found


def _names(descriptor: dict[str, Any], where: str) -> tuple[str, ...]:
    annotations = _annotations(descriptor, where)
    return tuple(n for n in (annotations.get(_FULL_NAME), annotations.get(_REF_NAME)) if isinstance(n, str))


def _tags(source: Source, descriptor: dict[str, Any], where: str) -> tuple[str, ...]:
    """The full name where one is given; a lone tag is put behind the layout's own name."""
    for name in _names(descriptor, where):
        if "/" in name or ":" in name:
            tag = normalised(name)
        else:
            stem = os.path.basename(os.path.abspath(source.where)).partition(".")[0]
            tag = named_after(stem, name)
        return (tag,) if tag else ()
    return ()


def _read_group(layout: Layout, group: list[dict[str, Any]], tags: tuple[str, ...]) -> ArchivedImage:
    descriptor = choose_platform(group, layout.platform, where=f"{layout.source.where}: {INDEX}")
    table, raw = layout.read(descriptor, wanted_by=INDEX)
    return read_image(layout, table, raw, tags, where=f"{layout.source.where}: {INDEX}")


def read_image(
    layout: Layout, table: dict[str, Any], raw: bytes, tags: tuple[str, ...], *, where: str, nesting: int = 0
) -> ArchivedImage:
    """The image of a manifest, or of that manifest in an index which fits the platform."""
    if "manifests" in table:
        if nesting == _MAX_NESTING:
            raise ImageError(f"{where}: indexes nested deeper than {_MAX_NESTING}")
        descriptor = choose_platform(descriptors(table, where=where), layout.platform, where=where)
        inner, raw = layout.read(descriptor, wanted_by="the index")
        return read_image(layout, inner, raw, tags, where=where, nesting=nesting + 1)
    if table.get("schemaVersion") == 1 or "fsLayers" in table:
        raise ImageError(f"{where}: a manifest of schema 1, which is no longer supported anywhere")
    descriptor = jsons.expect(table.get("config"), dict, what=f"{where}: the manifest's config")
    if descriptor.get("mediaType") not in (None, *_CONFIG_TYPES):
        raise NotAnImageError(f"{where}: holds {show(str(descriptor['mediaType']))}, not an image")
    digest = checked_digest(descriptor.get("digest"), what=f"{where}: the config's digest")
    config = read_config(
        layout.source, layout.blob(digest), limits=layout.limits, wanted_by="the manifest", digest=digest
    )
    blobs = jsons.member(table, "layers", list, [], what=where)
    match_layers(config, len(blobs), where=f"{where}: the manifest")
    layers = tuple(_layers(layout, config.diff_ids, blobs, where))
    media_type = table.get("mediaType")
    return ArchivedImage(config, tags, layers, raw, media_type if isinstance(media_type, str) else "")


def _layers(layout: Layout, diff_ids: tuple[str, ...], blobs: list[Any], where: str) -> Iterator[ArchivedLayer]:
    for diff_id, item in zip(diff_ids, blobs, strict=True):
        descriptor = jsons.expect(item, dict, what=f"{where}: layers")
        digest = checked_digest(descriptor.get("digest"), what=f"{where}: a layer's digest")
        size = jsons.expect(descriptor.get("size"), int, what=f"{where}: a layer's size")
        name = layout.blob(digest)
        member = need(layout.source, name, wanted_by="the manifest")
        if member.size != size:
            raise ImageError(f"{layout.source.where}: {show(name)} has {member.size} bytes, not {size}: damaged")
        yield ArchivedLayer(diff_id, name, member, digest)


# -- platforms


def this_platform() -> str:
    """This machine's, as Go names it: ``linux/amd64``, ``linux/arm/v7``."""
    machine = os.uname().machine
    if machine in _VARIANTS:
        return "linux/" + "/".join(_VARIANTS[machine])
    return "linux/" + _GO_NAMES.get(machine, machine)


def platform_of(descriptor: dict[str, Any]) -> str:
    """A descriptor's platform, ``os/architecture[/variant]``; empty if it has none."""
    platform = descriptor.get("platform")
    if not isinstance(platform, dict):
        return ""
    return "/".join(str(platform[key]) for key in ("os", "architecture", "variant") if platform.get(key))


def choose_platform(group: list[dict[str, Any]], wanted: str | None, *, where: str) -> dict[str, Any]:
    """The manifest for ``wanted``, by default this machine's platform.

    1. The same platform, variant included. 2. The same os and architecture. 3. With no wish, the only one
    there is. Otherwise ImageError with what there is.
    """
    platform = wanted or this_platform()
    exact = [d for d in group if platform_of(d) == platform]
    close = [d for d in group if platform_of(d).split("/")[:2] == platform.split("/")[:2]]
    for found in (exact, close):
        if found:
            return found[0]
    if len(group) == 1 and (wanted is None or not platform_of(group[0])):
        return group[0]
    there = ", ".join(platform_of(d) or "one of no platform" for d in group) or "nothing"
    raise ImageError(f"{where}: no image for {show(platform)}; it has {show(there)}")
