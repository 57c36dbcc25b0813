"""What a scanner makes of the phantom's tissues: contrast, resolution and faults, from the typical to the absurd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from RVQCLib import phantom_anatomy as tissues


@dataclass(frozen=True)
class Contrast:
    """What the scanner makes of the tissues: signals of balanced SSFP in arbitrary units, and its faults."""

    blood: float = 620.0
    rv_blood: float = 540.0
    myocardium: float = 205.0
    lung: float = 40.0
    liver: float = 230.0
    fat: float = 560.0
    chest_wall: float = 140.0  # muscle anywhere
    skin: float = 420.0
    bone: float = 290.0
    stomach: float = 210.0
    bowel: float = 260.0
    spleen: float = 330.0
    fluid: float = 800.0
    texture: float = 1.0  # factor on every tissue's own unevenness
    noise: float = 14.0  # standard deviation in each channel before the magnitude (Rician)
    bias: float = 0.25  # log amplitude of the receive field, brightest at the chest's surface
    blur_mm: float = 0.8  # standard deviation of the point spread
    ghosting: float = 0.02  # part of the signal that appears again along the rows' direction
    flow: float = 0.08  # relative dephasing in moving blood
    banding: float = 0.0  # depth of the off-resonance bands
    ink: bool = True  # fat and water cancel where they share a voxel, the black outline of balanced SSFP
    gain: float = 1.0
    truncation: float = 1.0  # part of the spatial frequencies that was measured; the rest is zero filling
    blur_ratio: float = 1.0  # of the blur along the rows to that along the columns, whose mean `blur_mm` is


def random_contrast(rng: np.random.Generator, strength: float = 1.0) -> Contrast:
    """Draw a scanner. `strength` 0 is the typical one, 1 the variety of clinics, 2 and more beyond the plausible."""
    if strength < 0:
        raise ValueError(f"strength is {strength}; give 0 or more.")
    base = Contrast()
    draw = {f.name: rng.standard_normal() for f in fields(Contrast)}
    tissue_names = list(draw)[: list(draw).index("texture")]
    signals = {name: getattr(base, name) * np.exp(0.13 * strength * draw[name]) for name in tissue_names}
    signals["rv_blood"] = signals["blood"] * np.clip(0.88 + 0.07 * strength * draw["rv_blood"], 0.4, 1.3)
    signals["myocardium"] = base.myocardium * np.exp(0.2 * strength * draw["myocardium"])
    faults = {
        "texture": min(np.exp(0.4 * strength * draw["texture"]), 3.0),
        "noise": base.noise * np.exp(0.5 * strength * draw["noise"]),
        "bias": base.bias + 0.15 * strength * draw["bias"],
        "blur_mm": base.blur_mm * np.exp(0.3 * strength * draw["blur_mm"]),
        "ghosting": base.ghosting * np.exp(0.7 * strength * draw["ghosting"]),
        "flow": min(base.flow * np.exp(0.6 * strength * draw["flow"]), 0.35),
        "banding": max(0.0, 0.25 * strength * (draw["banding"] - 0.5)),
        "ink": bool(strength * draw["ink"] < 1.2),
        "gain": np.exp(0.25 * strength * np.clip(draw["gain"], -2, 1)),
    }
    return Contrast(
        **{name: float(value) for name, value in signals.items()},
        **{name: value if isinstance(value, bool) else float(value) for name, value in faults.items()},
    )


def signal_tables(contrast: Contrast) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per tissue: signal (fat negative where fat and water cancel), relative texture, relative flow effect."""
    a, c = tissues, contrast
    signal = {
        a.AIR: 0,
        a.SKIN: c.skin,
        a.FAT: -c.fat if c.ink else c.fat,
        a.MUSCLE: c.chest_wall,
        a.BONE: c.bone,
        a.LUNG: c.lung,
        a.VESSEL: 0.8 * c.blood,
        a.LIVER: c.liver,
        a.STOMACH: c.stomach,
        a.SPLEEN: c.spleen,
        a.CONTENT: c.bowel,
        a.MYOCARDIUM: c.myocardium,
        a.LV_BLOOD: c.blood,
        a.RV_BLOOD: c.rv_blood,
        a.VALVE: 0.5 * (c.blood + c.myocardium),
        a.FLUID: c.fluid,
    }
    texture = {
        a.LUNG: 0.35,
        a.FAT: 0.08,
        a.MUSCLE: 0.13,
        a.BONE: 0.2,
        a.LIVER: 0.07,
        a.STOMACH: 0.3,
        a.CONTENT: 0.25,
        a.SPLEEN: 0.05,
        a.MYOCARDIUM: 0.08,
        a.LV_BLOOD: 0.04,
        a.RV_BLOOD: 0.05,
    }
    flow = {a.LV_BLOOD: 1.0, a.RV_BLOOD: 1.0, a.VESSEL: 1.5}
    tables = [
        np.array([part.get(tissue, 0.0) for tissue in range(a.TISSUES)], np.float32) for part in (signal, texture, flow)
    ]
    return tables[0], tables[1] * c.texture, tables[2] * c.flow


