"""``pyunionfs``, ``python -m pyunionfs``, and whatever name it is called by.

As ``fuse-overlayfs``, as a helper of mount(8), or with the arguments of one, it mounts (:mod:`.mount_helper`);
otherwise it is the command line (:mod:`.cli`). A container waits for a mount, so that loads what mounting needs.
"""

import os
import sys


def main() -> int:
    from .mount_helper import is_called_as_one

    name = os.path.basename(sys.argv[0])
    if is_called_as_one(name, sys.argv[1:]):
        from .mount_helper import main as mount

        return mount(name, sys.argv[1:])
    from .cli import main as command

    command(prog_name="pyunionfs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
