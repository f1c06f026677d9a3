"""Work done by several processes at once: all are waited for, and one that fails or hangs fails the test."""

import os
import select
import signal
import traceback
from collections.abc import Callable


def in_processes(count: int, work: Callable[[int], None], *, seconds: float = 240) -> None:
    """Run ``work(0)`` to ``work(count - 1)`` in that many processes, begun at the same moment.

    Those that have not ended after ``seconds`` are killed and named: a deadlock fails, it does not hang.
    """
    gate, opened = os.pipe()
    children = {}
    for number in range(count):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.close(opened)
                os.read(gate, 1)  # until the last one is there, and the gate is closed
                work(number)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        children[os.pidfd_open(pid)] = pid
    os.close(gate)
    os.close(opened)
    try:
        stuck = _wait(children, seconds)
    finally:
        codes = [os.waitpid(pid, 0)[1] for pid in children.values()]
        for pidfd in children:
            os.close(pidfd)
    assert not stuck, f"processes {stuck} of {count} had not ended after {seconds} seconds"
    assert codes == [0] * count


def _wait(children: dict[int, int], seconds: float) -> list[int]:
    """The numbers of those that had to be killed."""
    poll = select.poll()
    for pidfd in children:
        poll.register(pidfd, select.POLLIN)
    left = set(children)
    while left and (events := poll.poll(seconds * 1000)):
        for pidfd, _ in events:
            poll.unregister(pidfd)
            left.discard(pidfd)
    for pidfd in left:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    return [number for number, pidfd in enumerate(children) if pidfd in left]
