"""Image references: ``repository:tag``, in the short form that people type.

``docker.io/library/app:4``, ``localhost/app:4`` and ``app:4`` are one image (skopeo, podman and docker write
these three for the same thing), and ``app`` is ``app:latest`` (docker image spec v1.2, "Tag").
"""

import re

from pyunionfs.image.errors import ImageError, show

# distribution's reference grammar, without a digest
_PART = r"[A-Za-z0-9]+(?:[._-]+[A-Za-z0-9]+)*"
_NAME = rf"{_PART}(?::[0-9]+(?=/))?(?:/{_PART})*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_REFERENCE = re.compile(rf"({_NAME})(?::({_TAG}))?(@[a-z0-9]+:[0-9a-f]{{32,}})?")
_DEFAULT_PREFIXES = ("docker.io/library/", "index.docker.io/library/", "docker.io/", "localhost/")
_MAX = 512  # characters; names are limited to 255, tags to 128
_HEX = re.compile(r"(?:sha256:)?([0-9a-f]{4,64})")


def normalise(reference: str) -> str:
    """The short form, always with a tag; a digest after ``@`` is kept. Raises ImageError for what is none."""
    match = _REFERENCE.fullmatch(reference) if len(reference) <= _MAX else None
    if match is None:
        raise ImageError(f"{show(reference)} is no image reference (repository:tag)")
    name, tag, digest = match[1], match[2], match[3] or ""
    for prefix in _DEFAULT_PREFIXES:
        rest = name.removeprefix(prefix)
        if rest != name and not rest.startswith(_DEFAULT_PREFIXES):  # whose short form would be another image's
            name = rest
            break
    return f"{name}:{tag or 'latest'}{digest}" if tag or not digest else name + digest


def named(reference: str) -> str:
    """As :func:`normalise`, of a name that is about to be given: one that other tools take, too.

    Raises ImageError for a repository with capital letters (distribution's reference grammar), which archives may
    have nevertheless; and for what looks like an id.
    """
    name = normalise(reference)
    if name.rpartition(":")[0] != name.rpartition(":")[0].lower() or name.startswith("sha256:"):
        raise ImageError(f"{show(reference)}: a repository's name has small letters only, and is not sha256")
    return name


def normalised(reference: str) -> str | None:
    """As :func:`normalise`; None for what is no reference (``<none>:<none>``, a free name of an OCI layout)."""
    try:
        return normalise(reference)
    except ImageError:
        return None


def full_name(short: str) -> str:
    """The form with its registry, as containerd wants it: inverse of :func:`normalise` for docker's own."""
    first, slash, _ = short.partition("/")
    if not slash:
        return f"docker.io/library/{short}"
    return short if "." in first or ":" in first else f"docker.io/{short}"


def id_prefix(reference: str) -> str | None:
    """The hex digits if this may be an image id or the start of one (4 digits or more), else None."""
    match = _HEX.fullmatch(reference)
    return match[1] if match else None


def named_after(stem: str, tag: str) -> str | None:
    """``stem:tag`` for an image of a layout that knows only a tag, as ``oci:DIR:TAG`` names it; None if odd."""
    name = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("._-")
    return normalised(f"{name}:{tag}")
