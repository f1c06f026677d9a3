"""``commit``: an image, and an upper directory over it, become an image of one layer more.

The configuration is that of the image with the changes that were asked for; an upper directory in which nothing is
makes no layer, and a history entry that says so, as docker does. The same changes make the same image: times come
from SOURCE_DATE_EPOCH where it is set (reproducible-builds.org).
"""

import io
import json
import shlex
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

from ..image import config as configs
from ..image.archived import ArchivedImage, ArchivedLayer
from ..image.errors import ImageError
from ..image.images import Image
from ..image.limits import DEFAULT_LIMITS
from ..image.pack import write_layer
from ..image.reference import normalise
from ..image.source import Member
from ..image.store import Store
from ..overlay.marks import USER
from ..views.union import Union
from .changes import changes

_LISTS = {"CMD": "Cmd", "ENTRYPOINT": "Entrypoint"}
_TEXTS = {"USER": "User", "WORKDIR": "WorkingDir", "STOPSIGNAL": "StopSignal"}
_SETS = {"VOLUME": "Volumes", "EXPOSE": "ExposedPorts"}


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
    epoch = configs.source_date_epoch()
    created = configs.creation_time(epoch)
    with store.hold(base), store.workspace("commit") as directory:
        with (directory / "layer.tar").open("wb") as file:
            count, diff_id = write_layer(changes(union_over(store, base, upper), latest=epoch), file)
        layers = [_kept(layer.diff_id) for layer in base.layers]
        if count:
            path = directory / "layer.tar"
            member = Member(path.stat().st_size, partial(io.FileIO, path))
            layers.append(ArchivedLayer(diff_id, diff_id, member, None))
            table["rootfs"]["diff_ids"] = [*base.config.diff_ids, diff_id]
        step = {"created": created, "created_by": created_by, "comment": message, "author": author}
        step = {key: value for key, value in step.items() if value}
        history = table.setdefault("history", [])
        history += [{}] * (len(base.layers) - sum(not known.empty for known in base.config.history))
        history.append({**step, **({} if count else {"empty_layer": True})})
        table["created"] = created
        if author:
            table["author"] = author
        raw = json.dumps(table, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        parsed = configs.parse(raw, where="the new configuration", limits=DEFAULT_LIMITS)
        tags = (normalise(tag),) if tag is not None else ()
        return store.add(ArchivedImage(parsed, tags, tuple(layers)), where="commit")


def union_over(store: Store, image: Image, upper: Path) -> Union:
    """The union of an image's layers and an upper directory."""
    return Union([str(path) for path in store.lowerdirs(image)], str(upper), store.marks is USER)


def _kept(diff_id: str) -> ArchivedLayer:
    """A layer that the store has, and does not read."""
    return ArchivedLayer(diff_id, diff_id, Member(0, partial(_never, diff_id)), None)


def _never(diff_id: str) -> io.RawIOBase:
    raise ImageError(f"layer {diff_id} was removed from the store meanwhile")


def apply(run: dict[str, Any], line: str) -> None:
    """Change how an image runs by a line of a Dockerfile. Raises ImageError."""
    word, _, rest = line.strip().partition(" ")
    key, rest = word.upper(), rest.strip()
    if not rest:
        raise ImageError(f"{line!r}: nothing follows {key}")
    if key in _LISTS:
        run[_LISTS[key]] = _command(rest)
        if key == "ENTRYPOINT":  # whose arguments the old command's were not
            run.pop("Cmd", None)
    elif key in _TEXTS:
        run[_TEXTS[key]] = rest
    elif key in _SETS:
        names = json.loads(rest) if rest.startswith("[") else rest.split()
        names = [name if key == "VOLUME" or "/" in name else f"{name}/tcp" for name in names]
        run[_SETS[key]] = {**(run.get(_SETS[key]) or {}), **{name: {} for name in names}}
    elif key == "LABEL":
        run["Labels"] = {**(run.get("Labels") or {}), **_pairs(rest)}
    elif key == "ENV":
        new = _pairs(rest)
        kept = [item for item in run.get("Env") or [] if item.partition("=")[0] not in new]
        run["Env"] = kept + [f"{name}={value}" for name, value in new.items()]
    else:
        known = ", ".join(sorted([*_LISTS, *_TEXTS, *_SETS, "ENV", "LABEL"]))
        raise ImageError(f"{line!r}: {key} cannot be committed (known: {known})")


def _command(text: str) -> list[str]:
    """The exec form, a JSON list; or the shell form."""
    if text.startswith("["):
        try:
            words = json.loads(text)
        except ValueError:
            words = None
        if isinstance(words, list) and all(isinstance(word, str) for word in words):
            return words
        raise ImageError(f"{text!r} is no list of strings in JSON")
    return ["/bin/sh", "-c", text]


def _pairs(text: str) -> Mapping[str, str]:
    """``A=1 B="x y"``, or the old form ``A 1``."""
    words = shlex.split(text)
    if words and "=" not in words[0]:
        name, _, value = text.partition(" ")
        return {name: value.strip()}
    pairs = dict(word.partition("=")[::2] for word in words if "=" in word)
    if len(pairs) != len(words):
        raise ImageError(f"{text!r}: not NAME=VALUE")
    return pairs
