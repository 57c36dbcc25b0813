"""The four-chamber view that a labelled short-axis stack already holds: a real heart, coarse along its long axis.

Long-axis labels are rare; short-axis stacks with labels are not. Cut along the plane through the LV's axis and the RV,
such a stack shows real tissue and true structures in the shape of the long-axis view, with slices of 8 to 10 mm for
pixels along the axis and with whatever the stack does not reach (most of the atria) black.
"""

from __future__ import annotations

import logging
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from RVQCLib.files import RVQCError, check_apart, check_empty, whole_file
from RVQCLib.stack import LABELS, PHASES, Geometry, Stack
from RVQCLib.study import find_studies, write_mask

log = logging.getLogger(__name__)

REACH_MM = 12.0  # distances to a border are kept up to here, so that a structure ends halfway to a slice without it
MIN_SLICES = 4  # with LV and RV; fewer give no axis
NEAR = {"turn_degrees": 14.0, "tilt_degrees": 7.0, "shift_mm": 8.0}
"""How far other planes lie from the four-chamber plane: standard deviations of the angles, the most of the shift."""


def four_chamber(
    image: Stack, mask: Stack, *, spacing_mm: float = 1.5, size: int = 144, planes: int = 1, seed: int = 0
) -> tuple[Stack, Stack]:
    """The image and the true mask in the plane through the LV's long axis and the RV's centre: a slice each.

    The heart lies as it does in an upright four-chamber image (`orientation.upright`) of a usual patient, whose axis
    points left and forward by 45 degrees: apex up right, RV up left. Stacks whose headers know no directions are shown
    the same way. Between slices the image is interpolated linearly, the mask by the signed distances to the borders of RV, LV
    and the whole left ventricle with its wall, so that a thin wall has no gaps.
    Pixels outside the stack are 0.

    With more `planes`, each further slice is another plane near that one (`NEAR`), drawn from `seed`, as radiographers plan
    them: material to learn from, no stack of parallel slices.

    Raises
    ------
    RVQCError
        LV and RV are labelled in fewer than four slices.
    """
    frame = _heart_frame(mask)
    rng = np.random.default_rng([seed, 11])
    distances = [_distances(mask, *(LABELS[s] for s in whole)) for whole in (("RV",), ("LV", "MYO"), ("LV",))]
    pixels, labels = [], []
    for number in range(planes):
        points = _plane(_near(frame, rng) if number else frame, spacing_mm, size)
        coordinates = points / np.array(mask.geometry.spacing_zyx)[:, None, None]
        pixels.append(_sample(image.pixels.astype(np.float32), coordinates, outside=0.0))
        labels.append(_labels(*(_sample(one, coordinates, outside=-REACH_MM) for one in distances)))
    geometry = Geometry(spacing=(spacing_mm, spacing_mm, 8.0))
    return (
        Stack(np.stack(pixels).astype(np.float32), geometry, "LA", image.phase, image.source),
        Stack(np.stack(labels), geometry, "LA", mask.phase, mask.source),
    )


def _centroids(mask: Stack, structures: tuple[str, ...], slices: np.ndarray) -> np.ndarray:
    """(slices, 3) z, y, x in mm of the centroid of the structures in each slice."""
    dz, dy, dx = mask.geometry.spacing_zyx
    wanted = np.isin(mask.pixels, [LABELS[s] for s in structures])
    return np.array([[k * dz, *(np.argwhere(wanted[k]).mean(axis=0) * (dy, dx))] for k in slices])


@dataclass(frozen=True)
class _Frame:
    """Where the heart lies in a stack's index space, (z, y, x) in mm: unit vectors from base to apex and from the LV to the RV,
    at a right angle, and a point between both ventricles."""

    axis: np.ndarray
    across: np.ndarray
    centre: np.ndarray


def _heart_frame(mask: Stack) -> _Frame:
    both = [(mask.pixels == LABELS[s]).any(axis=(1, 2)) for s in ("LV", "RV")]
    slices = np.flatnonzero(both[0] & both[1])
    if len(slices) < MIN_SLICES:
        raise RVQCError(
            f"{mask.source or mask.name} has LV and RV in {len(slices)} slices, too few for a long axis; leave it out."
        )
    left, right = _centroids(mask, ("LV", "MYO"), slices), _centroids(mask, ("RV",), slices)
    z = left[:, 0]
    slope = np.array([1.0, *(np.polyfit(z, left[:, k], 1)[0] for k in (1, 2))])
    areas = (mask.pixels[slices] > 0).sum(axis=(1, 2))
    axis = slope / np.linalg.norm(slope) * (1 if np.polyfit(z, areas, 1)[0] < 0 else -1)
    across = (right - left).mean(axis=0)
    across -= axis * (across @ axis)
    across /= np.linalg.norm(across)
    return _Frame(axis, across, left.mean(axis=0) + 20.0 * across)


