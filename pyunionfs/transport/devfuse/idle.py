"""What processors do that have nothing to do: they poll while requests come, so that nobody has to wake them.

An answer wakes who waits for it, and who asks next wakes the daemon. On a virtual machine that is most of what a
request costs: an idle processor halts, the host takes it away, and it takes an interrupt through the host to have
it back. While somebody wishes for a latency of 0, idle processors look for work in a loop instead, as with
``idle=poll`` on the kernel's command line (PM QoS, Documentation/power/pm_qos_interface.rst). They are not slow to
do it when there is work. The kernel drops the wish when its descriptor is closed, so it does not outlive a daemon.
"""

import logging
import os
from pathlib import Path
from struct import Struct

log = logging.getLogger(__name__)

DEVICE = "/dev/cpu_dma_latency"

_DRIVER = Path("/sys/devices/system/cpu/cpuidle/current_driver")
_FEW = 8  # processors: of more, too many would poll in vain
_LATENCY = Struct("=i")  # us
_NONE, _ANY = _LATENCY.pack(0), _LATENCY.pack(-1)  # PM_QOS_DEFAULT_VALUE


def wanted(option: str) -> bool:
    """What the mount option means. ``auto``: on a virtual machine of few processors, which can poll; there it was
    measured."""
    if option != "auto":
        return option == "poll"
    try:
        return _DRIVER.read_text().strip() == "haltpoll" and (os.cpu_count() or _FEW) <= _FEW
    except OSError:
        return False


def check() -> None:
    """Raises OSError where we may not have them poll."""
    os.close(os.open(DEVICE, os.O_WRONLY))


class Idle:
    """The wish of one daemon, which only who may open the device can have (root)."""

    def __init__(self) -> None:
        self._fd = -1
        self.polls = False

    def open(self, device: str = DEVICE) -> None:
        """Be able to have them poll, if we may."""
        try:
            self._fd = os.open(device, os.O_WRONLY)
        except OSError as error:
            log.info("idle processors halt: %s: %s", device, error.strerror)

    @property
    def able(self) -> bool:
        return self._fd >= 0

    def poll(self) -> None:
        """Have idle processors poll from now on."""
        if self.able and not self.polls:
            os.write(self._fd, _NONE)
            self.polls = True

    def halt(self) -> None:
        """Let them halt."""
        if self.polls:
            os.write(self._fd, _ANY)
            self.polls = False
