"""One layer becomes one directory: each row of the table of hostile and odd layers, and each trap."""

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import xattr
from archives import (
    directory,
    entry,
    hardlink,
    layer,
    opaque,
    pax,
    symlink,
    unpack_layer,
    whiteout,
)

from pyunionfs.image.errors import ImageError
from pyunionfs.image.limits import Limits
from pyunionfs.image.tree import remove_tree
from pyunionfs.overlay.marks import TRUSTED, USER


def is_whiteout(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(path: Path) -> bool:
    return TRUSTED.opaque in xattr.listxattr(str(path))


def names(path: Path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob("*"))


@pytest.fixture(autouse=True)
def _marks(may: Callable[..., None]) -> None:
    may("trusted xattrs", "chown", "mknod")


# -- names that lead out


@pytest.mark.parametrize("name", ["../../evil", "/evil", "a/../../../evil", "./../evil"])
def test_names_are_confined_to_the_root(tmp_path: Path, name: str) -> None:
    target, _ = unpack_layer(tmp_path, entry(name, "x"))
    assert names(target) == ["evil"]
    assert sorted(os.listdir(tmp_path)) == ["diff", "diff.trash"]


@pytest.mark.parametrize("where", ["/", "..", "/etc", "../../../../../..", "."])
def test_a_file_through_a_symlink_of_the_layer_replaces_the_symlink(tmp_path: Path, where: str) -> None:
    target, _ = unpack_layer(tmp_path, symlink("out", where), entry("out/pyunionfs-evil", "x"))
    assert (target / "out").is_dir()
    assert not (target / "out").is_symlink()
    assert names(target) == ["out", "out/pyunionfs-evil"]
    assert sorted(os.listdir(tmp_path)) == ["diff", "diff.trash"]


def test_every_kind_of_entry_stays_inside(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("precious")
    link = symlink("link", str(victim))
    for number, item in enumerate(
        [
            entry("link/file", "overwritten"),
            directory("link/file"),
            symlink("link/file", "x"),
            entry("link/file", type=b"6"),
            whiteout("link/file"),
            opaque("link"),
            hardlink("link/file", "link/file"),
            entry("link", "file"),
            directory("link", mode=0o777),
            directory("link/sub"),
        ]
    ):
        try:
            unpack_layer(tmp_path, link, item, name=f"diff{number}")
        except ImageError:
            pass
        assert names(victim) == ["file"]
        assert (victim / "file").read_text() == "precious"
        assert not xattr.listxattr(str(victim))
        assert stat.S_IMODE(victim.stat().st_mode) != 0o777


def test_hard_links_do_not_lead_out(tmp_path: Path) -> None:
    for number, linkname in enumerate(["/etc/passwd", "../../../../../../etc/passwd", "up/passwd"]):
        with pytest.raises(ImageError, match=r"layer\.tar: 'stolen': hard link to .*passwd"):
            unpack_layer(tmp_path, symlink("up", "/etc"), hardlink("stolen", linkname), name=f"d{number}")


def test_a_hard_link_to_a_symlink_links_the_symlink(tmp_path: Path) -> None:
    target, _ = unpack_layer(tmp_path, symlink("s", "/etc/passwd"), hardlink("l", "s"), entry("s", "new"))
    assert os.readlink(target / "l") == "/etc/passwd"
    assert (target / "s").read_text() == "new"


# -- symlinks and files where directories are needed


def test_a_file_under_a_lower_layers_symlink_gets_a_real_directory(tmp_path: Path) -> None:
    lower, _ = unpack_layer(tmp_path, directory("real"), symlink("link", "real"), name="lower")
    target, _ = unpack_layer(tmp_path, entry("link/file", "x"), below=[lower])
    assert (target / "link").is_dir()
    assert names(target) == ["link", "link/file"]


def test_a_file_under_a_lower_layers_file_loads(tmp_path: Path) -> None:
    lower, _ = unpack_layer(tmp_path, entry("f", "x"), name="lower")
    target, _ = unpack_layer(tmp_path, entry("f/below", "y"), below=[lower])
    assert names(target) == ["f", "f/below"]


def test_parents_without_entries_are_roots(tmp_path: Path) -> None:
    target, report = unpack_layer(tmp_path, entry("a/b/c", "x", uid=5))
    status = (target / "a").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime) == (0o755, 0, 0, 0)
    assert report.remarks["directories without an entry"].names == ["a/b", "a", ""]


# -- the last entry of a name wins


def test_the_same_file_twice(tmp_path: Path) -> None:
    target, _ = unpack_layer(tmp_path, entry("a", "first", mode=0o600), entry("a", "2", mode=0o644))
    assert (target / "a").read_text() == "2"
    assert stat.S_IMODE((target / "a").stat().st_mode) == 0o644


def test_replacing_a_hard_linked_file_leaves_the_other_name(tmp_path: Path) -> None:
    target, _ = unpack_layer(tmp_path, entry("a", "old"), hardlink("b", "a"), entry("a", "new"))
    assert [(target / name).read_text() for name in "ab"] == ["new", "old"]


def test_a_directory_twice_keeps_its_content(tmp_path: Path) -> None:
    target, _ = unpack_layer(
        tmp_path,
        directory("d", 0o700, records={"SCHILY.xattr.user.old": "1"}),
        entry("d/f"),
        directory("d", 0o711, uid=7),
    )
    assert names(target) == ["d", "d/f"]
    assert (stat.S_IMODE((target / "d").stat().st_mode), (target / "d").stat().st_uid) == (0o711, 7)
    assert not xattr.listxattr(str(target / "d"))


def test_a_file_replaces_a_directory_with_all_in_it(tmp_path: Path) -> None:
    target, _ = unpack_layer(
        tmp_path, directory("d", 0o700), entry("d/e/f"), entry("d", "file"), directory("d"), entry("d/new")
    )
    assert names(target) == ["d", "d/new"]
    assert stat.S_IMODE((target / "d").stat().st_mode) == 0o755


def test_metadata_of_a_replaced_directory_is_forgotten(tmp_path: Path) -> None:
    target, _ = unpack_layer(tmp_path, directory("a/b", 0o700, uid=9), entry("a", "file"), entry("a/b/c"))
    status = (target / "a/b").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o755, 0)


