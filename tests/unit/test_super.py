"""What is checked before a union is opened, and what its directories are protected from."""

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ordinary import as_a_person, owned_by_a_person

from pyunionfs import Overlay, Paths
from pyunionfs.overlay import workdir


@pytest.fixture
def dirs(tmp_path: Path) -> Path:
    for name in ("lower/sub", "other", "upper/sub", "work"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("lower", "upper", "work", "number", "words"),
    [
        (["lower", "lower"], "upper", "work", errno.ELOOP, "given twice"),
        (["lower", "lower/sub"], "upper", "work", errno.ELOOP, "overlaps the lower"),
        (["lower/sub", "lower"], None, None, errno.ELOOP, "overlaps the lower"),
        (["upper/sub"], "upper", "work", errno.ELOOP, "overlaps the upper"),
        (["upper"], "upper", "work", errno.ELOOP, "overlaps the upper"),
        (["work"], "upper", "work", errno.ELOOP, "overlaps the work"),
        (["lower"], "upper", "upper/sub", errno.EINVAL, "separate subtrees"),
        (["lower"], "upper/sub", "upper", errno.EINVAL, "separate subtrees"),
        (["lower"], "upper", "upper", errno.EINVAL, "separate subtrees"),
        (["lower"], "upper", "/dev/shm", errno.EINVAL, "same (filesystem|mount)"),
        (["missing"], None, None, errno.ENOENT, "lower layer .*missing"),
        (["lower"], "missing", None, errno.ENOENT, "upper directory .*missing"),
        (["lower"], "upper", "missing", errno.ENOENT, "missing"),
        ([], "upper", "work", errno.EINVAL, "at least one lower"),
    ],
)
def test_layers_that_cannot_be_stacked(
    dirs: Path, lower: list[str], upper: str | None, work: str | None, number: int, words: str
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=words) as caught:
        Overlay(
            [dirs / name for name in lower],
            dirs / upper if upper else None,
            dirs / work if work else None,
        )
    assert caught.value.errno == number
    assert len(os.listdir("/proc/self/fd")) == before, "a descriptor is left"
    assert {path.name for path in dirs.iterdir()} == {"lower", "other", "upper", "work"}


@pytest.mark.parametrize("lower", ["work", "work/work"])
def test_a_work_directory_named_by_mistake_is_not_emptied(dirs: Path, lower: str) -> None:
    (dirs / "work/work").mkdir()
    (dirs / "work/work/precious").touch()
    with pytest.raises(OSError, match="overlaps the work") as caught:
        Overlay([dirs / lower], dirs / "upper", dirs / "work")
    assert caught.value.errno == errno.ELOOP
    assert (dirs / "work/work/precious").exists()


def test_an_upper_directory_may_lie_in_a_lower_layer(dirs: Path) -> None:
    with Overlay([dirs], dirs / "upper", dirs / "work") as overlay:
        Paths(overlay).write_bytes("new", b"x")
    assert (dirs / "upper/new").read_bytes() == b"x"


@pytest.mark.parametrize("taken", ["upper", "work"])
def test_directories_in_use_are_busy(dirs: Path, taken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workdir, "LOCK_WAIT", 0.1)
    (dirs / "upper2").mkdir()
    (dirs / "work2").mkdir()
    second = {"upper": "upper2", "work": "work2"} | {taken: taken}
    with Overlay([dirs / "lower"], dirs / "upper", dirs / "work"):
        with pytest.raises(OSError, match=f"{taken} directory .* is in use") as caught:
            Overlay([dirs / "lower"], dirs / second["upper"], dirs / second["work"])
        assert caught.value.errno == errno.EBUSY
    Overlay([dirs / "lower"], dirs / "upper", dirs / "work").close()


def test_a_dying_predecessor_is_waited_for(dirs: Path) -> None:
    program = (
        "import sys, time, pyunionfs; o = pyunionfs.Overlay([sys.argv[1]], sys.argv[2], sys.argv[3]);"
        "print('up', flush=True); time.sleep(0.4)"
    )
    arguments = [str(dirs / name) for name in ("lower", "upper", "work")]
    with subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE) as predecessor:
        assert predecessor.stdout is not None
        assert predecessor.stdout.readline() == b"up\n"
        Overlay(arguments[:1], arguments[1], arguments[2]).close()
        assert predecessor.wait() == 0


