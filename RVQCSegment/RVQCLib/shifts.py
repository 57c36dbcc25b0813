"""Graded image shifts, as another scanner or a bad scan brings them, and realistic errors of masks.

`shift_stack` serves calibration and evaluation: the same stack, shift, severity and seed give the same image, and the grid
never changes, so that true masks stay true. `corrupt_slice` serves the QC module's training and the evaluation of QC.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import SimpleITK as sitk

from RVQCLib.files import RVQCError
from RVQCLib.stack import Stack

SEVERITIES = (1, 2, 3, 4, 5)
"""1 is hardly seen, 3 is what another hospital may look like, 5 is a bad scan."""

Shift = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def shift_stack(stack: Stack, name: str, severity: int, *, seed: int) -> Stack:
    """The stack under shift `name` at `severity` 1..5; geometry and intensity range stay.

    Raises
    ------
    RVQCError
        There is no such shift or severity.
    """
    if name not in SHIFTS or severity not in SEVERITIES:
        raise RVQCError(
            f"There is no shift {name!r} of severity {severity}; choose from {', '.join(SHIFTS)} and 1 to 5."
        )
    rng = np.random.default_rng([seed, severity, zlib.crc32(f"{name}/{stack.name}".encode())])
    low, high = (float(v) for v in np.percentile(stack.pixels, (0.5, 99.5)))
    scale = max(high - low, 1e-6)
    image = (stack.pixels.astype(np.float32) - low) / scale
    shifted = SHIFTS[name](image, severity / 5, rng)
    return stack.with_pixels(np.ascontiguousarray(shifted * scale + low, dtype=np.float32))


def _bias(image: np.ndarray, s: float, rng: np.random.Generator) -> np.ndarray:
    """A smooth in-plane field, up to a factor of about six across the image."""
    rows, columns = (np.linspace(-1, 1, n) for n in image.shape[1:])
    a, b, c = rng.uniform(0.4, 1.0, 3) * rng.choice((-1, 1), 3)
    field = a * rows[:, None] + b * columns[None, :] + 0.7 * c * rows[:, None] * columns[None, :]
    return image * np.exp(1.1 * s * field).astype(np.float32)


def _noise(image: np.ndarray, s: float, rng: np.random.Generator) -> np.ndarray:
    """Rician noise with a standard deviation of up to 0.3 of the intensity range."""
    sigma = 0.30 * s**1.5
    real = np.maximum(image, 0) + sigma * rng.standard_normal(image.shape, np.float32)
    return np.hypot(real, sigma * rng.standard_normal(image.shape, np.float32))


def _blur(image: np.ndarray, s: float, rng: np.random.Generator) -> np.ndarray:
    """A Gaussian in the plane with a standard deviation of up to 3.5 pixels."""
    return _smooth(image, 3.5 * s)


def _gamma(image: np.ndarray, s: float, rng: np.random.Generator) -> np.ndarray:
    """Gamma up to 3, or down to a third."""
    power = np.exp(rng.choice((-1.0, 1.0)) * s * np.log(3.0))
    return np.clip(image, 0, None) ** np.float32(power)


def _ghosting(image: np.ndarray, s: float, rng: np.random.Generator) -> np.ndarray:
    """Copies displaced along the rows by a quarter and a half of the field, with up to 0.6 of the signal."""
    axis = int(rng.integers(1, 3))
    step = image.shape[axis] // 4 + int(rng.integers(-6, 7))
    copies = 0.6 * np.roll(image, step, axis) + 0.4 * np.roll(image, -2 * step, axis)
    return image + 0.6 * s * (copies - 0.5 * image)


def _resolution(image: np.ndarray, s: float, rng: np.random.Generator) -> np.ndarray:
    """Pixels up to 4.5 times as large, interpolated back to the grid."""
    factor = 1 + 3.5 * s
    stack = sitk.GetImageFromArray(_smooth(image, 0.4 * factor))
    coarse = [stack.GetSize()[0] / factor, stack.GetSize()[1] / factor]
    size = [max(8, round(coarse[0])), max(8, round(coarse[1])), stack.GetSize()[2]]
    spacing = [stack.GetSize()[k] / size[k] for k in range(2)]
    small = sitk.Resample(stack, size, sitk.Transform(), sitk.sitkLinear, (0, 0, 0), (*spacing, 1.0))
    return sitk.GetArrayFromImage(sitk.Resample(small, stack, sitk.Transform(), sitk.sitkLinear))


def _vendor(image: np.ndarray, s: float, rng: np.random.Generator) -> np.ndarray:
    """Another contrast: a random smooth curve, monotone while mild, with bends when severe."""
    knots = np.linspace(0, 1, 7)
    curve = knots + s * rng.uniform(-0.22, 0.22, 7)
    curve[0] = max(curve[0], 0.0)
    return np.interp(np.clip(image, 0, 1.3), knots, curve).astype(np.float32)


def _motion(image: np.ndarray, s: float, rng: np.random.Generator) -> np.ndarray:
    """The mean of the slice displaced in several directions: a breath or a missed trigger."""
    reach = 7 * s
    moves = rng.uniform(-reach, reach, (4, 2)).round().astype(int)
    return np.mean([image, *(np.roll(image, tuple(move), (1, 2)) for move in moves)], axis=0, dtype=np.float32)


SHIFTS: dict[str, Shift] = {
    "bias": _bias,
    "noise": _noise,
    "blur": _blur,
    "gamma": _gamma,
    "ghosting": _ghosting,
    "resolution": _resolution,
    "vendor": _vendor,
    "motion": _motion,
}


def _smooth(image: np.ndarray, sigma: float) -> np.ndarray:
    radius = max(1, round(3 * sigma))
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / max(sigma, 1e-3)) ** 2).astype(np.float32)
    kernel /= kernel.sum()
    for axis in (1, 2):
        width = [(0, 0)] * 3
        width[axis] = (radius, radius)
        padded = np.pad(image, width, mode="edge")
        n = image.shape[axis]
        image = sum(w * np.take(padded, np.arange(k, k + n), axis) for k, w in enumerate(kernel))
    return image.astype(np.float32)


# Errors of masks ------------------------------------------------------------------------------------------------------

Error = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def corrupt_slice(labels: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """One slice of labels, uint8 (rows, columns), after one to three errors of segmentation; `strength` 0..1 grades them.

    Strength 0, or a slice without labels, comes back as it is.
    """
    if strength <= 0 or not labels.any():
        return labels.copy()
    result = labels.copy()
    names = list(ERRORS)
    for _ in range(1 + int(rng.random() < strength) + int(rng.random() < 0.5 * strength)):
        result = ERRORS[names[int(rng.integers(len(names)))]](result, strength, rng)
    return result


def corrupt_mask(labels: np.ndarray, *, rng: np.random.Generator, strength: float) -> np.ndarray:
    """A mask, uint8 (slices, rows, columns), after errors in some of its slices and, sometimes, slices lost at one end.

    `strength` 0..1 grades how many slices fail and how badly. Strength 0, or a mask without labels, comes back as it is;
    any other mask is changed.
    """
    if strength <= 0 or not labels.any():
        return labels.copy()
    failing = rng.random(len(labels)) < 0.2 + 0.6 * strength
    pairs = zip(labels, failing, strict=True)
    result = np.stack([corrupt_slice(one, rng, strength) if fails else one for one, fails in pairs])
    if rng.random() < 0.4 * strength or np.array_equal(result, labels):
        result = lose_end(result, strength, rng) if result.any() else result
    return result


def lose_end(labels: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A stack whose first or last labelled slices, at base or apex, were not found: one, up to half when strong."""
    labelled = np.flatnonzero(labels.any(axis=(1, 2)))
    count = 1 + int(rng.integers(0, 1 + int(strength * len(labelled) / 2)))
    lost = labelled[:count] if rng.random() < 0.5 else labelled[-count:]
    result = labels.copy()
    result[lost] = 0
    return result