# -- whiteouts


def test_a_whiteout(tmp_path: Path) -> None:
    target, report = unpack_layer(tmp_path, directory("d"), whiteout("d/gone"), whiteout("top"))
    assert is_whiteout(target / "d/gone")
    assert is_whiteout(target / "top")
    assert report.whiteouts == 2


@pytest.mark.parametrize("turn", [1, -1])
def test_a_whiteout_and_a_new_file_of_its_name(tmp_path: Path, turn: int) -> None:
    target, _ = unpack_layer(tmp_path, *[whiteout("a"), entry("a", "new")][::turn])
    assert (target / "a").read_text() == "new"
    assert names(target) == ["a"]


@pytest.mark.parametrize("turn", [1, -1])
def test_a_whiteout_and_a_new_directory_of_its_name(tmp_path: Path, turn: int) -> None:
    target, _ = unpack_layer(tmp_path, *[whiteout("a"), directory("a"), entry("a/new")][::turn])
    assert is_opaque(target / "a")
    assert names(target) == ["a", "a/new"]


@pytest.mark.parametrize("turn", [1, -1])
def test_an_opaque_mark_first_or_last(tmp_path: Path, turn: int) -> None:
    target, report = unpack_layer(tmp_path, *[opaque("d"), entry("d/new"), directory("d", 0o711)][::turn])
    assert is_opaque(target / "d")
    assert names(target) == ["d", "d/new"]
    assert stat.S_IMODE((target / "d").stat().st_mode) == 0o711
    assert report.opaques == 1


def test_a_whiteout_survives_what_replaced_its_name_meanwhile(tmp_path: Path) -> None:
    target, _ = unpack_layer(tmp_path, whiteout("a"), entry("a", "file"), directory("a"))
    assert is_opaque(target / "a")


