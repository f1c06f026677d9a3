"""A mount in use: many clients, large copy-ups, constant inode numbers, open files while all else moves."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mounts import Layers, Mounter
from trees import File, Symlink, build

CLIENT = """
import os, sys
where, number = sys.argv[1], sys.argv[2]
os.chdir(where)
for step in range(10):
    name = f"client{number}-{step}"
    with open(name, "x") as file:
        file.write(name)
    os.rename(name, name + ".done")
    with open(f"lower{int(number) % 20}", "a") as file:
        file.write(".")
    with open(name + ".done") as file:
        assert file.read() == name
    os.listdir(".")
"""


@pytest.mark.timeout(180, method="signal")
def test_100_clients_at_once(layers: Layers, union: Mounter) -> None:
    build(layers.lower[0], {f"lower{number}": "start" for number in range(20)})
    with union(layers) as merged:
        clients = [
            subprocess.Popen([sys.executable, "-IS", "-c", CLIENT, merged, str(number)], stderr=subprocess.PIPE)
            for number in range(100)
        ]
        complaints = [client.communicate()[1] for client in clients]
        assert [client.returncode for client in clients] == [0] * 100, b"".join(complaints).decode()
        assert len(os.listdir(merged)) == 20 + 1000
        for number in range(20):
            assert (merged / f"lower{number}").read_bytes() == b"start" + b"." * 50


@pytest.mark.slow
@pytest.mark.timeout(300, method="signal")
def test_a_large_copy_up_does_not_stall_others(layers: Layers, our_mount: Mounter) -> None:
    """Requests are answered while 512 MiB are copied: counted between its start and its end."""
    size = 512 << 20
    with open(layers.lower[0] / "large", "wb") as file:
        block = os.urandom(1 << 20)
        for _ in range(size >> 20):
            file.write(block)
        file.truncate(1 << 30)
    build(layers.lower[0], {"dir": {f"file{number}": "x" for number in range(5000)}})
    with our_mount(layers) as merged:
        os.listdir(merged / "dir")
        starting, started = os.pipe()
        ending, ended = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.write(started, b"!")
                descriptor = os.open(merged / "large", os.O_WRONLY | os.O_APPEND)
                os.write(descriptor, b"+")
                os.write(ended, b"!")
                status = 0
            finally:
                os._exit(status)
        os.close(ended)
        os.set_blocking(ending, False)
        os.read(starting, 1)
        answered = 0
        for number in range(5000):
            (merged / "dir" / f"file{number}").read_bytes()
            os.close(os.open(merged / f"new{number}", os.O_CREAT | os.O_WRONLY))
            try:
                os.read(ending, 1)
                break
            except BlockingIOError:
                answered += 1
        assert os.waitpid(pid, 0)[1] == 0
        for descriptor in (starting, started, ending):
            os.close(descriptor)
        assert answered > 3
        status = os.stat(merged / "large")
        assert status.st_size == (1 << 30) + 1
        assert status.st_blocks * 512 < size + (64 << 20)
        with open(merged / "large", "rb") as file:
            for number in range(0, size >> 20, 37):
                assert os.pread(file.fileno(), 1 << 20, number << 20) == block
            assert os.pread(file.fileno(), 10, (1 << 30) - 2) == b"\0\0+"


def test_inode_numbers_are_constant(tmp_path: Path, union: Mounter) -> None:
    """Over copy-up, rename and another mount."""
    layers = Layers.create(tmp_path, lowers=2)
    build(layers.lower[0], {"dir": {}})
    build(
        layers.lower[1],
        {"file": "x", "moved": "x", "dir": {"below": File("x", 0o600)}, "pure": {"x": ""}, "link": Symlink("x")},
    )
    names = {
        "file": "file",
        "moved": "dir/renamed",
        "dir": "dir",
        "dir/below": "dir/below",
        "pure": "pure",
        "link": "link",
    }

    def numbers(merged: Path, which: list[str]) -> list[int]:
        return [os.lstat(merged / name).st_ino for name in which]

    with union(layers) as merged:
        before = numbers(merged, list(names))
        assert len(set(before)) == len(before)
        for name in ("file", "moved", "dir/below"):
            with open(merged / name, "ab") as file:
                file.write(b"y")
        os.rename(merged / "moved", merged / "dir" / "renamed")
        os.chmod(merged / "pure", 0o700)
        os.chown(merged / "link", 1, 1, follow_symlinks=False)
        assert numbers(merged, list(names.values())) == before
    with union(layers) as merged:
        assert numbers(merged, list(names.values())) == before
        with os.scandir(merged / "dir") as entries:
            assert {entry.name: entry.inode() for entry in entries} == {"renamed": before[1], "below": before[3]}


def test_a_listing_after_a_remount_has_the_numbers_of_stat(tmp_path: Path, union: Mounter) -> None:
    """Without a stat before that would have told the numbers."""
    layers = Layers.create(tmp_path)
    build(layers.lower[0], {f"file{number}": "x" for number in range(20)})
    with union(layers) as merged:
        for number in range(0, 20, 2):
            os.chmod(merged / f"file{number}", 0o600)
        (merged / "new").write_bytes(b"")
    with union(layers) as merged:
        with os.scandir(merged) as entries:
            listed = {entry.name: entry.inode() for entry in entries}
        assert listed == {name: os.lstat(merged / name).st_ino for name in listed}


def test_all_of_a_mount_is_one_device(tmp_path: Path, union: Mounter) -> None:
    layers = Layers.create(tmp_path, lowers=2)
    build(layers.lower[0], {"dir": {"top": "x"}, "one": "x"})
    build(layers.lower[1], {"dir": {"bottom": "x"}, "two": "x"})
    with union(layers) as merged:
        (merged / "new").write_bytes(b"")
        devices = {os.lstat(merged / name).st_dev for name in ("one", "two", "new", "dir", "dir/top", "dir/bottom")}
        assert devices == {os.stat(merged).st_dev}


def test_open_unlinked_files_outlive_the_caches(layers: Layers, our_mount: Mounter, requires) -> None:
    requires("drop_caches")
    build(layers.lower[0], {f"file{number}": f"content{number}" for number in range(50)})
    with our_mount(layers) as merged:
        files = [open(merged / f"file{number}", "r+b", buffering=0) for number in range(50)]  # noqa: SIM115
        for number, file in enumerate(files):
            os.unlink(merged / f"file{number}")
            if number % 2:
                file.write(b"C")
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
        assert os.listdir(merged) == []
        for number, file in enumerate(files):
            data = os.pread(file.fileno(), 100, 0)
            assert data == f"{'C' if number % 2 else 'c'}ontent{number}".encode()
            file.close()
    assert not [name for name in os.listdir(layers.upper) if (layers.upper / name).is_file()]


def test_a_tree_is_removed_while_another_process_lists_it(layers: Layers, union: Mounter) -> None:
    build(layers.lower[0], {"tree": {f"dir{number}": {"file": "x"} for number in range(100)}})
    script = "import os, sys\nwhile True:\n    sum(len(files) for _, _, files in os.walk(sys.argv[1]))"
    with union(layers) as merged:
        walker = subprocess.Popen([sys.executable, "-IS", "-c", script, merged])
        try:
            subprocess.run(["rm", "-r", merged / "tree"], check=True, timeout=60)
            assert walker.poll() is None
        finally:
            walker.kill()
            walker.wait()
        assert os.listdir(merged) == []
        with pytest.raises(OSError) as caught:
            os.rmdir(merged / "tree")
        assert caught.value.errno == errno.ENOENT
