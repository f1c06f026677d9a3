"""What a snapshotter keeps: a directory for each snapshot, and a database that says what they are.

::

    metadata.db                 SQLite: key, parent, kind, times, labels, usage
    snapshots/ID/fs             what this snapshot changes over its parent: an upper directory, later a lower one
    snapshots/ID/work           its workdir, while it is active
    snapshots/new-*, rm-*       work in progress, swept at the next start and by Cleanup

The database decides: a directory without a row is nothing, and a row is written in the same transaction in which
its directory gets its name. So a process that is killed loses no committed snapshot, and leaves at most a directory
to be swept. Source: containerd core/snapshots/snapshotter.go and plugins/snapshots/overlay.
"""

import json
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

VIEW, ACTIVE, COMMITTED = 1, 2, 3
_SCHEMA = """
create table if not exists snapshots (
    id integer primary key autoincrement,
    key text unique not null,
    parent text not null,
    kind integer not null,
    created real not null,
    updated real not null,
    labels text not null,
    size integer not null default 0,
    inodes integer not null default 0
)
"""
_INSERT = "insert into snapshots (key, parent, kind, created, updated, labels) values (?, ?, ?, ?, ?, ?)"
_COMMIT = "update snapshots set key = ?, kind = ?, updated = ?, labels = ?, size = ?, inodes = ? where id = ?"
_FIELDS = "id, key, parent, kind, created, updated, labels, size, inodes"


class NotFoundError(Exception):
    """There is no such snapshot."""


class ExistsError(Exception):
    """There is one of that name already."""


class PreconditionError(Exception):
    """It is not in the state for that."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One row."""

    id: int
    key: str
    parent: str
    kind: int
    created: float
    updated: float
    labels: Mapping[str, str]
    size: int
    inodes: int


@dataclass(frozen=True, slots=True)
class Mount:
    """What containerd is to mount."""

    type: str
    source: str
    options: Sequence[str]


