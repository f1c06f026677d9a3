"""The core in process: each verb, and what it leaves in the upper directory."""

import errno
import os
import stat
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from pagecache import evict, is_cached
from trees import snapshot
from unitstack import Stack

from pyunionfs import Overlay, Paths, events, linux
from pyunionfs.linux import RENAME_EXCHANGE, RENAME_NOREPLACE
from pyunionfs.overlay.copy_data import copy_data
from pyunionfs.vfs import NOW, ROOT, Caller, Extent, Ino, NotCachedError, SetAttr

ME = Caller(os.geteuid(), os.getegid())


def names(directory: Path) -> set[str]:
    return {entry.name for entry in directory.iterdir()}


def is_whiteout(path: Path) -> bool:
    st = path.lstat()
    return stat.S_ISCHR(st.st_mode) and st.st_rdev == 0


def fails(number: int) -> "pytest.RaisesExc[OSError]":
    return pytest.raises(OSError, check=lambda error: error.errno == number)


def test_precedence_and_merging(stack: Stack) -> None:
    files = stack.files
    assert files.listdir() == [b"both", b"dir", b"empty", b"only", b"over-dir"]
    assert files.read_bytes("both") == b"top"
    assert files.listdir("dir") == [b"from-base", b"from-top", b"shared", b"sub"]
    assert files.read_bytes("dir/shared") == b"top"
    assert files.read_bytes("over-dir") == b"a file"
    assert not files.exists("gone")
    assert not files.exists("over-dir/hidden")


def test_looking_changes_nothing(stack: Stack) -> None:
    before = snapshot(stack.upper, upper=True)
    list(stack.files.walk())
    assert snapshot(stack.upper, upper=True) == before


def test_copy_up_keeps_everything_but_what_was_changed(stack: Stack) -> None:
    source = stack.base / "dir/sub/deep"
    os.chmod(source, 0o4751)
    os.utime(source, ns=(1_234_567_890_123_456_789, 987_654_321_987_654_321))
    os.setxattr(source, "user.note", b"kept")
    parent_times = (stack.base / "dir/sub").stat().st_mtime_ns
    stack.files.chmod("dir/sub/deep", 0o640)
    copy = stack.upper / "dir/sub/deep"
    st = copy.stat()
    assert copy.read_bytes() == b"3"
    assert stat.S_IMODE(st.st_mode) == 0o640
    assert st.st_mtime_ns == 987_654_321_987_654_321
    assert os.getxattr(copy, "user.note") == b"kept"
    assert (stack.upper / "dir/sub").stat().st_mtime_ns == parent_times
    assert source.stat().st_mode & 0o7777 == 0o4751, "the lower layer has changed"


def test_a_write_copies_all_data_first(stack: Stack) -> None:
    data = os.urandom(3_000_001)
    (stack.base / "big").write_bytes(data)
    attr = stack.overlay.lookup(ROOT, b"big")
    stack.overlay.open(attr.ino, os.O_WRONLY, ME)
    stack.overlay.write(attr.ino, 1_000_000, b"X", kill_suid=False)
    assert (stack.upper / "big").read_bytes() == data[:1_000_000] + b"X" + data[1_000_001:]
    assert (stack.base / "big").read_bytes() == data


def test_what_concerns_an_open_file_needs_no_name(stack: Stack) -> None:
    """Attributes go by the descriptor; also where somebody moved the file behind our back."""
    held = stack.overlay.create(ROOT, b"new", 0o644, ME)
    (stack.upper / "new").rename(stack.upper / "elsewhere")
    assert stack.overlay.setattr(held.ino, SetAttr(mode=0o700, mtime_ns=5, atime_ns=6), ME).mtime_ns == 5
    assert stack.overlay.setattr(held.ino, SetAttr(mtime_ns=NOW), ME).mtime_ns > 10**18
    stack.overlay.setxattr(held.ino, b"user.note", b"kept", 0)
    assert stack.overlay.listxattr(held.ino) == [b"user.note"]
    assert stat.S_IMODE((stack.upper / "elsewhere").stat().st_mode) == 0o700
    assert os.getxattr(stack.upper / "elsewhere", "user.note") == b"kept"


