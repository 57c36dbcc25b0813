"""The size of the RV in a new domain. A scanner shows in the look of images, a disease in the shapes of hearts.

Networks segment an RV too small that is larger, beside the left heart, than any they learnt from, or lose it. How much larger
shows all the same, in the slices where they see it. So labelled images are given RVs as large: image and mask go through one
smooth warp about the RV's centre. Only larger ones: an RV that is found too small is what a network does that fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

from RVQCLib.augmentation import warp
from RVQCLib.domain import relative_size
from RVQCLib.stack import LABELS

USUAL = 0.9
"""Quantile of the labelled stacks' relative sizes that the middle one of the new domain must be above."""
MORE = 1.5
"""RVs are drawn up to so much larger than found, because those found are too small."""
REACH, FADE = 12, 6
"""Pixels from the RV's edge to which all is moved as the RV is, and over which (three times) the movement fades."""


@dataclass(frozen=True)
class Shapes:
    """Of a new domain: by which factor the RV is larger, in area beside the left heart, than in labelled masks, and the
    relative size from which an RV is nearer to the new ones than to the old ones."""

    growth: float
    least: float

    @staticmethod
    def of(new: Sequence[np.ndarray], old: Sequence[np.ndarray]) -> Shapes | None:
        """From masks (slices, rows, columns) as found in the new domain and as labelled; None where the RVs of the new one
        are of a usual size."""
        found, usual = (np.array([relative_size(mask) for mask in masks]) for masks in (new, old))
        found, usual = found[np.isfinite(found)], usual[np.isfinite(usual)]
        if not len(found) or not len(usual) or np.median(found) <= np.quantile(usual, USUAL):
            return None
        now, before = float(np.median(found)), float(np.median(usual))
        return Shapes(now / before, float(np.sqrt(now * before)))

    def give(self, images: Tensor, labels: Tensor, *, generator: Generator) -> tuple[Tensor, Tensor]:
        """Images (n, 1, size, size) and labels (n, size, size), each with an RV up to `MORE` times `growth` as large."""
        area = 1 + (MORE * self.growth - 1) * torch.rand(len(images), generator=generator)
        return _grown(images, labels, area)


def _grown(images: Tensor, labels: Tensor, area: Tensor) -> tuple[Tensor, Tensor]:
    """Every slice with its RV `area` (n,) times as large, about its centre; one without an RV as it is."""
    size = images.shape[-1]
    rv = (labels == LABELS["RV"]).float()[:, None]
    near = functional.max_pool2d(rv, 2 * REACH + 1, 1, REACH)
    for _ in range(3):
        near = functional.avg_pool2d(near, 2 * FADE + 1, 1, FADE)
    pull = near[:, 0] * (1 - area.rsqrt())[:, None, None]
    place = torch.arange(size).float()
    count = rv.sum((1, 2, 3)).clamp(min=1)
    rows, columns = (rv.sum((1, axis)) @ place / count for axis in (3, 2))
    x = place[None, None, :] - (place[None, None, :] - columns[:, None, None]) * pull
    y = place[None, :, None] - (place[None, :, None] - rows[:, None, None]) * pull
    return warp(images, labels, torch.stack([x, y], -1).mul(2).add(1).div(size).sub(1))
