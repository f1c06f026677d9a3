"""The store is looked after: what it takes, what is wrong in it, what nobody needs; and what kill -9 leaves."""

import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mounts
import pytest
from ours import Ours, until
from processes import in_processes

NOBODY = "0" * 64

pytestmark = pytest.mark.parametrize("ours", ["none"], indirect=True)


def check(ours: Ours, *words: str, status: int) -> dict[str, Any]:
    """What a check tells, by where."""
    told = json.loads(ours("system", "check", "--json", *words, status=status))
    return {item["where"]: item for item in told}


def is_alive(pid: int) -> bool:
    """Zombies do not count: who should wait for them was killed."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def one(directory: Path) -> Path:
    (found,) = directory.iterdir()
    return found


def test_what_it_takes_and_what_of_it_is_in_use(ours: Ours) -> None:
    def df() -> dict[str, Any]:
        return {item["kind"]: item for item in json.loads(ours("system", "df", "--json"))}

    before = df()
    assert (before["Layers"]["total"], before["Layers"]["active"], before["Containers"]["total"]) == (1, 0, 0)
    assert 0 < before["Layers"]["size"] == before["Layers"]["reclaimable"]
    ours.run("--name", "one", "app:1", "sh", "-c", "cat /bin/busybox /bin/busybox >/data/big")
    after = df()
    assert after["Layers"]["size"] == before["Layers"]["size"]
    assert (after["Layers"]["reclaimable"], after["Blobs"]["reclaimable"]) == (0, 0)
    assert after["Containers"]["reclaimable"] > (ours.root / "containers").stat().st_size
    shown = ours("system", "df").splitlines()
    assert shown[0].split() == ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]
    assert [line.split()[0] for line in shown[1:]] == ["Layers", "Blobs", "Containers"]


def test_what_nobody_needs_is_removed(ours: Ours) -> None:
    ours.run("-d", "--name", "lives", "app:1", "sleep", "1000")
    ours.run("--name", "ended", "app:1", "sh", "-c", "echo 1 >/data/new")
    made = ours("commit", "ended").strip()
    refused = ours.attempt("system", "prune", input="n\n")
    assert refused.returncode == 1
    assert len(ours("ps", "-aq").split()) == 2
    removed = ours("system", "prune", "--force")
    assert f"image {made}" in removed
    assert "reclaimed" in removed
    assert [item["Name"] for item in json.loads(ours("ps", "-a", "--json"))] == ["lives"]
    assert ours("exec", "lives", "echo", "alive") == "alive\n"
    ours("rm", "-f", "lives")
    assert json.loads(ours("image", "ls", "--json"))
    ours("system", "prune", "--force", "--all")
    assert json.loads(ours("image", "ls", "--json")) == []
    assert not list((ours.root / "layers/sha256").iterdir())
    assert not list((ours.root / "blobs/sha256").iterdir())


def test_what_was_killed_is_put_right(ours: Ours) -> None:
    ours.run("-d", "--name", "one", "app:1", "sleep", "1000")
    pid = ours.inspect("one")["State"]["Pid"]
    assert check(ours, status=0) == {}
    ours.kill_runner()
    ours.until("one", "exited")
    assert check(ours, status=1)["container one"]["repairable"]
    assert check(ours, "--repair", status=0)["container one"]["repaired"]
    assert check(ours, status=0) == {}
    assert not is_alive(pid)
    assert not [point for point in mounts.mount_points() if point.is_relative_to(ours.root)]
    ours("start", "one")
    assert ours("exec", "one", "echo", "alive") == "alive\n"


def test_what_is_left_over_is_removed(ours: Ours) -> None:
    ours.run("--name", "one", "app:1", "sh", "-c", "rm /data/old")
    image = json.loads(ours("image", "ls", "--json"))[0]["Id"].partition(":")[2]
    (ours.root / "containers" / NOBODY).mkdir()
    (ours.root / "tmp" / "dead").mkdir(exist_ok=True)
    (ours.root / "layers/sha256" / NOBODY / "diff").mkdir(parents=True)
    (ours.root / "blobs/sha256" / NOBODY).write_text("x")
    found = check(ours, status=1)
    expected = {f"{kind} {NOBODY[:12]}" for kind in ("container", "layer", "blob")} | {"tmp/dead"}
    assert found.keys() == expected
    assert all(item["repairable"] for item in found.values())
    assert check(ours, "--repair", status=0).keys() == expected
    assert check(ours, status=0) == {}
    assert ours("system", "check") == f"{ours.root}: sound\n"
    assert (ours.root / "images/sha256" / image).is_dir()


def test_what_is_lost_is_told_and_nothing_is_removed_for_it(ours: Ours) -> None:
    ours.run("--name", "one", "app:1", "sh", "-c", "rm /data/old")
    shutil.move(one(ours.root / "blobs/sha256"), ours.root / "kept")
    (found,) = check(ours, "--repair", status=1).values()
    assert "cannot be saved" in found["what"]
    config = one(ours.root / "images/sha256") / "config.json"
    content = config.read_bytes()
    config.write_text("{")
    found = check(ours, "--repair", status=1)
    assert any("not valid JSON" in item["what"] for item in found.values())
    assert one(ours.root / "layers/sha256").is_dir()
    config.write_bytes(content)
    shutil.rmtree(one(ours.root / "layers/sha256"))
    found = check(ours, "--repair", status=1)
    assert any("part of it is missing" in item["what"] for item in found.values())


def test_without_its_images_a_store_keeps_the_rest(ours: Ours) -> None:
    ours.run("--name", "one", "app:1", "sh", "-c", "rm /data/old")
    shutil.move(ours.root / "images", ours.root / "elsewhere")
    for _ in range(2):
        found = check(ours, "--repair", status=1)
        assert {"tag app:1", "container one"} <= found.keys()
        assert not any(item["repairable"] for item in found.values())
    assert one(ours.root / "layers/sha256").is_dir()
    assert one(ours.root / "blobs/sha256").is_file()
    (ours.root / "images").rmdir() if (ours.root / "images").exists() else None
    shutil.move(ours.root / "elsewhere", ours.root / "images")
    assert check(ours, status=0) == {}
    assert ours.run("--rm", "app:1", "cat", "/data/old") == "old"


def test_what_a_container_has_changed_is_kept_without_its_description(ours: Ours) -> None:
    ours.run("--name", "one", "app:1", "sh", "-c", "echo dear >/data/dear")
    container = one(ours.root / "containers")
    (container / "container.json").unlink()
    (found,) = check(ours, "--repair", status=1).values()
    assert not found["repairable"]
    assert (container / "diff/data/dear").read_text() == "dear\n"


def test_a_directory_that_is_no_store_is_left_alone(ours: Ours, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for path in ("containers/storage/overlay", "blobs/a", "layers/sha256/x", f"containers/{NOBODY}", "tmp/dead"):
        (other / path).mkdir(parents=True)
    (other / "blobs/a/b").write_text("x")
    before = sorted(other.rglob("*"))
    for words in (("check", "--repair"), ("prune", "--force", "--all"), ("df",)):
        ours("system", "--root", other, *words)
    assert sorted(other.rglob("*")) == before


def test_no_symlink_leads_a_repair_out_of_the_store(ours: Ours, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "dir").mkdir(parents=True)
    (outside / NOBODY).write_text("x")
    (ours.root / "blobs/md5").symlink_to(outside)
    (ours.root / "layers/sha256" / NOBODY).symlink_to(outside)
    shutil.rmtree(ours.root / "tmp")
    (ours.root / "tmp").symlink_to(outside)
    check(ours, "--repair", status=1)
    ours.attempt("image", "squash", "app:1", "flat:1")
    assert sorted(path.name for path in outside.iterdir()) == sorted([NOBODY, "dir"])


def test_removing_an_image_takes_nothing_of_a_damaged_one(ours: Ours) -> None:
    ours.run("--name", "one", "app:1", "sh", "-c", "echo new >/data/new")
    ours("commit", "one", "app:2")
    ours("rm", "one")
    blobs = set((ours.root / "blobs/sha256").iterdir())
    base = next(path for path in (ours.root / "layers/sha256").iterdir() if (path / "diff/bin/busybox").exists())
    (base / "layer.json").rename(ours.root / "kept")
    ours("image", "rm", "app:2")
    assert set((ours.root / "blobs/sha256").iterdir()) == blobs
    (ours.root / "kept").rename(base / "layer.json")
    ours("system", "check", "--repair")
    assert ours.run("--rm", "app:1", "cat", "/data/old") == "old"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "content" in metafunc.fixturenames:
        more = ["{}", "5", ""] if metafunc.config.getoption("--long") else []
        metafunc.parametrize("content", ["[]", "garbage", *more])


@pytest.mark.parametrize("table", ["tags", "store", "image", "layer", "container"])
def test_a_damaged_table_is_one_line_that_names_it(ours: Ours, table: str, content: str) -> None:
    ours.run("--name", "one", "app:1", "sh", "-c", "rm /data/old")
    (path,) = ours.root.rglob(f"{table}.json")
    path.write_text(content)
    for words in (
        ("system", "check", "--repair"),
        ("system", "df"),
        ("image", "ls"),
        ("image", "rm", "app:1"),
        ("image", "prune"),
        ("ps", "-a"),
        ("info",),
        ("run", "--no-runtime", "--rm", "app:1", "pwd"),
    ):
        done = ours.attempt(*words)
        said = done.stdout + done.stderr
        assert "Traceback" not in said, (words, said)
        assert done.returncode in (0, 1), words
        if done.returncode and "check" not in words:
            assert len(done.stderr.strip().splitlines()) == 1, (words, done.stderr)
    if (table, content) != ("tags", "{}"):  # which says that there are none
        done = ours.attempt("system", "check")
        assert path.name in done.stdout + done.stderr
        assert done.returncode == 1
    shutil.rmtree(ours.root / "containers")


def test_a_blob_that_is_empty_is_not_saved(ours: Ours, tmp_path: Path) -> None:
    one(ours.root / "blobs/sha256").write_bytes(b"")
    done = ours.attempt("image", "save", "app:1", "-o", tmp_path / "saved.tar")
    assert done.returncode == 1
    assert "damaged" in done.stderr
    assert not (tmp_path / "saved.tar").exists()


def test_directories_of_the_store_that_are_gone_are_made_again(ours: Ours) -> None:
    ours.run("--name", "one", "app:1", "sh", "-c", "echo new >/data/new")
    for name in ("tmp", "bundle", "merged"):
        path = ours.root / "tmp" if name == "tmp" else one(ours.root / "containers") / name
        shutil.rmtree(path)
    ours("start", "one")
    ours("rm", "-f", "one")
    ours("image", "rm", "app:1")


def test_a_damaged_upper_directory_is_told(ours: Ours) -> None:
    ours.run("--name", "one", "app:1", "sh", "-c", "rm /data/old")
    (made,) = json.loads(ours("ps", "-a", "--json"))
    upper = ours.root / "containers" / made["Id"] / "diff"
    os.mknod(upper / "nothing", 0o020000, 0)
    found = check(ours, status=1)
    assert "stale-whiteout" in found["container one: nothing"]["what"]
    check(ours, "--repair", status=0)
    assert check(ours, status=0) == {}
    assert not os.path.lexists(upper / "nothing")


@pytest.mark.timeout(900, method="signal")
def test_commands_at_once_do_not_meet(ours: Ours, image: Path, request: pytest.FixtureRequest) -> None:
    """Each may be refused, in one line, and none leaves anything that is wrong."""
    turns = 20 if request.config.getoption("--long") else 3
    loops: list[list[tuple[str, ...]]] = [
        [("run", "--no-runtime", "--rm", "app:1", "cat", "/data/old")],
        [("run", "--no-runtime", "--name", "made", "app:1", "rm", "/data/old"), ("rm", "made")],
        [("run", "--no-runtime", "--name", "same", "app:1", "rm", "/data/old"), ("commit", "same", "app:2")],
        [("image", "load", str(image), "--tag", "again:1"), ("image", "squash", "again:1", "flat:1")],
        [("image", "rm", "flat:1"), ("system", "prune", "--force"), ("system", "df")],
        [("image", "rm", "again:1"), ("image", "verify"), ("ps", "-a"), ("image", "ls")],
    ]

    def work(number: int) -> None:
        for _ in range(turns):
            for words in loops[number]:
                done = ours.attempt(*words)
                said = done.stderr.strip().splitlines()
                assert done.returncode in (0, 1), (words, done.stderr)
                assert not any("Traceback" in line for line in said), (words, done.stderr)
                assert done.returncode == 0 or len(said) <= 2, (words, done.stderr)

    in_processes(len(loops), work, seconds=600)
    assert check(ours, status=0) == {}
    ours("image", "load", image)
    assert ours.run("--rm", "app:1", "cat", "/data/old") == "old"


def test_a_runner_that_is_killed_while_it_mounts_leaves_no_mount(ours: Ours) -> None:
    ours.run("--name", "one", "app:1", "sh", "-c", "true")
    upper = os.open(one(ours.root / "containers") / "diff", os.O_RDONLY)
    fcntl.flock(upper, fcntl.LOCK_EX)  # which the daemon waits for
    with ours.begin("start", "one") as starting:
        runner = child_of(starting.pid)
        daemon = child_of(child_of(runner))
        os.kill(runner, signal.SIGKILL)
        os.close(upper)
        until(lambda: str(is_alive(daemon)), "False")
    assert starting.returncode
    assert check(ours, status=0) == {}


def child_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    until(lambda: str(bool(children.read_text())), "True")
    return int(children.read_text().split()[0])


@pytest.mark.slow
@pytest.mark.timeout(900, method="signal")
def test_killed_anywhere_it_is_sound_or_repaired(
    ours: Ours, image: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Each command dies at a random moment; whatever it was, a check repairs the rest, and all goes on."""
    choices = random.Random(5)
    ours.run("--name", "kept", "app:1", "sh", "-c", "echo kept >/data/kept")
    commands: list[tuple[str, ...]] = [
        ("image", "load", str(image), "--tag", "more:1"),
        ("run", "--no-runtime", "--rm", "app:1", "sh", "-c", "rm -r /data; mkdir /data"),
        ("run", "--no-runtime", "-d", "app:1", "sleep", "1000"),
        ("commit", "kept", "made:1"),
        ("image", "squash", "app:1", "flat:1"),
        ("image", "rm", "made:1"),
        ("system", "prune", "--force"),
    ]
    env = {**os.environ, "PYUNIONFS_ROOT": str(ours.root)}
    for _ in range(100 if request.config.getoption("--long") else 14):
        words = choices.choice(commands)
        process = subprocess.Popen(
            [sys.executable, "-m", "pyunionfs", *words],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(choices.random() * 0.6)
        process.send_signal(signal.SIGKILL)
        process.wait()
        ours("system", "check", "--repair")
        assert check(ours, status=0) == {}, words
        for name in ours("ps", "-q").split():
            ours("rm", "-f", name)
        if "kept" not in [item["Name"] for item in json.loads(ours("ps", "-a", "--json"))]:
            assert words[1] == "prune"
            ours.run("--name", "kept", "app:1", "sh", "-c", "echo kept >/data/kept")
        assert ours.run("--rm", "app:1", "cat", "/data/old") == "old"
    assert not [point for point in mounts.mount_points() if point.is_relative_to(tmp_path)]