def test_a_refresh_finds_another_file_in_place_of_an_open_one(stack: Stack) -> None:
    held = stack.overlay.create(ROOT, b"new", 0o644, ME)
    stack.overlay.write(held.ino, 0, b"ours", kill_suid=False)
    (stack.upper / "other").write_bytes(b"theirs")
    (stack.upper / "other").rename(stack.upper / "new")
    stack.overlay.refresh()
    assert stack.overlay.getattr(held.ino).size == 6
    assert stack.overlay.read(held.ino, 0, 10) == b"theirs"


def test_a_failed_copy_up_leaves_nothing_and_can_be_tried_again(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    (stack.base / "big").write_bytes(b"x" * 100_000)
    ino = stack.overlay.lookup(ROOT, b"big").ino

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with fails(errno.ENOSPC):
            stack.overlay.open(ino, os.O_WRONLY, ME)
    assert names(stack.upper) == set()
    assert list((stack.upper.parent / ".upper.work/work").iterdir()) == []
    assert not stack.overlay.slow(ino)
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # one for reading file handles, kept
    stack.overlay.write(ino, 0, b"y", kill_suid=False)
    assert (stack.upper / "big").read_bytes() == b"y" + b"x" * 99_999


@pytest.mark.parametrize("nameless", [True, False])
@pytest.mark.parametrize("unlinked", [False, True])
def test_a_copy_is_made_aside_with_or_without_a_name(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, nameless: bool, unlinked: bool
) -> None:
    """Not every filesystem has O_TMPFILE."""
    work, seen, really, fsync = stack.upper.parent / ".upper.work/work", [], os.open, os.fsync

    def opened(path: Any, flags: int, *args: Any, **named: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE and not nameless:
            raise OSError(errno.EOPNOTSUPP, "not here")
        return really(path, flags, *args, **named)

    def synced(fd: int) -> None:
        seen.append(names(work))
        fsync(fd)
        if unlinked:
            stack.files.unlink("only")

    ino = stack.overlay.lookup(ROOT, b"only").ino
    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", opened)
        patch.setattr(os, "fsync", synced)
        stack.overlay.write(ino, 0, b"BASE", kill_suid=False)
    assert [bool(there) for there in seen] == [not nameless]
    assert names(work) <= {"#wh"}
    assert stack.overlay.read(ino, 0, 99) == b"BASE only"
    if unlinked:
        assert is_whiteout(stack.upper / "only")
        assert stack.overlay.getattr(ino).nlink == 0
    else:
        assert (stack.upper / "only").read_bytes() == b"BASE only"
    stack.overlay.forget(ino, 1)
    if unlinked:
        assert len(os.listdir("/proc/self/fd")) <= before + 1  # one for reading file handles, kept


def test_holes_are_not_filled_by_a_copy_up(stack: Stack) -> None:
    with open(stack.base / "sparse", "wb") as file:
        file.write(b"begin")
        file.seek(50 << 20)
        file.write(b"end")
        file.truncate(100 << 20)
    stack.files.chmod("sparse", 0o600)
    st = (stack.upper / "sparse").stat()
    assert st.st_size == 100 << 20
    assert st.st_blocks * 512 < 1 << 20
    with open(stack.upper / "sparse", "rb") as file:
        assert file.read(5) == b"begin"
        file.seek(50 << 20)
        assert file.read(3) == b"end"


def test_emptying_a_file_copies_nothing(stack: Stack) -> None:
    told: list[events.Event] = []
    stack.overlay.subscribe(told.append)
    (stack.base / "log").write_bytes(b"x" * 10_000)
    stack.files.truncate("log", 10)
    stack.files.write_bytes("only", b"new")
    copies = [(event.path, event.size) for event in told if isinstance(event, events.CopyUp)]
    assert copies == [(b"log", 10_000), (b"only", 0)]  # as ovl_setattr, which could fail after it
    assert (stack.upper / "log").read_bytes() == b"x" * 10


def test_deleting_a_lower_file_copies_nothing(stack: Stack) -> None:
    told: list[events.Event] = []
    stack.overlay.subscribe(told.append)
    stack.files.unlink("only")
    assert told == [events.Whiteout(b"only")]
    assert is_whiteout(stack.upper / "only")
    assert not stack.files.exists("only")


def test_no_whiteout_where_nothing_is_below(stack: Stack) -> None:
    stack.files.mkdir("new")
    stack.files.write_bytes("new/file", b"")
    stack.files.unlink("new/file")
    assert names(stack.upper / "new") == set()
    stack.files.rmdir("new")
    assert names(stack.upper) == set()


def test_a_directory_made_again_is_opaque(stack: Stack) -> None:
    for name in ("dir/sub/deep", "dir/from-base", "dir/from-top", "dir/shared"):
        stack.files.unlink(name)
    stack.files.rmdir("dir/sub")
    stack.files.rmdir("dir")
    assert is_whiteout(stack.upper / "dir")
    stack.files.mkdir("dir")
    assert stack.files.listdir("dir") == []
    assert os.getxattr(stack.upper / "dir", stack.prefix + "opaque") == b"y"
    stack.files.write_bytes("dir/from-base", b"")
    stack.files.unlink("dir/from-base")
    assert names(stack.upper / "dir") == set(), "a whiteout in an opaque directory serves nothing"


def test_errors_are_those_of_the_kernel(stack: Stack) -> None:
    files = stack.files
    with fails(errno.ENOTEMPTY):
        files.rmdir("dir")
    with fails(errno.ENOTDIR):
        files.rmdir("both")
    with fails(errno.EISDIR):
        files.unlink("dir")
    with fails(errno.EEXIST):
        files.mkdir("dir")
    with fails(errno.ENOENT):
        files.unlink("gone")
    with fails(errno.ENOTDIR):
        files.read_bytes("both/x")
    with fails(errno.ENOTEMPTY):
        files.rmdir("dir/sub")
    with fails(errno.EXDEV):
        files.rename("dir", "elsewhere")
    with fails(errno.ENOTDIR):
        files.rename("dir/sub", "both")
    with fails(errno.EISDIR):
        files.rename("both", "dir")
    with fails(errno.EEXIST):
        files.rename("both", "only", flags=RENAME_NOREPLACE)
    with fails(errno.ENOENT):
        files.rename("both", "nothing", flags=RENAME_EXCHANGE)
    assert names(stack.upper) == set(), "a failed operation has left something"


def test_a_whiteout_cannot_be_made_by_hand(stack: Stack) -> None:
    with fails(errno.EPERM):
        stack.overlay.mknod(ROOT, b"white", stat.S_IFCHR | 0o600, 0, ME)
    assert names(stack.upper) == set()


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"a\0b"])
def test_what_is_no_name_is_refused(stack: Stack, name: bytes) -> None:
    with fails(errno.EINVAL):
        stack.overlay.lookup(ROOT, name)
    with fails(errno.EINVAL):
        stack.overlay.mkdir(ROOT, name, 0o755, ME)


