"""``info``: what there is, and what this machine allows."""

import os
import platform
import shutil
from pathlib import Path
from typing import Any

import click

from .. import daemon
from .._version import __version__
from ..container import rootless
from ..container.containers import Containers
from ..container.run import RUNTIMES
from ..image.store import Store
from ..overlay.marks import USER
from ..transport import mount
from ..transport.devfuse import uring
from .text import json_option, print_json


@click.command()
@json_option
@click.option("--root", metavar="DIR", help="The store. Default: as for 'pyunionfs image'.")
def info(as_json: bool, root: str | None) -> None:
    """Show the store, and what of pyunionfs works on this machine."""
    facts = _facts(Store(root))
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        shown = ", ".join(value) if isinstance(value, list) else str(value)
        click.echo(f"{name + ':':22}{shown or '-'}")


def _facts(store: Store) -> dict[str, Any]:
    containers = Containers(store.root).all()
    return {
        "Version": __version__,
        "StorageDriver": "pyunionfs",
        "Root": str(store.root),
        "BackingFilesystem": mount.filesystem_of(os.fspath(store.root)),
        "Marks": "user.overlay.*" if store.marks is USER else "trusted.overlay.*",
        "Images": len(store.images()),
        "Containers": len(containers),
        "ContainersRunning": sum(item.state == "running" for item in containers),
        "Runtimes": [path for name in RUNTIMES if (path := shutil.which(name))],
        "Kernel": platform.release(),
        **_rootless(),
        "KernelOverlay": "yes" if "\toverlay\n" in Path("/proc/filesystems").read_text() else "no",
        **_fuse(),
    }


def _rootless() -> dict[str, str]:
    """What an ordinary user's containers have."""
    if not rootless.is_needed():
        return {}
    ids = sum(count for _, count in rootless.subordinate("uid"))
    return {"Users": f"root and {ids} others" if ids else "root alone (/etc/subuid has no ids for you)"}


def _fuse() -> dict[str, str]:
    """What the kernel's FUSE allows to whoever asks."""
    release = daemon.kernel_release()
    able = os.access("/dev/fuse", os.R_OK | os.W_OK)
    root = os.geteuid() == 0
    offered = uring.is_enabled() if os.path.exists(uring.PARAMETER) else None
    by = "mount(2)" if root else "fusermount3" if shutil.which("fusermount3") else "none: no fusermount3"
    transport = "devfuse" if daemon.suits_directly() else "pyfuse3"
    return {
        "Transport": transport if able else "none: /dev/fuse is not ours",
        "MountedBy": by,
        "IoUring": {None: "no (Linux 6.14)", True: "enabled", False: "off (root: -o enable_uring=on)"}[offered],
        "Takeover": "yes" if release >= (6, 9) else "no (Linux 6.9)",
        "Passthrough": "yes" if root and release >= (6, 9) else "no (root, Linux 6.9)",
    }
