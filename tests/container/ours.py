"""Our own container commands, on a store of their own."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PATIENCE = 30.0  # seconds


def until(read: Callable[[], str], wanted: str) -> None:
    """Wait for something to be as it should."""
    deadline = time.monotonic() + _PATIENCE
    while (found := read()) != wanted:
        assert time.monotonic() < deadline, f"{found}, and not {wanted}"
        time.sleep(0.05)


class Ours:
    """The commands, on a store of their own, with one image: ``app:1``."""

    def __init__(self, root: Path, runtime: str, enter: Sequence[str] = ()) -> None:
        self.root = root
        self._enter = enter
        self.runtime = ["--no-runtime"] if runtime == "none" else ["--runtime", runtime]

    def __call__(self, *words: str | Path, status: int = 0, **more: Any) -> str:
        done = self.attempt(*words, **more)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    def attempt(self, *words: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYUNIONFS_ROOT": str(self.root)}
        command = [*self._enter, sys.executable, "-m", "pyunionfs", *map(str, words)]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60, **more)

    def run(self, *words: str | Path, **more: Any) -> str:
        return self("run", *self.runtime, *words, **more)

    def begin(self, *words: str) -> "subprocess.Popen[bytes]":
        """Run a command without waiting for it."""
        env = {**os.environ, "PYUNIONFS_ROOT": str(self.root)}
        return subprocess.Popen([*self._enter, sys.executable, "-m", "pyunionfs", *words], env=env)

    @contextmanager
    def terminal(self, *words: str) -> Iterator["Terminal"]:
        """A command that is run at a terminal of its own."""
        ours, theirs = pty.openpty()
        command = [*self._enter, "setsid", "-c", sys.executable, "-m", "pyunionfs", *words]
        env = {**os.environ, "PYUNIONFS_ROOT": str(self.root)}
        with subprocess.Popen(command, env=env, stdin=theirs, stdout=theirs, stderr=theirs) as process:
            os.close(theirs)
            made = Terminal(ours)
            try:
                yield made
                made.status = process.wait(_PATIENCE)
            finally:
                process.kill()
                os.close(ours)

    def inspect(self, name: str) -> Any:
        return json.loads(self("inspect", name))[0]

    def until(self, name: str, status: str) -> None:
        until(lambda: self.inspect(name)["State"]["Status"], status)

    def kill_runner(self) -> None:
        """Of the one container that runs in the background."""
        runner = next(int(path.name) for path in Path("/proc").glob("[0-9]*") if self._is_runner(path))
        os.kill(runner, signal.SIGKILL)

    def _is_runner(self, process: Path) -> bool:
        try:
            words, environ = ((process / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:
            return False
        return b"\0run\0" in words and b"\0-d\0" in words and str(self.root).encode() in environ


class Terminal:
    """The other end of a terminal."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.status: int | None = None

    def types(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def until(self, words: bytes) -> None:
        """Read until something is said."""
        said, deadline = b"", time.monotonic() + _PATIENCE
        while words not in said:
            assert time.monotonic() < deadline, said
            if select.select([self._fd], [], [], 0.5)[0]:
                try:
                    said += os.read(self._fd, 4096)
                except OSError as error:  # EIO: nobody has the terminal open any more
                    raise AssertionError(f"it ended, having said {said!r}") from error
