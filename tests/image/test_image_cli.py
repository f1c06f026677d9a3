"""``pyunionfs image``: what people and programs see."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from archives import Picture, directory, docker_25, entry, layer, opaque, outer, whiteout, write

from pyunionfs.cli.image.archives import held_for_mount
from pyunionfs.image.errors import ImageError
from pyunionfs.image.removal import remove
from pyunionfs.image.store import Store
from pyunionfs.overlay.marks import USER

BASE = layer(directory("etc"), entry("etc/a", "one"), entry("etc/b", "x" * 1500))
TOP = layer(whiteout("etc/a"), opaque("var"), entry("etc/c"))
STEPS = [
    {"created_by": "ADD \x1b[31mrootfs\nmore", "created": "2024-01-01T00:00:00Z"},
    {"created_by": "ENV A=b", "empty_layer": True},
    {"created_by": "RUN rm /etc/a"},
]
CONFIG = {"Env": ["A=b", "C=d"], "Entrypoint": ["/bin/serve"], "Cmd": ["-v"], "User": "web", "WorkingDir": "/app"}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    image = Picture([BASE, TOP], history=STEPS, extra={"config": CONFIG, "created": "2024-01-02T00:00:00Z"})
    return write(tmp_path / "app.tar", outer(docker_25(image)))


class Command:
    """Runs the program with a store of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, *arguments: object, stdin: bytes | None = None, code: int = 0) -> str:
        command = [
            sys.executable,
            "-c",
            "from pyunionfs.cli import main; main()",
            "image",
            "--root",
            str(self.root),
        ]
        result = subprocess.run([*command, *map(str, arguments)], input=stdin, capture_output=True)
        assert result.returncode == code, result.stderr
        assert b"Traceback" not in result.stderr
        return (result.stderr if code else result.stdout).decode()

    def json(self, *arguments: object) -> Any:
        return json.loads(self(*arguments, "--json"))


@pytest.fixture
def run(tmp_path: Path) -> Command:
    return Command(tmp_path / "store")


def test_load(run: Command, archive: Path) -> None:
    first, second = run("load", archive), run("load", archive)
    assert first.startswith("app:1  ")
    assert first.endswith("  2 layers: 2 new, 0 shared\n")
    assert second.endswith("  2 layers: 0 new, 2 shared\n")
    (loaded,) = run.json("load", archive)
    assert loaded["RepoTags"] == ["app:1"]
    assert loaded["Loaded"] == {"new": 0, "shared": 2}


def test_load_from_standard_input(run: Command, archive: Path) -> None:
    assert "2 new" in run("load", "-", stdin=archive.read_bytes())
    assert "2 shared" in run("load", "-", "--only", "app:1", "--tag", "mine", stdin=archive.read_bytes())
    assert [image["RepoTags"] for image in run.json("ls")] == [["app:1", "mine:latest"]]


def test_ls(run: Command, archive: Path) -> None:
    assert run.json("ls") == []
    run("load", archive)
    (image,) = run.json("ls")
    assert (image["RepoTags"], image["Layers"], image["Os"], image["Size"]) == (["app:1"], 2, "linux", 1503)
    heading, row = run("ls").splitlines()
    assert heading.split() == ["TAG", "IMAGE", "ID", "CREATED", "PLATFORM", "LAYERS", "SIZE"]
    assert row.split() == ["app:1", image["Id"][7:19], "2024-01-02T00:00:00", "linux/amd64", "2", "1.5", "kB"]


def test_inspect(run: Command, archive: Path) -> None:
    run("load", archive)
    found = run.json("inspect", "app:1")
    assert found["Config"] == CONFIG
    assert [item["DiffId"] for item in found["Layers"]] == found["RootFS"]["Layers"]
    assert [item["Files"] for item in found["Layers"]] == [4, 4]
    assert found["LowerDirs"] == [item["Path"] for item in reversed(found["Layers"])]
    assert all(Path(path).is_dir() for path in found["LowerDirs"])
    text = run("inspect", found["Id"][7:19])
    for line in (
        f"Id:           {found['Id']}",
        "Created:      2024-01-02T00:00:00Z",
        "Platform:     linux/amd64",
        'Entrypoint:   ["/bin/serve"]',
        'Cmd:          ["-v"]',
        "User:         web",
        "Workdir:      /app",
        "Env:          A=b",
        "              C=d",
    ):
        assert line in text.splitlines()
    assert found["LowerDirs"][0] in text
    assert "1 + 1 opaque" in text


