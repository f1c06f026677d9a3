"""Programs that change a mounted tree, one request at a time, and tell of each: before it, and when it is done.

A worker makes every change that was acknowledged to a native directory, its twin, as well. Whatever becomes of the
mount, it must show what the twin does; only the step that was told of and not done may be there or not.
"""

import errno
import json
import os
import random
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trees import Node

TREE: dict[str | bytes, Node] = {
    **{f"file{number}": f"content {number}" for number in range(20)},
    **{f"lower{number}": {"child": "x", "other": "y"} for number in range(4)},
}
_ENDS = (errno.ENOTCONN, errno.ECONNABORTED, errno.ECANCELED)
"""What users of a mount get whose daemon has died; the last one over io_uring."""

Step = list[str]  # the verb, the path that it is about, and the rest


def _append(path: Path, text: str) -> None:
    """One write request: it is done whole or not at all."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


_VERBS: dict[str, Callable[..., object]] = {
    "append": _append,
    "chmod": lambda path, mode: os.chmod(path, int(mode, 8)),
    "create": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)),
    "mkdir": os.mkdir,
    "rmdir": os.rmdir,
    "symlink": lambda path: os.symlink("target", path),
    "sync": _sync,
    "truncate": lambda path: os.truncate(path, 3),
    "unlink": os.unlink,
}


def apply(step: Step, root: Path) -> None:
    """Make a step below ``root``."""
    verb, name, *more = step
    if verb == "rename":
        os.rename(root / name, root / more[0])
    else:
        _VERBS[verb](root / name, *more)


def choose(choices: random.Random, twin: Path) -> Step:
    """A random step that will succeed, as the twin is now."""
    paths = sorted(twin.rglob("*"))
    dirs = [path for path in paths if path.is_dir() and not path.is_symlink()]
    others = [path for path in paths if path not in dirs]
    files = [path for path in others if not path.is_symlink()]
    # Half of the new names are those of lower objects, which may be whiteouts now.
    places = [
        place / name for place in (twin, *dirs) for name in (choices.choice([*TREE]), f"new{choices.random()}")
    ]
    free = [str(path.relative_to(twin)) for path in places if not os.path.lexists(path)]
    candidates = [[verb, choices.choice(free)] for verb in ("create", "mkdir", "symlink")]
    for path in choices.sample(files, min(2, len(files))):
        name = str(path.relative_to(twin))
        candidates += [["append", name, f"+{choices.random()}"], ["chmod", name, choices.choice(("600", "755"))]]
        candidates += [["sync", name], ["truncate", name]]
    if others:
        path = choices.choice(others)
        name = str(path.relative_to(twin))
        candidates += [["unlink", name], ["rename", name, choices.choice(free)]]
        over = [str(other.relative_to(twin)) for other in others if other != path]
        candidates += [["rename", name, choices.choice(over)]] if over else []
    candidates += [["rmdir", str(path.relative_to(twin))] for path in dirs if not any(path.iterdir())][:2]
    return choices.choice(candidates)


@dataclass
class Worker:
    """A process that works on ``root``; ``pipe`` tells of its steps."""

    pid: int
    pipe: int
    twin: Path
    told: bytes = b""

    @classmethod
    def start(cls, root: Path, twin: Path, seed: int) -> "Worker":
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(reading)
                _work(root, twin, random.Random(seed), writing)
            except BaseException:
                os.write(writing, json.dumps({"broken": traceback.format_exc()}).encode() + b"\n")
            os._exit(0)
        os.close(writing)
        return cls(pid, reading, twin)

    def listen(self) -> bool:
        """Read what was told; returns whether there may be more."""
        chunk = os.read(self.pipe, 1 << 16)
        self.told += chunk
        return bool(chunk)

    def done(self) -> int:
        """How many steps were acknowledged so far."""
        return self.told.count(b'"done"')

    def in_flight(self) -> Step | None:
        """The step that was begun and not acknowledged, after the end."""
        last = json.loads(self.told.splitlines()[-1])
        assert last == "done" or isinstance(last, list), last["broken"]
        return None if last == "done" else last


def _work(root: Path, twin: Path, choices: random.Random, pipe: int) -> None:
    """Make steps until the mount does not answer any more."""
    while True:
        step = choose(choices, twin)
        os.write(pipe, json.dumps(step).encode() + b"\n")
        try:
            apply(step, root)
        except OSError as error:
            if error.errno in _ENDS:
                return
            raise
        apply(step, twin)
        os.write(pipe, b'"done"\n')
