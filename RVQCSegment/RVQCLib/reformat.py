"""The four-chamber view that a labelled short-axis stack already holds: a real heart, coarse along its long axis.

Long-axis labels are rare; short-axis stacks with labels are not. Cut along the plane through the LV's axis and the RV,
such a stack shows real tissue and true structures in the shape of the long-axis view, with slices of 8 to 10 mm for
pixels along the axis and with whatever the stack does not reach (most of the atria) black.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from RVQCLib.files import RVQCError, whole_file
from RVQCLib.stack import LABELS, PHASES, Geometry, Stack
from RVQCLib.study import find_studies, write_mask

log = logging.getLogger(__name__)

REACH_MM = 12.0  # distances to a border are kept up to here, so that a structure ends halfway to a slice without it
MIN_SLICES = 4  # with LV and RV; fewer give no axis


def four_chamber(image: Stack, mask: Stack, *, spacing_mm: float = 1.5, size: int = 144) -> tuple[Stack, Stack]:
    """The image and the true mask in the plane through the LV's long axis and the RV's centre, one slice each.

    The heart lies as it does in an upright four-chamber image (`orientation.upright`) of a usual patient, whose axis
    points left and forward by 45 degrees: apex up right, RV up left. Stacks whose headers know no directions are shown
    the same way. Between slices the image is interpolated linearly, the mask by its structures' signed distances.
    Pixels outside the stack are 0.

    Raises
    ------
    RVQCError
        LV and RV are labelled in fewer than four slices.
    """
    points = _plane(mask, spacing_mm, size)
    coordinates = points / np.array(mask.geometry.spacing_zyx)[:, None, None]
    pixels = _sample(image.pixels.astype(np.float32), coordinates, outside=0.0)
    inside = np.stack([_sample(_distances(mask, label), coordinates, outside=-REACH_MM) for label in (1, 2, 3)])
    labels = np.where(inside.max(axis=0) > 0, inside.argmax(axis=0) + 1, 0).astype(np.uint8)
    geometry = Geometry(spacing=(spacing_mm, spacing_mm, 8.0))
    return (
        Stack(pixels[None].astype(np.float32), geometry, "LA", image.phase, image.source),
        Stack(labels[None], geometry, "LA", mask.phase, mask.source),
    )


def _centroids(mask: Stack, structures: tuple[str, ...], slices: np.ndarray) -> np.ndarray:
    """(slices, 3) z, y, x in mm of the centroid of the structures in each slice."""
    dz, dy, dx = mask.geometry.spacing_zyx
    wanted = np.isin(mask.pixels, [LABELS[s] for s in structures])
    return np.array([[k * dz, *(np.argwhere(wanted[k]).mean(axis=0) * (dy, dx))] for k in slices])


def _plane(mask: Stack, spacing_mm: float, size: int) -> np.ndarray:
    """(3, size, size) z, y, x in mm, in the stack's own index space, of the pixels of the four-chamber plane."""
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
    axis = slope / np.linalg.norm(slope) * (1 if np.polyfit(z, areas, 1)[0] < 0 else -1)  # base to apex
    across = (right - left).mean(axis=0)
    across -= axis * (across @ axis)
    across /= np.linalg.norm(across)
    centre = left.mean(axis=0) + 20.0 * across
    steps = (np.arange(size) - (size - 1) / 2) * spacing_mm
    right, down = (axis - across) / np.sqrt(2), -(axis + across) / np.sqrt(2)
    return centre[:, None, None] + down[:, None, None] * steps[:, None] + right[:, None, None] * steps[None, :]


def _distances(mask: Stack, label: int) -> np.ndarray:
    """Signed distance (mm, positive inside, at most `REACH_MM`) to the structure's border within every slice."""
    _, dy, dx = mask.geometry.spacing_zyx
    result = np.full(mask.pixels.shape, -REACH_MM, np.float32)
    for k, labels in enumerate(mask.pixels):
        if (labels == label).any():
            inside = labels == label
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


def write_four_chamber(data: str | os.PathLike, out: str | os.PathLike) -> list[Path]:
    """Write the four-chamber view of every labelled short-axis study of `data` in the layout of M&Ms-2.

    Returns the studies' folders. A study in which no axis is found is left out and said so.

    Raises
    ------
    RVQCError
        No study is left.
    """
    folders = []
    for source in find_studies(data):
        study = source.load(labels=True)
        pairs = [(study.stack("SA", phase), study.label("SA", phase)) for phase in PHASES]
        try:
            views = [four_chamber(image, mask) for image, mask in pairs if image is not None and mask is not None]
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
