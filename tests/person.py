"""An ordinary user of a machine that is made for one: a home, subordinate ids, /dev/fuse open to everybody."""

import os
import signal
import stat
import subprocess
from pathlib import Path

from namespaces import MountNamespace

USER = 4321  # of no name on the machine itself
FIRST_SUBORDINATE = 100_000
_IDS = f"person:{FIRST_SUBORDINATE}:65536\n"


class Person:
    """Runs commands as this user, in a mount namespace of the test's own; ``place`` is given to them.

    Files of /etc and the device are as the user's machine would have them.
    """

    def __init__(self, place: Path, *, subordinate: bool = True) -> None:
        self.home = place / "home"
        self.env = {
            "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin",
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.home / "run"),
            "TMPDIR": str(self.home),
        }
        self._namespace = MountNamespace()
        try:
            self._settle(place, _IDS if subordinate else "")
        except BaseException:
            self.end()
            raise

    def _settle(self, place: Path, ids: str) -> None:
        for directory in (place, self.home, self.home / "run"):
            directory.mkdir(mode=0o700, exist_ok=True)
            os.chown(directory, USER, USER)
        os.mknod(place / "fuse", stat.S_IFCHR, os.makedev(10, 229))
        (place / "fuse").chmod(0o666)
        self._bind(place / "fuse", "/dev/fuse")
        for name, more in (
            ("passwd", f"person:x:{USER}:{USER}::{self.home}:/bin/sh\n"),
            ("group", f"person:x:{USER}:\n"),
            ("subuid", ids),
            ("subgid", ids),
        ):
            (place / name).write_text(Path("/etc", name).read_text() + more)
            (place / name).chmod(0o644)
            self._bind(place / name, f"/etc/{name}")

    def _bind(self, path: Path, target: str) -> None:
        subprocess.run([*self._namespace.enter, "mount", "--bind", path, target], check=True)

    def attempt(self, *words: str | Path) -> "subprocess.CompletedProcess[str]":
        somebody = ["setpriv", "--reuid", f"{USER}", "--regid", f"{USER}", "--init-groups"]
        # nsenter's own --wd would leave the working directory in the other namespace.
        command = [*self._namespace.enter, "env", f"--chdir={self.home}", *somebody, *words]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, check=False, timeout=120)

    def __call__(self, *words: str | Path, status: int = 0) -> str:
        done = self.attempt(*words)
        assert done.returncode == status, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def processes(self) -> list[int]:
        """All of this user's that live."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                status = (process / "stat").read_text().rpartition(")")[2].split()[0]
                if process.stat().st_uid == USER and status != "Z":
                    found.append(int(process.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
        return found

    def end(self) -> None:
        """End everything that this user runs."""
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        self._namespace.end()
