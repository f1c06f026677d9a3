"""The snapshotter: what it keeps, over kills as well, and what containerd is answered."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("grpc")  # the extra "snapshotter"

import grpc

from pyunionfs.snapshotter.messages import MESSAGES, METHODS, SERVICE
from pyunionfs.snapshotter.snapshots import (
    ACTIVE,
    COMMITTED,
    VIEW,
    ExistsError,
    NotFoundError,
    PreconditionError,
    Snapshots,
)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Snapshots]:
    made = Snapshots(tmp_path / "root")
    yield made
    made.close()


def layer(kept: Snapshots, name: str, parent: str = "") -> Path:
    """Prepare, write a file, commit, as containerd does for each layer of an image; returns the directory."""
    mount = kept.prepare(f"extract {name}", parent, {})[0]
    options = dict(item.partition("=")[::2] for item in mount.options)
    directory = Path(options.get("upperdir", mount.source))
    (directory / name).write_text(name)
    kept.commit(name, f"extract {name}", {"of": name})
    return directory


def test_layers_and_a_container_over_them(kept: Snapshots) -> None:
    base, top = layer(kept, "base"), layer(kept, "top", "base")
    (mount,) = kept.prepare("container", "top", {"a": "b"})
    assert (mount.type, mount.source) == ("fuse3.pyunionfs", "overlay")
    work, upper, lower = mount.options
    assert lower == f"lowerdir={top}:{base}"
    assert upper.startswith("upperdir=")
    assert work.startswith("workdir=")
    for option in (work, upper):
        assert Path(option.partition("=")[2]).is_dir()
    assert kept.mounts("container") == [mount]
    found = kept.stat("container")
    assert (found.kind, found.parent, found.labels) == (ACTIVE, "top", {"a": "b"})
    assert [item.key for item in kept.all()] == ["base", "top", "container"]


def test_what_is_mounted_where_there_is_nothing_to_unite(kept: Snapshots) -> None:
    (mount,) = kept.prepare("first", "", {})
    assert (mount.type, mount.options) == ("bind", ["rbind", "rw"])
    base = layer(kept, "base")
    (mount,) = kept.prepare("view", "base", {}, kind=VIEW)
    assert (mount.type, mount.source, mount.options) == ("bind", str(base), ["ro", "rbind"])
    top = layer(kept, "top", "base")
    (mount,) = kept.prepare("wide", "top", {}, kind=VIEW)
    assert mount.options == [f"lowerdir={top}:{base}"]


def test_what_cannot_be_done(kept: Snapshots) -> None:
    layer(kept, "base")
    kept.prepare("active", "base", {})
    for error, attempt in (
        (ExistsError, lambda: kept.prepare("active", "base", {})),
        (ExistsError, lambda: kept.commit("base", "active", {})),
        (NotFoundError, lambda: kept.prepare("x", "missing", {})),
        (PreconditionError, lambda: kept.prepare("x", "active", {})),
        (PreconditionError, lambda: kept.mounts("base")),
        (PreconditionError, lambda: kept.commit("x", "base", {})),
        (PreconditionError, lambda: kept.remove("base")),
        (NotFoundError, lambda: kept.remove("missing")),
        (NotFoundError, lambda: kept.stat("missing")),
        (ValueError, lambda: kept.update("base", {}, ["parent"])),
    ):
        with pytest.raises(error):
            attempt()
    assert sorted(path.name for path in (kept._root).iterdir()) == ["1", "2"]


def test_labels_and_usage(kept: Snapshots) -> None:
    directory = layer(kept, "base")
    assert kept.update("base", {"a": "1", "b": "2"}, []).labels == {"a": "1", "b": "2"}
    assert kept.update("base", {"a": "3"}, ["labels.a", "labels.b"]).labels == {"a": "3"}
    size, inodes = kept.usage("base")
    assert inodes == 2
    assert size == sum(os.lstat(path).st_blocks * 512 for path in (directory, directory / "base"))


def test_what_is_removed_is_gone(kept: Snapshots) -> None:
    base = layer(kept, "base")
    kept.prepare("active", "base", {})
    kept.remove("active")
    kept.remove("base")
    assert not base.exists()
    assert kept.all() == []


KILLED = """
import sys
from pathlib import Path
from pyunionfs.snapshotter.snapshots import Snapshots
kept = Snapshots(Path(sys.argv[1]))
parent = ""
for number in range(int(sys.argv[2]), 10**9):
    name = f"layer{number}"
    kept.prepare(f"new {name}", "", {})
    kept.commit(name, f"new {name}", {})
    print(name, flush=True)
    kept.prepare(f"over {name}", name, {})
    kept.remove(f"over {name}")
