"""pyunionfs: a union filesystem with the semantics and the on-disk format of the kernel's overlayfs.

::

     merged          /etc/hosts      /etc/motd       /srv/www/index.html
                          ^               ^                ^
     upper   (rw)     etc/hosts          |           srv/www/index.html     copied up, then changed
     lower 0 (ro)         |          etc/motd        srv/www/index.html
     lower 1 (ro)     etc/hosts      etc/issue(*)    srv/www/style.css      (*) hidden by a whiteout in upper

Words: a *layer* is a directory tree; *lower* layers are only read, the *upper* one takes all changes. The
*merged* directory shows, for each name, what the topmost layer that has it says. Writing to a lower file
first *copies it up*. Deleting a lower name leaves a *whiteout* in the upper layer; a directory that was
deleted and made again is *opaque*: it does not merge with what lies below.

Where to read what, beside the kernel's own file (fs/overlayfs):

==============================  ====================  ======================================================
module                          kernel                answers
==============================  ====================  ======================================================
:mod:`.vfs`                     include/linux/fs.h    what a filesystem is to whoever serves it
:mod:`.overlay.marks`           overlayfs.h           how "deleted" and "opaque" look on disk
:mod:`.overlay.merge`           namei.c, readdir.c    what stacked findings mean: the rules, without I/O
:mod:`.overlay.search`          namei.c               what each layer has under a name
:mod:`.overlay.lookup`          namei.c               which inode a name leads to
:mod:`.overlay.readdir`         readdir.c             what a merged directory lists
:mod:`.overlay.ahead`           -                     looking up and reading before anybody asks
:mod:`.overlay.copy_up`         copy_up.c             how an object gets its copy in the upper layer
:mod:`.overlay.create`          dir.c                 create, tmpfile, link
:mod:`.overlay.remove`          dir.c                 unlink, rmdir, letting go of what nobody holds
:mod:`.overlay.rename`          dir.c                 rename and exchange
:mod:`.overlay.attr`            inode.c, super.c      stat, chmod, chown, utimens, truncate, statfs
:mod:`.overlay.file`            file.c                read, write, fsync
:mod:`.overlay.xattrs`          xattrs.c              extended attributes, the private ones hidden
:mod:`.overlay.layer`           -                     one directory tree
:mod:`.overlay.backing`         -                     one object in it, and all I/O on it
:mod:`.overlay.workdir`         super.c, dir.c        build aside, rename into place; locks
:mod:`.overlay.super`           super.c, params.c     what a mount consists of, checked
:mod:`.overlay.union`           super.c               opening a union, and what it says of itself
:mod:`.overlay.fs`              -                     class Overlay: one short method a request
:mod:`.transport.devfuse`       fs/fuse               requests of the kernel, straight from /dev/fuse or io_uring
:mod:`.transport.libfuse`       fs/fuse               the same by libfuse: pyfuse3 and trio
:mod:`.image`                   -                     image archives: read, verify, unpack, store
:mod:`.container`               -                     run an image; make one of what was changed
:mod:`.snapshotter`             -                     the service by which containerd keeps its snapshots
:mod:`.views`                   -                     explain, diff: what a union shows and why
:mod:`.check`                   -                     fsck for upper directories: find damage, repair it
:mod:`.verify`                  fs/overlayfs          the same as the kernel? random operations on both
:mod:`.spec`                    -                     what is mounted and how
:mod:`.daemon`                  -                     overlay + transport + process = a mount
:mod:`.handover`                -                     moving a mount to new code
:mod:`.cli`                     mount(8)              the command line
==============================  ====================  ======================================================
"""

from ._version import __version__
from .daemon import mounted
from .overlay.fs import Overlay
from .paths import Paths

__all__ = ["Overlay", "Paths", "__version__", "mounted"]
