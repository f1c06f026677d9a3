"""Imports point inward only: what each part may import, read from the source."""

import ast
import sys
from pathlib import Path

import pytest

import pyunionfs

PACKAGE = Path(pyunionfs.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# part of the package -> the parts and the third-party modules that it may import
ALLOWED: dict[str, set[str]] = {
    "_version": set(),
    "linux": set(),
    "vfs": set(),
    "events": set(),
    "paths": {"vfs"},
    "overlay": {"overlay", "linux", "vfs", "events"},
    "image": {"image", "linux", "overlay.marks", "zstandard", "xattr"},
    "transport": {"transport", "vfs", "linux"},
    "transport.libfuse": {"transport", "vfs", "linux", "pyfuse3", "trio"},
    "views": {"views", "overlay", "image", "vfs"},
    "container": {
        "container",
        "image",
        "overlay",
        "views.union",
        "views.compare",
        "check",
        "vfs",
        "linux",
        "transport.mount",
    },
    "snapshotter": {"snapshotter"},
    "snapshotter.messages": {"google"},
    "snapshotter.service": {"snapshotter", "grpc"},
    "check": {"check", "overlay", "linux", "vfs", "events"},
    "verify": {"verify", "linux", "daemon", "spec", "hypothesis"},
    "spec": {"overlay.params", "transport"},
    "serving": {"_version", "spec", "overlay", "transport", "events"},
    "handover": {"serving", "spec", "overlay", "transport"},
    "daemon": {"serving", "handover", "spec", "transport"},
    "cli": {
        *(
            "cli",
            "container",
            "daemon",
            "serving",
            "spec",
            "overlay",
            "image",
            "transport",
            "views",
            "check",
            "_version",
        ),
        *("events", "paths", "click", "rich"),
    },
    "cli.snapshotter": {"snapshotter", "click"},
    "cli.verify": {"cli", "verify", "linux", "click", "rich", "hypothesis"},
    "__init__": {"_version", "daemon", "overlay", "paths"},
    "mount_helper": {"_version", "daemon", "serving", "spec", "overlay.params"},
    "__main__": {"cli", "mount_helper"},
}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports: ours without the package's name, others by their top level."""
    here = module_of(path).split(".")
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level]
            target = base + (node.module or "").split(".") if node.module else base
            for alias in node.names:
                dotted = ".".join(target)
                is_module = (PACKAGE.joinpath(*target) / f"{alias.name}.py").exists() or not dotted
                found.add(f"{dotted}.{alias.name}".lstrip(".") if is_module else dotted)
    return found - set(sys.stdlib_module_names) - {"pyunionfs"}


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_point_inward(path: Path) -> None:
    module = module_of(path)
    rule = max((part for part in ALLOWED if (module + ".").startswith(part + ".")), key=len)
    for name in imports(path):
        assert any((name + ".").startswith(allowed + ".") for allowed in ALLOWED[rule]), (
            f"{module} may not import {name}: see CONTRIBUTING.md, 'Import rules'"
        )


def test_the_reader_of_imports_reads() -> None:
    assert imports(PACKAGE / "overlay" / "lookup.py") >= {"overlay.marks", "overlay.merge", "overlay.inode"}
    assert imports(PACKAGE / "transport" / "libfuse.py") >= {"pyfuse3", "trio", "vfs"}


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_ctypes_stays_at_home(path: Path) -> None:
    names = {
        name.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    assert "ctypes" not in names or module_of(path) == "linux" or module_of(path).startswith("transport.devfuse")


def test_mounting_loads_no_tables_and_the_library_no_fuse() -> None:
    import subprocess

    program = "import sys, pyunionfs, pyunionfs.cli.mount; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    modules = set(loaded.stdout.split())
    assert "click" in modules
    assert not {"rich", "trio", "pyfuse3", "zstandard"} & modules
