"""Realistic errors of masks: for the QC module's training, for calibration, and for the evaluation of QC.

An error takes the labels of one slice, uint8 (rows, columns), its strength, 0 to 1, and a generator, and returns labels of that
shape; only `corrupt_mask` and `lose_end` are of stacks, uint8 (slices, rows, columns).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Error = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def corrupt_slice(labels: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """One slice of labels, uint8 (rows, columns), after one to three errors of segmentation; `strength` 0..1 grades them.

    Strength 0, or a slice without labels, comes back as it is; any other slice is changed.
    """
    if strength <= 0 or not labels.any():
        return labels.copy()
    result = labels.copy()
    names = list(ERRORS)
    for _ in range(1 + int(rng.random() < strength) + int(rng.random() < 0.5 * strength)):
        result = ERRORS[names[int(rng.integers(len(names)))]](result, strength, rng)
    # Some errors may fall on pixels that hold the label already, or undo each other; a bite cannot.
    return bite(labels, strength, rng) if np.array_equal(result, labels) else result


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


def gap(labels: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A segment of the myocardium's ring that is missing, as seen from the middle of the LV: 20 to 180 degrees of it."""
    ring, inside = labels == 2, labels == 1
    if not ring.any():
        return labels
    middle = np.argwhere(inside if inside.any() else ring).mean(axis=0)
    rows, columns = np.indices(labels.shape)
    angle = np.arctan2(rows - middle[0], columns - middle[1])
    first = _point_of(ring, rng) - middle
    away = np.angle(np.exp(1j * (angle - np.arctan2(first[0], first[1]))))
    lost = ring & (np.abs(away) <= np.deg2rad(10 + 80 * strength * rng.random()))
    return np.where(lost, 0, labels).astype(np.uint8)


def merge(labels: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Both cavities joined: a channel through the septum, in one of their labels. Without both cavities nothing changes."""
    rv, lv = labels == 3, labels == 1
    if not (rv.any() and lv.any()):
        return labels
    start, end = _point_of(rv, rng).astype(float), _point_of(lv, rng).astype(float)
    channel = np.zeros_like(rv)
    radius = 1.5 + 8 * strength * rng.random()
    for along in np.linspace(0, 1, 24):
        channel |= _disc(labels, start + along * (end - start), radius)
    wall = channel & (labels != 1) & (labels != 3)
    return np.where(wall, 3 if rng.random() < 0.6 else 1, labels).astype(np.uint8)


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
    "gap": gap,
    "merge": merge,
}
