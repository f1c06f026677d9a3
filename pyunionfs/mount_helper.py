"""A drop-in for fuse-overlayfs(1), and a helper of mount(8): mount as container tools and /etc/fstab ask for it.

::

    fuse-overlayfs -o lowerdir=A:B,upperdir=U,workdir=W TARGET       podman, buildah, dockerd
    pyunionfs overlay TARGET -o workdir=W,upperdir=U,lowerdir=A:B    containerd (mount.fuse3)
    mount.pyunionfs SOURCE TARGET -o ...                             mount -t pyunionfs, /etc/fstab

It returns when the mount answers, and nothing of the daemon holds the caller's descriptors then: tools wait for the
end of its stderr. What it does not know it says and ignores, as fuse-overlayfs does.
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from . import daemon
from ._version import __version__
from .overlay.params import OPTIONS
from .spec import FUSE_FLAGS, TRANSPORT_OPTIONS, MountSpec, split_lower, split_options

NAMES = ("fuse-overlayfs", "mount.pyunionfs", "mount.fuse.pyunionfs")
"""What the program is called where it is a helper and nothing else."""

_COMMAND = "mount"  # pyunionfs mount TARGET -o ... is the command line's
_KNOWN = {option.name for option in OPTIONS} | TRANSPORT_OPTIONS | FUSE_FLAGS
# Of mount(8) and fstab(5), and of fuse-overlayfs where it says what is so anyway: the kernel caches for as long as
# it is true (timeout), directories have one link (static_nlink), threads are ours to choose.
_NOTHING_TO_DO = re.compile(
    r"defaults|auto|noauto|user|nouser|users|nofail|_netdev|x-.*|comment=.*|(r?(private|shared|slave))"
    r"|relatime|norelatime|strictatime|lazytime|default_permissions|allow_root|fsname=.*|subtype=.*"
    r"|static_nlink|timeout=.*|threaded=.*|clone_fd|max_(write|readahead|idle_threads)=.*"
)
_HELP = """usage: {name} [-f] -o lowerdir=A[:B...][,upperdir=U,workdir=W][,OPTION...] TARGET
       {name} SOURCE TARGET -o ...

The options are those of 'pyunionfs mount'; -f stays in the foreground."""


class UsageError(Exception):
    """The arguments are not those of a mount."""


@dataclass(slots=True)
class Arguments:
    """What a command line asks for."""

    places: list[str] = field(default_factory=list)  # SOURCE, if there is one, and TARGET
    words: list[str] = field(default_factory=list)  # options
    foreground: bool = False
    help: bool = False
    version: bool = False


def is_called_as_one(name: str, argv: Sequence[str]) -> bool:
    """Whether the program is to be a helper, by what it is called or by the form of its arguments."""
    if name in NAMES or argv[:1] == ["-o"]:
        return True
    return len(argv) == 4 and argv[2] == "-o" and argv[0] != _COMMAND and not argv[0].startswith("-")


def parse(argv: Sequence[str]) -> Arguments:
    """Options may stand anywhere, and be joined to their letter. Raises UsageError."""
    found, rest = Arguments(), list(argv)
    while rest:
        word = rest.pop(0)
        if word.startswith("-o"):
            if word == "-o" and not rest:
                raise UsageError("-o needs an argument")
            found.words += split_options(word[2:] or rest.pop(0))
        elif word in ("-f", "-d", "--foreground", "--debug"):
            found.foreground = True
        elif word in ("-h", "--help"):
            found.help = True
        elif word in ("-V", "--version"):
            found.version = True
        elif word == "-t" and rest:  # the type, of mount(8)
            rest.pop(0)
        elif re.fullmatch(r"-[snvw]+", word):  # sloppy, no mtab, verbose, read-write, of mount(8)
            continue
        elif word == "-r":
            found.words.append("ro")
        elif word.startswith("-"):
            raise UsageError(f"unknown argument {word}")
        else:
            found.places.append(word)
    return found


def spec_of(name: str, arguments: Arguments) -> tuple[MountSpec, list[str]]:
    """The mount, and the options that nobody knows. Raises UsageError, or OSError(EINVAL) for a list of layers."""
    if len(arguments.places) not in (1, 2):
        raise UsageError(
            "no mountpoint specified" if not arguments.places else "more than a source and a mountpoint"
        )
    options: dict[str, str | bool | None] = {"dialects": "on"}
    directories: dict[str, str] = {}
    lower: list[str] = []
    data: list[str] = []
    unknown: list[str] = []
    for word in arguments.words:
        key, equals, value = word.partition("=")
        if key == "lowerdir":
            lower[:], data[:] = split_lower(value)
        elif key in ("lowerdir+", "datadir+"):
            (lower if key == "lowerdir+" else data).append(value)
        elif key in ("upperdir", "workdir"):
            directories[key] = value
        elif key == "volatile":  # of fuse-overlayfs: that of the kernel would refuse the next mount
            options["fsync"] = "0"
        elif key in _KNOWN or key == "allow_other":
            options[key] = value if equals else None
        elif not _NOTHING_TO_DO.fullmatch(word):
            unknown.append(word)
    if not lower:
        raise UsageError("no lowerdir specified")
    read_only = options.pop("ro", False) is None
    allow_other = True if options.pop("allow_other", False) is None else None
    spec = MountSpec(
        lower=lower if not read_only or "upperdir" not in directories else [directories["upperdir"], *lower],
        data=data,
        upper=None if read_only else directories.get("upperdir"),
        work=None if read_only else directories.get("workdir"),
        mountpoint=arguments.places[-1],
        options=options,
        allow_other=allow_other,
        source=_source(name, arguments),
        foreground=arguments.foreground,
    )
    return spec, unknown


def _source(name: str, arguments: Arguments) -> str:
    """What is shown as mounted: the source, or as fuse-overlayfs does, the program."""
    source = arguments.places[0] if len(arguments.places) == 2 else name
    return re.sub(r"[,\s]", "_", source)


def main(name: str, argv: Sequence[str]) -> int:
    """Mount; 0 when it answers, 1 with one line on stderr when it cannot be."""
    try:
        arguments = parse(argv)
        if arguments.help or arguments.version:
            print(_HELP.format(name=name) if arguments.help else f"{name}: version {__version__} (pyunionfs)")
            return 0
        spec, unknown = spec_of(name, arguments)
        for word in unknown:
            print(f"unknown argument ignored: {word}", file=sys.stderr)
        daemon.run(spec)
    except UsageError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{name}: {daemon.in_words(error)}", file=sys.stderr)
        return 1
    return 0
