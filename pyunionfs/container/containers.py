"""The containers of a store: a directory each, which a person can look into.

::

    containers/ID/
        container.json     its name, its image, how it is run, what became of it
        diff/              the upper directory: everything that it has changed
        work/ merged/      the workdir, and where its union is mounted while it runs
        bundle/            config.json, what the runtime was given
        log                what it wrote

Whoever runs a container holds a lock on its directory, so a container whose runner was killed is known to be dead,
whatever ``container.json`` says.
"""

import fcntl
import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..image import jsons
from ..image.errors import ImageError
from ..image.workspace import discard, is_held, own_directories, to_json, write_atomically

_ID_BYTES = 32
_ID = re.compile(rf"[0-9a-f]{{{2 * _ID_BYTES}}}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_POLL = 0.01  # seconds
_DEAD = 137  # exit code of what SIGKILL has ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """What is known of a container, as it was when it was read."""

    id: str
    name: str
    image: str  # id
    image_name: str  # as it was asked for
    created: float  # seconds since the epoch
    options: dict[str, Any] = field(default_factory=dict)  # of bundle.Options
    runtime: str = ""  # runc, crun, or "" for none
    state: str = "created"  # running, exited
    pid: int = 0  # of its first process, while it runs
    exit_code: int = 0
    started: float = 0.0
    finished: float = 0.0
    directory: Path = Path()

    @property
    def short_id(self) -> str:
        """The first 12 digits."""
        return self.id[:12]

    def path(self, name: str) -> Path:
        """``diff``, ``work``, ``merged``, ``bundle`` or ``log``."""
        return self.directory / name


class Containers:
    """The directory ``containers`` of a store."""

    def __init__(self, root: Path) -> None:
        self._root = root / "containers"
        self._temporary = root / "tmp"

    def all(self) -> list[Container]:
        """All containers, the newest first. Raises ImageError for one whose description is damaged."""
        found = [item for item in map(self.read, self.directories()) if item is not None]
        return sorted(found, key=lambda item: -item.created)

    def directories(self) -> list[Path]:
        """Of all containers, and of those that are being made or have lost their description."""
        return sorted(own_directories(self._root, _ID))

    def find(self, reference: str) -> Container:
        """The container of a name, an id, or the start of an id. Raises ImageError for none or several."""
        every = self.all()
        found = [item for item in every if item.name == reference] or [
            item for item in every if reference and item.id.startswith(reference)
        ]
        if len(found) != 1:
            raise ImageError(
                f"{reference!r} is the start of {len(found)} ids" if found else f"no container {reference!r}"
            )
        return found[0]

    def remains(self) -> list[Path]:
        """Directories of containers that were not made to the end, by who is no more; or without a description."""
        if not self._root.is_dir():
            return []
        with _exclusive(self._root):
            unmade = [path for path in self.directories() if not (path / "container.json").exists()]
            return [path for path in unmade if not is_held(path)]

    def read(self, directory: Path) -> Container | None:
        """What is known of the container of a directory; None if it has no description (yet, or any more)."""
        path = directory / "container.json"
        try:
            content = path.read_bytes()
            held = is_held(directory)
        except (FileNotFoundError, NotADirectoryError):
            return None
        with jsons.damage(path):
            known = Container(**json.loads(content), directory=directory)
            if known.state == "running" and not held:
                return replace(known, state="exited", pid=0, exit_code=known.exit_code or _DEAD)
            return known

    def create(self, **fields: Any) -> Container:
        """Make a container; ``name`` may be "" for one of its own. Raises ImageError for a name that is taken."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _exclusive(self._root):
            names = {item.name for item in self.all()}
            container_id = secrets.token_hex(_ID_BYTES)
            name = fields.pop("name") or container_id[:12]
            if not _NAME.fullmatch(name):
                raise ImageError(f"{name!r} is no name of a container: letters, digits, and _ . - after the first")
            if name in names:
                raise ImageError(f"the name {name!r} is taken by another container (rm removes it)")
            directory = self._root / container_id
            made = Container(id=container_id, name=name, created=time.time(), directory=directory, **fields)
            for path in ("", "diff", "work", "merged", "bundle"):
                (directory / path).mkdir(mode=0o755 if path == "diff" else 0o700)
            self.write(made)
        return made

    def write(self, container: Container) -> Container:
        """Note what has changed."""
        table = asdict(container)
        del table["directory"]
        write_atomically(container.directory / "container.json", to_json(table))
        return container

    @contextmanager
    def running(self, container: Container, *, wait: float = 0.0) -> Iterator[None]:
        """Hold a container for as long as it runs. Raises ImageError if somebody else does, after waiting for so
        many seconds."""
        deadline = time.monotonic() + wait
        fd = os.open(container.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise ImageError(f"container {container.name} is running") from None
                    time.sleep(_POLL)
            yield
        finally:
            os.close(fd)

    def remove(self, container: Container) -> None:
        """Remove a container that is held by :meth:`running`, with everything that it has changed."""
        discard(self._temporary, container.directory)


@contextmanager
def _exclusive(directory: Path) -> Iterator[None]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
