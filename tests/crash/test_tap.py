"""Nothing that the core does escapes the tap: read from the source, and seen once from outside."""

import ast
import inspect
import os
from pathlib import Path
from types import ModuleType

import pytest
import tap

import pyunionfs.overlay
from pyunionfs import linux

SOURCES = sorted(Path(pyunionfs.overlay.__file__).parent.glob("*.py"))
CLASSIFIED = {module: tap.CHANGES[module] | tap.OPENS[module] | tap.HARMLESS[module] for module in (os, linux)}


def functions_used(source: str, module: ModuleType) -> set[str]:
    """The functions of ``os`` or of ``linux`` that a source names, called or passed on."""
    short = module.__name__.rpartition(".")[2]
    named = {
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == short
    }
    return {name for name in named if inspect.isroutine(getattr(module, name, None))}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_each_call_of_the_core_is_classified(path: Path) -> None:
    source = path.read_text()
    for module in (os, linux):
        unknown = functions_used(source, module) - CLASSIFIED[module]
        assert not unknown, f"{module.__name__}: {unknown}: does it change the disk? Say so in tap.py"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_call_of_the_core_goes_round_the_modules(path: Path) -> None:
    """``from os import unlink`` would, and so would a file opened for writing by ``open()``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.module not in ("os", "linux"), f"{path.name}: import the module"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open":
            modes = [argument.value for argument in node.args[1:2] if isinstance(argument, ast.Constant)]
            assert modes == ["rb"], f"{path.name}: open() may write"


def test_each_function_of_linux_is_classified() -> None:
    public = {name for name, value in vars(linux).items() if inspect.isfunction(value) and not name.startswith("_")}
    assert public <= CLASSIFIED[linux], public - CLASSIFIED[linux]


def test_a_tap_announces_before_and_ends(tmp_path: Path) -> None:
    calls = []
    before = os.mkdir
    with tap.tap(calls.append):
        os.mkdir(tmp_path / "a")
        os.close(os.open(b"/proc/self/fd/0", os.O_PATH))
        os.close(os.open(tmp_path / "b", os.O_WRONLY | os.O_CREAT))
        os.rename(tmp_path / "b", tmp_path / "c")
    assert os.mkdir is before
    assert [(call.name, call.changes) for call in calls] == [
        ("mkdir", True),
        ("open", False),
        ("open", True),
        ("rename", True),
    ]
