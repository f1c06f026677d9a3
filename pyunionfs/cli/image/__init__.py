"""``pyunionfs image``: container images in the store, as layers of a union.

Parse, call :mod:`pyunionfs.image`, print: nothing else happens here. Errors pass through; the group that this one
belongs to turns them into one line. ``archives`` has what goes in and out, ``look`` what is shown,
``change`` the rest.
"""

from pathlib import Path

import click

from ...image.store import Store
from . import archives, change, look


@click.group()
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    help="The store. Default: $PYUNIONFS_ROOT, else /var/lib/pyunionfs for root and "
    "~/.local/share/pyunionfs for others.",
)
@click.pass_context
def image(context: click.Context, root: Path | None) -> None:
    """Container images as layers of a union.

    An image is a stack of layers and a configuration. A LAYER is a tar with what one build step added or
    changed; its name is its DIFF ID, the sha256 of that tar. What a step deleted stands in the layer as a
    WHITEOUT: an entry .wh.NAME in the tar, a character device 0:0 once unpacked, the form that overlayfs
    understands.

    The store keeps each layer once, unpacked, however many images have it.
    """
    context.obj = Store(root)


for module in (archives, look, change):
    for command in module.COMMANDS:
        image.add_command(command)
