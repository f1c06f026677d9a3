"""Running a container: its union is mounted, a runtime executes its bundle, and what becomes of it is noted.

The process that runs a container stays with it until its end, as containerd's shim does: in front of the caller, or
with ``detach`` in the background.
"""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

from .. import linux
from ..image.errors import ImageError
from ..image.images import Image
from ..image.store import Store
from ..image.workspace import to_json, write_atomically
from ..transport import mount
from ..views.compare import options_of
from . import rootless
from .bundle import Options, bundle
from .containers import Container, Containers
from .unshared import PASSED_ON

RUNTIMES = ("runc", "crun")  # those that are tried, in this order
NO_RUNTIME = "none"
_OWN = (sys.executable, "-P", "-m", "pyunionfs.container.unshared")
_POLL = 0.01  # seconds
_END_WAIT = 20.0  # seconds, for what was killed to be unmounted
_STARTED = b"\0"


def choose_runtime(wanted: str | None) -> str:
    """The path of a runtime: the one that is wanted, or the first that is installed and can be executed. Raises
    OSError if there is none."""
    if wanted == NO_RUNTIME:
        return ""
    for name in (wanted,) if wanted else RUNTIMES:
        if (found := shutil.which(name)) is not None and (wanted or _answers(found)):
            return found
    raise OSError(f"no {wanted or 'runc or crun'} is installed (--no-runtime runs a container without)")


def _answers(program: str) -> bool:
    try:
        return subprocess.run([program, "--version"], capture_output=True).returncode == 0
    except OSError:
        return False