def test_what_a_crash_left_in_the_work_directory_is_removed(dirs: Path) -> None:
    left = dirs / "work/work"
    (left / "#1/deep/er").mkdir(parents=True)
    (left / "#2").write_bytes(b"half")
    os.mknod(left / "#3", stat.S_IFCHR, 0)
    os.chmod(left / "#1/deep", 0)
    os.chmod(left, 0)  # as the kernel leaves it
    with Overlay([dirs / "lower"], dirs / "upper", dirs / "work"):
        assert list(left.iterdir()) == []
    assert list(left.iterdir()) == []


def test_a_volatile_upper_directory_is_refused(dirs: Path) -> None:
    (dirs / "work/work/incompat/volatile").mkdir(parents=True)
    with pytest.raises(OSError, match="volatile") as caught:
        Overlay([dirs / "lower"], dirs / "upper", dirs / "work")
    assert caught.value.errno == errno.EINVAL
    assert (dirs / "work/work/incompat/volatile").is_dir()


def test_the_default_work_directory_is_a_hidden_sibling(dirs: Path) -> None:
    with Overlay([dirs / "lower"], dirs / "upper") as overlay:
        Paths(overlay).mkdir("new")
        assert overlay.work_path == str(dirs / ".upper.work")
    assert (dirs / "upper/new").is_dir()


def test_a_work_directory_prepared_by_somebody_else_is_not_trusted(dirs: Path) -> None:
    victim = dirs / "victim"
    victim.mkdir(mode=0o755)
    (dirs / "work/work").symlink_to(victim)
    with Overlay([dirs / "lower"], dirs / "upper", dirs / "work") as overlay:
        Paths(overlay).mkdir("new")
        assert not (dirs / "work/work").is_symlink()
    assert stat.S_IMODE(victim.stat().st_mode) == 0o755
    (dirs / ".upper.work").symlink_to(victim)
    with pytest.raises(OSError, match="is not yours") as caught:
        Overlay([dirs / "lower"], dirs / "upper")
    assert caught.value.errno == errno.EPERM


def test_notes_of_a_dead_daemon_take_permissions_back_and_do_nothing_else(
    tmp_path: Path, requires: Callable[..., None]
) -> None:
    """Whatever they say, whoever wrote them (see ``Workdir.opened_up``)."""
    requires("other_users")
    with owned_by_a_person(tmp_path.name, {}) as layers:
        modes = {"noted": 0o755, "changed": 0o711, "another": 0o755, "aside": 0o755}
        for name, mode in modes.items():
            path = layers.upper / name if name != "aside" else layers.upper.parent / name
            path.mkdir()
            path.chmod(mode)
            os.chown(path, 1000, 1000)
        at = {name: os.lstat(layers.upper / name).st_ino for name in modes if name != "aside"}
        aside = layers.upper.parent / "aside"
        notes = [
            f"555 200 {at['noted']} /noted",
            f"555 200 {at['changed']} /changed",
            f"555 200 {at['noted']} /another",
            f"555 200 {os.lstat(aside).st_ino} /../aside",
            f"055 7700 {at['another']} /another/../another",
            f"555 200 {at['noted']} /missing",
            "no note",
            "x y z /noted",
        ]
        (layers.work / "work").mkdir()
        os.chown(layers.work / "work", 1000, 1000)
        for number, note in enumerate(notes):
            os.symlink(note, layers.work / f"work/#mode{number}")
        (layers.work / "work/#mode").touch()
        assert as_a_person(lambda: Overlay(layers.lower, layers.upper, layers.work).close() or 0) == 0
        found = {name: stat.S_IMODE(os.lstat(layers.upper / name).st_mode) for name in at}
        assert found == {"noted": 0o555, "changed": 0o711, "another": 0o755}
        assert stat.S_IMODE(aside.stat().st_mode) == 0o755
        assert os.listdir(layers.work / "work") == []


def test_many_whiteouts_share_one_inode(dirs: Path) -> None:
    for number in range(50):
        (dirs / "lower" / str(number)).touch()
    with Overlay([dirs / "lower"], dirs / "upper", dirs / "work") as overlay:
        for number in range(50):
            Paths(overlay).unlink(str(number))
        assert len({(dirs / "upper" / str(number)).lstat().st_ino for number in range(50)}) == 1


@pytest.mark.parametrize("limit", [70, 1000, 20_000])
def test_the_table_of_descriptors_is_as_large_as_it_may_become(dirs: Path, limit: int) -> None:
    """Growing it takes 10 ms where threads share it."""
    program = (
        "import sys, resource; from pyunionfs import Overlay\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, int(sys.argv[2])))\n"
        "with Overlay([sys.argv[1]]), open('/proc/self/status') as status:\n"
        "    print(dict(line.split(':') for line in status)['FDSize'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, dirs / "lower", str(limit)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) >= limit
