"""Tasks on processes: whatever the workers do, a cancel is over in two seconds."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from RVQCLib.files import Cancelled
from RVQCLib.processes import _Pool, _Worker, run_processes


@dataclass(frozen=True)
class Deaf:
    """A task that does not ask whether it is cancelled; it says by a file that it has begun."""

    name: str
    mark: Path


def sleep(task: Deaf, cancelled: Callable[[], bool]) -> None:
    task.mark.touch()
    time.sleep(60)


def never() -> bool:
    return False


def test_workers_that_do_not_listen_are_gone_in_two_seconds(tmp_path: Path) -> None:
    tasks = [Deaf(f"{n}", tmp_path / f"{n}") for n in range(3)]
    asked: list[float] = []

    def cancelled() -> bool:
        if all(task.mark.exists() for task in tasks):
            asked.append(time.monotonic())
        return bool(asked)

    with pytest.raises(Cancelled):
        list(run_processes(sleep, tasks, 3, cancelled, never))
    assert time.monotonic() - asked[0] < 2.0
    assert multiprocessing.active_children() == []


@dataclass
class Slow:
    """A process that takes its time to go, as one with much memory does; `log` is shared by all."""

    log: list[str]
    takes_s: float = 0.4
    killed: list[float] = field(default_factory=list)

    def is_alive(self) -> bool:
        return not self.killed or time.monotonic() - self.killed[0] < self.takes_s

    def kill(self) -> None:
        self.killed.append(time.monotonic())
        self.log.append("kill")

    def join(self, timeout: float | None = None) -> None:
        ends = time.monotonic() + (60 if timeout is None else timeout)
        while self.is_alive() and time.monotonic() < ends:
            time.sleep(0.005)
        if not self.is_alive():
            self.log.append("gone")

    def close(self) -> None:
        """As a connection."""


def test_many_workers_are_ended_together() -> None:
    log: list[str] = []
    slow = [Slow(log) for _ in range(6)]
    pool = _Pool(sleep, 6, never)
    pool._workers = [_Worker(process, process) for process in slow]
    began = time.monotonic()
    pool.close()
    assert log == ["kill"] * 6 + ["gone"] * 6 and time.monotonic() - began < 2.0
