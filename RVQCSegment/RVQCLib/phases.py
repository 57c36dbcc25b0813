"""Which frames of a cine are end-diastole and end-systole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from RVQCLib.bundle import ViewModels
from RVQCLib.files import RVQCError
from RVQCLib.inference import Tick, hard_masks, propose
from RVQCLib.slices import find_heart, to_network
from RVQCLib.stack import LABELS, Stack

SMOOTHED = 12
"""Frames of a cine from which neighbours are near enough in time to be averaged; of two frames, ED and ES, the mean of three
would exchange them."""


def find_phases(cine: Sequence[Stack], models: ViewModels, *, tick: Tick | None = None) -> tuple[int, int]:
    """Indices of ED and ES among the frames of a cine: the most and the least blood in both ventricles.

    The first candidate segments every frame in the crop of the first; the sum of LV and RV is smoothed over three
    neighbouring frames of the periodic beat, where these are near in time (`SMOOTHED`). `tick` is told of every frame's slices.

    Raises
    ------
    RVQCError
        All frames have as much blood, as where no heart is found.
    """
    crop = find_heart(cine[0], models.locator, models.sampling, device=models.device)
    first = replace(models, segmenters=models.segmenters[:1], consensus=False, refined=None)
    blood = []
    for frame in cine:
        mask, _ = hard_masks(propose(to_network(frame, crop, models.sampling), first, tick)[0])
        blood.append(float(((mask == LABELS["LV"]) | (mask == LABELS["RV"])).sum()))
    volume = np.array(blood)
    if len(volume) >= SMOOTHED:
        volume = (np.roll(volume, 1) + volume + np.roll(volume, -1)) / 3
    ed, es = int(volume.argmax()), int(volume.argmin())
    if ed == es:
        raise RVQCError(
            f"ED and ES cannot be told apart in {cine[0].source}; name the two frames (of a command: --frames ED ES)."
        )
    return ed, es