def _some(labels: np.ndarray, rng: np.random.Generator) -> int:
    """One of the labels in the slice, the RV twice as often as another; 0 when there is none."""
    present = [k for k in (1, 2, 3, 3) if (labels == k).any()]
    return int(rng.choice(present)) if present else 0


def _disc(labels: np.ndarray, center: np.ndarray, radius: float) -> np.ndarray:
    rows, columns = np.ogrid[: labels.shape[0], : labels.shape[1]]
    return (rows - center[0]) ** 2 + (columns - center[1]) ** 2 <= radius**2


def _point_of(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    points = np.argwhere(mask)
    return points[int(rng.integers(len(points)))]


def _grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    """The mask grown by `pixels` in the city-block metric."""
    for _ in range(pixels):
        wider = mask.copy()
        wider[1:] |= mask[:-1]
        wider[:-1] |= mask[1:]
        wider[:, 1:] |= mask[:, :-1]
        wider[:, :-1] |= mask[:, 1:]
        mask = wider
    return mask


def drop(labels: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A structure that was not found; when strong, sometimes all of them."""
    if rng.random() < 0.3 * strength:
        return np.zeros_like(labels)
    return np.where(labels == _some(labels, rng), 0, labels).astype(np.uint8)


def shrink(labels: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A structure that is too small by up to six pixels all around."""
    k = _some(labels, rng)
    keep = ~_grown(labels != k, 1 + int(rng.integers(0, 1 + round(5 * strength))))
    return np.where((labels == k) & ~keep, 0, labels).astype(np.uint8)


def grow(labels: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A structure that is too large by up to six pixels; it takes from its neighbours in half the cases."""
    k = _some(labels, rng)
    wider = _grown(labels == k, 1 + int(rng.integers(0, 1 + round(5 * strength)))) if k else labels == 4
    free = wider & (labels == 0) if rng.random() < 0.5 else wider
    return np.where(free, k, labels).astype(np.uint8)


def leak(labels: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A bulge of a structure into what is beside it."""
    k = _some(labels, rng)
    if not k:
        return labels
    radius = 3 + 14 * strength * rng.random()
    bulge = _disc(labels, _point_of(labels == k, rng) + rng.normal(0, radius / 2, 2), radius)
    target = bulge if rng.random() < 0.3 else bulge & (labels == 0)
    return np.where(target, k, labels).astype(np.uint8)


def bite(labels: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A part of one structure that is missing: a disc cut from it."""
    k = _some(labels, rng)
    if not k:
        return labels
    radius = 3 + 14 * strength * rng.random()
    hole = _disc(labels, _point_of(labels == k, rng), radius) & (labels == k)
    return np.where(hole, 0, labels).astype(np.uint8)


def cut(labels: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Everything beyond a line is missing, or of one structure only."""
    point, angle = _point_of(labels > 0, rng) if labels.any() else np.zeros(2), rng.uniform(0, 2 * np.pi)
    rows, columns = np.indices(labels.shape)
    beyond = (rows - point[0]) * np.cos(angle) + (columns - point[1]) * np.sin(angle) > 12 * (1 - strength)
    one = labels == _some(labels, rng)
    return np.where(beyond & (one if rng.random() < 0.7 else labels > 0), 0, labels).astype(np.uint8)


def swap(labels: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Two structures taken for one another, in a region or altogether."""
    a, b = rng.permutation((1, 2, 3))[:2]
    where = np.ones(labels.shape, bool)
    if labels.any() and rng.random() > 0.3 * strength:
        where = _disc(labels, _point_of(labels > 0, rng), 4 + 20 * strength * rng.random())
    result = labels.copy()
    result[where & (labels == a)] = b
    if rng.random() < 0.5:
        result[where & (labels == b)] = a
    return result


def move(labels: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """One structure displaced by up to twelve pixels."""
    k = _some(labels, rng)
    reach = 2 + 10 * strength
    offset = tuple(rng.uniform(-reach, reach, 2).round().astype(int))
    moved = np.roll(labels == k, offset, (0, 1)) & (k > 0)
    return np.where(moved, k, np.where(labels == k, 0, labels)).astype(np.uint8)


def island(labels: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A loose piece of some structure near the heart."""
    if not labels.any():
        return labels
    center = _point_of(labels > 0, rng) + rng.normal(0, 10 + 15 * strength, 2)
    piece = _disc(labels, center, 2 + 8 * strength * rng.random()) & (labels == 0)
    return np.where(piece, int(rng.integers(1, 4)), labels).astype(np.uint8)


def ragged(labels: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Borders that wander: pixels taken from a smoothly displaced neighbourhood."""
    reach = 1 + 5 * strength
    knots = rng.normal(0, reach, (2, 9, 9))
    fine = np.linspace(0, 8, labels.shape[0])
    low = np.minimum(fine.astype(int), 7)
    weight = fine - low
    rows = knots[:, low] * (1 - weight)[None, :, None] + knots[:, low + 1] * weight[None, :, None]
    fine = np.linspace(0, 8, labels.shape[1])
    low = np.minimum(fine.astype(int), 7)
    weight = fine - low
    field = rows[:, :, low] * (1 - weight) + rows[:, :, low + 1] * weight
    r, c = np.indices(labels.shape)
    r = np.clip(np.rint(r + field[0]), 0, labels.shape[0] - 1).astype(int)
    c = np.clip(np.rint(c + field[1]), 0, labels.shape[1] - 1).astype(int)
    return labels[r, c]


ERRORS: dict[str, Error] = {
    "drop": drop,
    "shrink": shrink,
    "grow": grow,
    "leak": leak,
    "bite": bite,
    "cut": cut,
    "swap": swap,
    "move": move,
    "island": island,
    "ragged": ragged,
}
