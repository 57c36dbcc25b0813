"""Graded image shifts, as another scanner or a bad scan brings them.

They serve calibration and evaluation: the same stack, shift, severity and seed give the same image, and the grid never
changes, so that true masks stay true.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

from RVQCLib.files import RVQCError
from RVQCLib.stack import Stack

SEVERITIES = (1, 2, 3, 4, 5)
"""1 is hardly seen, 3 is what another hospital may look like, 5 is a bad scan."""

Shift = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def shift_stack(stack: Stack, name: str, severity: int, *, seed: int) -> Stack:
    """The stack under shift `name` at `severity` 1..5; geometry and intensity range stay.

    Several shifts with + between (``vendor+noise``) are taken one after the other, as another scanner brings them.

    Raises
    ------
    RVQCError
        There is no such shift or severity.
    """
    if not is_shift(name) or severity not in SEVERITIES:
        raise RVQCError(
            f"There is no shift {name!r} of severity {severity}; choose from {', '.join(SHIFTS)}, several with + between, "
            "and 1 to 5."
        )
    for part in name.split("+"):
        stack = _shifted(stack, part, severity, seed)
    return stack


def is_shift(name: str) -> bool:
    """Whether `name` is that of a shift, or of several with + between."""
    return set(name.split("+")) <= SHIFTS.keys()


def _shifted(stack: Stack, name: str, severity: int, seed: int) -> Stack:
    # The severity is no part of the seed: what is drawn is the same at every severity, which only scales it.
    rng = np.random.default_rng([seed, zlib.crc32(f"{name}/{stack.name}".encode())])
    low, high = (float(v) for v in np.percentile(stack.pixels, (0.5, 99.5)))
    scale = max(high - low, 1e-6)
    image = (stack.pixels.astype(np.float32) - low) / scale
    shifted = SHIFTS[name](image, severity / 5, rng)
    return stack.with_pixels(np.ascontiguousarray(shifted * scale + low, dtype=np.float32))


def seed_of(seed: int, study: str, stack: Stack) -> int:
    """A seed of this stack of this study, so that no two studies share a draw and their order does not matter."""
    return zlib.crc32(f"{seed}/{study}/{stack.name}".encode())


def _bias(image: np.ndarray, s: float, rng: np.random.Generator) -> np.ndarray:
    """A smooth in-plane field: at its strongest a factor of 2 to 7 within the middle 45 % of each side, where the heart lies, and
    of 26 in the median, at most about 70, between corners of the image."""
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
    image = _smooth(image, 0.4 * factor)
    for axis in (1, 2):
        fine = image.shape[axis]
        coarse = max(min(8, fine), round(fine / factor))
        image = _sampled(image, (np.arange(coarse) + 0.5) * fine / coarse - 0.5, axis)
        image = _sampled(image, (np.arange(fine) + 0.5) * coarse / fine - 0.5, axis)
    return image


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


def _sampled(image: np.ndarray, where: np.ndarray, axis: int) -> np.ndarray:
    """Linear interpolation at fractional indices along `axis`; beyond the border the border's value."""
    where = np.clip(where, 0, image.shape[axis] - 1)
    low = np.minimum(where.astype(int), max(image.shape[axis] - 2, 0))
    high = np.minimum(low + 1, image.shape[axis] - 1)
    weight = (where - low).astype(np.float32).reshape([-1 if k == axis else 1 for k in range(3)])
    return np.take(image, low, axis) * (1 - weight) + np.take(image, high, axis) * weight