def _near(frame: _Frame, rng: np.random.Generator) -> _Frame:
    """The frame turned about the long axis, tilted out of the plane and moved across it, by what is drawn (`NEAR`)."""
    turn, tilt = np.radians(rng.normal(0.0, NEAR["turn_degrees"])), np.radians(rng.normal(0.0, NEAR["tilt_degrees"]))
    normal = np.cross(frame.axis, frame.across)
    across = np.cos(turn) * frame.across + np.sin(turn) * normal
    normal = np.cross(frame.axis, across)
    axis = np.cos(tilt) * frame.axis + np.sin(tilt) * normal
    return _Frame(axis, across, frame.centre + normal * rng.uniform(-NEAR["shift_mm"], NEAR["shift_mm"]))


def _plane(frame: _Frame, spacing_mm: float, size: int) -> np.ndarray:
    """(3, size, size) z, y, x in mm, in the stack's own index space, of the pixels of the plane through the frame."""
    steps = (np.arange(size) - (size - 1) / 2) * spacing_mm
    right, down = (frame.axis - frame.across) / np.sqrt(2), -(frame.axis + frame.across) / np.sqrt(2)
    return frame.centre[:, None, None] + down[:, None, None] * steps[:, None] + right[:, None, None] * steps[None, :]


def _labels(right: np.ndarray, left: np.ndarray, cavity: np.ndarray) -> np.ndarray:
    """Labels where the signed distances to the RV's, the whole left ventricle's and its cavity's border say inside."""
    labels = np.where(left > 0, LABELS["MYO"], 0).astype(np.uint8)
    labels[(left > 0) & (cavity > 0)] = LABELS["LV"]
    labels[(right > 0) & (right > left)] = LABELS["RV"]
    return labels


def _distances(mask: Stack, *structure: int) -> np.ndarray:
    """Signed distance (mm, positive inside, at most `REACH_MM`) to the border of the labels together within every slice."""
    _, dy, dx = mask.geometry.spacing_zyx
    result = np.full(mask.pixels.shape, -REACH_MM, np.float32)
    for k, labels in enumerate(mask.pixels):
        inside = np.isin(labels, structure)
        if inside.any():
            # ITK's distance is that to the nearest pixel of the border; the mean of both sides' is that to the edge
            distance = 0.5 * (_from_border(inside, dx, dy) - _from_border(~inside, dx, dy))
            result[k] = np.clip(distance, -REACH_MM, REACH_MM)
    return result


def _from_border(inside: np.ndarray, dx: float, dy: float) -> np.ndarray:
    flat = sitk.GetImageFromArray(inside.astype(np.uint8))
    flat.SetSpacing((dx, dy))
    return -sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(flat, squaredDistance=False, useImageSpacing=True))


def _sample(volume: np.ndarray, coordinates: np.ndarray, *, outside: float) -> np.ndarray:
    """Linear interpolation of (slices, rows, columns) at fractional indices (3, …)."""
    top = np.array(volume.shape)[:, None, None] - 1
    inside = ((coordinates >= -0.5) & (coordinates <= top + 0.5)).all(axis=0)
    place = np.clip(coordinates, 0, top)
    low = np.minimum(place.astype(int), np.maximum(top - 1, 0))
    part = place - low
    result = np.zeros(coordinates.shape[1:], np.float32)
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod([w if c else 1 - w for c, w in zip(corner, part, strict=True)], axis=0)
        index = [np.minimum(one + c, n - 1) for one, c, n in zip(low, corner, volume.shape, strict=True)]
        result += (weight * volume[tuple(index)]).astype(np.float32)
    return np.where(inside, result, np.float32(outside))


def write_four_chamber(
    data: str | os.PathLike, out: str | os.PathLike, *, planes: int = 1, seed: int = 0
) -> list[Path]:
    """Write the four-chamber view of every labelled short-axis study of `data` in the layout of M&Ms-2; with `planes` above 1
    further planes near it as more slices (`four_chamber`), drawn for each study from `seed`, the same for ED and ES.

    Returns the studies' folders. A study in which no axis is found is left out and said so.

    Raises
    ------
    RVQCError
        No study is left, `out` lies in `data` or is not empty, or `planes` is below 1.
    """
    if planes < 1:
        raise RVQCError(f"{planes} planes cannot be cut; give 1 or more.")
    check_apart(out, data)
    check_empty(out, "four-chamber views")
    folders = []
    for source in find_studies(data):
        study = source.load(labels=True)
        pairs = [(study.stack("SA", phase), study.label("SA", phase)) for phase in PHASES]
        try:
            drawn = {"planes": planes, "seed": zlib.crc32(f"{seed}/{study.name}".encode())}
            views = [
                four_chamber(image, mask, **drawn) for image, mask in pairs if image is not None and mask is not None
            ]
        except RVQCError as error:
            log.warning("%s is left out: %s", study.name, error)
            continue
        folder = Path(out) / study.name
        for image, mask in views:
            with whole_file(folder / f"{study.name}_{image.name}.nii.gz") as part:
                sitk.WriteImage(_as_sitk(image), str(part))
            write_mask(mask, folder / f"{study.name}_{mask.name}_gt.nii.gz")
        folders += [folder] if views else []
    if not folders:
        raise RVQCError(f"{data} has no labelled short-axis stack with a long axis; give other studies.")
    return folders


def _as_sitk(stack: Stack) -> sitk.Image:
    image = sitk.GetImageFromArray(stack.pixels)
    image.SetSpacing(stack.geometry.spacing)
    return image
