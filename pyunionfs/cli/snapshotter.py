"""``snapshotter``: containerd's snapshots on pyunionfs."""

import signal
import threading
from pathlib import Path

import click


@click.command()
@click.option(
    "--address",
    required=True,
    metavar="SOCK",
    type=click.Path(path_type=Path),
    help="The unix socket on which containerd asks.",
)
@click.option(
    "--root",
    default="/var/lib/pyunionfs/snapshotter",
    show_default=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where the snapshots are kept.",
)
def snapshotter(address: Path, root: Path) -> None:
    """Serve containerd as a snapshotter, until SIGTERM or SIGINT.

    containerd finds it by a proxy plugin in its configuration, and mounts what it is told by mount.fuse3, which
    looks for the program pyunionfs in the PATH of containerd:

    \b
      [proxy_plugins.pyunionfs]
        type = "snapshot"
        address = "SOCK"
    """
    try:
        from ..snapshotter.service import serve
    except ModuleNotFoundError as error:
        raise OSError(f"{error.name} is not installed: pip install 'pyunionfs[snapshotter]'") from None
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    server = serve(address, root)
    click.echo(f"answering on {address}")
    ended.wait()
    server.stop(grace=5).wait()
