"""A mount namespace of a test's own, for what should not be mounted, or not be missing, on the whole machine."""

import subprocess


class MountNamespace:
    """Held by a process, until :meth:`end`."""

    def __init__(self) -> None:
        words = ["unshare", "-m", "--propagation", "private", "sh", "-c", "echo; exec sleep infinity"]
        self._holder = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert self._holder.stdout is not None
        assert self._holder.stdout.read(1) == b"\n", "it has not left the namespace of the machine"
        self._holder.stdout.close()

    @property
    def enter(self) -> list[str]:
        """What goes before a command that is to be executed in it."""
        return ["nsenter", "-m", "-t", f"{self._holder.pid}"]

    def end(self) -> None:
        self._holder.kill()
        self._holder.wait()
