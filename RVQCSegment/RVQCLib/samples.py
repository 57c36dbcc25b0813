"""Two synthetic studies to try things on: one as a scanner gives it, one spoilt as a failing scan spoils it."""

from __future__ import annotations

from dataclasses import replace

from RVQCLib.phantom import phantom_study
from RVQCLib.shifts import shift_stack
from RVQCLib.stack import Study

SEED = 3


def sample_studies(views: tuple[str, ...]) -> tuple[Study, Study]:
    """A sound phantom study, and the same heart under heavy noise and ghosting."""
    sound = phantom_study(SEED, views=views, name="sound")
    spoilt = tuple(
        shift_stack(shift_stack(stack, "ghosting", 5, seed=SEED), "noise", 5, seed=SEED) for stack in sound.stacks
    )
    return sound, replace(sound, name="spoilt", stacks=spoilt)
