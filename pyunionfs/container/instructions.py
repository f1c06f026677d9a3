"""Lines of a Dockerfile that change how an image runs, as ``commit -c`` takes them."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

from ..image.errors import ImageError

_LISTS = {"CMD": "Cmd", "ENTRYPOINT": "Entrypoint"}
_TEXTS = {"USER": "User", "WORKDIR": "WorkingDir", "STOPSIGNAL": "StopSignal"}
_SETS = {"VOLUME": "Volumes", "EXPOSE": "ExposedPorts"}


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