"""


def test_killed_at_any_moment_it_loses_nothing_that_was_committed(tmp_path: Path) -> None:
    choices, committed = random.Random(5), []
    for _ in range(8):
        command = [sys.executable, "-c", KILLED, tmp_path, str(len(committed))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            time.sleep(0.3 + choices.random() / 5)
            process.kill()
            assert process.stdout is not None
            committed += process.stdout.read().split()
        kept = Snapshots(tmp_path)
        found = {item.key: item for item in kept.all()}
        assert set(committed) <= found.keys()
        for item in found.values():
            assert (tmp_path / "snapshots" / str(item.id) / "fs").is_dir()
        names = {path.name for path in (tmp_path / "snapshots").iterdir()}
        assert names == {str(item.id) for item in found.values()}
        for item in found.values():
            if item.kind != COMMITTED:
                kept.remove(item.key)
        committed = [item.key for item in kept.all()]
        kept.close()
    assert len(committed) > 8


@pytest.fixture
def address(tmp_path: Path) -> Iterator[Path]:
    """Where a snapshotter answers."""
    socket = tmp_path / "s"
    command = [sys.executable, "-m", "pyunionfs", "snapshotter", "--address", socket, "--root", tmp_path / "root"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"answering on {socket}\n"
            yield socket
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_the_service_speaks_as_containerd_does(address: Path, tmp_path: Path) -> None:
    assert address.stat().st_mode & 0o777 == 0o600
    with grpc.insecure_channel(f"unix://{address}") as channel:

        def call(name: str, /, **fields: Any) -> Any:
            request, response = METHODS[name]
            kind = channel.unary_stream if name == "List" else channel.unary_unary
            method = kind(
                f"/{SERVICE}/{name}",
                request_serializer=MESSAGES[request].SerializeToString,
                response_deserializer=MESSAGES[response].FromString,
            )
            return method(MESSAGES[request](**fields), timeout=20)

        (mount,) = call("Prepare", key="default/1/extract", labels={"a": "b"}).mounts
        assert (mount.type, list(mount.options)) == ("bind", ["rbind", "rw"])
        call("Commit", name="base", key="default/1/extract")
        info = call("Stat", key="base").info
        assert (info.name, info.kind, info.parent) == ("base", COMMITTED, "")
        assert abs(info.created_at.seconds - time.time()) < 60
        call("View", key="view", parent="base")
        call("Update", info=MESSAGES["Info"](name="base", labels={"x": "y"}))
        listed = [item for page in call("List") for item in page.info]
        assert {item.name: dict(item.labels) for item in listed} == {"base": {"x": "y"}, "view": {}}
        assert call("Usage", key="base").inodes == 1
        for code, name, fields in (
            (grpc.StatusCode.NOT_FOUND, "Stat", {"key": "missing"}),
            (grpc.StatusCode.ALREADY_EXISTS, "View", {"key": "view", "parent": "base"}),
            (grpc.StatusCode.FAILED_PRECONDITION, "Remove", {"key": "base"}),
            (grpc.StatusCode.FAILED_PRECONDITION, "Mounts", {"key": "base"}),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call(name, **fields)
            assert caught.value.code() == code
        call("Remove", key="view")
        call("Cleanup")
    kept = Snapshots(tmp_path / "root")
    assert [item.key for item in kept.all()] == ["base"]
    kept.close()
