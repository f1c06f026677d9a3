"""Layers made to do harm: symlinks, crafted marks, odd names, sizes. The kernel says what is right."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mounts
import pytest
from mounts import Layers, Mounter, Options
from ordinary import as_a_person, owned_by_a_person
from trees import OLD_NS, Device, Dir, Fifo, File, Node, Symlink, build, diff, snapshot

from pyunionfs import Overlay, Paths

NAMES = [
    b"\n",
    b"new\nline",
    b"\xff\xfe",
    b"\x1b[2J\x1b]0;title\x07",
    b"x" * 255,
    b"-rf",
    b"*",
    b"\\",
    b" ",
    b"...",
]
REDIRECTS = [
    b"../outside", b"/../outside", b"/../../outside", b"..", b".", b"/", b"", b"a/b", b"/a/../../outside", b"/a//b",
    b"/link", b"/link/sub", b"link", b"\xff", b"x" * 300, b"/" + b"y" * 2000, b"dir\n", b"/dir/",
]  # fmt: skip
SECRET = "secret of the machine"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "pyunionfs", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=60, check=False)


# -- symlinks


def test_a_symlink_in_a_layer_is_no_directory_of_the_union(tmp_path: Path) -> None:
    """Absolute, upwards, and to a directory inside: in process, none of them is a way to anywhere."""
    layers = Layers.create(tmp_path, lowers=2)
    build(tmp_path / "outside", {"secret": SECRET, "sub": {"secret": SECRET}})
    links: dict[str | bytes, Node] = {
        "absolute": Symlink(os.fspath(tmp_path / "outside")),
        "up": Symlink("../outside"),
        "root": Symlink("/"),
        "here": Symlink("."),
        "loop": Symlink("loop"),
    }
    build(layers.lower[0], links)
    build(layers.lower[1], {name: {"secret": "hidden", "sub": {"secret": "hidden"}} for name in links})
    before = snapshot(tmp_path / "outside")
    with Overlay(layers.lower, layers.upper, layers.work) as overlay:
        files = Paths(overlay)
        assert sorted(map(os.fsdecode, files.listdir())) == sorted(links)
        for name in links:
            for path in (f"{name}/secret", f"{name}/sub/secret", f"{name}/sub"):
                assert not files.exists(path)
                with pytest.raises((NotADirectoryError, FileNotFoundError)):
                    files.write_bytes(path, b"x")
                with pytest.raises((NotADirectoryError, FileNotFoundError)):
                    files.mkdir(path)
            files.rename(name, f"{name}2")
            files.unlink(f"{name}2")
    assert snapshot(tmp_path / "outside") == before


# -- marks


def crafted(prefix: str) -> dict[str | bytes, Node]:
    """Each mark on each kind of object that can have xattrs, with values of any kind."""
    values = {
        "opaque": (b"y", b"x", b"n", b"", b"yy" * 1000),
        "metacopy": (b"", b"\0\4\0\1" + bytes(32), b"\0" * 2000),
        "origin": (b"", b"\0\xfb\x1d\0\1" + bytes(24), b"\xff" * 300),
        "redirect": tuple(REDIRECTS),
        **dict.fromkeys(
            ("impure", "whiteout", "nlink", "upper", "protattr", "unknown"), (b"y", b"U+1", b"\0" * 100)
        ),
    }
    tree: dict[str | bytes, Node] = {}
    for mark, chosen in values.items():
        for number, value in enumerate(chosen):
            xattrs = {f"{prefix}{mark}": value}
            tree[f"{mark}{number}-dir"] = Dir({"above": "x"}, xattrs=xattrs)
            tree[f"{mark}{number}-file"] = File("content", xattrs=xattrs)
            tree[f"{mark}{number}-empty"] = File("", xattrs=xattrs)
    return tree


def prepare(tmp_path: Path, prefix: str) -> Layers:
    layers = Layers.create(tmp_path, lowers=2)
    build(tmp_path / "outside", {"secret": SECRET, "sub": {"secret": SECRET}})
    below: dict[str | bytes, Node] = {name: {"below": "y"} for name in crafted(prefix) if name.endswith("-dir")}
    build(layers.lower[1], {**below, "link": Symlink("../outside"), "a": {"b": {}}, "dir": {}})
    build(layers.lower[0], {**crafted(prefix), "fine": "fine"})
    for lower in layers.lower:
        os.utime(lower, ns=(OLD_NS, OLD_NS))
    return layers


def walk(root: Path) -> dict[bytes, object]:
    """All that can be seen, and the errors of what cannot."""
    found: dict[bytes, object] = {}
    where = [os.fsencode(root)]
    while where:
        directory = where.pop()
        try:
            names = os.listdir(directory)
        except OSError:
            found[os.path.relpath(directory, os.fsencode(root)) + b"/"] = "refused"
            continue
        for name in names:
            path = os.path.join(directory, name)
            key = os.path.relpath(path, os.fsencode(root))
            try:
                mode = os.lstat(path).st_mode
                found[key] = Path(os.fsdecode(path)).read_bytes() if stat.S_ISREG(mode) else stat.S_IFMT(mode)
                where += [path] if stat.S_ISDIR(mode) else []
            except OSError:
                found[key] = "refused"
    return found


CLIMBING = {"up": "..", "out": "/../outside", "round": "/dir/../../outside", "here": "/dir/."}


def climbing(prefix: str) -> dict[str | bytes, Node]:
    """Directories whose redirects would leave the layers below."""
    return {name: Dir({}, xattrs={f"{prefix}redirect": value.encode()}) for name, value in CLIMBING.items()}


def test_a_redirect_with_dots_is_refused_as_by_the_kernel(tmp_path: Path, requires: Callable[..., None]) -> None:
    requires("kernel_overlay", "pyunionfs")
    layers = Layers.create(tmp_path, lowers=2)
    build(layers.lower[0], climbing("trusted.overlay."))
    build(layers.lower[1], {"dir": {"file": "x"}})
    for mounter in (mounts.kernel, mounts.ours):
        with mounter(layers, mounts.REDIRECT) as merged:
            for name in CLIMBING:
                with pytest.raises(PermissionError):
                    os.listdir(merged / name)


def test_a_redirect_leads_no_ordinary_user_out_of_a_layer(tmp_path: Path, requires: Callable[..., None]) -> None:
    """Who may not clone a mount has no root of it at which ``..`` would end."""
    requires("other_users")

    def look() -> int:
        layered = Overlay([layers.lower[0], layers.upper], options={"userxattr": "on", "redirect_dir": "on"})
        with layered as overlay:
            for name in CLIMBING:
                with pytest.raises(PermissionError):
                    Paths(overlay).listdir(name)
            return 0 if Paths(overlay).listdir("dir") == [b"file"] else 2

    with owned_by_a_person(tmp_path.name, climbing("user.overlay.")) as layers:
        build(layers.upper, {"dir": {"file": "x"}})
        assert as_a_person(look) == 0


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"redirect_dir": "on", "metacopy": "on"}, id="redirects-followed"),
        pytest.param({"redirect_dir": "nofollow"}, id="nofollow"),
    ],
)
def test_crafted_marks_show_nothing_from_outside(
    tmp_path: Path, our_mount: Mounter, options: dict[str, str]
) -> None:
    layers = prepare(tmp_path, "trusted.overlay.")
    try:
        Overlay(layers.lower, options=options).close()
    except OSError as error:
        pytest.skip(f"{options}: {error.strerror}")
    before = snapshot(tmp_path / "outside")
    with our_mount(layers, {**mounts.PLAIN, **options}) as merged:
        pid = mounts.daemon_of(merged)
        seen = walk(merged)
        assert SECRET.encode() not in [value for value in seen.values() if isinstance(value, bytes)]
        for path in [merged / os.fsdecode(name) for name in seen]:
            if os.path.islink(path):
                continue  # it is its user's to follow, which would be this test
            for action in (
                lambda path=path: os.chmod(path, 0o700),
                lambda path=path: path.joinpath("new").write_text("x") if path.is_dir() else None,
                lambda path=path: os.rename(path, f"{path}.moved"),
            ):
                try:
                    action()
                except OSError:
                    pass  # refused is fine; what is not is tested below
        assert (merged / "fine.moved").read_text() == "fine"
        assert mounts.daemon_of(merged) == pid
    assert snapshot(tmp_path / "outside") == before


def test_marks_that_an_ordinary_user_can_write_mean_nothing_to_a_mount_by_root(
    tmp_path: Path, our_mount: Mounter, kernel_mount: Mounter
) -> None:
    """user.overlay.* in a layer is plain data, to the kernel and to us."""
    layers = prepare(tmp_path, "user.overlay.")
    with kernel_mount(layers) as merged:
        expected, shown_by_kernel = walk(merged), snapshot(merged)
    assert b"opaque0-dir/below" in expected
    assert "refused" not in expected.values()
    other = layers.with_upper(tmp_path / "other")
    with our_mount(other) as merged:
        assert walk(merged) == expected
        difference = diff(snapshot(merged), shown_by_kernel, names=("ours", "kernel"))
        assert not difference, difference


# -- names and shapes


def test_any_name_goes_through_all_operations(layers: Layers, union: Mounter) -> None:
    build(layers.lower[0], dict.fromkeys(NAMES, "lower") | {b"d" + name[:200]: {name: "x"} for name in NAMES})
    with union(layers) as merged:
        root = os.fsencode(merged)
        for name in NAMES:
            path = os.path.join(root, name)
            with open(path, "ab") as file:
                file.write(b"+")
            os.rename(path, root + b"/moving")
            os.rename(root + b"/moving", path)
            os.unlink(os.path.join(root, b"d" + name[:200], name))
        assert set(NAMES) <= set(os.listdir(root))
        assert all(os.listdir(os.path.join(root, b"d" + name[:200])) == [] for name in NAMES)


def test_names_of_a_layer_cannot_write_to_the_terminal(layers: Layers) -> None:
    build(layers.upper, dict.fromkeys(NAMES, "x"))
    for command in (("diff", layers.upper), ("explain", "--lower", layers.upper, os.fsdecode(NAMES[3]))):
        done = run(*command)
        assert done.returncode == 0, done.stderr
        assert b"\x1b" not in done.stdout
        assert len(done.stdout.splitlines()) == (len(NAMES) if command[0] == "diff" else 5)


def test_json_tells_any_name(layers: Layers) -> None:
    build(layers.upper, dict.fromkeys(NAMES, "x"))
    done = run("diff", "--json", layers.upper)
    assert done.returncode == 0, done.stderr
    assert {os.fsencode(row["path"]) for row in json.loads(done.stdout)} == {b"/" + name for name in NAMES}


def test_names_of_a_layer_cannot_write_lines_of_the_log(layers: Layers, tmp_path: Path) -> None:
    import pyunionfs

    forged = b"x\n2024-01-01 00:00:00,000 INFO whiteout /etc/passwd"
    build(layers.lower[0], {forged.replace(b"/", b"_"): "x"})
    log = tmp_path / "log"
    with pyunionfs.mounted(lower=layers.lower, upper=layers.upper, work=layers.work, log_file=log) as merged:
        for path in merged.iterdir():
            path.unlink()
    assert sum("whiteout" in line for line in log.read_text().splitlines()) == 1


def test_a_file_larger_than_any_disk_is_copied_up_as_its_holes(layers: Layers, union: Mounter) -> None:
    with (layers.lower[0] / "huge").open("wb") as file:
        file.seek(1 << 40)
        file.write(b"end")
    with union(layers) as merged:
        os.chmod(merged / "huge", 0o600)
        status = (merged / "huge").stat()
        assert status.st_size == (1 << 40) + 3
        assert status.st_blocks * 512 < 1 << 20
        with (merged / "huge").open("rb") as file:
            assert os.pread(file.fileno(), 5, (1 << 40) - 2) == b"\0\0end"


def test_thousands_of_levels(layers: Layers) -> None:
    """Deeper than PATH_MAX, deeper than Python's recursion: made and asked by descriptors and names alone."""
    fd = os.open(layers.lower[0], os.O_DIRECTORY)
    for _ in range(1300):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    deep = "d/" * 1300
    with Overlay(layers.lower, layers.upper, layers.work) as overlay:
        Paths(overlay).write_bytes(deep + "file", b"copied up")
    with Overlay(layers.lower, layers.upper, layers.work) as overlay:
        assert Paths(overlay).read_bytes(deep + "file") == b"copied up"
    assert run("diff", "--lower", layers.lower[0], layers.upper).stdout.endswith(b"/file\n")
    subprocess.run(["rm", "-rf", layers.lower[0] / "d", layers.upper / "d"], check=True)


def test_special_objects_are_described_and_never_opened(layers: Layers, requires: Callable[..., None]) -> None:
    """Not by a look, not by a copy-up, not by the views: a fifo would wait, a device would act."""
    requires("devices")
    build(
        layers.lower[0],
        {"fifo": Fifo(), "zero": Device(1, 5), "tape": Device(9, 0), "disk": Device(7, 99, block=True)},
    )
    options: Options = {}
    with Overlay(layers.lower, layers.upper, layers.work, options=options) as overlay:
        files = Paths(overlay)
        for name in ("fifo", "zero", "tape", "disk"):
            files.chmod(name, 0o600)
            files.rename(name, f"{name}2")
            assert files.stat(f"{name}2").mode & 0o777 == 0o600
    assert b"C /fifo2" in run("diff", "--lower", layers.lower[0], layers.upper).stdout.replace(b"A ", b"C ")