def _noted(pid_file: Path) -> int | None:
    """The number in a runtime's file, once it is there: the file may be, and the number not yet."""
    try:
        text = pid_file.read_text()
    except FileNotFoundError:
        return None
    return int(text) if text else None


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs the containers of a store."""

    store: Store
    containers: Containers

    def run(self, container: Container, *, detach: bool = False) -> int:
        """Run a container that does not run. Returns its exit code; with ``detach`` 0 once it runs.

        Raises ImageError, OSError if it cannot be started.
        """
        if detach:
            self._detached(container)
            return 0
        return self._run(container, None)

    def _detached(self, container: Container) -> None:
        """Run it in a process of its own, and wait until it runs, or tells why it does not."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(reading)
                os.setsid()
                null = os.open(os.devnull, os.O_RDWR)
                for fd in range(3):  # who has called us waits for the end of what they have given us
                    os.dup2(null, fd)
                self._run(container, writing)
                code = 0
            except (OSError, ImageError) as error:
                with suppress(OSError):
                    os.write(writing, (getattr(error, "strerror", "") or str(error)).encode())
            finally:
                os._exit(code)
        os.close(writing)
        with open(reading, "rb") as report:
            told = report.read()
        if told != _STARTED:
            raise OSError(told.decode(errors="replace") or "the container did not start")

    def _run(self, container: Container, report: int | None) -> int:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and undo what was done so far
        with self.containers.running(container):
            self.clear(container)
            for name in ("work", "merged", "bundle"):
                container.path(name).mkdir(mode=0o700, exist_ok=True)
            if rootless.is_needed():
                rootless.enter()
            with self._mounted(container) as root:
                image = self.store.image(container.image)
                table = bundle(image.config, Options(**container.options), root, hostname=container.short_id)
                write_atomically(container.path("bundle") / "config.json", to_json(table))
                return self._execute(container, report)

    def _execute(self, container: Container, report: int | None) -> int:
        pid_file = container.path("bundle") / "pid"
        pid_file.unlink(missing_ok=True)
        with self._streams(container, report) as streams:
            process = subprocess.Popen(self._command(container, pid_file), **streams)  # type: ignore[call-overload]
        old = {number: signal.signal(number, lambda number, _: process.send_signal(number)) for number in PASSED_ON}
        old[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, the container has it too
        try:
            while (pid := _noted(pid_file)) is None and process.poll() is None:
                time.sleep(_POLL)
            if pid is None:
                pid = _noted(pid_file)  # it may have been noted, and have ended, since
            if pid is not None:
                running = replace(container, state="running", pid=pid, started=time.time(), exit_code=0)
                self.containers.write(running)
                if report is not None:
                    os.write(report, _STARTED)
                    os.close(report)
            code: int = process.wait()
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
        if pid is None:
            said = container.path("log").read_text(errors="replace").strip().splitlines() if report else []
            raise OSError(said[-1] if said else f"the runtime ended with status {code}")
        ended = replace(running, state="exited", pid=0, exit_code=code, finished=time.time())
        self.containers.write(ended)
        return code

    def _command(self, container: Container, pid_file: Path) -> list[str]:
        if not container.runtime:
            return [*_OWN, str(container.path("bundle")), str(pid_file)]
        words = ["run", "--bundle", str(container.path("bundle")), "--pid-file", str(pid_file), container.id]
        return [*self._runtime(container), *words]

    def _runtime(self, container: Container) -> list[str]:
        return [container.runtime, "--root", str(self.store.root / "runtime")]

    @contextmanager
    def _streams(self, container: Container, report: int | None) -> Iterator[Mapping[str, IO[bytes] | int]]:
        if report is None:
            yield {}
            return
        with container.path("log").open("ab") as log:
            yield {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}

    # -- its union

    @contextmanager
    def _mounted(self, container: Container) -> Iterator[Path]:
        """A process of its own mounts it, and holds the layers: nothing of ours is to stay open in it."""
        merged = container.path("merged")
        command = [sys.executable, "-P", "-m", "pyunionfs", "mount", "--root", str(self.store.root)]
        command += ["--image", container.image, "--upper", str(container.path("diff"))]
        command += ["--work", str(container.path("work"))]
        command += [word for name, value in options_of(self.store).items() for word in ("-o", f"{name}={value}")]
        command.append(str(merged))
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=linux.die_with_parent,  # or a union could be mounted for a runner that was killed
        )
        if done.returncode:
            raise OSError(done.stderr.strip().removeprefix("pyunionfs: "))
        try:
            yield merged
        finally:
            _unmount(merged)

    def clear(self, container: Container) -> None:
        """Take away what a runner that was killed has left: processes and the mount."""
        merged = container.path("merged")
        serving = rootless.daemons_of(merged) if rootless.is_needed() else []

        def delete() -> int:
            words = [*self._runtime(container), "delete", "--force", container.id]
            return subprocess.run(words, capture_output=True).returncode

        if container.runtime and serving:
            rootless.inside(serving[0], delete)
        elif container.runtime:
            delete()
        if serving:
            rootless.end_daemons(merged)
        _unmount(merged)

    # -- what is done to one that runs

    def kill(self, container: Container, number: int) -> None:
        """Send a signal to its first process. Raises OSError if it does not run."""
        pid = self._pid(container)

        def send() -> int:
            os.kill(pid, number)
            return 0

        if not rootless.is_needed():
            send()
        elif rootless.inside(pid, send):  # where it may be another user
            raise OSError(f"container {container.name} cannot be sent a signal")

    def exec(self, container: Container, args: Sequence[str], *, env: Sequence[str], terminal: bool) -> int:
        """Run one more command in a container; returns its exit code. Raises OSError if it does not run."""
        pid = self._pid(container)
        command, environ = self._exec_command(container, pid, args, env, terminal=terminal)

        def execute() -> int:
            code = subprocess.run(command, env=environ).returncode
            return code if code >= 0 else 128 - code

        return rootless.inside(pid, execute) if rootless.is_needed() else execute()

    def _exec_command(
        self, container: Container, pid: int, args: Sequence[str], env: Sequence[str], *, terminal: bool
    ) -> tuple[list[str], dict[str, str] | None]:
        if container.runtime:
            words = ["exec", *(["-t"] if terminal else []), *(word for item in env for word in ("-e", item))]
            return [*self._runtime(container), *words, container.id, *args], None
        process = json.loads((container.path("bundle") / "config.json").read_bytes())["process"]
        environ = dict(item.partition("=")[::2] for item in [*process["env"], *env])
        uid, gid = process["user"]["uid"], process["user"]["gid"]
        user = ["-S", f"{uid}", "-G", f"{gid}"] if uid or gid else []
        spaces = ["-m", "-u", "-i", "-p", "-r", "-w", *([] if _shares_net(pid) else ["-n"])]
        return [shutil.which("nsenter") or "nsenter", "-t", f"{pid}", *spaces, *user, *args], environ

    def processes(self, container: Container) -> list[int]:
        """The processes in its PID namespace, as the host sees them. Raises OSError if it does not run.

        An ordinary user's process is afterwards in the container's user namespace: only there it may look.
        """
        if rootless.is_needed():
            rootless.join(self._pid(container))
        space = os.readlink(f"/proc/{self._pid(container)}/ns/pid")
        found = []
        for directory in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if os.readlink(directory / "ns/pid") == space:
                    found.append(int(directory.name))
        return sorted(found)

    def _pid(self, container: Container) -> int:
        if container.state != "running" or not container.pid:
            raise OSError(f"container {container.name} does not run")
        return container.pid

    def remove(self, container: Container, *, force: bool = False) -> None:
        """Remove a container; ``force`` one that runs too. Raises ImageError if it runs."""
        if force and container.state == "running":
            with suppress(OSError):  # it may have ended since; whether it has is seen below
                self.kill(container, signal.SIGKILL)
        with self.containers.running(container, wait=_END_WAIT if force else 0.0):
            self.clear(container)
            self.containers.remove(container)

    def create(self, image: Image, name: str, reference: str, runtime: str, options: Options) -> Container:
        """Make a container of an image, which is not removed while there is one. Raises ImageError, OSError."""
        options.check()
        if options.memory and not runtime:
            raise OSError("a limit of memory is set by a runtime: --memory excludes --no-runtime")
        with self.store.keeping(image):
            made = self.containers.create(
                name=name, image=image.id, image_name=reference, runtime=runtime, options=asdict(options)
            )
        if image.lowerdirs and not rootless.is_needed():  # the root of a union is that of its upper directory
            root = image.lowerdirs[0].stat()
            os.chown(made.path("diff"), root.st_uid, root.st_gid)
            made.path("diff").chmod(stat.S_IMODE(root.st_mode))
        return made


def _unmount(merged: Path) -> None:
    if mount.find(os.fspath(merged)) is None:
        return
    try:
        mount.unmount(os.fspath(merged))
    except OSError:
        mount.unmount(os.fspath(merged), lazy=True)


def _shares_net(pid: int) -> bool:
    return os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net")
