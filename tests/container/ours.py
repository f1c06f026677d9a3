"""Our own container commands, on a store of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


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

    def inspect(self, name: str) -> Any:
        return json.loads(self("inspect", name))[0]

    def until(self, name: str, status: str) -> None:
        for _ in range(200):
            if self.inspect(name)["State"]["Status"] == status:
                return
            time.sleep(0.05)
        raise AssertionError(f"{name} is not {status}: {self.inspect(name)}")

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