def test_history(run: Command, archive: Path) -> None:
    run("load", archive)
    steps = run.json("history", "app:1")
    assert [step["EmptyLayer"] for step in steps] == [False, True, False]
    assert steps[2]["Layer"]["Size"] == 1503
    lines = run("history", "app:1").splitlines()
    assert lines[1].startswith(steps[0]["Layer"]["DiffId"][7:19])
    assert lines[2].split()[0] == "-"
    assert lines[3].rstrip().endswith("ADD  [31mrootfs more")
    assert all(line.isprintable() for line in lines)


def test_extract(run: Command, archive: Path, tmp_path: Path) -> None:
    run("load", archive)
    paths = [Path(path) for path in run("extract", "app:1", tmp_path / "out").splitlines()]
    assert [path.name[:3] for path in paths] == ["00-", "01-"]
    assert (paths[0] / "etc/a").read_text() == "one"
    assert "not empty" in run("extract", "app:1", tmp_path / "out", code=1)


def test_rm(run: Command, archive: Path) -> None:
    run("load", archive)
    (image,) = run.json("ls")
    lines = run("rm", "app:1").splitlines()
    assert lines[:2] == ["untagged app:1", f"removed  {image['Id']}"]
    assert len(lines) == 4
    assert run.json("ls") == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["load", "/no/such/file"], "/no/such/file: No such file or directory"),
        (["load", "/etc/hostname"], "neither a tar nor a compressed one"),
        (["inspect", "nothing"], "no image 'nothing' in the store"),
        (["history", "nothing"], "no image"),
        (["rm", "nothing"], "no image"),
        (["load", "{archive}#other"], "no image 'other'; it has 'app:1'"),
        (["load", "{archive}", "--tag", "B A D"], "no image reference"),
    ],
)
def test_errors_are_one_line(run: Command, archive: Path, arguments: list[str], words: str) -> None:
    message = run(*[argument.format(archive=archive) for argument in arguments], code=1)
    assert message.startswith("pyunionfs: ")
    assert words in message
    assert message.count("\n") == 1


def test_oddities_are_noted(run: Command, tmp_path: Path) -> None:
    odd = layer(entry("f", records={"SCHILY.xattr.trusted.overlay.opaque": "y"}))
    path = write(tmp_path / "x.tar", outer(docker_25(Picture([odd]))))
    command = [sys.executable, "-c", "from pyunionfs.cli import main; main()", "image", "--root", str(run.root)]
    result = subprocess.run([*command, "load", path], capture_output=True, text=True, check=True)
    assert result.stderr.endswith("xattrs of the union itself refused: 1 (f)\n")


def test_help_teaches(run: Command) -> None:
    text = run("--help")
    for word in ("LAYER", "DIFF ID", "WHITEOUT"):
        assert word in text
    for command in ("load", "ls", "inspect", "history", "extract", "rm"):
        assert run(command, "--help").startswith("Usage: ")


def test_layers_for_a_mount(archive: Path, tmp_path: Path) -> None:
    root = str(tmp_path / "store")
    with held_for_mount(str(archive), root) as (paths, _):
        assert [path.name for path in paths] == ["diff", "diff"]
        with pytest.raises(OSError, match="in use by a mount"):
            remove(Store(root), "app:1")
    for again in (f"{archive}#app:1", "app:1"):
        with held_for_mount(again, root) as (same, userxattr):
            assert same == paths
            assert userxattr is (Store(root).marks is USER)
    with pytest.raises(ImageError, match="no image"), held_for_mount("other", root):
        pass
    remove(Store(root), "app:1")
