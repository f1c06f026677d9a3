"""Looking after a store and its containers: what is wrong, what nobody needs."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..check import check as check_upper
from ..image import audit
from ..image.audit import Fault
from ..image.errors import ImageError
from ..image.removal import prune as prune_images
from ..image.workspace import discard
from ..overlay.marks import USER
from ..transport import mount
from .containers import Container
from .run import Runner

# -- check


def check(runner: Runner, *, repair: bool) -> Iterator[tuple[Fault, bool]]:
    """What is wrong in a store and with its containers, and whether it has been repaired.

    A container that runs is left alone. Raises ImageError, OSError.
    """
    for fault in audit.audit(runner.store, repair=repair):
        yield fault, repair and fault.repair is not None
    for fault in _containers(runner, repair=repair) if runner.store.exists else ():
        if repair and fault.repair is not None:
            fault.repair()
        yield fault, repair and fault.repair is not None


def _containers(runner: Runner, *, repair: bool) -> Iterator[Fault]:
    for directory in runner.containers.remains():
        name = f"container {directory.name[:12]}"
        if _is_empty(directory / "diff"):
            yield Fault(name, "was being made", partial(discard, runner.store.temporary, directory))
        else:
            yield Fault(name, f"has lost its container.json; what it has changed is in {directory}/diff")
    for directory in runner.containers.directories():
        try:
            item = runner.containers.read(directory)
        except ImageError as error:
            yield Fault(f"container {directory.name[:12]}", str(error))
            continue
        if item is not None and item.state != "running":
            yield from _one(runner, item, repair=repair)


def _is_empty(directory: Path) -> bool:
    return not directory.exists() or not any(directory.iterdir())


def _one(runner: Runner, item: Container, *, repair: bool) -> Iterator[Fault]:
    name = f"container {item.name}"
    with ExitStack() as stack:
        try:
            stack.enter_context(runner.containers.running(item))
        except ImageError:  # it has begun to run meanwhile
            return
        if item.finished < item.started or mount.find(os.fspath(item.path("merged"))) is not None:
            yield Fault(name, "who ran it was killed", lambda: _end(runner, item))
        try:
            lower = runner.store.image(item.image).lowerdirs
        except ImageError:  # which was told of already
            return
        userxattr = runner.store.marks is USER
        try:
            report = check_upper(item.path("diff"), lower, item.path("work"), userxattr=userxattr, repair=repair)
        except OSError as error:
            yield Fault(name, f"diff: {error.strerror}")
            return
        for found in report.findings:
            if found.problem.severity.value != "info":
                done = (lambda: None) if found.repair else None
                yield Fault(f"{name}: {found.shown_path}", f"{found.message} [{found.problem}]", done)


def _end(runner: Runner, item: Container) -> None:
    """Do what whoever ran a container would have done at its end."""
    runner.clear(item)
    runner.containers.write(replace(item, state="exited", pid=0, finished=max(item.finished, item.started)))


# -- prune


def prune(runner: Runner, *, everything: bool = False) -> Iterator[tuple[str, str]]:
    """Remove what nobody needs: containers that do not run, then images that no container has (those without a tag,
    or with ``everything`` all), then leftovers. Yields the kind and the id of each.
    """
    for item in runner.containers.all():
        if item.state != "running":
            runner.remove(item)
            yield "container", item.id
    for removed in prune_images(runner.store, everything=everything):
        for image_id in removed.images:
            yield "image", image_id
    for fault in audit.audit(runner.store, repair=True):
        if fault.repair is not None:
            yield "leftover", fault.where
