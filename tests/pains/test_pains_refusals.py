"""What other unions refuse: moving directories, touching what is read-only or somebody else's, mapping ids."""

import errno
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import syscalls
from mounts import Layers, Mounter, Options
from sources import source
from trees import File, HardLink, build


@source("moby 25409", "conda 6711", "podman 13123")
def test_a_lower_directory_is_renamed(layers: Layers, union: Mounter, with_options: Callable[..., Options]) -> None:
    options = with_options(redirect_dir="on")
    build(layers.lower[0], {"foo": {"sub": {"file": "lower"}}, "empty": {}, "merged": {"below": "x"}})
    build(layers.upper, {"merged": {"above": "y"}})
    with union(layers, options) as merged:
        os.rename(merged / "foo", merged / "foo2")
        os.rename(merged / "merged", merged / "foo2/inside")
        os.rename(merged / "foo2", merged / "empty")  # over an empty directory, as renameat2 of apt does it
    with union(layers, options) as merged:
        assert os.listdir(merged) == ["empty"]
        assert (merged / "empty/sub/file").read_text() == "lower"
        assert sorted(os.listdir(merged / "empty/inside")) == ["above", "below"]


@source("rustup 1239")
def test_a_program_that_knows_exdev_loses_nothing(layers: Layers, union: Mounter) -> None:
    """Without redirects: the refusal comes before anything was moved, and copying instead works."""
    build(layers.lower[0], {"toolchain": {"bin": {"rustc": File("program", 0o755)}, "lib": {"std": "lib"}}})
    with union(layers) as merged:
        with pytest.raises(OSError) as caught:
            os.rename(merged / "toolchain", merged / "backup")
        assert caught.value.errno == errno.EXDEV
        assert sorted(os.listdir(merged / "toolchain")) == ["bin", "lib"]
        assert not (merged / "backup").exists()
        subprocess.run(["mv", "toolchain", "backup"], cwd=merged, check=True)
        assert os.listdir(merged) == ["backup"]
        assert (merged / "backup/lib/std").read_text() == "lib"
        assert os.access(merged / "backup/bin/rustc", os.X_OK)


@source("fuse-overlayfs 399")
def test_a_read_only_file_is_copied(layers: Layers, ordinary_user: Callable[..., str]) -> None:
    (layers.lower[0] / "old").write_text("foo\n")
    (layers.lower[0] / "old").chmod(0o444)
    commands = "echo foo >test; chmod -w test; cp test test2; cp old test3; cat test2 test3; stat -c %a test2 test3"
    assert ordinary_user(commands) == "foo\nfoo\n444\n444\n"


@source("fuse-overlayfs 307")
def test_read_only_files_are_removed_and_changed(layers: Layers, ordinary_user: Callable[..., str]) -> None:
    for name in ("foo", "bar", "moved"):
        (layers.lower[0] / name).touch(mode=0o444)
    commands = "rm -f foo; chmod u+w bar; mv moved moved2; echo new >moved3; ls; stat -c %a bar"
    assert ordinary_user(commands) == "bar\nmoved2\nmoved3\n644\n"


@source("fuse-overlayfs 325")
def test_directories_of_others_are_removed_from_a_directory_of_ours(
    layers: Layers, ordinary_user: Callable[..., str]
) -> None:
    """Deleting needs the directory above; below it, only emptiness. A copy of what is root's cannot be made."""
    build(layers.lower[0], {"v": {}, "mine": {"file": "x"}, "root-file": "x"})
    foreign = [layers.lower[0] / name for name in ("v", "mine/file", "root-file")]
    assert ordinary_user("rmdir v; rm -f root-file; rm -rf mine; ls -A", foreign=foreign) == ""
    assert {path.name for path in layers.upper.iterdir() if path.is_char_device()} == {"v", "root-file", "mine"}


@source("fuse-overlayfs 299")
def test_ids_are_mapped_both_ways(layers: Layers, our_mount: Mounter, with_options: Callable[..., Options]) -> None:
    options = with_options(uidmapping=f"0:{syscalls.USER}:1", gidmapping=f"0:{syscalls.GROUP}:1")
    build(layers.lower[0], {"testfile": "x"})
    with our_mount(layers, options) as merged:
        status = (merged / "testfile").stat()
        assert (status.st_uid, status.st_gid) == (syscalls.USER, syscalls.GROUP)
        syscalls.as_user(merged, lambda: Path("testfile2").write_text("Hello World"))
        assert (merged / "testfile2").stat().st_uid == syscalls.USER
    assert (layers.upper / "testfile2").stat().st_uid == 0


@source("fuse-overlayfs 380")
def test_hard_links_are_chowned_as_container_tools_do_it(layers: Layers, union: Mounter) -> None:
    """An id-mapped copy of a layer: one name is chowned, the other ones are linked to it anew."""
    build(layers.lower[0], {"a": {"apr": "x"}, "f": {"fips": HardLink("a/apr")}})
    with union(layers) as merged:
        os.lchown(merged / "a/apr", 10, 20)
        os.unlink(merged / "f/fips")
        os.link(merged / "a/apr", merged / "f/fips", follow_symlinks=False)
        first, second = (merged / "a/apr").stat(), (merged / "f/fips").stat()
        assert (first.st_ino, first.st_uid, first.st_gid) == (second.st_ino, 10, 20)
        assert stat.S_IMODE(second.st_mode) == 0o644
