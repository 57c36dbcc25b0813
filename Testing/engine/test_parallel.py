"""The same answers in the same order, in one process, its threads or several processes; an error comes through."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY

from RVQCLib.parallel import in_order, side_by_side


def square_and_process(value: int) -> tuple[int, int]:
    if value < 0:
        raise ValueError(f"{value} is negative")
    return value * value, os.getpid()


@pytest.mark.parametrize("jobs", [1, 2])
def test_in_the_order_of_the_things(jobs: int) -> None:
    answers = list(in_order(square_and_process, range(7), jobs))
    assert [answer for answer, _ in answers] == [0, 1, 4, 9, 16, 25, 36]
    assert ({process for _, process in answers} == {os.getpid()}) == (jobs == 1)


class Counter:
    """Work that tells which process does it and how often it did."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, value: int) -> tuple[int, int]:
        self.calls += 1
        return os.getpid(), self.calls


def test_work_travels_once_to_a_process() -> None:
    answers = list(in_order(Counter(), range(6), 2))
    for process in {process for process, _ in answers}:
        own = [calls for one, calls in answers if one == process]
        assert own == list(range(1, len(own) + 1))


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_comes_through(jobs: int) -> None:
    with pytest.raises(ValueError, match="-2 is negative"):
        list(in_order(square_and_process, [1, -2, 3], jobs))


def test_one_process_works_only_as_far_as_it_is_asked() -> None:
    seen: list[int] = []
    answers = in_order(lambda value: seen.append(value) or value, range(5))
    assert next(answers) == 0 and seen == [0]


@pytest.fixture
def cores() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_threads_share_the_cores_and_give_them_back(cores: Callable[[int], None]) -> None:
    """Two things at once on four cores: each waits for the other, so one after the other would never end."""
    cores(4)
    met = threading.Barrier(2, timeout=20)

    def work(value: int) -> tuple[int, int]:
        met.wait()
        return value * value, torch.get_num_threads()

    assert side_by_side(work, [3, 2]) == [(9, 2), (4, 2)]
    assert torch.get_num_threads() == 4
    assert side_by_side(lambda value: (value, torch.get_num_threads()), [5]) == [(5, 4)]
    assert set(side_by_side(lambda value: torch.get_num_threads(), range(9))) == {1}


def test_with_one_core_nothing_runs_side_by_side(cores: Callable[[int], None]) -> None:
    cores(1)
    assert side_by_side(lambda value: threading.current_thread(), [1, 2]) == [threading.main_thread()] * 2


def test_the_error_of_a_thread_comes_through_and_the_cores_are_given_back(cores: Callable[[int], None]) -> None:
    cores(4)
    with pytest.raises(ValueError, match="-2 is negative"):
        side_by_side(square_and_process, [1, -2, 3])
    assert torch.get_num_threads() == 4


WORK = r"""
from RVQCLib.parallel import in_order
if __name__ == "__main__":
    list(in_order(exec, [r"import os, time; os.write(1, b'at work\n'); time.sleep(600)"] * 2, jobs=2))
"""


@pytest.mark.skipif(os.name == "nt", reason="processes are killed by POSIX signals here")
def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(WORK, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "RVQCSegment")}
    pipe = {"stdout": subprocess.PIPE, "env": environment, "text": True, "start_new_session": True}
    with subprocess.Popen([sys.executable, str(script)], **pipe) as process:
        try:
            assert [process.stdout.readline() for _ in range(2)] == ["at work\n"] * 2
            process.kill()
            process.communicate(timeout=60)  # the workers hold the other end of the pipe while they live
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
