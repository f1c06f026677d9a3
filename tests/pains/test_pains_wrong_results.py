"""Entries that come back, data that is lost, numbers that lie: complaints of wrong results."""

import hashlib
import os
import sqlite3
import stat
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import syscalls
from mounts import Layers, Mounter
from sources import source
from trees import Dir, File, HardLink, Opaque, Symlink, build

ROWS = 20_000
ROW = 4500  # bytes: a database of 90 MB


@source("fuse-overlayfs 478")
def test_a_tree_made_again_shows_nothing_of_the_old_one(layers: Layers, union: Mounter) -> None:
    """Removed and made again with the same names inside: new directories are pure, at every depth."""
    build(layers.lower[0], {"parent": {"tree": {"a": {"b": {"info": "lower", "page": "lower"}}}}})
    with union(layers) as merged:
        tree = merged / "parent/tree"
        for _ in range(2):
            subprocess.run(["rm", "-r", tree], check=True)
            (tree / "a/b").mkdir(parents=True)
            assert os.listdir(tree / "a/b") == []
        (tree / "a/b/info").write_text("new")
        os.rename(tree / "a", tree / "moved")
        (tree / "a/b").mkdir(parents=True)
        assert not (tree / "a/b/page").exists()
        os.rmdir(tree / "a/b")
        assert os.listdir(tree / "moved/b") == ["info"]
    with union(layers) as merged:
        assert sorted(os.listdir(merged / "parent/tree")) == ["a", "moved"]
        assert os.listdir(merged / "parent/tree/a") == []
        assert os.listdir(merged / "parent/tree/moved/b") == ["info"]


@source("fuse-overlayfs 425")
def test_an_opaque_directory_hides_what_is_deep_below_it(tmp_path: Path, union: Mounter) -> None:
    layers = Layers.create(tmp_path, lowers=2)
    cache = {"__pycache__": {"depends.pyc": "1"}}
    build(layers.lower[0], {"site-packages": {"setuptools": Opaque(cache)}})
    build(layers.lower[1], {"site-packages": {"setuptools": {"__pycache__": {"config.pyc": "0"}}, "pip": {}}})
    with union(layers, read_only=True) as merged:
        packages = merged / "site-packages"
        assert sorted(os.listdir(packages)) == ["pip", "setuptools"]  # from above, as who reported it went
        assert os.listdir(packages / "setuptools") == ["__pycache__"]
        assert os.listdir(packages / "setuptools/__pycache__") == ["depends.pyc"]
        assert not (packages / "setuptools/__pycache__/config.pyc").exists()


@source("fuse-overlayfs 324")
def test_stat_agrees_with_the_listing_of_a_directory_made_again(layers: Layers, union: Mounter) -> None:
    build(layers.lower[0], {"v": {"A": {}}})
    with union(layers) as merged:
        subprocess.run(["rm", "-r", merged / "v"], check=True)
        (merged / "v").mkdir()
        assert os.listdir(merged / "v") == []
        assert not (merged / "v/A").exists()


@source("fuse-overlayfs 271")
def test_a_copy_takes_the_place_of_a_removed_directory(layers: Layers, union: Mounter) -> None:
    build(layers.lower[0], {"a": {"b": {"c": "c", "d": "d"}}})
    with union(layers) as merged:
        for command in ("cp -r a bak", "rm -rf a", "mv bak/b/c bak/b/c2", "mv -T bak a"):
            subprocess.run(command.split(), cwd=merged, check=True)
        assert os.listdir(merged / "a") == ["b"]
        assert sorted(os.listdir(merged / "a/b")) == ["c2", "d"]
        assert (merged / "a/b/c2").read_text() == "c"
        assert os.listdir(merged) == ["a"]


