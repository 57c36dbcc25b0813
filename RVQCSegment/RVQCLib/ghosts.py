"""Ghosts of a new domain: bright copies that lie across the heart, displaced along rows or columns, as breathing makes them.

No mean spectrum tells of them, but the image itself does: its fine detail comes back at one distance, which anatomy's does not.
So axis, distance and strength of the ghosts of a stack are read from the autocorrelation of its detail, and given to labelled images
in a window that is larger than the network's: what lies across a heart comes from far, the chest wall most of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

NEAREST = 20
"""Pixels at the networks' spacing; a ghost that is nearer is blur or motion."""
LEAST = 0.12
"""Height of a peak of the autocorrelation from which it is a ghost's."""
DETAIL, BROAD = 7, 15
"""Widths in pixels and in distances of the means that are taken off the image and off its autocorrelation."""
MORE = 2.0
"""Ghosts are drawn up to so much stronger than found: noise, and second ghosts, hide part of them."""


@dataclass(frozen=True, eq=False)
class Ghosts:
    """The ghosts of k stacks, each (k,): axis 1 (rows) or 2, distance in pixels, weight beside an image of 1; 0 is none."""

    axis: np.ndarray
    distance: np.ndarray
    weight: np.ndarray

    @staticmethod
    def of(stacks: Sequence[np.ndarray]) -> Ghosts | None:
        """The ghosts of stacks (slices, source, source), None where no stack has any."""
        found = [peak(stack) for stack in stacks]
        axis, distance, height = (np.array(values) for values in zip(*found, strict=True))
        # Of an image with one copy of weight w the autocorrelation there is w / (1 + w^2).
        height = np.clip(height, 0.0, 0.5)
        weight = np.where(height < LEAST, 0.0, (1 - np.sqrt(1 - 4 * height**2)) / np.maximum(2 * height, 1e-6))
        return Ghosts(axis, distance, weight) if weight.any() else None

    def give(self, images: Tensor, *, generator: Generator) -> Tensor:
        """Images (n, 1, source, source), 0..1, each with the ghosts of one of the stacks: a copy at its distance on one side
        and, as a movement that repeats makes more than one, a weaker one at twice the distance on either."""
        index = torch.randint(0, len(self.axis), (len(images),), generator=generator).tolist()
        drawn = torch.rand(len(images), 4, generator=generator).tolist()
        haunted = []
        for image, k, (factor, weaker, side, other) in zip(images, index, drawn, strict=True):
            weight, axis = (1 + (MORE - 1) * factor) * float(self.weight[k]), int(self.axis[k])
            near, far = (int(n * self.distance[k]) * (1 if coin < 0.5 else -1) for n, coin in ((1, side), (2, other)))
            copies = image.roll(near, axis) + weaker * image.roll(far, axis)
            haunted.append((image + weight * copies) / (1 + weight + weaker * weight))
        return torch.stack(haunted)


def peak(stack: np.ndarray) -> tuple[int, int, float]:
    """Axis, distance and height of the highest peak of the autocorrelation of a stack's detail, over slices (slices, n, n)."""
    images = torch.from_numpy(np.ascontiguousarray(stack, dtype=np.float32))[:, None]
    detail = (images - functional.avg_pool2d(images, DETAIL, 1, DETAIL // 2, count_include_pad=False))[:, 0]
    heights = {axis: _without_broad(_autocorrelation(detail, axis)) for axis in (1, 2)}
    axis = max(heights, key=lambda one: float(heights[one].max()))
    return axis, NEAREST + int(heights[axis].argmax()), float(heights[axis].max())


def _autocorrelation(detail: Tensor, axis: int) -> Tensor:
    """Of detail (slices, n, n), at the distances from `NEAREST` to two thirds of the width."""
    size = detail.shape[axis]
    values = []
    for distance in range(NEAREST, 2 * size // 3):
        here, there = (detail.narrow(axis, start, size - distance) for start in (0, distance))
        values.append((here * there).sum() / (here.square().sum() * there.square().sum()).sqrt().clamp(min=1e-6))
    return torch.stack(values)


def _without_broad(values: Tensor) -> Tensor:
    """Values less their running mean: what blur and large bright structures make is no peak."""
    padded = functional.pad(values[None, None], (BROAD // 2, BROAD // 2), mode="replicate")
    return values - functional.avg_pool1d(padded, BROAD, 1)[0, 0]
