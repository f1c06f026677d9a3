"""Mount options, as a table: names, values, defaults and conflicts are the kernel's (fs/overlayfs/params.c).

The kernel lets module parameters change some defaults; ours are those of an unconfigured kernel.
"""

import errno
import re
from collections import abc
from dataclasses import dataclass

from .ownership import Mapping

REDIRECT_MAX = 256  # bytes of an absolute redirect: the module parameter redirect_max


@dataclass(frozen=True, slots=True)
class Option:
    """One mount option: the values it may have, the first being the default, and what it means.

    One without values takes any text, and is empty by default.
    """

    name: str
    values: tuple[str, ...]
    help: str

    @property
    def default(self) -> str:
        return self.values[0] if self.values else ""


OPTIONS: tuple[Option, ...] = (
    Option("userxattr", ("off", "on"), "keep the marks in user.overlay.* instead of trusted.overlay.*"),
    Option("redirect_dir", ("off", "on", "follow", "nofollow"), "rename lower directories by redirect"),
    Option("index", ("off", "on"), "keep hard links of lower files together over copy-up"),
    Option("metacopy", ("off", "on"), "copy up metadata without data"),
    Option("xino", ("off", "auto", "on"), "inode numbers unique over several filesystems: here they always are"),
    Option("uuid", ("auto", "on", "null", "off"), "name the union by a UUID kept in the upper directory"),
    Option("nfs_export", ("off", "on"), "keep what NFS export by the kernel needs: index=on"),
    Option("verity", ("off", "on", "require"), "check the data of metacopies by their fs-verity digests"),
    Option("volatile", ("off", "on"), "omit all syncs to the upper filesystem"),
    Option("fsync", ("1", "0"), "0: volatile, but the next mount is not refused"),
    Option("uidmapping", (), "LAYERS:SHOWN:LENGTH[:...], show user ids of the layers as others"),
    Option("gidmapping", (), "likewise for group ids"),
    Option("squash_to_root", ("off", "on"), "show everything as root's"),
    Option("squash_to_uid", (), "show everything as this user's"),
    Option("squash_to_gid", (), "show everything as this group's"),
    Option("xattr_permissions", ("0", "1", "2"), "keep owner and mode in an xattr: 1 security.*, 2 user.*"),
    Option("dialects", ("off", "on"), "read the whiteouts of AUFS and fuse-overlayfs in the layers too"),
    Option("noacl", ("off", "on"), "no POSIX ACLs: none are shown, and none can be set"),
    Option("posix", ("off", "on"), "redirect_dir=on, index=on; atime of lower files, links of merged directories"),
)
_BY_NAME = {option.name: option for option in OPTIONS}


@dataclass(frozen=True, slots=True)
class Params:
    """The options of one mount, checked against each other."""

    userxattr: bool = False
    redirect_dir: str = "follow"  # on, follow or nofollow
    index: bool = False
    metacopy: bool = False
    xino: str = "off"
    uuid: str = "auto"
    nfs_export: bool = False
    verity: str = "off"
    volatile: bool = False
    syncs: bool = True  # to the upper filesystem
    uidmapping: tuple[Mapping, ...] = ()
    gidmapping: tuple[Mapping, ...] = ()
    squash_to_root: bool = False
    squash_to_uid: int | None = None
    squash_to_gid: int | None = None
    xattr_permissions: int = 0
    dialects: bool = False
    noacl: bool = False
    posix: bool = False

    @property
    def follows_redirects(self) -> bool:
        """Redirects are like symlinks into the layers below, past the permissions on the way."""
        return self.redirect_dir != "nofollow"

    @property
    def allows_offline_changes(self) -> bool:
        """Whether the lower layers may change while nothing is mounted (ovl_allow_offline_changes)."""
        return not self.index and not self.metacopy and self.redirect_dir != "on" and self.xino != "on"


