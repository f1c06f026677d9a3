"""``pyunionfs reexec``: a running mount is moved to the code that is installed now, and what uses it sees a pause.

The daemon that is asked has the new code rehearse first: a process of its own reads the same description, opens
the layers and compares them. Only if that succeeds does the daemon leave, and its parent (``devfuse.supervisor``)
execute the new code in its place, with the descriptors of the mount, the locks, and the ledger of what the kernel
holds. From there on it is as if the daemon had died: the ledger is read, and what was not answered is sent again.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from . import serving
from .overlay.fs import Overlay
from .spec import MountSpec
from .transport import options as transport_options
from .transport.handing import Handed, inherited

_REHEARSAL_WAIT = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class InstalledCode:
    """The code that an interpreter finds now (``transport.handing.Successor``)."""

    spec: MountSpec
    overlay: Overlay

    def rehearse(self, handed: Handed) -> str:
        description = self._describe(handed)
        kept = (description, *self.overlay.locks)
        try:
            done = subprocess.run(
                [*_COMMAND, "rehearse", str(description), self.spec.mountpoint],
                pass_fds=kept,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_REHEARSAL_WAIT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"the new code was not ready after {_REHEARSAL_WAIT:.0f} seconds"
        finally:
            os.close(description)
        if done.returncode == 0:
            return ""
        lines = done.stderr.strip().splitlines()
        return lines[-1] if lines else f"the new code ended with status {done.returncode}"

    def take_place(self, handed: Handed) -> NoReturn:
        from .transport.devfuse.ledger import Ledger

        description = self._describe(handed)
        held = Ledger(handed.ledger).descriptors()
        with inherited(description, handed.fd, handed.ledger, *self.overlay.locks, *held):
            os.execv(_COMMAND[0], [*_COMMAND, "resume", str(description), self.spec.mountpoint])

    def _describe(self, handed: Handed) -> int:
        """The descriptor of a file without a name that holds everything."""
        told = {
            "spec": asdict(self.spec),
            "locks": self.overlay.locks,
            "layers": self.overlay.identities(),
            "handed": asdict(handed),
        }
        fd = os.memfd_create("pyunionfs-handover", os.MFD_CLOEXEC)
        os.pwrite(fd, json.dumps(told).encode(), 0)
        return fd


_COMMAND = (sys.executable, "-P", "-m", "pyunionfs.handover")


def _adopt(spec: MountSpec, told: Mapping[str, Any]) -> Overlay:
    """The same union. Raises OSError if its directories are not what they were."""
    overlay = serving.union(spec, adopt=told["locks"])
    for layer, was, now in zip(overlay.sb.layers, told["layers"], overlay.identities(), strict=True):
        if was != list(now):
            raise OSError(f"{os.fsdecode(layer.path)} is not the directory that was mounted")
    return overlay


def _resume(spec: MountSpec, told: Mapping[str, Any]) -> None:
    from .transport import devfuse

    for fd in told["locks"]:
        os.set_inheritable(fd, False)
    overlay = _adopt(spec, told)
    devfuse.resume(
        overlay,
        Handed(**told["handed"]),
        transport_options.parse(spec.options),
        info=serving.info(spec, overlay, "devfuse"),
        successor=InstalledCode(spec, overlay),
    )


def main(what: str, description: str, mountpoint: str) -> int:
    """The new code's process; the mount point is there for people to read. A rehearsal closes nothing: a union that
    is closed tidies its work directory."""
    del mountpoint
    with open(int(description), "rb") as file:
        file.seek(0)
        told = json.load(file)
    spec = MountSpec(**told["spec"])
    if what == "rehearse":
        _adopt(spec, told)
        os._exit(0)
    serving.start_log(spec)
    _resume(spec, told)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