def test_rename_leaves_a_whiteout_and_exchange_swaps(stack: Stack) -> None:
    stack.files.rename("only", "moved")
    assert is_whiteout(stack.upper / "only")
    assert stack.files.read_bytes("moved") == b"base only"
    stack.files.rename("moved", "both", flags=RENAME_EXCHANGE)
    assert stack.files.read_bytes("moved") == b"top"
    assert stack.files.read_bytes("both") == b"base only"
    stack.files.rename("both", "only")
    assert stack.files.read_bytes("only") == b"base only"
    assert not stack.files.exists("both")


def test_a_directory_renamed_over_a_merged_one_hides_it(stack: Stack) -> None:
    stack.files.mkdir("new")
    stack.files.write_bytes("new/mine", b"")
    stack.files.rename("new", "empty")
    assert stack.files.listdir("empty") == [b"mine"]
    assert os.getxattr(stack.upper / "empty", stack.prefix + "opaque") == b"y"


def test_descendants_follow_a_renamed_directory(stack: Stack) -> None:
    stack.files.mkdir("a")
    stack.files.mkdir("a/b")
    stack.files.write_bytes("a/b/file", b"data")
    held = stack.overlay.lookup(ROOT, b"a").ino
    inside = stack.overlay.lookup(stack.overlay.lookup(held, b"b").ino, b"file").ino
    stack.files.rename("a", "z")
    assert stack.overlay.read(inside, 0, 10) == b"data"
    assert stack.files.read_bytes("z/b/file") == b"data"
    with fails(errno.EINVAL):
        stack.files.rename("z", "z/b/inside-itself")