class Snapshots:
    """The snapshots below a directory. All methods may be called by several threads."""

    def __init__(self, root: Path, *, program: str = "pyunionfs") -> None:
        self._root = root / "snapshots"
        self._program = program
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(root / "metadata.db", isolation_level=None, check_same_thread=False)
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = full")
        self._db.execute(_SCHEMA)
        self._sweep(unfinished=True)

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._db.execute("begin immediate")
            try:
                yield
            except BaseException:
                self._db.execute("rollback")
                raise
            self._db.execute("commit")

    def _find(self, key: str) -> Snapshot:
        row = self._db.execute(f"select {_FIELDS} from snapshots where key = ?", (key,)).fetchone()
        if row is None:
            raise NotFoundError(f"snapshot {key} does not exist")
        return _snapshot(row)

    # -- made and committed

    def prepare(self, key: str, parent: str, labels: Mapping[str, str], *, kind: int = ACTIVE) -> list[Mount]:
        """Make a snapshot over a committed one, or over nothing. Raises ExistsError, NotFoundError,
        PreconditionError."""
        temporary = Path(mkdtemp(prefix="new-", dir=self._root))
        try:
            (temporary / "fs").mkdir(mode=0o755)
            if kind == ACTIVE:
                (temporary / "work").mkdir(mode=0o711)
            with self._transaction():
                if parent:
                    below = self._find(parent)
                    if below.kind != COMMITTED:
                        raise PreconditionError(f"parent {parent} is not committed")
                    _like(temporary / "fs", self._fs(below))
                now = time.time()
                try:
                    made = self._db.execute(
                        _INSERT, (key, parent, kind, now, now, json.dumps(dict(labels)))
                    ).lastrowid
                except sqlite3.IntegrityError:
                    raise ExistsError(f"snapshot {key} exists") from None
                os.rename(temporary, self._root / str(made))
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return self.mounts(key)

    def commit(self, name: str, key: str, labels: Mapping[str, str]) -> None:
        """Make an active snapshot one that others can be made over. Raises as :meth:`prepare`."""
        size, inodes = _usage(self._fs(self.stat(key)))  # which may take long, so nobody waits for it
        with self._transaction():
            found = self._find(key)
            if found.kind != ACTIVE:
                raise PreconditionError(f"snapshot {key} is not active")
            try:
                values = (name, COMMITTED, time.time(), json.dumps(dict(labels)), size, inodes, found.id)
                self._db.execute(_COMMIT, values)
            except sqlite3.IntegrityError:
                raise ExistsError(f"snapshot {name} exists") from None

    def remove(self, key: str) -> None:
        """Remove a snapshot that no other is made over. Raises NotFoundError, PreconditionError."""
        with self._transaction():
            found = self._find(key)
            if self._db.execute("select 1 from snapshots where parent = ?", (key,)).fetchone():
                raise PreconditionError(f"snapshot {key} has children")
            self._db.execute("delete from snapshots where id = ?", (found.id,))
        self.cleanup()

    def cleanup(self) -> None:
        """Remove the directories that are no snapshot's."""
        self._sweep(unfinished=False)

    def _sweep(self, *, unfinished: bool) -> None:
        with self._lock:
            known = {str(row[0]) for row in self._db.execute("select id from snapshots")}
            doomed = [path for path in self._root.iterdir() if path.name not in known]
            for path in doomed:
                if path.name.startswith("new-") and not unfinished:
                    continue
                target = path if path.name.startswith("rm-") else path.rename(self._root / f"rm-{path.name}")
                shutil.rmtree(target)

    # -- looked at

    def stat(self, key: str) -> Snapshot:
        with self._lock:
            return self._find(key)

    def all(self) -> list[Snapshot]:
        """All of them, the oldest first."""
        with self._lock:
            return [_snapshot(row) for row in self._db.execute(f"select {_FIELDS} from snapshots order by id")]

    def update(self, key: str, labels: Mapping[str, str], paths: Sequence[str]) -> Snapshot:
        """Set labels: all of them, or (``labels.NAME``) those that are named. Raises NotFoundError, ValueError for
        a field that cannot be changed."""
        with self._transaction():
            found = self._find(key)
            changed = dict(found.labels)
            for path in paths or ["labels"]:
                what, _, name = path.partition(".")
                if what != "labels":
                    raise ValueError(f"{path} cannot be changed")
                if not name:
                    changed = dict(labels)
                elif name in labels:
                    changed[name] = labels[name]
                else:
                    changed.pop(name, None)
            self._db.execute(
                "update snapshots set labels = ?, updated = ? where id = ?",
                (json.dumps(changed), time.time(), found.id),
            )
            return self._find(key)

    def usage(self, key: str) -> tuple[int, int]:
        """Bytes and inodes of what a snapshot changes itself."""
        found = self.stat(key)
        return (found.size, found.inodes) if found.kind == COMMITTED else _usage(self._fs(found))

    def mounts(self, key: str) -> list[Mount]:
        """How a snapshot is mounted. Raises NotFoundError, PreconditionError for a committed one."""
        with self._lock:
            found = self._find(key)
            if found.kind == COMMITTED:
                raise PreconditionError(f"snapshot {key} is committed: prepare one over it")
            lower = [self._fs(item) for item in self._parents(found)]
        upper = self._fs(found)
        if not lower:
            return [Mount("bind", str(upper), ["rbind", "rw" if found.kind == ACTIVE else "ro"])]
        if found.kind == VIEW and len(lower) == 1:
            return [Mount("bind", str(lower[0]), ["ro", "rbind"])]
        options = [f"lowerdir={':'.join(map(str, lower))}"]
        if found.kind == ACTIVE:
            options = [f"workdir={upper.parent / 'work'}", f"upperdir={upper}", *options]
        return [Mount(f"fuse3.{self._program}", "overlay", options)]

    def _parents(self, snapshot: Snapshot) -> Iterator[Snapshot]:
        """Top to bottom."""
        while snapshot.parent:
            snapshot = self._find(snapshot.parent)
            yield snapshot

    def _fs(self, snapshot: Snapshot) -> Path:
        return self._root / str(snapshot.id) / "fs"


def _snapshot(row: Sequence[object]) -> Snapshot:
    id_, key, parent, kind, created, updated, labels, size, inodes = row
    return Snapshot(id_, key, parent, kind, created, updated, json.loads(str(labels)), size, inodes)  # type: ignore[arg-type]


def _like(new: Path, old: Path) -> None:
    """The root of a snapshot has the owner and mode of its parent's."""
    status = old.stat()
    os.chown(new, status.st_uid, status.st_gid)
    new.chmod(status.st_mode & 0o7777)


def _usage(root: Path) -> tuple[int, int]:
    """What a directory takes on disk, a file of several names counted once."""
    seen: set[tuple[int, int]] = set()
    size = 0
    for directory, names, files in os.walk(root):
        for path in (directory, *(os.path.join(directory, name) for name in (*names, *files))):
            status = os.lstat(path)
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                size += status.st_blocks * 512
    return size, len(seen)
