"""Long work on the main thread, cut into steps between which the application lives."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from RVQCSlicerLib.timers import one_shot

TURN_S = 0.02
"""After so long no further part is begun before the event loop has had its turn: views and clicks stay smooth."""


class Steps:
    """Runs the parts of an iterator one after the other from the event loop, a few short ones at a time.

    Parameters
    ----------
    done : Is called once with None, or with the exception that ended the work; not at all after `stop`.
    """

    def __init__(self, work: Iterator[None], done: Callable[[Exception | None], None]) -> None:
        self._work: Iterator[None] | None = work
        self._done: Callable[[Exception | None], None] | None = done
        self._timer = one_shot(self._next)
        self._timer.start()

    def stop(self) -> None:
        """Do no further step; the iterator is closed, so that its `finally` parts run."""
        work, self._work = self._work, None
        self._let_go()
        if work is not None:
            work.close()

    def _next(self) -> None:
        if self._work is None:
            return
        error: Exception | None = None
        ends = time.perf_counter() + TURN_S
        try:
            while self._work is not None and time.perf_counter() < ends:
                next(self._work)
        except StopIteration:
            self._work = None
        except Exception as caught:
            self._work, error = None, caught
        if self._work is not None:
            self._timer.start()
        elif (done := self._let_go()) is not None:
            done(error)

    def _let_go(self) -> Callable[[Exception | None], None] | None:
        """End the timer and forget whom to call; None where that was done before."""
        done, self._done = self._done, None
        if done is not None:
            self._timer.stop()
            self._timer.deleteLater()
        return done
