"""The filesystems that the posix suite runs on."""

from dataclasses import dataclass, field
from pathlib import Path

import mounts
from mounts import Options


@dataclass(frozen=True)
class Variant:
    """One filesystem that the suite runs on."""

    mounter: str
    requires: tuple[str, ...] = ()
    lower: bool = False
    options: Options = field(default_factory=lambda: mounts.PLAIN)
    default: bool = True


VARIANTS = {
    "native": Variant("native"),
    "kernel": Variant("kernel", ("kernel_overlay",)),
    "kernel-lower": Variant("kernel", ("kernel_overlay",), lower=True),
    "devfuse": Variant("devfuse", ("pyunionfs",)),
    "devfuse-lower": Variant("devfuse", ("pyunionfs",), lower=True),
    "devfuse-uring": Variant(
        "devfuse", ("uring",), lower=True, options={**mounts.PLAIN, "channel": "uring", "enable_uring": "on"}
    ),
    "devfuse-passthrough": Variant(
        "devfuse", ("passthrough",), lower=True, options={**mounts.PLAIN, "passthrough": "on"}
    ),
    "pyfuse3": Variant("pyfuse3", ("pyunionfs",)),
    "pyfuse3-lower": Variant("pyfuse3", ("pyunionfs",), lower=True),
    # For use inside a user namespace, see test_user_namespace.py.
    "kernel-user": Variant("kernel", ("kernel_overlay_userxattr",), options=mounts.USERXATTR, default=False),
    "kernel-user-lower": Variant(
        "kernel", ("kernel_overlay_userxattr",), lower=True, options=mounts.USERXATTR, default=False
    ),
    "devfuse-user": Variant("devfuse", ("pyunionfs",), options=mounts.USERXATTR, default=False),
    "devfuse-user-lower": Variant("devfuse", ("pyunionfs",), lower=True, options=mounts.USERXATTR, default=False),
    "pyfuse3-user": Variant("pyfuse3", ("pyunionfs",), options=mounts.USERXATTR, default=False),
    "pyfuse3-user-lower": Variant("pyfuse3", ("pyunionfs",), lower=True, options=mounts.USERXATTR, default=False),
    # Not by default: another mode of the same implementation.
    "devfuse-block": Variant(
        "devfuse", ("pyunionfs",), lower=True, options={**mounts.PLAIN, "channel": "block"}, default=False
    ),
    "devfuse-open": Variant(
        "devfuse", ("pyunionfs",), lower=True, options={**mounts.PLAIN, "noopen": "off"}, default=False
    ),
    "devfuse-writeback": Variant(
        "devfuse", ("pyunionfs",), lower=True, options={**mounts.PLAIN, "writeback": "on"}, default=False
    ),
    "pyfuse3-writeback": Variant(
        "pyfuse3", ("pyunionfs",), lower=True, options={**mounts.PLAIN, "writeback": "on"}, default=False
    ),
}


@dataclass(frozen=True)
class Filesystem:
    """Where a test works: ``in_lower`` says whether the objects of its ``tree`` mark lie in a lower layer."""

    path: Path
    variant: str
    in_lower: bool
