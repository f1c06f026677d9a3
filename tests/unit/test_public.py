"""The public surface: names, docstrings, and that each module says what it is for."""

import ast
from pathlib import Path

import pytest

import pyunionfs

PACKAGE = Path(pyunionfs.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.stat().st_size)


def test_public_names() -> None:
    assert sorted(pyunionfs.__all__) == ["Overlay", "Paths", "__version__", "mounted"]
    for name in pyunionfs.__all__:
        assert getattr(pyunionfs, name) is not None


def test_the_version_is_the_package_s() -> None:
    from importlib.metadata import version

    assert version("pyunionfs") == pyunionfs.__version__


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_says_what_it_is_for(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring is not None
    assert len(docstring) >= 20


@pytest.mark.parametrize("thing", [pyunionfs.Overlay, pyunionfs.Paths, pyunionfs.mounted])
def test_public_things_are_documented(thing: object) -> None:
    assert thing.__doc__
    assert "OSError" in thing.__doc__


def test_the_tour_names_every_module() -> None:
    tour = pyunionfs.__doc__ or ""
    modules = {".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in FILES}
    told = {line.split("`")[1].lstrip(".") for line in tour.splitlines() if line.startswith(":mod:")}
    packages = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    modules |= {name.removesuffix(".__init__") for name in modules}
    assert told <= modules | packages, "the tour names a module that does not exist"
    assert packages <= {name.split(".")[0] for name in told}
