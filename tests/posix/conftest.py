"""The fixture ``fs``: a fresh writable directory on each filesystem of the suite.

One mount of each kind serves the whole session, a directory each test; a mount that died is made anew, so
that one crash fails one test. Objects that a test wants to find (``@pytest.mark.tree``) lie in the lower
layer of the variants ``*-lower`` before the mount; elsewhere they are built through the filesystem itself.
"""

import contextlib
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import mounts
import pytest
from divergences import DIVERGENCES
from filesystems import VARIANTS, Filesystem
from mounts import Layers
from trees import build


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "fs" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--filesystem")
        names = chosen or [name for name, variant in VARIANTS.items() if variant.default]
        metafunc.parametrize("fs", names, indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        name = _variant_of(item)
        if name is None:
            continue
        for who, reason in DIVERGENCES.get(item.originalname, ()):
            if name in who:
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


def _variant_of(item: pytest.Item) -> str | None:
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("fs") if callspec else None


def _directory_of(item: pytest.Item) -> str:
    """A name for the test's directory: the same one for each filesystem, short, and a plain file name."""
    parameters = item.name.removeprefix(item.originalname).replace(_variant_of(item), "", 1)
    plain = "".join(char if char.isalnum() else "-" for char in parameters[:40]).strip("-")
    return f"{item.originalname}-{plain}-{zlib.crc32(parameters.encode()):08x}"


class Mounts:
    """The session's mount of each variant."""

    def __init__(self, root: Path, items: list[pytest.Item], can_run: Callable[[pytest.Item], bool]) -> None:
        self._root = root
        self._items = items
        self._can_run = can_run
        self._stack = contextlib.ExitStack()
        self._paths: dict[str, Path] = {}
        self._generation = 0

    def path(self, name: str) -> Path:
        """The mount point of a variant; mounted now if it is not, or not alive."""
        if name in self._paths and not _alive(self._paths[name]):
            del self._paths[name]
        if name not in self._paths:
            self._paths[name] = self._mount(name)
        return self._paths[name]

    def _mount(self, name: str) -> Path:
        variant = VARIANTS[name]
        self._generation += 1
        root = self._root / f"{name}-{self._generation}"
        layers = Layers.create(root, lowers=2)
        if variant.lower:
            for item in self._items:
                if _variant_of(item) == name and self._can_run(item):
                    self._populate(layers, item)
        for path in (*layers.lower, layers.upper):
            path.chmod(0o755)
        return self._stack.enter_context(mounts.MOUNTERS[variant.mounter](layers, variant.options))

    def _populate(self, layers: Layers, item: pytest.Item) -> None:
        """The objects in the bottom layer; the test's directory in both, so that it is a merged one."""
        directory = _directory_of(item)
        (layers.lower[0] / directory).mkdir()
        (layers.lower[1] / directory).mkdir()
        for marker in item.iter_markers("tree"):
            build(layers.lower[1] / directory, marker.args[0])

    def close(self) -> None:
        self._stack.close()


def _alive(path: Path) -> bool:
    try:
        os.statvfs(path)
    except OSError:
        return False
    return True


@pytest.fixture(scope="session")
def session_mounts(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, requires: Callable[..., None]
) -> Iterator[Mounts]:
    def can_run(item: pytest.Item) -> bool:
        try:
            _check(item, requires)
        except pytest.skip.Exception:
            return False
        return True

    made = Mounts(tmp_path_factory.mktemp("posix"), request.session.items, can_run)
    try:
        yield made
    finally:
        made.close()


def _check(item: pytest.Item, requires: Callable[..., None]) -> None:
    for marker in item.iter_markers("requires"):
        requires(*marker.args)


@pytest.fixture
def fs(
    request: pytest.FixtureRequest, session_mounts: Mounts, requires: Callable[..., None]
) -> Iterator[Filesystem]:
    """A fresh directory, with the objects of the test's ``tree`` mark in it."""
    variant = VARIANTS[request.param]
    _check(request.node, requires)
    requires(*variant.requires)
    path = session_mounts.path(request.param) / _directory_of(request.node)
    if not variant.lower:
        path.mkdir()
        for marker in request.node.iter_markers("tree"):
            build(path, marker.args[0])
    umask = os.umask(0o022)
    where = os.getcwd()
    try:
        yield Filesystem(path, request.param, variant.lower)
    finally:
        os.chdir(where)
        os.umask(umask)
