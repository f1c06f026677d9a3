"""``install-helpers``: the names by which container tools and mount(8) call us."""

import os
import shutil
import sys
from pathlib import Path

import click

_LINKS = ("bin/fuse-overlayfs", "sbin/mount.pyunionfs", "sbin/mount.fuse.pyunionfs")
_SNIPPETS = """
podman, buildah: in /etc/containers/storage.conf, or without root in ~/.config/containers/storage.conf

  [storage]
  driver = "overlay"
  [storage.options.overlay]
  mount_program = "{bin}/fuse-overlayfs"

docker: in /etc/docker/daemon.json, with {bin} before the others in the PATH of dockerd

  {{"storage-driver": "fuse-overlayfs"}}

mount(8), and a line of /etc/fstab

  mount -t pyunionfs -o lowerdir=/a:/b,upperdir=/u,workdir=/w overlay /mnt
  overlay  /mnt  pyunionfs  lowerdir=/a:/b,upperdir=/u,workdir=/w  0 0"""


@click.command()
@click.option("--prefix", default="/usr/local", show_default=True, metavar="DIR", help="Where to put the links.")
@click.option("--force", is_flag=True, help="Replace what is there, also if it is not ours.")
def install_helpers(prefix: str, force: bool) -> None:
    """Be found as fuse-overlayfs by podman and docker, and by mount(8).

    Puts links to this program below DIR (bin/fuse-overlayfs, sbin/mount.pyunionfs, sbin/mount.fuse.pyunionfs), and
    prints what to write into the configurations; it changes none of them. mount(8) looks for its helpers in /sbin.
    """
    program = _program()
    links = [Path(prefix, link) for link in _LINKS]
    for link in links:
        if os.path.lexists(link) and not force and os.path.realpath(link) != os.path.realpath(program):
            raise OSError(f"{link} is there already, and is not ours (--force replaces it)")
    for link in links:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(program)
        click.echo(f"{link} -> {program}")
    click.echo(_SNIPPETS.format(bin=Path(prefix, "bin")))


def _program() -> str:
    """This program as it was installed, whatever runs it."""
    beside = Path(sys.executable).with_name("pyunionfs")
    found = str(beside) if beside.exists() else shutil.which("pyunionfs")
    if found is None:
        raise OSError("the program pyunionfs is not installed (pip install pyunionfs)")
    return found
