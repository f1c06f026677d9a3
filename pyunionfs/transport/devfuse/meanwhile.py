"""What is done while there is no request, for those that are likely to come."""

import logging
from collections.abc import Iterator

log = logging.getLogger(__name__)


class Meanwhile:
    """One piece of work, done a little at a time, by the one thread that has nothing else to do."""

    def __init__(self) -> None:
        self._steps: Iterator[None] | None = None

    def do(self, steps: Iterator[None] | None) -> None:
        """In place of what was begun."""
        self._steps = steps

    def step(self) -> bool:
        """Do a little; False if there is nothing left."""
        steps = self._steps
        if steps is None:
            return False
        try:
            next(steps)
        except (StopIteration, OSError):
            self._steps = None
        except Exception:
            log.exception("bug in what is done ahead")
            self._steps = None
        return self._steps is not None