def test_a_whiteout_written_as_a_directory_deletes(tmp_path: Path) -> None:
    target, _ = unpack_layer(tmp_path, directory("d/.wh.sub"))
    assert is_whiteout(target / "d/sub")
    assert names(target) == ["d", "d/sub"]


def test_a_whiteout_with_a_stray_linkname_or_content(tmp_path: Path) -> None:
    target, _ = unpack_layer(tmp_path, entry(".wh.a", "content", link="/etc/passwd", mode=0o100600))
    assert is_whiteout(target / "a")


def test_a_whiteout_in_a_directory_that_is_deleted_is_needless(tmp_path: Path) -> None:
    target, report = unpack_layer(tmp_path, whiteout("d/e"), whiteout("d"))
    assert names(target) == ["d"]
    assert is_whiteout(target / "d")
    assert report.whiteouts == 1


def test_a_whiteout_in_a_directory_that_became_a_file_is_needless(tmp_path: Path) -> None:
    target, _ = unpack_layer(tmp_path, whiteout("d/e"), opaque("d"), entry("d", "file"))
    assert (target / "d").read_text() == "file"


def test_an_opaque_mark_makes_its_directory(tmp_path: Path) -> None:
    target, _ = unpack_layer(tmp_path, opaque("a/b"))
    assert is_opaque(target / "a/b")
    assert not is_opaque(target / "a")


def test_an_opaque_root_is_reported(tmp_path: Path) -> None:
    target, report = unpack_layer(tmp_path, entry(".wh..wh..opq"), entry("f"))
    assert report.opaque_root
    assert names(target) == ["f"]


def test_aufs_metadata_is_hidden(tmp_path: Path) -> None:
    target, report = unpack_layer(
        tmp_path, directory(".wh..wh.plnk", 0o700), entry(".wh..wh.plnk/1.2"), entry(".wh..wh.aufs"), entry("f")
    )
    assert names(target) == ["f"]
    assert report.remarks["AUFS metadata ignored"].count == 3


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "d/.wh..", ".wh.x/below", "n\0l"])
def test_refused_names(tmp_path: Path, name: str) -> None:
    records = {"path": name} if "\0" in name else {}
    with pytest.raises(ImageError, match=r"^layer\.tar: '"):
        unpack_layer(tmp_path, entry("x" if records else name, records=records))


def test_devices_0_0_are_whiteouts(tmp_path: Path) -> None:
    device = entry("a", type=b"3", major=0, minor=0)
    target, report = unpack_layer(tmp_path, entry("a", "x"), device, entry("b", type=b"4", major=0, minor=0))
    assert is_whiteout(target / "a")
    assert stat.S_ISBLK((target / "b").lstat().st_mode)
    assert report.remarks["devices 0:0 taken for whiteouts"].count == 1


# -- hard links


def test_hard_links(tmp_path: Path) -> None:
    target, report = unpack_layer(
        tmp_path,
        entry("d/a", "x"),
        hardlink("b", "d/a"),
        hardlink("c", "/b"),
        hardlink("a", "../b"),
        hardlink("a", "a"),
    )
    assert len({(target / name).stat().st_ino for name in ("d/a", "a", "b", "c")}) == 1
    assert report.hard_links == 3


@pytest.mark.parametrize(
    ("linkname", "words"),
    [
        ("late", "not earlier in this layer"),
        ("d", "directory"),
        (".wh.x", "mark"),
        ("l", "itself"),
        ("l/x", "below it"),
        ("", "above"),
        ("gone", "not earlier in this layer"),
    ],
)
def test_hard_links_that_cannot_be(tmp_path: Path, linkname: str, words: str) -> None:
    with pytest.raises(ImageError, match=rf"^layer\.tar: 'l': .*{words}"):
        unpack_layer(tmp_path, directory("d"), whiteout("gone"), hardlink("l", linkname), entry("late"))


