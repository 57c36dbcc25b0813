"""The same work on many things, in this process, in its threads or in several processes, in the order of the things."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, TypeVar

Thing, Answer = TypeVar("Thing"), TypeVar("Answer")


def in_order(work: Callable[[Thing], Answer], things: Iterable[Thing], jobs: int = 1) -> Iterator[Answer]:
    """The answers of `work` on every thing. With `jobs` > 1 in so many processes of one thread each, side by side, which
    on a CPU is faster than one process of many threads; things and answers then travel between processes, and once to each
    of them the work, which may keep there what it builds. They end when this one is killed."""
    if jobs <= 1:
        yield from map(work, things)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin, (work,)) as pool:
        yield from pool.map(_do, things)


def side_by_side(work: Callable[[Thing], Answer], things: Sequence[Thing]) -> list[Answer]:
    """The answers of `work` on every thing, in threads that share the cores that torch may use. One core a thing is faster
    than all cores for one thing after the other: while one thread measures, the networks of another go on. `work` must not
    mind its company. The first error, in the order of the things, comes through once what has begun has ended."""
    import torch

    cores = torch.get_num_threads()
    threads = min(cores, len(things))
    if threads <= 1:
        return [work(thing) for thing in things]
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(cores // threads,)) as pool:
            return list(pool.map(work, things))
    finally:
        torch.set_num_threads(cores)


def end_with_parent() -> None:
    """Let this worker end at once when its parent is gone: a killed parent cannot tell it, and what it works on is free
    for the next run then. For the `initializer` of a pool."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    if parent is not None:
        threading.Thread(target=watch, daemon=True).start()


_work: list[Callable[[Any], Any]] = []
"""In a worker of `in_order`: what it does with every thing."""


def _begin(work: Callable[[Any], Any]) -> None:
    import torch

    end_with_parent()
    torch.set_num_threads(1)
    _work[:] = [work]


def _do(thing: Any) -> Any:
    return _work[0](thing)
