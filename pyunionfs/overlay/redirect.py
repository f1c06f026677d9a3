"""Redirects: how an upper object finds what belongs to it in the layers below, after it was renamed.

A directory that is renamed in its directory gets its old name as redirect; one that moves elsewhere the path
that it had in the layers below. The same holds for a metacopy, whose data is below. Kernel:
ovl_set_redirect() in fs/overlayfs/dir.c; overlayfs.rst, "Renaming directories".
"""

import errno
import os

from .. import events
from .inode import Inode
from .params import REDIRECT_MAX
from .super import Superblock


def set_redirect(sb: Superblock, inode: Inode, *, same_directory: bool) -> None:
    """Write the redirect of an inode that is in the upper layer and about to be renamed or linked.

    Raises OSError(EXDEV) if it cannot be kept, on which mv(1) copies.
    """
    upper = inode.upper
    assert upper is not None
    _, workdir = sb.writable()
    absolute = not same_directory or (not inode.is_dir and inode.lower[0].stat().st_nlink > 1)
    if inode.redirect and (not absolute or inode.redirect.startswith(b"/")):
        return
    target = _path_below(inode) if absolute else inode.name
    try:
        workdir.mark(upper, sb.marks.redirect, target)
    except OSError as error:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV)) from error
    inode.redirect = target
    sb.emit(events.Redirect(inode.path(), target))


def _path_below(inode: Inode) -> bytes:
    """The path under which the layers below have an inode (ovl_get_redirect)."""
    path = b""
    node: Inode | None = inode
    while node is not None and node.parent is not None:
        name = node.redirect or node.name
        path = (name if name.startswith(b"/") else b"/" + name) + path
        if name.startswith(b"/"):
            break
        node = node.parent
    if len(path) > REDIRECT_MAX:
        raise OSError(errno.EXDEV, "the path is too long for a redirect", path)
    return path