def test_a_hard_link_to_a_file_of_a_lower_layer_is_a_copy(tmp_path: Path) -> None:
    base, _ = unpack_layer(
        tmp_path,
        entry("d/f", "low", mode=0o4755, uid=5, mtime=9, records={"SCHILY.xattr.user.k": "v"}),
        name="base",
    )
    middle, _ = unpack_layer(tmp_path, symlink("s", "d/f"), name="middle")
    target, report = unpack_layer(
        tmp_path, hardlink("copy", "../d/f"), hardlink("s2", "s"), whiteout("d/f"), below=[middle, base]
    )
    status = (target / "copy").stat()
    assert (target / "copy").read_text() == "low"
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_mtime) == (0o4755, 5, 9)
    assert xattr.getxattr(str(target / "copy"), "user.k") == b"v"
    assert os.readlink(target / "s2") == "d/f"
    assert is_whiteout(target / "d/f")
    assert report.borrowed


@pytest.mark.parametrize(
    "hide", [whiteout("d/f"), whiteout("d"), opaque("d"), entry("d", "file"), symlink("d", "e")]
)
def test_a_hard_link_to_a_hidden_file_of_a_lower_layer(tmp_path: Path, hide: bytes) -> None:
    base, _ = unpack_layer(tmp_path, entry("d/f", "low"), entry("e/f", "other"), name="base")
    middle, _ = unpack_layer(tmp_path, hide, name="middle")
    with pytest.raises(ImageError, match="nor in those below"):
        unpack_layer(tmp_path, hardlink("copy", "d/f"), below=[middle, base])


def test_copies_of_lower_files_keep_holes(tmp_path: Path) -> None:
    base, _ = unpack_layer(
        tmp_path,
        entry("f", b"x" * 4096, records={"GNU.sparse.map": "1048576,4096", "GNU.sparse.size": str(1 << 24)}),
        name="base",
    )
    target, _ = unpack_layer(tmp_path, hardlink("c", "f"), below=[base])
    assert (target / "c").read_bytes() == (base / "f").read_bytes()
    assert (target / "c").stat().st_blocks * 512 < 1 << 20


# -- files of every kind, and their metadata


def test_metadata(tmp_path: Path) -> None:
    target, report = unpack_layer(
        tmp_path,
        directory("d", 0o2750, uid=1, gid=2, records={"mtime": "-5.25"}),
        entry("d/f", "x", mode=0o104755, uid=3, gid=4, records={"mtime": "1.000000007", "atime": "2.5"}),
        symlink("d/s", "/nowhere", uid=5, gid=6, mtime=77),
        entry("d/p", type=b"6", mode=0o640, uid=7),
        entry("d/c", type=b"3", mode=0o666, major=1, minor=3, mtime=5),
        entry("d/b", type=b"4", mode=0o660, major=259, minor=70000, gid=8),
        entry("d/big", uid=4_294_967_294, gid=3_000_000_000),
        entry("d/neg", records={}, uid=-2),
    )
    found = {p.name: p.lstat() for p in [target / "d", *(target / "d").iterdir()]}
    assert {n: stat.S_IMODE(s.st_mode) for n, s in found.items() if n not in ("s", "big", "neg")} == {
        "d": 0o2750,
        "f": 0o4755,
        "p": 0o640,
        "c": 0o666,
        "b": 0o660,
    }
    assert (found["f"].st_uid, found["f"].st_gid, found["s"].st_uid, found["s"].st_gid) == (3, 4, 5, 6)
    assert (found["f"].st_mtime_ns, found["f"].st_atime_ns) == (1_000_000_007, 2_500_000_000)
    assert (found["d"].st_mtime_ns, found["s"].st_mtime) == (-5_250_000_000, 77)
    assert found["c"].st_rdev == os.makedev(1, 3)
    assert found["b"].st_rdev == os.makedev(259, 70000)
    assert (found["big"].st_uid, found["big"].st_gid, found["neg"].st_uid) == (
        4_294_967_294,
        3_000_000_000,
        2**32 - 2,
    )
    assert (report.files, report.symlinks, report.fifos, report.devices, report.directories) == (3, 1, 1, 2, 2)
    assert report.size == 1


