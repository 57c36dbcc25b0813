"""Timers that go off once."""

from __future__ import annotations

from collections.abc import Callable

import qt


def one_shot(call: Callable[[], None], after_ms: int = 0) -> qt.QTimer:
    """A timer that calls `call` once after every `start()`; a start while it runs begins the time anew.

    Whoever keeps it ends it. Not QTimer.singleShot: Slicer's keeps what it calls, with all the images behind it, until the
    application ends.
    """
    timer = qt.QTimer()
    timer.setSingleShot(True)
    timer.setInterval(after_ms)
    timer.connect("timeout()", call)
    return timer