def _spline(count: int, step: float, scale: float) -> np.ndarray:
    """(count, knots) quadratic B-spline weights for knots `scale` apart on voxels `step` apart."""
    place = np.arange(count) * step / scale + 1.0
    away = np.abs(place[:, None] - np.arange(int(np.ceil(place[-1])) + 3))
    return np.where(away < 0.5, 0.75 - away**2, np.where(away < 1.5, 0.5 * (1.5 - away) ** 2, 0)).astype(np.float32)


def smooth_field(
    rng: np.random.Generator, shape: tuple[int, int, int], spacing: Sequence[float], scale: float
) -> np.ndarray:
    """A smooth random field of unit variance; `spacing` is that of columns, rows, slices."""
    rows, columns = _spline(shape[1], spacing[1], scale), _spline(shape[2], spacing[0], scale)
    through = _spline(shape[0], spacing[2], max(scale, spacing[2]))
    knots = rng.standard_normal((through.shape[1], rows.shape[1], columns.shape[1]), dtype=np.float32)
    field = rows @ np.tensordot(through, knots, 1) @ columns.T
    return field / field.std()


def blur(image: np.ndarray, pixels: tuple[float, float]) -> np.ndarray:
    """Gaussian of standard deviation (rows, columns) in pixels; the borders are mirrored."""
    for axis, sigma in zip((1, 2), pixels, strict=True):
        reach = max(1, int(np.ceil(2.5 * sigma)))
        taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        taps = (taps / taps.sum()).astype(np.float32)
        count = image.shape[axis]
        padded = np.pad(image, [(reach, reach) if a == axis else (0, 0) for a in range(3)], mode="symmetric")
        window = [slice(None)] * 3
        total = np.zeros_like(image)
        for shift, tap in enumerate(taps):
            window[axis] = slice(shift, shift + count)
            total += tap * padded[tuple(window)]
        image = total
    return image


def expose(
    image: np.ndarray,
    contrast: Contrast,
    spacing: Sequence[float],
    window: tuple[slice, slice],
    noise: np.random.Generator,
    seed: int,
) -> np.ndarray:
    """Bands, ghost, receive field and Rician noise over the magnitude of the signal, which is changed in place.

    `image` is (slices, rows, columns); `spacing` that of columns and rows in mm; `window` the rows and columns that
    move. The fields come from `seed`, so that every moment of a study has the same; the noise from `noise`.
    """
    steady = np.random.default_rng([seed, 4])
    shape = (1, *image.shape[1:])
    resonance = smooth_field(steady, shape, (*spacing, 1.0), 110.0)
    receive = smooth_field(steady, shape, (*spacing, 1.0), 130.0)
    if contrast.banding > 0:
        image *= 1 - contrast.banding * np.exp(-(((np.abs(resonance) - 1.6) / 0.12) ** 2))
    if contrast.ghosting > 0:
        near = [
            np.exp(-0.5 * ((np.arange(n) - 0.5 * (w.start + w.stop)) * mm / 45) ** 2).astype(np.float32)
            for n, w, mm in zip(shape[1:], window, spacing[::-1], strict=True)
        ]
        image += contrast.ghosting * np.roll(image * (near[0][:, None] * near[1]), shape[1] // 3, axis=1)
    # coils lie on the chest: the signal falls from the anterior right, which is up or left in both views
    down, across = (np.linspace(1, -1, n, dtype=np.float32) for n in shape[1:])
    image *= contrast.gain * np.exp(contrast.bias * (0.35 * receive + 0.7 * across + 0.4 * down[:, None]))
    channels = noise.standard_normal((2, *image.shape), dtype=np.float32) * np.float32(contrast.gain * contrast.noise)
    if contrast.truncation < 1:
        return np.abs(truncate(image + channels[0] + 1j * channels[1], contrast.truncation)).astype(np.float32)
    return np.hypot(image + channels[0], channels[1]).astype(np.float32)


def truncate(image: np.ndarray, part: float) -> np.ndarray:
    """A complex image (slices, rows, columns) without its highest spatial frequencies, as zero filling leaves it."""
    spectrum = np.fft.fft2(image)
    for axis in (1, 2):
        far = np.abs(np.fft.fftfreq(image.shape[axis])) > 0.5 * part
        spectrum[(slice(None),) * axis + (far,)] = 0
    return np.fft.ifft2(spectrum)
