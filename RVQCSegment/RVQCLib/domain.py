"""Whether a stack looks like the images that networks were refined on, or like those that they were first trained on.

A scanner shows in the power spectrum and the histogram of its images. Of every stack both are written down as one vector;
the line from the mean of the old images to that of the new ones, with the old images' covariance, tells them apart
(Fisher's linear discriminant). Nothing of it is learnt by a network. Where the new domain differs in the RV's size, a stack
whose mask has such an RV is of it too (`shapes.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from RVQCLib.stack import LABELS

RINGS = 16
"""Rings of equal width of the power spectrum, from `LOWEST` to the highest frequency of rows and columns."""
LOWEST = 0.01
LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Quantiles of the intensities."""
SHRINKAGE = 0.6
"""Part of the identity in the correlation of the features: a domain may be seen in a few stacks only."""
LARGE = 0.75
"""Quantile over a stack's slices that its relative size is: networks lose RVs, and rarely see them larger than they are."""
WHOLE = 0.3
"""Part of the largest left heart of a stack that a slice's must have to be compared with."""


@dataclass(frozen=True, eq=False)
class Domain:
    """The new domain beside the old one: `origin` the old mean of the features (n,), `direction` (n,); along it the old
    mean is at 0 and the new one at 1. `size` is the relative size of the RV from which a stack is of the new domain whatever
    it looks like, None where sizes do not tell."""

    origin: np.ndarray
    direction: np.ndarray
    size: float | None = None

    @staticmethod
    def of(new: Sequence[np.ndarray], old: Sequence[np.ndarray]) -> Domain:
        """From stacks (slices, size, size) of the new domain and of the old one, as the networks see them, 0..1.

        Raises
        ------
        ValueError
            There is no new stack, or not two old ones.
        """
        if len(new) < 1 or len(old) < 2:
            raise ValueError(f"Domain: needs a new stack and two old ones, not {len(new)} and {len(old)}.")
        before, after = (np.stack([signature(stack) for stack in stacks]) for stacks in (old, new))
        mean, spread = before.mean(axis=0), np.maximum(before.std(axis=0), 1e-6)
        scaled = (before - mean) / spread
        shrunk = (1 - SHRINKAGE) * scaled.T @ scaled / len(scaled) + SHRINKAGE * np.eye(len(mean))
        step = ((after - mean) / spread).mean(axis=0)
        weights = np.linalg.solve(shrunk, step)
        return Domain(mean, weights / spread / max(float(step @ weights), 1e-12))

    def place(self, images: np.ndarray) -> float:
        """Where a stack (slices, size, size) lies: 0 at the old images' mean, 1 at that of the new ones."""
        return float((signature(images) - self.origin) @ self.direction)

    def holds(self, images: np.ndarray, mask: np.ndarray) -> bool:
        """Whether a stack with this mask (slices, rows, columns) is nearer to the new ones than to the old ones."""
        return self.place(images) > 0.5 or (self.size is not None and relative_size(mask) > self.size)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {"origin": self.origin.tolist(), "direction": self.direction.tolist(), "size": self.size}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Domain:
        """The inverse of `to_json`."""
        origin, direction = (np.asarray(values[key], float) for key in ("origin", "direction"))
        if origin.shape != (RINGS + len(LEVELS),) or direction.shape != origin.shape:
            raise ValueError(f"domain of {origin.shape} and {direction.shape} features")
        size = values.get("size")
        return Domain(origin, direction, None if size is None else float(size))


def signature(images: np.ndarray) -> np.ndarray:
    """Logarithm of the mean power in rings of frequency, and quantiles of the intensities, of images (slices, size, size).

    The images are faded out toward their edges, which would look like detail. Quantiles are weighed like the logarithms: a
    tenth of the range counts as much as a factor of 1.6 in power.
    """
    images = np.asarray(images, np.float32)
    size = images.shape[-1]
    fade = np.outer(np.hanning(size), np.hanning(size))
    spectrum = np.fft.rfft2((images - images.mean(axis=(1, 2), keepdims=True)) * fade)
    power = (np.abs(spectrum) ** 2).mean(axis=0) / (fade**2).sum()
    radius = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    ring = np.digitize(radius, np.linspace(LOWEST, 0.5, RINGS + 1)) - 1
    rings = [np.log(power[ring == k].mean() + 1e-7) if (ring == k).any() else 0.0 for k in range(RINGS)]
    return np.array([*rings, *(5.0 * np.quantile(images, LEVELS))])


def relative_size(mask: np.ndarray) -> float:
    """Area of the RV beside that of LV and myocardium in a mask (slices, rows, columns); NaN where no slice has both."""
    rv = (mask == LABELS["RV"]).sum(axis=(1, 2))
    left = ((mask == LABELS["LV"]) | (mask == LABELS["MYO"])).sum(axis=(1, 2))
    both = (rv > 0) & (left > WHOLE * left.max(initial=0))
    return float(np.quantile(rv[both] / left[both], LARGE)) if both.any() else float("nan")
