"""``commit`` and ``squash``: an image becomes another one of one layer more, or of one in place of several.

The configuration is that of the image with the changes that were asked for; what changes nothing makes no layer,
and a history entry that says so, as docker does. The same changes make the same image: times come from
SOURCE_DATE_EPOCH where it is set (reproducible-builds.org).
"""

import io
import json
from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

from ..image import config as configs
from ..image.archived import ArchivedImage, ArchivedLayer
from ..image.errors import ImageError
from ..image.images import Image
from ..image.layers import Layer
from ..image.limits import DEFAULT_LIMITS
from ..image.pack import PackedMember, write_layer
from ..image.reference import named
from ..image.source import Member
from ..image.store import Store
from ..vfs import ROOT
from ..views.compare import compare, union_of, view
from .changes import changes
from .instructions import apply
from .members import Members


def commit(
    store: Store,
    base: Image,
    upper: Path,
    *,
    tag: str | None = None,
    message: str = "",
    author: str = "",
    instructions: Sequence[str] = (),
    created_by: str = "",
) -> Image:
    """Add an image to the store: ``base`` and what the directory ``upper`` changes over it.

    ``instructions`` are lines of a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, USER, VOLUME, WORKDIR,
    STOPSIGNAL. Raises ImageError for one that is not understood, OSError.
    """
    table = deepcopy(base.config.table)
    run = table.setdefault("config", {}) or {}
    table["config"] = run
    for line in instructions:
        apply(run, line)
    if author:
        table["author"] = author
    step = {"created_by": created_by, "comment": message, "author": author}
    table["history"] = _history(base, len(base.layers))
    with store.hold(base):
        members = changes(union_of(store, base.layers, str(upper)), latest=configs.source_date_epoch())
        return _add(store, table, base.layers, members, step, tag)


def squash(store: Store, image: Image, *, onto: Image | None = None, tag: str | None = None) -> Image:
    """Add an image that shows the same as ``image`` and has one layer in place of all those above ``onto``, whose
    layers must be its lowest; without it, of all. What was deleted on the way is not in it.

    The history keeps its steps, which then have no layers, as docker's does. Raises ImageError, OSError.
    """
    kept = onto.layers if onto is not None else ()
    if image.config.diff_ids[: len(kept)] != tuple(layer.diff_id for layer in kept):
        raise ImageError("the lowest layers of the image are not those of the base")
    table = deepcopy(image.config.table)
    table["history"] = _history(image, len(kept))
    step = {"comment": f"merge {image.id} to {onto.id if onto is not None else 'nothing'}"}
    with store.hold(image):
        return _add(store, table, kept, _difference(store, kept, image.layers), step, tag)


def _difference(store: Store, old: Sequence[Layer], new: Sequence[Layer]) -> Iterator[PackedMember]:
    with view(store, old) as below, view(store, new) as merged:
        assert merged is not None
        members = Members(merged, configs.source_date_epoch(), every_xattr=True)
        if below is None:
            yield from members.of(b".", merged.getattr(ROOT))
        for path, _, attr in compare(below, merged):
            if attr is None:
                yield PackedMember.whiteout(*path.rpartition(b"/")[::2])
            else:
                yield from members.of(path, attr)


def _history(image: Image, kept: int) -> list[dict[str, Any]]:
    """The steps so far; those of layers that are not among the lowest ``kept`` have none any more."""
    known: list[dict[str, Any]] = deepcopy(image.config.table.get("history") or [])
    count = 0
    for entry in known:
        if not entry.get("empty_layer"):
            count += 1
            if count > kept:
                entry["empty_layer"] = True
    return known + [{}] * (kept - count)


def _add(
    store: Store,
    table: dict[str, Any],
    kept: Sequence[Layer],
    members: Iterator[PackedMember],
    step: dict[str, str],
    tag: str | None,
) -> Image:
    """Add the image of a configuration, with ``kept`` as its layers and one more of these members."""
    table["created"] = created = configs.creation_time(configs.source_date_epoch())
    with store.workspace("commit") as directory:
        path = directory / "layer.tar"
        with path.open("wb") as file:
            count, diff_id = write_layer(members, file)
        layers = [_kept(layer.diff_id) for layer in kept]
        if count:
            member = Member(path.stat().st_size, partial(io.FileIO, path))
            layers.append(ArchivedLayer(diff_id, diff_id, member, None))
        table["rootfs"]["diff_ids"] = [layer.diff_id for layer in layers]
        said = {"created": created, **{key: value for key, value in step.items() if value}}
        table["history"].append({**said, **({} if count else {"empty_layer": True})})
        raw = json.dumps(table, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        parsed = configs.parse(raw, where="the new configuration", limits=DEFAULT_LIMITS)
        tags = (named(tag),) if tag is not None else ()
        return store.add(ArchivedImage(parsed, tags, tuple(layers)), where="commit")


def _kept(diff_id: str) -> ArchivedLayer:
    """A layer that the store has, and does not read."""
    return ArchivedLayer(diff_id, diff_id, Member(0, partial(_never, diff_id)), None)


def _never(diff_id: str) -> io.RawIOBase:
    raise ImageError(f"layer {diff_id} was removed from the store meanwhile")