def parse(options: abc.Mapping[str, str | bool | None], *, upper: bool, privileged: bool) -> Params:
    """Check options given as ``name: value``; None, True and "" mean "on", False means "off".

    ``upper`` says whether there is an upper directory, ``privileged`` whether trusted xattrs may be used.
    Raises OSError(EINVAL) with a sentence for what is unknown, and for options that exclude each other.
    """
    given = {name: _value(name, raw) for name, raw in options.items()}
    chosen = {option.name: option.default for option in OPTIONS}
    if given.get("posix") == "on":
        chosen |= {"redirect_dir": "on", "index": "on"}
    chosen |= given
    if chosen["redirect_dir"] == "off":  # as where the module parameter redirect_always_follow is set
        chosen["redirect_dir"] = "follow" if privileged else "nofollow"
    _settle(chosen, given, upper=upper, privileged=privileged)
    return Params(
        userxattr=chosen["userxattr"] == "on",
        redirect_dir=chosen["redirect_dir"],
        index=chosen["index"] == "on",
        metacopy=chosen["metacopy"] == "on",
        xino=chosen["xino"],
        uuid=chosen["uuid"],
        nfs_export=chosen["nfs_export"] == "on",
        verity=chosen["verity"],
        volatile=chosen["volatile"] == "on",
        syncs=chosen["volatile"] == "off" and chosen["fsync"] == "1",
        uidmapping=_mappings("uidmapping", chosen["uidmapping"]),
        gidmapping=_mappings("gidmapping", chosen["gidmapping"]),
        squash_to_root=chosen["squash_to_root"] == "on",
        squash_to_uid=_number("squash_to_uid", chosen["squash_to_uid"]) if chosen["squash_to_uid"] else None,
        squash_to_gid=_number("squash_to_gid", chosen["squash_to_gid"]) if chosen["squash_to_gid"] else None,
        xattr_permissions=int(chosen["xattr_permissions"]),
        dialects=chosen["dialects"] == "on",
        noacl=chosen["noacl"] == "on",
        posix=chosen["posix"] == "on",
    )


def _mappings(name: str, text: str) -> tuple[Mapping, ...]:
    """``0:1000:1:1:110000:65536``; podman writes a colon before the first as well."""
    numbers = [_number(name, word) for word in re.split("[:,]", text.removeprefix(":"))] if text else []
    if len(numbers) % 3:
        raise OSError(errno.EINVAL, f"mount option {name}={text}: not triples LAYERS:SHOWN:LENGTH")
    return tuple(Mapping(*numbers[start : start + 3]) for start in range(0, len(numbers), 3))


def _number(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) >= 1 << 32:
        raise OSError(errno.EINVAL, f"mount option {name}: {text!r} is no id")
    return int(text)


def _value(name: str, raw: str | bool | None) -> str:
    option = _BY_NAME.get(name)
    if option is None:
        raise OSError(errno.EINVAL, f"unknown mount option {name!r} (known: {', '.join(_BY_NAME)})")
    if not option.values:
        return str(raw or "")
    value = "on" if raw in (None, True, "") else "off" if raw is False else str(raw)
    if value not in option.values:
        raise OSError(errno.EINVAL, f"mount option {name}={value}: not one of {', '.join(option.values)}")
    return value


def _settle(chosen: dict[str, str], given: abc.Mapping[str, str], *, upper: bool, privileged: bool) -> None:
    """Resolve what options ask of each other (ovl_fs_params_verify): a default gives way to what was given, and
    of two that were given neither does."""
    if not upper:  # these say how to write
        chosen |= {"index": "off", "volatile": "off"}
        given = {name: value for name, value in given.items() if name not in ("index", "volatile")}
        if chosen["uuid"] == "on":
            chosen["uuid"] = "null"
        if chosen["redirect_dir"] == "follow":
            chosen["redirect_dir"] = "on"
    if chosen["metacopy"] == "on" and chosen["redirect_dir"] != "on":
        _give_way(chosen, given, "metacopy", "redirect_dir", "on")
    if chosen["nfs_export"] == "on" and chosen["index"] == "off":
        if not upper and chosen["redirect_dir"] != "nofollow":
            chosen["nfs_export"] = "off"
        elif upper:
            _give_way(chosen, given, "nfs_export", "index", "on")
    if chosen["nfs_export"] == "on" and chosen["metacopy"] == "on":
        _give_way(chosen, given, "nfs_export", "metacopy", "off")
    if chosen["userxattr"] == "on" and privileged:
        # Whoever may write to a layer could set user xattrs that lead root astray. Without privileges there is
        # nowhere to lead to, so there we allow what the kernel does not.
        if given.get("redirect_dir", "nofollow") not in ("nofollow", "off"):
            raise _conflict(f"userxattr,redirect_dir={given['redirect_dir']}")
        if given.get("metacopy") == "on":
            raise _conflict("userxattr,metacopy=on")
        chosen |= {"redirect_dir": "nofollow", "metacopy": "off"}


def _give_way(chosen: dict[str, str], given: abc.Mapping[str, str], name: str, other: str, needed: str) -> None:
    """``name=on`` needs ``other=needed``, and ``other`` is something else."""
    if name in given and other in given:
        raise _conflict(f"{name}=on,{other}={given[other]}")
    if other in given:
        chosen[name] = "off"
    else:
        chosen[other] = needed


def _conflict(options: str) -> OSError:
    return OSError(errno.EINVAL, f"conflicting mount options: {options}")
