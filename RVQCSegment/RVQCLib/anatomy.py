"""What no heart looks like: physiological checks of a mask. They give reasons, they never change a mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from RVQCLib.stack import LABELS, STRUCTURES


@dataclass(frozen=True)
class Plausible:
    """Limits of what a heart can look like. (Nearly) all true masks of ACDC's 100 patients are within the defaults.

    Parameters
    ----------
    rv_ml
        Least RV volume of a short-axis stack of five slices or more. ACDC's smallest true end-systolic RV has 10.3 ml,
        the fourth smallest 25.7 ml.
    rv_mm2
        Least area of the RV in its largest slice, either view. Half of the lower limit of normal of the end-systolic
        four-chamber area, 3 cm2 (Lang et al., ASE/EACVI 2015); ACDC's smallest is 595 mm2.
    lv_slices, rv_slices
        Least part of a short-axis stack's slices that show the structure; ACDC's smallest are 0.70 and 0.30.
    lv_mm
        Least and largest length of the LV along a short-axis stack of five slices or more. Outside it is rather the slice
        spacing of the file that is wrong, and with it every volume; ACDC's are 50 to 110 mm.
    piece_mm2
        A second piece of RV in a slice counts from this area on.
    contact_mm
        Length over which RV and LV cavity may touch in a slice without myocardium between them.
    jump
        A slice whose area lies below this part of the smaller neighbour's, or above its inverse times the larger
        neighbour's, jumps; `jump_mm2` is the least difference that counts.
    ejection
        Least and largest ejection fraction of a ventricle.
    """

    rv_ml: float = 8.0
    rv_mm2: float = 150.0
    lv_slices: float = 1 / 3
    rv_slices: float = 1 / 5
    lv_mm: tuple[float, float] = (25.0, 200.0)
    piece_mm2: float = 50.0
    contact_mm: float = 10.0
    jump: float = 0.5
    jump_mm2: float = 200.0
    ejection: tuple[float, float] = (0.05, 0.85)


@dataclass(frozen=True)
class Finding:
    """What a check says, in words, of a structure in slice `index`."""

    text: str
    index: int
    structure: str = "RV"


def areas_mm2(mask: np.ndarray, spacing_zyx: Sequence[float]) -> np.ndarray:
    """Area (slices, 3) in mm2 of labels (slices, rows, columns), structures in the order of `STRUCTURES`."""
    place = np.arange(len(mask))[:, None, None] * 4 + mask
    counts = np.bincount(place.ravel(), minlength=4 * len(mask)).reshape(-1, 4)
    return counts[:, [LABELS[s] for s in STRUCTURES]] * (spacing_zyx[1] * spacing_zyx[2])


def shared_failures(
    mask: np.ndarray, spacing_zyx: Sequence[float], view: str, *, limits: Plausible = Plausible()
) -> tuple[str, ...]:
    """Failures that candidates share, so that neither R nor their agreement can see them; each makes the stack OoD.

    Parameters
    ----------
    mask
        The selected labels, (slices, rows, columns).

    Returns
    -------
    Sentences: an empty or implausibly small RV; in a short-axis stack, LV or RV absent in most slices, an LV that is too long
    or too short for a heart.
    """
    area = areas_mm2(mask, spacing_zyx)
    rv, lv = area[:, STRUCTURES.index("RV")], area[:, STRUCTURES.index("LV")]
    volume, depth = rv.sum() * spacing_zyx[0] / 1000.0, len(mask)
    if rv.max() == 0:
        return ("failed: the mask has no RV",)
    said = []
    if rv.max() < limits.rv_mm2:
        said.append(f"failed: the RV's largest slice has {rv.max():.0f} mm2, less than {limits.rv_mm2:.0f}")
    if view == "SA" and depth >= 5:
        if volume < limits.rv_ml:
            said.append(f"failed: the RV has {volume:.1f} ml, less than {limits.rv_ml:.0f}")
        for name, part, least in (("RV", rv, limits.rv_slices), ("LV", lv, limits.lv_slices)):
            if (part > 0).mean() < least:
                said.append(f"failed: {name} in only {np.count_nonzero(part)} of {depth} slices")
        length, (low, high) = np.count_nonzero(lv) * spacing_zyx[0], limits.lv_mm
        if (lv > 0).mean() >= limits.lv_slices and not low <= length <= high:
            said.append(
                f"failed: the LV is {length:.0f} mm long, not {low:.0f} to {high:.0f}; check the slice spacing of the "
                f"image ({spacing_zyx[0]:g} mm)"
            )
    return tuple(said)


def stack_checks(
    mask: np.ndarray, spacing_zyx: Sequence[float], view: str, *, limits: Plausible = Plausible()
) -> tuple[Finding, ...]:
    """Fragmented RV, RV touching the LV cavity, and area jumps between neighbouring slices of a short-axis stack."""
    findings = [*_fragments(mask, spacing_zyx, limits), *_contacts(mask, spacing_zyx, limits)]
    return tuple(findings + (_jumps(areas_mm2(mask, spacing_zyx), limits) if view == "SA" else []))


def _fragments(mask: np.ndarray, spacing_zyx: Sequence[float], limits: Plausible) -> list[Finding]:
    pixel_mm2 = spacing_zyx[1] * spacing_zyx[2]
    found = []
    for index, plane in enumerate(mask == LABELS["RV"]):
        if plane.any():
            pieces = sitk.ConnectedComponent(sitk.GetImageFromArray(plane.astype(np.uint8)), True)
            sizes = np.bincount(sitk.GetArrayViewFromImage(pieces).ravel())[1:] * pixel_mm2
            count = np.count_nonzero(sizes >= limits.piece_mm2)
            if count > 1:
                found.append(Finding(f"anatomy: RV in {count} pieces", index))
    return found


def _contacts(mask: np.ndarray, spacing_zyx: Sequence[float], limits: Plausible) -> list[Finding]:
    """Pixel edges with RV on one side and LV cavity on the other, in mm."""
    _, row, column = spacing_zyx
    rv, lv = mask == LABELS["RV"], mask == LABELS["LV"]
    down = (rv[:, 1:] & lv[:, :-1]) | (lv[:, 1:] & rv[:, :-1])
    across = (rv[:, :, 1:] & lv[:, :, :-1]) | (lv[:, :, 1:] & rv[:, :, :-1])
    length = down.sum(axis=(1, 2)) * column + across.sum(axis=(1, 2)) * row
    return [
        Finding(f"anatomy: RV touches the LV cavity over {length[i]:.0f} mm", int(i))
        for i in np.flatnonzero(length > limits.contact_mm)
    ]


def _jumps(area: np.ndarray, limits: Plausible) -> list[Finding]:
    found = []
    for index in range(1, len(area) - 1):
        for k, structure in enumerate(STRUCTURES):
            low, high = sorted((area[index - 1, k], area[index + 1, k]))
            here = area[index, k]
            dip = here < limits.jump * low and low - here > limits.jump_mm2
            peak = here * limits.jump > high > 0 and here - high > limits.jump_mm2
            if dip or peak:
                three = ", ".join(f"{value:.0f}" for value in area[index - 1 : index + 2, k])
                found.append(Finding(f"anatomy: {structure} area jumps ({three} mm2)", index, structure))
    return found


def study_checks(
    volumes: Mapping[tuple[str, str], Mapping[str, float]], *, limits: Plausible = Plausible()
) -> tuple[str, ...]:
    """Sentences about a whole study from its structures' volumes in ml, keyed by (view, phase).

    End-systole larger than end-diastole (either view; of a long-axis slice the volume is its area), and a short-axis
    ejection fraction out of range. What is empty at end-diastole is left to `shared_failures`.
    """
    said = []
    for view in sorted({view for view, _ in volumes}, reverse=True):
        ed, es = volumes.get((view, "ED")), volumes.get((view, "ES"))
        if ed is None or es is None:
            continue
        for structure in ("RV", "LV"):
            before, after = ed[structure], es[structure]
            if before <= 0:
                continue
            if after > before:
                said.append(f"anatomy: {view} {structure} is larger at end-systole than at end-diastole")
            elif view == "SA" and not limits.ejection[0] <= (before - after) / before <= limits.ejection[1]:
                fraction = 100 * (before - after) / before
                said.append(f"anatomy: SA {structure} ejection fraction is {fraction:.0f} %, out of range")
    return tuple(said)
