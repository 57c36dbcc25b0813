"""The same answers in the same order, in one process or in several; an error comes through."""

from __future__ import annotations

import os

import pytest

from RVQCLib.parallel import in_order


def square_and_process(value: int) -> tuple[int, int]:
    if value < 0:
        raise ValueError(f"{value} is negative")
    return value * value, os.getpid()


@pytest.mark.parametrize("jobs", [1, 2])
def test_in_the_order_of_the_things(jobs: int) -> None:
    answers = list(in_order(square_and_process, range(7), jobs))
    assert [answer for answer, _ in answers] == [0, 1, 4, 9, 16, 25, 36]
    assert ({process for _, process in answers} == {os.getpid()}) == (jobs == 1)


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_comes_through(jobs: int) -> None:
    with pytest.raises(ValueError, match="-2 is negative"):
        list(in_order(square_and_process, [1, -2, 3], jobs))


def test_one_process_works_only_as_far_as_it_is_asked() -> None:
    seen: list[int] = []
    answers = in_order(lambda value: seen.append(value) or value, range(5))
    assert next(answers) == 0 and seen == [0]
