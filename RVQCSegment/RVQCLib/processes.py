"""Tasks on several processes of this machine. One that is killed is named, its task is tried once more, the rest goes on."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from RVQCLib.files import Cancelled, RunError

log = logging.getLogger(__name__)

POLL_S = 0.1
GRACE_S = 1.2
"""How long workers may go on after a cancel; what is left of two seconds is for ending those that do not listen."""
END_S = 0.5
TRIES = 2


class Task(Protocol):
    """Something to do, with a name for messages."""

    @property
    def name(self) -> str:
        """What messages call it."""


Work = Callable[[Any, Callable[[], bool]], Any]
"""Does a task, asking now and then whether it is cancelled; importable by name, for other processes."""
Outcome = tuple[Any, Any, str]
"""A task, what its work returned, and, where its worker died instead, the sentence that says so."""


def run_here(work: Work, tasks: Iterable[Task], cancelled: Callable[[], bool]) -> Iterator[Outcome]:
    """One task after the other in this process.

    Raises
    ------
    Cancelled
        `cancelled` returned True.
    """
    for task in tasks:
        if cancelled():
            raise Cancelled
        yield task, work(task, cancelled), ""


def run_processes(
    work: Work, tasks: Iterable[Task], jobs: int, cancelled: Callable[[], bool], stop: Callable[[], bool]
) -> Iterator[Outcome]:
    """Tasks on `jobs` spawned processes, outcomes as they come; as many tasks as processes are drawn at a time.

    Parameters
    ----------
    stop
        Is asked inside the workers, so it has to be importable or a bound method of something that is.

    Raises
    ------
    Cancelled
        `cancelled` returned True; the workers are gone within two seconds.
    RunError
        A worker's device does not work, or it finds another bundle.
    """
    pool = _Pool(work, jobs, stop)
    try:
        yield from pool.run(iter(tasks), cancelled)
    finally:
        pool.close()


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    task: Task | None = None
    tries: int = 0


class _Pool:
    def __init__(self, work: Work, jobs: int, stop: Callable[[], bool]) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._work, self._jobs, self._stop = work, jobs, stop
        self._workers: list[_Worker] = []
        self._again: deque[tuple[Task, int]] = deque()

    def run(self, tasks: Iterator[Task], cancelled: Callable[[], bool]) -> Iterator[Outcome]:
        """Outcomes until all tasks are done."""
        while True:
            if cancelled():
                raise Cancelled
            self._hand_out(tasks)
            busy = [worker for worker in self._workers if worker.task is not None]
            if not busy:
                return
            ready = wait([worker.connection for worker in busy], timeout=POLL_S)
            for worker in busy:
                if worker.connection in ready and (outcome := self._collect(worker)) is not None:
                    yield outcome

    def _hand_out(self, tasks: Iterator[Task]) -> None:
        """Give every idle worker a task; start workers while there are tasks for them."""
        while True:
            idle = next((worker for worker in self._workers if worker.task is None), None)
            if idle is None and len(self._workers) >= self._jobs:
                return
            task, tries = self._again.popleft() if self._again else (next(tasks, None), 0)
            if task is None:
                return
            worker = idle or self._start()
            worker.task, worker.tries = task, tries + 1
            try:
                worker.connection.send(task)
            except OSError:
                log.debug("The worker of %s is gone; this is found when its answer is read.", task.name)

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._work, self._stop), daemon=True)
        process.start()
        theirs.close()
        self._workers.append(_Worker(process, ours))
        return self._workers[-1]

    def _collect(self, worker: _Worker) -> Outcome | None:
        task = worker.task
        try:
            answer = worker.connection.recv()
        except (EOFError, OSError):
            return self._bury(worker)
        worker.task = None
        if isinstance(answer, (Cancelled, RunError)):
            raise answer
        return task, answer, ""

    def _bury(self, worker: _Worker) -> Outcome | None:
        """A worker died at its task: try the task once more, then give it up."""
        task, tries = worker.task, worker.tries
        worker.process.join(GRACE_S)
        how = _how_it_ended(worker.process.exitcode)
        self._workers.remove(worker)
        worker.connection.close()
        log.warning("Worker process %d %s at %s (try %d of %d).", worker.process.pid, how, task.name, tries, TRIES)
        if tries < TRIES:
            self._again.append((task, tries))
            return None
        return task, None, f"Worker process {worker.process.pid} {how}, as did one before it; memory may be short."

    def close(self) -> None:
        """End all workers: idle ones at once, others after the time that a cancelled task needs to stop.

        All have the same deadlines, however many they are. One that a kill does not end in time, because the system holds it,
        is left to the system.
        """
        for worker in self._workers:
            worker.connection.close()
        self._join(GRACE_S)
        for worker in self._workers:
            if worker.process.is_alive():
                worker.process.kill()
        self._join(END_S)
        self._workers.clear()

    def _join(self, seconds: float) -> None:
        """Wait until all workers are gone, at most so long."""
        deadline = time.monotonic() + seconds
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was killed by signal {-code} ({signal.Signals(-code).name})"
    return f"ended with exit code {code}"


def _serve(connection: Connection, work: Work, stop: Callable[[], bool]) -> None:
    """A worker: tasks come through `connection` until it is closed. It stops when its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; it tells the workers
    parent = multiprocessing.parent_process()

    def cancelled() -> bool:
        return stop() or (parent is not None and not parent.is_alive())

    while True:
        try:
            task = connection.recv()
            try:
                answer = work(task, cancelled)
            except (Cancelled, RunError) as error:
                answer = error
            connection.send(answer)
        except (EOFError, OSError):
            return