@pytest.mark.parametrize("uid", ["4294967295", "99999999999"])
def test_impossible_owners(tmp_path: Path, uid: str) -> None:
    with pytest.raises(ImageError, match="impossible uid"):
        unpack_layer(tmp_path, entry("f", records={"uid": uid}))


def test_impossible_times(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="time"):
        unpack_layer(tmp_path, entry("f", records={"mtime": "99999999999999999999"}))


def test_files_in_a_directory_that_may_not_be_entered(tmp_path: Path) -> None:
    target, _ = unpack_layer(
        tmp_path, directory("d", 0), entry("d/f", "x", mode=0), directory("d/e", 0), entry("d/e/g")
    )
    assert names(target) == ["d", "d/e", "d/e/g", "d/f"]
    assert stat.S_IMODE((target / "d").stat().st_mode) == 0


def test_xattrs(tmp_path: Path) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    value = b"\0binary\n=\xff"
    records = {"SCHILY.xattr.user.k": value, "SCHILY.xattr.user.empty": b"", "SCHILY.xattr.trusted.t": b"1"}
    target, report = unpack_layer(
        tmp_path,
        directory("d", records=records),
        # Capabilities must survive the change of owner and mode.
        entry("f", "x", uid=9, mode=0o400, records=records | {"SCHILY.xattr.security.capability": capability}),
        symlink("s", "f", records={"SCHILY.xattr.trusted.s": b"2"}),
        entry("p", type=b"6", records={"SCHILY.xattr.trusted.p": b"3"}),
    )
    for name in ("d", "f"):
        assert xattr.getxattr(str(target / name), "user.k") == value
        assert xattr.getxattr(str(target / name), "user.empty") == b""
        assert xattr.getxattr(str(target / name), "trusted.t") == b"1"
    assert xattr.getxattr(str(target / "f"), "security.capability") == capability
    assert xattr.getxattr(str(target / "s"), "trusted.s", symlink=True) == b"2"
    assert xattr.getxattr(str(target / "p"), "trusted.p", symlink=True) == b"3"
    assert not {what for what in report.remarks if "xattr" in what}


def test_xattrs_that_would_steer_the_union_are_refused(tmp_path: Path) -> None:
    evil = [
        "trusted.overlay.opaque",
        "trusted.overlay.redirect",
        "user.overlay.whiteout",
        "user.fuseoverlayfs.opaque",
        "user.containers.override_stat",
    ]
    records = {f"SCHILY.xattr.{name}": b"y" for name in evil}
    target, report = unpack_layer(tmp_path, directory("d", records=records), entry("f", records=records))
    assert not xattr.listxattr(str(target / "d")) + xattr.listxattr(str(target / "f"))
    assert report.remarks["xattrs of the union itself refused"].count == 2 * len(evil)


def test_xattrs_that_cannot_be_set_are_counted(tmp_path: Path) -> None:
    records = {"SCHILY.xattr.user.k": b"v"}
    target, report = unpack_layer(
        tmp_path,
        symlink("s", "t", records=records),
        entry("p", type=b"6", records=records),
        entry("f", records={"SCHILY.xattr.nonsense": b"v", "SCHILY.xattr.user.big": b"x" * 70_000}),
    )
    assert names(target) == ["f", "p", "s"]
    assert sum(remark.count for what, remark in report.remarks.items() if "skipped" in what) == 4


def test_the_users_marks(tmp_path: Path) -> None:
    target, _ = unpack_layer(tmp_path, opaque("d"), marks=USER)
    assert xattr.listxattr(str(target / "d")) == (USER.opaque,)


def test_names_that_are_long_or_no_text(tmp_path: Path) -> None:
    long = b"/".join([b"x" * 255] * 10)
    odd = b"\xff\xfe\n\x1b[31m \\"
    target, _ = unpack_layer(
        tmp_path, entry(long, "deep"), entry(odd, "odd"), entry("p", records={"path": odd + b"2"})
    )
    root = os.fsencode(target)
    assert sorted(os.listdir(root)) == sorted([odd, odd + b"2", b"x" * 255])
    with open(root + b"/" + odd, "rb") as file:
        assert file.read() == b"odd"