def test_hard_links_are_one_inode_and_survive_each_other(stack: Stack) -> None:
    stack.files.link("only", "second")
    first, second = stack.files.stat("only"), stack.files.stat("second")
    assert first.st_ino == second.st_ino
    assert first.nlink == 2
    held = stack.overlay.lookup(ROOT, b"only").ino
    stack.files.unlink("only")
    stack.overlay.write(held, 0, b"BASE", kill_suid=False)
    assert stack.files.read_bytes("second") == b"BASE only"
    assert stack.files.stat("second").nlink == 1


def test_a_name_found_after_the_known_one_went_leads_to_the_same_inode(stack: Stack) -> None:
    """Or two page caches of one file would overwrite each other."""
    (stack.upper / "a").write_bytes(b"one")
    os.link(stack.upper / "a", stack.upper / "b")
    held = stack.overlay.lookup(ROOT, b"a").ino
    stack.files.unlink("a")
    again = stack.overlay.lookup(ROOT, b"b")
    assert again.ino == held
    assert again.nlink == 1
    stack.overlay.write(held, 3, b"two", kill_suid=False)
    assert stack.files.read_bytes("b") == b"onetwo"
    stack.files.rename("b", "c")
    assert stack.files.stat("c").ino == held
    stack.files.unlink("c")
    assert stack.overlay.getattr(held).nlink == 0
    assert stack.overlay.read(held, 0, 9) == b"onetwo"


