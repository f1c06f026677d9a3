"""Whose objects are, and with what mode: what a layer has, and what people see (id mappings, squashing, overrides).

Without options the two are the same. With them, layers can be shown to a user namespace with the ids that
its images mean, without a chown; and an ordinary user, who may own nothing as somebody else, can keep owner
and mode in an xattr. Names and form are those of fuse-overlayfs(1) and containers-storage: the kernel's
overlayfs leaves this to idmapped mounts (mount_setattr(2), MOUNT_ATTR_IDMAP).
"""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .backing import Backing
from .layer import Layer

if TYPE_CHECKING:
    from .params import Params

OVERRIDES = (
    "security.fuseoverlayfs.override_stat",
    "user.containers.override_stat",
    "user.fuseoverlayfs.override_stat",
)
"""Xattrs that hold ``uid:gid:mode``; one on the root of a layer says that its objects may have them."""
_WRITTEN = {1: OVERRIDES[0], 2: OVERRIDES[1]}  # by the value of xattr_permissions
_OVERFLOW = 65534  # /proc/sys/kernel/overflowuid: what has no mapping


@dataclass(frozen=True, slots=True)
class Mapping:
    """``length`` ids of the layers from ``disk`` on are shown from ``shown`` on."""

    disk: int
    shown: int
    length: int


@dataclass(frozen=True, slots=True)
class Owner:
    """Who owns an object, and its permission bits."""

    uid: int
    gid: int
    mode: int

    @classmethod
    def of(cls, st: os.stat_result) -> "Owner":
        return cls(st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode))


def to_shown(disk: int, mappings: tuple[Mapping, ...]) -> int:
    """The id that people see for one of a layer."""
    for mapping in mappings:
        if mapping.disk <= disk < mapping.disk + mapping.length:
            return mapping.shown + disk - mapping.disk
    return _OVERFLOW if mappings else disk


def to_disk(shown: int, mappings: tuple[Mapping, ...]) -> int:
    """Inverse of :func:`to_shown`."""
    for mapping in mappings:
        if mapping.shown <= shown < mapping.shown + mapping.length:
            return mapping.disk + shown - mapping.shown
    return _OVERFLOW if mappings else shown


class Ownership:
    """The rules of one union."""

    def __init__(self, params: "Params", layers: Sequence[Layer], upper: Layer | None) -> None:
        self._params = params
        # Podman has the lower layers on mounts that map the ids, and tells of the mapping as well: it is for the
        # upper directory, and for the layers of a kernel without such mounts.
        lower = [layer for layer in layers if layer is not upper] if params.uidmapping or params.gidmapping else []
        self._mapped_by_kernel = {layer for layer in lower if is_idmapped(layer.path)}
        root = params.squash_to_root
        self._squash_uid = params.squash_to_uid if params.squash_to_uid is not None else 0 if root else None
        self._squash_gid = params.squash_to_gid if params.squash_to_gid is not None else 0 if root else None
        if params.xattr_permissions and upper is not None and upper.override is None:
            upper.override = _WRITTEN[params.xattr_permissions]
            upper.root.setxattr(upper.override, _encode(Owner.of(upper.root.stat())))

    @property
    def plain(self) -> bool:
        """Whether what people see is what the upper layer has."""
        params = self._params
        return not (params.uidmapping or params.gidmapping) and self._squash_uid is self._squash_gid is None

    def of(self, backing: Backing, st: os.stat_result) -> Owner:
        """Owner and mode as a layer means them."""
        name = backing.layer.override
        value = None if name is None or _cannot_hold(st, name) else backing.find_xattr(name)
        kept = _decode(value) if value is not None else None
        if kept is None and backing.layer in self._mapped_by_kernel:
            return Owner(*self._on_disk(st.st_uid, st.st_gid), stat.S_IMODE(st.st_mode))
        return kept or Owner.of(st)

    def shown(self, backing: Backing, st: os.stat_result) -> Owner:
        """Owner and mode as people see them."""
        owner = self.of(backing, st)
        if self.plain:
            return owner
        uid, gid = self._squash_uid, self._squash_gid
        return Owner(
            to_shown(owner.uid, self._params.uidmapping) if uid is None else uid,
            to_shown(owner.gid, self._params.gidmapping) if gid is None else gid,
            owner.mode,
        )

    def meant(self, uid: int, gid: int) -> tuple[int, int]:
        """The ids for the layers that somebody means who sees those shown."""
        on_disk = self._on_disk(uid, gid)
        uid = os.geteuid() if self._squash_uid is not None else on_disk[0]
        gid = os.getegid() if self._squash_gid is not None else on_disk[1]
        return uid, gid

    def _on_disk(self, uid: int, gid: int) -> tuple[int, int]:
        return to_disk(uid, self._params.uidmapping), to_disk(gid, self._params.gidmapping)

    def give(self, upper: Backing, st: os.stat_result, owner: Owner) -> None:
        """Make an upper object belong to somebody; owner first, since chown(2) clears setuid."""
        name = upper.layer.override
        is_link = stat.S_ISLNK(st.st_mode)
        if name is not None and not _cannot_hold(st, name):
            upper.setxattr(name, _encode(owner))
            if not is_link:
                upper.chmod(owner.mode & 0o777 | (0o700 if stat.S_ISDIR(st.st_mode) else 0o600))
            return
        if name is None and (st.st_uid, st.st_gid) != (owner.uid, owner.gid):
            upper.chown(owner.uid, owner.gid)
        if not is_link and (stat.S_IMODE(st.st_mode) != owner.mode or owner.mode & 0o6000):
            upper.chmod(owner.mode)


def is_idmapped(path: bytes) -> bool:
    """Whether the mount that a path is on maps ids (since Linux 5.12; show_mnt_opts() in fs/proc_namespace.c)."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as info:
            mount_id = next(line.split()[1] for line in info if line.startswith(b"mnt_id:"))
    finally:
        os.close(fd)
    with open("/proc/self/mountinfo", "rb") as rows:
        options = next((row.split()[5] for row in rows if row.split(None, 1)[0] == mount_id), b"")
    return b"idmapped" in options.split(b",")


def read_override(root: Backing) -> str | None:
    """Which xattr holds owners and modes in a layer, None if none does."""
    return next((name for name in OVERRIDES if root.find_xattr(name) is not None), None)


def _cannot_hold(st: os.stat_result, name: str) -> bool:
    return name.startswith("user.") and not (stat.S_ISREG(st.st_mode) or stat.S_ISDIR(st.st_mode))


def _encode(owner: Owner) -> bytes:
    return b"%d:%d:%o" % (owner.uid, owner.gid, owner.mode)


def _decode(value: bytes) -> Owner | None:
    """``uid:gid:mode`` with the mode in octal, of permission bits or all; a type may follow. None if malformed."""
    try:
        uid, gid, mode, *_ = value.split(b":")
        return Owner(int(uid), int(gid), int(mode, 8) & 0o7777)
    except ValueError:
        return None
