"""Two synthetic studies to try things on: one as a scanner gives it, one spoilt as a failing scan spoils it."""

from __future__ import annotations

from dataclasses import replace

from RVQCLib.phantom import phantom_study
from RVQCLib.shifts import SEVERITIES, shift_stack
from RVQCLib.stack import Stack, Study

SEED = 5
FAILING = ("ghosting", "noise", "noise")
"""Shifts at their severest, one after the other: with the noise twice the shipped bundle says out of distribution."""


def sample_studies(views: tuple[str, ...]) -> tuple[Study, Study]:
    """A sound phantom study, and the same heart under heavy noise and ghosting."""
    sound = phantom_study(SEED, views=views, name="sound")
    return sound, replace(sound, name="spoilt", stacks=tuple(map(_spoilt, sound.stacks)))


def _spoilt(stack: Stack) -> Stack:
    for name in FAILING:
        stack = shift_stack(stack, name, SEVERITIES[-1], seed=SEED)
    return stack
