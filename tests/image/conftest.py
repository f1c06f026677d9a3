"""What the tests of images share: a store, and what this process may do."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import xattr

from pyunionfs.image.store import Store
from pyunionfs.overlay.marks import TRUSTED


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store; it does not sync, which would wait for every other user of the machine."""
    return Store(tmp_path / "store", sync=False)


def _chown(path: Path) -> None:
    os.chown(path, 12345, 54321)


def _mknod(path: Path) -> None:
    os.mknod(path.with_name("device"), 0o20600, os.makedev(1, 3))


def _trusted(path: Path) -> None:
    xattr.setxattr(str(path), TRUSTED.opaque, b"y")


def _become(path: Path) -> None:
    if os.geteuid() != 0:
        raise PermissionError("only root can become another user")


_PROBES: dict[str, Callable[[Path], None]] = {
    "chown": _chown,
    "mknod": _mknod,
    "trusted xattrs": _trusted,
    "another user": _become,
}


@pytest.fixture
def may(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """``may("chown")`` skips the test where this process cannot do that, which is tried."""

    def check(*things: str) -> None:
        for thing in things:
            probe = tmp_path_factory.mktemp("probe") / "file"
            probe.touch()
            try:
                _PROBES[thing](probe)
            except OSError as error:
                pytest.skip(f"cannot use {thing} here: {error}")

    return check