def test_deep_trees(tmp_path: Path) -> None:
    deep = "/".join("d" * 2000)
    target, _ = unpack_layer(
        tmp_path, entry(deep, "x"), entry("d", "file"), entry(deep, "again"), directory(deep[:-2])
    )
    for path in (target, tmp_path / "diff.trash"):
        remove_tree(str(path))
    assert os.listdir(tmp_path) == []


def test_holes_are_kept(tmp_path: Path) -> None:
    if shutil.which("tar") is None:
        pytest.skip("no tar program")
    source = tmp_path / "source"
    source.mkdir()
    with (source / "holes").open("wb") as file:
        file.seek(1 << 26)
        file.write(b"end")
        file.truncate(1 << 27)
    for options in (["--format=gnu"], ["--format=posix"]):
        subprocess.run(["tar", "-S", *options, "-C", source, "-cf", tmp_path / "x.tar", "."], check=True)
        target, report = unpack_layer(tmp_path, (tmp_path / "x.tar").read_bytes(), end=b"", name=options[0])
        status = (target / "holes").stat()
        assert (status.st_size, report.size) == (1 << 27, 1 << 27)
        assert status.st_blocks * 512 < 1 << 20
        subprocess.run(["cmp", source / "holes", target / "holes"], check=True)


def test_the_root_of_the_layer(tmp_path: Path) -> None:
    target, _ = unpack_layer(tmp_path, directory("./", 0o1777, uid=4, mtime=12))
    status = target.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_mtime) == (0o1777, 4, 12)
    for number, item in enumerate(
        [entry("./", "x"), symlink("/", "/etc"), hardlink("a/..", "b"), entry("..", type=b"6")]
    ):
        with pytest.raises(ImageError, match="root of the layer"):
            unpack_layer(tmp_path, item, name=f"bad{number}")


def test_two_unpackings_are_equal(tmp_path: Path) -> None:
    content = [entry("a/b/f", "x"), opaque("a/o"), symlink("s", "t"), whiteout("w")]
    one, _ = unpack_layer(tmp_path, *content, name="one")
    two, _ = unpack_layer(tmp_path, *content, name="two")
    for path in ("", "a", "a/b", "a/b/f", "a/o", "s"):
        a, b = (one / path).lstat(), (two / path).lstat()
        assert (a.st_mode, a.st_mtime_ns, a.st_size) == (b.st_mode, b.st_mtime_ns, b.st_size)


# -- damage and bounds


def test_a_cut_layer_names_the_entry(tmp_path: Path) -> None:
    data = layer(entry("good", "x"), entry("cut", "y" * 2000))
    with pytest.raises(ImageError, match=r"^layer\.tar: cut short in the middle of 'cut'"):
        unpack_layer(tmp_path, data[:2000], end=b"")


def test_what_the_filesystem_refuses_names_the_entry(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"^layer\.tar: 's': "):
        unpack_layer(tmp_path, symlink("s", ""))


def test_limits(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="2 entries"):
        unpack_layer(tmp_path, entry("a"), entry("b"), entry("c"), limits=Limits(max_entries=2))


def test_what_is_remembered_is_bounded(tmp_path: Path) -> None:
    fat = {"SCHILY.xattr.user.k": b"x" * 60_000}
    for number, item in enumerate([lambda n: directory(str(n), records=fat), lambda n: whiteout(f"{n:0200}" * 1)]):
        with pytest.raises(ImageError, match="memory"):
            unpack_layer(
                tmp_path, *map(item, range(400)), limits=Limits(max_remembered=200_000), name=f"diff{number}"
            )


def test_many_replacements_stay_fast(tmp_path: Path) -> None:
    turns = [item for n in range(3000) for item in (directory(f"d/{n % 7}"), entry(f"d/{n % 7}", "x"))]
    target, _ = unpack_layer(tmp_path, *turns)
    assert len(names(target)) == 8


def test_a_global_header_does_not_rename_entries(tmp_path: Path) -> None:
    target, _ = unpack_layer(tmp_path, pax({"path": "evil"}, type=b"g"), entry("f"))
    assert names(target) == ["f"]