def test_a_directory_that_could_not_be_removed_works_on(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.files.chmod("empty", 0o700)  # it is in the upper layer, and removing it needs a whiteout
    held = stack.overlay.lookup(ROOT, b"empty").ino
    assert stack.overlay.readdir(held) == []

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", full)
        patch.setattr(os, "mknod", full)
        with fails(errno.ENOSPC):
            stack.overlay.rmdir(ROOT, b"empty")
    stack.files.write_bytes("empty/new", b"x")
    assert [entry.name for entry in stack.overlay.readdir(held)] == [b"new"]


def test_a_removed_directory_can_still_be_changed_by_who_holds_it(stack: Stack) -> None:
    held = stack.overlay.lookup(ROOT, b"empty").ino
    before = len(os.listdir("/proc/self/fd"))
    stack.overlay.rmdir(ROOT, b"empty")
    changed = stack.overlay.setattr(held, SetAttr(mode=0o700), ME)
    assert stat.S_IMODE(changed.mode) == 0o700
    assert changed.nlink == 0
    stack.overlay.forget(held, 1)
    assert names(stack.upper) == {"empty"}
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # one for reading file handles, kept


def test_an_unlinked_file_can_still_be_read_and_written(stack: Stack) -> None:
    for name, lower in ((b"only", True), (b"fresh", False)):
        if not lower:
            stack.files.write_bytes(name, b"base only")
        ino = stack.overlay.lookup(ROOT, name).ino
        stack.overlay.open(ino, os.O_RDWR, ME)
        stack.files.unlink(name)
        assert stack.overlay.write(ino, 0, b"gone", kill_suid=False) == 4
        assert stack.overlay.read(ino, 0, 100) == b"gone only"
        assert stack.overlay.getattr(ino).nlink == 0
        assert not stack.files.exists(name)
        stack.overlay.release(ino)
        stack.overlay.forget(ino, 1)


def test_a_lower_file_unlinked_and_then_written_does_not_come_back(stack: Stack) -> None:
    ino = stack.overlay.lookup(ROOT, b"only").ino
    stack.files.unlink("only")
    stack.overlay.write(ino, 0, b"late", kill_suid=False)
    assert stack.overlay.read(ino, 0, 9) == b"late only"
    assert is_whiteout(stack.upper / "only")


def test_private_xattrs_are_hidden_and_escaped(stack: Stack) -> None:
    stack.files.chmod("only", 0o600)
    ino = stack.overlay.lookup(ROOT, b"only").ino
    assert stack.overlay.listxattr(ino) == []
    mine = (stack.prefix + "opaque").encode()
    stack.overlay.setxattr(ino, mine, b"y", 0)
    assert stack.overlay.listxattr(ino) == [mine]
    assert stack.overlay.getxattr(ino, mine) == b"y"
    assert os.getxattr(stack.upper / "only", stack.prefix + "overlay.opaque") == b"y"
    stack.overlay.removexattr(ino, mine)
    assert stack.overlay.listxattr(ino) == []
    with fails(errno.ENODATA):
        stack.overlay.getxattr(ino, (stack.prefix + "origin").encode())


def test_removing_an_xattr_that_is_not_there_copies_nothing(stack: Stack) -> None:
    ino = stack.overlay.lookup(ROOT, b"only").ino
    with fails(errno.ENODATA):
        stack.overlay.removexattr(ino, b"user.none")
    with fails(errno.ENODATA):
        stack.overlay.setxattr(ino, b"user.none", b"", os.XATTR_REPLACE)
    assert names(stack.upper) == set()


def test_xattr_whiteouts_are_read(tmp_path: Path, stack: Stack) -> None:
    layer = tmp_path / "x"
    (layer / "dir").mkdir(parents=True)
    (layer / "dir/shared").touch()
    os.setxattr(layer / "dir/shared", stack.prefix + "whiteout", b"")
    with Overlay([layer, stack.base]) as overlay:  # unmarked: an empty file that has an odd xattr
        assert Paths(overlay).read_bytes("dir/shared") == b""
    os.setxattr(layer / "dir", stack.prefix + "opaque", b"x")
    with Overlay([layer, stack.base]) as overlay:
        assert Paths(overlay).listdir("dir") == [b"from-base", b"sub"]
        assert not Paths(overlay).exists("dir/shared")


def test_without_an_upper_directory_nothing_can_be_changed(stack: Stack) -> None:
    with Overlay([stack.top, stack.base]) as overlay:
        files = Paths(overlay)
        for change in (
            lambda: files.write_bytes("new", b""),
            lambda: files.unlink("only"),
            lambda: files.chmod("only", 0o600),
            lambda: files.mkdir("d"),
            lambda: files.rename("only", "x"),
            lambda: files.link("only", "x"),
        ):
            with fails(errno.EROFS):
                change()
        assert files.read_bytes("only") == b"base only"


def test_inode_numbers_stay_over_copy_up_and_remount(stack: Stack, tmp_path: Path) -> None:
    before = {path: attr.st_ino for path, attr in stack.files.walk()}
    for path in ("only", "both", "dir/shared", "dir/sub"):
        stack.files.chmod(path, 0o700)
    assert {path: attr.st_ino for path, attr in stack.files.walk()} == before
    stack.files.rename("only", "dir/renamed")
    stack.overlay.close()
    with Overlay([stack.top, stack.base], stack.upper) as overlay:
        after = {path: attr.st_ino for path, attr in Paths(overlay).walk()}
        assert after.pop(b"dir/renamed") == before.pop(b"only")
        assert after == before


def test_five_hundred_layers(tmp_path: Path) -> None:
    layers = []
    for number in range(500):
        layer = tmp_path / str(number)
        (layer / "dir").mkdir(parents=True)
        (layer / "dir" / f"{number:03}").touch()
        (layer / "which").write_text(str(number))
        layers.append(layer)
    with Overlay(layers) as overlay:
        assert len(Paths(overlay).listdir("dir")) == 500
        assert Paths(overlay).read_bytes("which") == b"0"


def test_directories_thousands_deep(stack: Stack) -> None:
    fd = os.open(stack.base, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    deep = "/".join(["d"] * 1500) + "/leaf"
    try:
        stack.files.write_bytes(deep, b"reached")
        assert stack.files.read_bytes(deep) == b"reached"
        stack.files.unlink(deep)
    finally:  # deeper than Python's own recursive removal can go
        subprocess.run(["rm", "-rf", stack.base / "d", stack.upper / "d"], check=True)


def test_few_descriptors_are_enough(tmp_path: Path) -> None:
    base, upper = tmp_path / "base", tmp_path / "upper"
    for number in range(200):
        (base / str(number)).mkdir(parents=True)
        (base / str(number) / "file").write_text(str(number))
    upper.mkdir()
    before = len(os.listdir("/proc/self/fd"))
    with Overlay([base], upper) as overlay:
        overlay.sb.fds._budget = overlay.sb.files._budget = 16
        files = Paths(overlay)
        held = [overlay.lookup(overlay.lookup(ROOT, b"%d" % n).ino, b"file").ino for n in range(200)]
        for number, ino in enumerate(held):
            assert overlay.read(ino, 0, 9) == b"%d" % number
        assert len(os.listdir("/proc/self/fd")) - before < 60
        for ino in held:
            overlay.write(ino, 0, b"W", kill_suid=False)
        assert all(files.read_bytes(f"{n}/file").startswith(b"W") for n in range(200))


def test_everything_is_given_back_when_forgotten(stack: Stack) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for path, _ in stack.files.walk():
        stack.files.stat(path)
    stack.files.read_bytes("dir/sub/deep")
    for failing in ("dir", "dir/sub"):
        with fails(errno.ENOTEMPTY):
            stack.files.rmdir(failing)
    with fails(errno.EISDIR):
        stack.files.rename("both", "dir")
    assert len(stack.overlay.sb.table) == 1
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_unknown_handle_is_stale(stack: Stack) -> None:
    ino = stack.overlay.lookup(ROOT, b"only").ino
    stack.overlay.forget(ino, 1)
    with fails(errno.ESTALE):
        stack.overlay.getattr(ino)


def test_setuid_is_cleared_for_those_who_may_not_keep_it(stack: Stack) -> None:
    stack.files.chmod("only", 0o6755)
    ino = stack.overlay.lookup(ROOT, b"only").ino
    stack.overlay.write(ino, 0, b"x", kill_suid=False)
    assert stat.S_IMODE(stack.overlay.getattr(ino).mode) == 0o6755
    stack.overlay.write(ino, 0, b"x", kill_suid=True)
    assert stat.S_IMODE(stack.overlay.getattr(ino).mode) == 0o755
    stack.files.chmod("only", 0o4755)
    stack.overlay.setattr(ino, SetAttr(size=1, kill_suid=True), Caller(12345, 12345))
    assert stat.S_IMODE(stack.overlay.getattr(ino).mode) == 0o755


def test_a_link_to_a_copy_marks_its_new_directory_impure(stack: Stack) -> None:
    """Or its origin, and with it its st_ino, would not be looked for there after a remount."""
    before = stack.files.stat("only").ino
    stack.files.link("only", "dir/linked")
    marks = stack.overlay.sb.marks
    assert os.getxattr(stack.upper / "dir", marks.impure) == b"y"
    stack.remount()
    assert stack.files.stat("dir/linked").ino == before


def test_a_change_while_a_metacopy_is_completed_stays(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing: list[threading.Thread] = []

    def copy_slowly(source: int, target: int, size: int, **how: Any) -> None:
        changing.append(threading.Thread(target=change))
        changing[0].start()
        changing[0].join(0.2)  # it waits for the copy, or has been done
        copy_data(source, target, size, **how)

    def change() -> None:
        overlay.setattr(ino, SetAttr(mode=0o640, mtime_ns=12345), ME)

    monkeypatch.setattr("pyunionfs.overlay.copy_up.copy_data", copy_slowly)
    for name in ("upper2", "work2"):
        (tmp_path / name).mkdir()
    options = {"metacopy": "on"} if os.geteuid() == 0 else {"metacopy": "on", "userxattr": "on"}
    with Overlay([stack.base], tmp_path / "upper2", tmp_path / "work2", options=options) as overlay:
        ino = overlay.lookup(ROOT, b"only").ino
        overlay.setattr(ino, SetAttr(mode=0o600), ME)
        overlay.open(ino, os.O_WRONLY, ME)
        changing[0].join()
        attr = overlay.getattr(ino)
        assert (stat.S_IMODE(attr.mode), attr.mtime_ns) == (0o640, 12345)


def test_a_short_copy_of_what_is_in_memory_need_not_wait(stack: Stack) -> None:
    overlay = stack.overlay
    for name, size in (("short", 5000), ("long", 100_000), ("large", 1_000_000)):
        (stack.base / name).write_bytes(bytes(size))
    if not is_cached(stack.base / "short"):
        pytest.skip("it cannot be told here what is in memory")
    target = overlay.create(ROOT, b"target", 0o600, ME).ino

    def copy(name: bytes, offset: int, length: int, *, to: int = target) -> int:
        source = Extent(overlay.lookup(ROOT, name).ino, offset, length)
        return overlay.copy_file_range(source, Ino(to), 0, kill_suid=False, wait=False)

    assert copy(b"short", 0, 1 << 30) == 5000
    assert copy(b"short", 5000, 10) == copy(b"short", 6000, 10) == 0
    assert copy(b"long", 99_000, 1 << 30) == 1000
    assert stack.files.stat("target").size == 5000
    with fails(errno.EAGAIN):
        copy(b"long", 0, 1 << 30)
    with fails(errno.EAGAIN):
        copy(b"short", 0, 10, to=overlay.lookup(ROOT, b"large").ino)  # would have to be copied up
    assert not (stack.upper / "large").exists()
    assert stack.files.stat("target").size == 5000
    overlay.write(overlay.lookup(ROOT, b"short").ino, 5000, b"!", kill_suid=False, wait=False)
    assert (stack.upper / "short").read_bytes() == bytes(5000) + b"!"


@pytest.mark.parametrize("call", ["readinto", "copy_file_range", "write"])
def test_who_may_not_wait_for_the_disk_is_told(stack: Stack, call: str) -> None:
    overlay, path = stack.overlay, stack.base / "short"
    path.write_bytes(b"x" * 4096)
    ino, target = overlay.lookup(ROOT, b"short").ino, overlay.create(ROOT, b"target", 0o600, ME).ino
    calls = {
        "readinto": lambda wait: overlay.readinto(ino, 0, memoryview(bytearray(4096)), wait=wait),
        "copy_file_range": lambda wait: overlay.copy_file_range(
            Extent(ino, 0, 4096), target, 0, kill_suid=False, wait=wait
        ),
        "write": lambda wait: overlay.write(ino, 0, b"y" * 4096, kill_suid=False, wait=wait),
    }
    evict(path)
    if is_cached(path):
        pytest.skip("files stay in memory here")
    evict(path)  # to look has read it
    with pytest.raises(NotCachedError):
        calls[call](False)
    evict(path)
    assert calls[call](True) == 4096


def test_a_copy_is_given_up_with_its_caller(stack: Stack) -> None:
    (stack.base / "large").write_bytes(b"x" * 1_000_000)
    ino = stack.overlay.lookup(ROOT, b"large").ino
    stack.overlay.interrupted = lambda: True
    with fails(errno.EINTR):
        stack.overlay.write(ino, 0, b"y", kill_suid=False)
    assert not (stack.upper / "large").exists()
    stack.overlay.interrupted = None
    stack.overlay.write(ino, 0, b"y", kill_suid=False)
    assert (stack.upper / "large").read_bytes() == b"y" + b"x" * 999_999


@pytest.mark.parametrize("fsync", ["1", "0"])
def test_the_disk_writes_a_large_copy_while_the_rest_of_it_is_read(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsync: str
) -> None:
    began: list[tuple[int, int]] = []

    really = linux.start_writeback

    def start_writeback(fd: int, offset: int, length: int) -> None:
        really(fd, offset, length)
        began.append((offset, length))

    def ficlone(target: int, source: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(linux, "start_writeback", start_writeback)
    monkeypatch.setattr(linux, "ficlone", ficlone)
    data = os.urandom(5 << 20)
    (stack.base / "large").write_bytes(data)
    for name in ("upper2", "work2"):
        (tmp_path / name).mkdir()
    options = {"fsync": fsync} if os.geteuid() == 0 else {"fsync": fsync, "userxattr": "on"}
    with Overlay([stack.base], tmp_path / "upper2", tmp_path / "work2", options=options) as overlay:
        ino = overlay.lookup(ROOT, b"large").ino
        overlay.write(ino, len(data), b"!", kill_suid=False)
    assert (tmp_path / "upper2/large").read_bytes() == data + b"!"
    assert began == ([(0, 2 << 20), (2 << 20, 2 << 20)] if fsync == "1" else [])


def test_what_is_pinned_is_counted(stack: Stack) -> None:
    overlay = stack.overlay
    fds = overlay.sb.fds
    ino = overlay.lookup(ROOT, b"only").ino
    overlay.write(ino, 0, b"x", kill_suid=False)
    overlay.unlink(ROOT, b"only")
    made = overlay.tmpfile(ROOT, 0o600, ME).ino
    assert fds.pinned == 2
    overlay.forget(ino, 1)
    overlay.link(made, ROOT, b"named")
    assert fds.pinned == 0
    overlay.forget(made, 2)
    for number in range(200):
        directory = overlay.mkdir(ROOT, b"dir%d" % number, 0o755, ME).ino
        overlay.rmdir(ROOT, b"dir%d" % number)
        assert stat.S_IMODE(overlay.getattr(directory).mode) == 0o755
        if number % 2:
            overlay.forget(directory, 1)
    assert 0 < fds.pinned <= 100
