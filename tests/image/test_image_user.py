"""Loading as an ordinary user: no CAP_CHOWN, no CAP_MKNOD, no trusted xattrs.

The user is real: a process of another uid. What it wrote is looked at from here.
"""

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import xattr
from archives import (
    Picture,
    directory,
    docker_25,
    entry,
    hardlink,
    layer,
    opaque,
    outer,
    symlink,
    whiteout,
    write,
)

import pyunionfs
from pyunionfs.image.store import Store
from pyunionfs.overlay.marks import USER

UID = 54321
OVERRIDE = "user.containers.override_stat"


@pytest.fixture
def home(may: Callable[..., None]) -> Iterator[Path]:
    """A directory of the user's; not below pytest's own, which others may not enter."""
    may("another user")
    path = Path(tempfile.mkdtemp(prefix="pyunionfs-user-"))
    os.chown(path, UID, UID)
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def as_user(home: Path, code: str, *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        user=UID,
        group=UID,
        extra_groups=[],
        cwd=home,
        env={"HOME": str(home), "PYTHONPATH": str(Path(pyunionfs.__file__).parent.parent)},
        capture_output=True,
        text=True,
    )
    if "No module named" in result.stderr or "Permission denied: '/" in result.stderr:
        pytest.skip("the other user cannot read this installation")
    assert result.returncode == 0, result.stderr
    return result.stdout


LOAD = """
    import json, sys
    from pyunionfs.image.store import Store
    store = Store(sync=False)
    (image,) = store.load(sys.argv[1])
    remarks = {k: r.count for item in image.layers for k, r in item.report.remarks.items()}
    print(json.dumps([str(store.root), [str(path) for path in image.lowerdirs], remarks]))
"""


def load(home: Path, *layers: bytes) -> tuple[Store, list[Path], dict[str, int]]:
    archive = write(home / "x.tar", outer(docker_25(Picture(list(layers)))))
    root, lowerdirs, remarks = json.loads(as_user(home, LOAD, str(archive)))
    return Store(root), [Path(path) for path in lowerdirs], remarks


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_the_default_store_of_a_user(home: Path) -> None:
    store, _, _ = load(home, layer(entry("f")))
    assert store.root == home / ".local/share/pyunionfs"
    assert store.marks == USER


def test_marks_of_a_user(home: Path) -> None:
    _, (top,), _ = load(home, layer(whiteout("gone"), opaque("d")))
    assert stat.S_ISCHR((top / "gone").lstat().st_mode)
    assert (top / "gone").lstat().st_rdev == 0
    assert xattr.getxattr(str(top / "d"), USER.opaque) == b"y"


def test_owners_and_modes_are_kept_aside(home: Path) -> None:
    _, (top,), remarks = load(
        home,
        layer(
            directory("d", 0o555, gid=4),
            entry("d/suid", "x", mode=0o4755),
            entry("d/secret", "y", mode=0, uid=1000, gid=1001),
            entry("d/mine", "z", mode=0o4711, uid=UID, gid=UID),
            symlink("d/link", "suid", uid=3),
            entry("d/fifo", type=b"6", mode=0o620, uid=3),
        ),
    )
    d = top / "d"
    assert all(path.lstat().st_uid == UID for path in [d, *d.iterdir()])
    override = {p.name: xattr.getxattr(str(p), OVERRIDE) for p in (top, d, d / "suid", d / "secret")}
    assert override == {
        "diff": b"0:0:0040755",
        "d": b"0:4:0040555",
        "suid": b"0:0:0104755",
        "secret": b"1000:1001:0100000",
    }
    # Nothing on disk acts as the caller, and all can be read.
    assert [mode_of(d / name) for name in ("suid", "secret", "mine", "fifo")] == [0o755, 0o400, 0o4711, 0o620]
    assert mode_of(d) == 0o555
    assert OVERRIDE not in xattr.listxattr(str(d / "mine"))
    assert remarks["owners kept in override_stat"] == 4
    assert remarks["owners lost"] == 2
    assert remarks["modes reduced"] == 2


def test_devices_become_empty_files(home: Path) -> None:
    _, (top,), remarks = load(
        home,
        layer(
            entry("null", type=b"3", mode=0o666, major=1, minor=3),
            entry("disk", type=b"4", mode=0o660, major=8, minor=1, gid=6),
        ),
    )
    assert (top / "null").read_bytes() == (top / "disk").read_bytes() == b""
    assert xattr.getxattr(str(top / "null"), OVERRIDE) == b"0:0:0666:char-1-3"
    assert xattr.getxattr(str(top / "disk"), OVERRIDE) == b"0:6:0660:block-8-1"
    assert remarks["devices made empty files"] == 2


def test_xattrs_that_need_privileges_are_counted(home: Path) -> None:
    records = {
        "SCHILY.xattr.user.mine": b"1",
        "SCHILY.xattr.trusted.t": b"1",
        "SCHILY.xattr.security.capability": bytes.fromhex("0100000200040000000000000000000000000000"),
    }
    _, (top,), remarks = load(
        home, layer(entry("f", mode=0o444, records=records), directory("d", 0o500, records=records))
    )
    for name in ("f", "d"):
        assert xattr.getxattr(str(top / name), "user.mine") == b"1"
        assert "trusted.t" not in xattr.listxattr(str(top / name))
    assert remarks["xattrs trusted.* skipped"] == 2
    assert remarks["xattrs security.* skipped"] == 2


def test_directories_that_forbid_writing_are_filled_and_removed(home: Path) -> None:
    store, (top, *_), _ = load(
        home,
        layer(directory("d", 0o555), entry("d/old")),
        layer(
            directory("d", 0), whiteout("d/old"), entry("d/e/f"), hardlink("d/g", "d/e/f"), directory("d/e", 0o111)
        ),
    )
    assert mode_of(top / "d") == 0o500
    assert sorted(path.name for path in (top / "d").iterdir()) == ["e", "g", "old"]
    as_user(home, "from pyunionfs.image import removal, store; removal.remove(store.Store(), 'app:1')")
    assert not any((store.root / "layers/sha256").iterdir())


def test_extracting_and_borrowing_as_a_user(home: Path) -> None:
    _, (top, *_), _ = load(home, layer(entry("f", "x", mode=0o4700, uid=7)), layer(hardlink("g", "f")))
    assert xattr.getxattr(str(top / "g"), OVERRIDE) == b"7:0:0104700"
    code = """
        from pyunionfs.image.extract import extract
        from pyunionfs.image.store import Store
        store = Store()
        extract(store, store.image("app:1"), "out")
    """
    as_user(home, code)
    assert len(list((home / "out").iterdir())) == 2


def test_a_store_of_root_is_closed_to_a_user(home: Path, tmp_path: Path) -> None:
    root = home / "roots"
    Store(root, sync=False).load(write(home / "x.tar", outer(docker_25(Picture([layer()])))))
    code = f"""
        from pyunionfs.image.store import Store
        try:
            Store({str(root)!r}).load({str(home / "x.tar")!r})
        except PermissionError as error:
            print(error.strerror)
    """
    assert as_user(home, code) == "Permission denied\n"