@source("fuse-overlayfs 475")
def test_a_database_of_90_mb_survives_its_copy_up(layers: Layers, union: Mounter) -> None:
    """As rpm does it: in WAL mode, many small page writes into what the first of them copies up."""
    path = layers.lower[0] / "rpmdb.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("create table packages (id integer primary key, version integer, data blob)")
    rows = ((number, 0, number.to_bytes(4, "big") * (ROW // 4)) for number in range(ROWS))
    connection.executemany("insert into packages values (?, ?, ?)", rows)
    connection.commit()
    connection.close()
    assert path.stat().st_size > 90_000_000
    with union(layers) as merged:
        writer, reader = (sqlite3.connect(merged / "rpmdb.sqlite") for _ in range(2))
        try:
            assert reader.execute("select count(*) from packages").fetchone() == (ROWS,)
            writer.execute("pragma journal_mode=wal")
            for start in range(0, ROWS, 400):
                writer.execute(
                    "update packages set version = version + 1 where id between ? and ?", (start, start + 9)
                )
                writer.execute("delete from packages where id between ? and ?", (start + 50, start + 59))
                writer.commit()
            assert reader.execute("select count(*), sum(version) from packages").fetchone() == (19_500, 500)
        finally:
            reader.close()
            writer.close()
    with union(layers) as merged:
        assert digest(merged / "rpmdb.sqlite") == digest(layers.upper / "rpmdb.sqlite")
    checked = sqlite3.connect(layers.upper / "rpmdb.sqlite")
    try:
        assert checked.execute("pragma integrity_check").fetchall() == [("ok",)]
        for number, data in checked.execute("select id, data from packages"):
            assert data == number.to_bytes(4, "big") * (ROW // 4)
    finally:
        checked.close()


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@source("fuse-overlayfs 470")
def test_a_copied_up_directory_is_as_closed_as_it_was(layers: Layers, union: Mounter) -> None:
    build(layers.lower[0], {"secret": Dir({"deep": Dir({}, mode=0o500)}, mode=0o700)})
    with union(layers) as merged:
        (merged / "secret/deep/file").write_text("x")
        os.utime(merged / "secret", (0, 0))
        assert stat.S_IMODE((merged / "secret").stat().st_mode) == 0o700
    assert stat.S_IMODE((layers.upper / "secret").stat().st_mode) == 0o700
    assert stat.S_IMODE((layers.upper / "secret/deep").stat().st_mode) == 0o500


@source("fuse-overlayfs 192", "mergerfs 1343")
@pytest.mark.parametrize("lower", [True, False])
def test_a_link_counts_at_once_under_both_names(layers: Layers, union: Mounter, lower: bool) -> None:
    if lower:
        build(layers.lower[0], {"foo": "x"})
    with union(layers) as merged:
        (merged / "foo").open("a").close()
        before = (merged / "foo").stat()
        os.link(merged / "foo", merged / "bar")
        for name in ("bar", "foo"):
            after = (merged / name).stat()
            assert (after.st_ino, after.st_nlink) == (before.st_ino, 2)
        (merged / "foo").unlink()
        assert (merged / "bar").stat().st_nlink == 1


@source("fuse-overlayfs 391")
def test_a_listing_has_the_numbers_of_the_layer_that_provides(tmp_path: Path, union: Mounter) -> None:
    """A symlink above, hard links of one file below: they are two objects, whatever lies below."""
    layers = Layers.create(tmp_path, lowers=2)
    build(layers.lower[0], {"bin": {"busybox": "program", "arch": Symlink("busybox")}})
    build(layers.lower[1], {"bin": {"busybox": "old", "arch": HardLink("bin/busybox")}})
    with union(layers) as merged:
        with os.scandir(merged / "bin") as entries:
            listed = {entry.name: entry.inode() for entry in entries}
        assert len(set(listed.values())) == 2
        assert listed == {name: (merged / "bin" / name).lstat().st_ino for name in ("arch", "busybox")}


@source("fuse-overlayfs 376")
def test_equal_numbers_on_two_filesystems_are_two_objects(
    tmp_path: Path, union: Mounter, filesystem: Callable[..., Path]
) -> None:
    """Two fresh filesystems number their objects alike; a directory of one must not show the other's."""
    layers = Layers.create(tmp_path, lowers=2)
    for lower, names in zip(layers.lower, (("new", "a", "b"), ("old", "x", "y")), strict=True):
        filesystem(lower, "tmpfs")
        build(lower, {names[0]: {name: {f"{name}-file": name} for name in names[1:]}})
    assert (layers.lower[0] / "new").stat().st_ino == (layers.lower[1] / "old").stat().st_ino
    with union(layers) as merged:
        found = {path.relative_to(merged).as_posix(): path for path in merged.rglob("*")}
        assert sorted(found) == [
            *("new", "new/a", "new/a/a-file", "new/b", "new/b/b-file"),
            *("old", "old/x", "old/x/x-file", "old/y", "old/y/y-file"),
        ]
        for name in ("a", "b"):
            assert (merged / "new" / name / f"{name}-file").read_text() == name
        assert len({(path.stat().st_dev, path.stat().st_ino) for path in found.values()}) == len(found)


@source("fuse-overlayfs 359")
def test_two_names_of_one_directory_are_both_listed(layers: Layers, union: Mounter) -> None:
    """Bind mounts give two directories one inode number."""
    build(layers.lower[0], {"a": {"b": {"file": "x"}}, "b": {}})
    subprocess.run(["mount", "--bind", layers.lower[0] / "a/b", layers.lower[0] / "b"], check=True)
    try:
        with union(layers) as merged:
            assert sorted(os.listdir(merged)) == ["a", "b"]
            assert (merged / "b").is_dir()
            assert os.listdir(merged / "a") == ["b"]
    finally:
        syscalls.umount(layers.lower[0] / "b")


@source("fuse-overlayfs 384")
def test_tar_sees_no_change_when_it_writes_into_the_union_that_it_reads(layers: Layers, our_mount: Mounter) -> None:
    """The copy-up of ``tmp``, for the archive, is no change of the root directory."""
    build(layers.lower[0], {"tmp": {}, "etc": {"hosts": "x"}})
    with our_mount(layers) as merged:
        before = merged.stat()
        command = ["tar", "-cf", merged / "tmp/flash.tar", "--one-file-system", "--exclude=./*", "-C", merged, "."]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert merged.stat().st_mtime_ns == before.st_mtime_ns


@source("fuse-overlayfs 127")
@pytest.mark.parametrize("writeback", ["on", "off"])
def test_setuid_that_is_set_after_the_write_stays(layers: Layers, our_mount: Mounter, writeback: str) -> None:
    with our_mount(layers, {"writeback": writeback}) as merged:
        fd = os.open(merged / "sudo", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(fd, b"1")
        os.fchown(fd, 0, 0)
        os.fchmod(fd, 0o4755)
        os.close(fd)
        assert stat.S_IMODE((merged / "sudo").stat().st_mode) == 0o4755
    assert stat.S_IMODE((layers.upper / "sudo").stat().st_mode) == 0o4755
    assert (layers.upper / "sudo").read_bytes() == b"1"


@source("fuse-overlayfs 336")
def test_layers_without_acls_are_read_as_their_modes_say(
    tmp_path: Path, our_mount: Mounter, filesystem: Callable[..., Path], requires: Callable[..., None]
) -> None:
    """On a filesystem that has no xattrs at all."""
    requires("other_users")
    layers = Layers.create(tmp_path)
    filesystem(layers.lower[0], "ramfs")
    layers.lower[0].chmod(0o755)
    layers.upper.chmod(0o755)
    build(layers.lower[0], {"open": File("x", uid=1), "closed": File("y", 0o600, uid=1)})
    with our_mount(layers) as merged:
        assert (merged / "closed").read_text() == "y"
        assert syscalls.as_user(merged, lambda: Path("open").read_text()) == "x"
        with pytest.raises(PermissionError):
            syscalls.as_user(merged, lambda: Path("closed").read_text())
        with (merged / "closed").open("a") as file:
            file.write("z")
        assert (merged / "closed").read_text() == "yz"


@source("apptainer 796")
def test_an_upper_directory_in_memory(tmp_path: Path, union: Mounter, filesystem: Callable[..., Path]) -> None:
    (tmp_path / "memory").mkdir()
    writable = Layers.create(filesystem(tmp_path / "memory", "tmpfs"), lowers=0)
    base = Layers.create(tmp_path)
    layers = Layers(base.lower, writable.upper, writable.work, base.merged)
    build(layers.lower[0], {"dir": {"file": "x", "gone": "x"}})
    with union(layers) as merged:
        with (merged / "dir/file").open("a") as file:
            file.write("y")
        (merged / "dir/gone").unlink()
        subprocess.run(["sed", "-i", "s/y/z/", merged / "dir/file"], check=True)
        assert (merged / "dir/file").read_text() == "xz"
        assert os.listdir(merged / "dir") == ["file"]


@source("fuse-overlayfs 327")
def test_no_whiteout_for_what_no_lower_layer_has(layers: Layers, union: Mounter) -> None:
    """Editors and installers rename files of random names: a mark of each would make images differ."""
    build(layers.lower[0], {"dir": {}})
    with union(layers) as merged:
        (merged / "dir/config").write_text("yes")
        subprocess.run(["sed", "--in-place", "s/yes/no/", merged / "dir/config"], check=True)
        with tempfile.NamedTemporaryFile(dir=merged / "dir") as file:
            file.write(b"gone")
    assert os.listdir(layers.upper) == ["dir"]
    assert os.listdir(layers.upper / "dir") == ["config"]


@source("unionfs-fuse 91")
def test_a_moved_directory_keeps_the_files_that_were_not_touched(layers: Layers, union: Mounter) -> None:
    build(layers.lower[0], {"dir": {"f1": "1", "f2": "2", "f3": "3"}})
    with union(layers) as merged:
        (merged / "dir/f2").write_text("hello")
        subprocess.run(["mv", "dir", "otherdir"], cwd=merged, check=True)
        assert os.listdir(merged) == ["otherdir"]
        assert {path.name: path.read_text() for path in (merged / "otherdir").iterdir()} == {
            "f1": "1",
            "f2": "hello",
            "f3": "3",
        }
