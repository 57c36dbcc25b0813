"""From a stack to what the networks see, and the exact way back.

Both ways are linear interpolation along rows and columns, written as two small matrices: ``network = A @ slice @ B.T``.
Slices are never resampled across each other. Index space throughout: pixel centres at integers, orientation as stored;
only the finished square may be turned (`orientation.Turn`), so that the heart is upright.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from RVQCLib.files import RVQCError
from RVQCLib.orientation import AS_STORED, Turn, upright
from RVQCLib.study import Stack

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sampling:
    """How slices are brought to a network: in-plane `spacing_mm`, crop of `size` x `size` pixels around the heart,
    intensities cut at `clip_percentiles` of the crop and scaled to 0..1, and the grid of the coarse first pass.

    With `upright` the networks learnt from images as `orientation.upright` turns them, and hardly from others; so they are
    shown these alone. In the short axis all are: they bear every way that a heart may lie, but find its base best upright.
    """

    spacing_mm: float = 1.5
    size: int = 128
    clip_percentiles: tuple[float, float] = (0.5, 99.5)
    locator_spacing_mm: float = 4.0
    locator_size: int = 96
    upright: bool = False

    def turn(self, stack: Stack) -> Turn:
        """How the crops of a stack are turned for the networks."""
        return upright(stack.geometry, stack.view) if self.upright or stack.view == "SA" else AS_STORED

    def scale(self, pixels: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Intensities 0..1: cut at the clip percentiles of those that are `seen`."""
        low, high = np.percentile(seen, self.clip_percentiles)
        return np.clip((pixels - low) / max(float(high - low), 1e-6), 0.0, 1.0)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> Sampling:
        """The inverse of `to_json`."""
        try:
            return Sampling(**{**values, "clip_percentiles": tuple(values["clip_percentiles"])})
        except (TypeError, KeyError) as error:
            raise RVQCError(f"The sampling {values} is not one that RVQC knows ({error}).") from error


@dataclass(frozen=True)
class Crop:
    """A square window of `size` pixels of `spacing_mm`, centred on `center_rc` (native row, column index) and laid down
    by `turn`.

    `found` is False when no heart was seen and the centre is that of the image.
    """

    center_rc: tuple[float, float]
    spacing_mm: float
    size: int
    found: bool = True
    turn: Turn = AS_STORED

    def native_indices(self, native_spacing: float, axis: int) -> np.ndarray:
        """Native index of every crop pixel along an axis (0 rows, 1 columns) of the image as stored, float (size,)."""
        steps = np.arange(self.size) - (self.size - 1) / 2
        return self.center_rc[axis] + steps * self.spacing_mm / native_spacing


def _matrix(targets: np.ndarray, sources: int, support: float) -> np.ndarray:
    """Linear interpolation (targets, sources) at source indices `targets`; wider than a pixel, it averages.

    Rows outside the source are zero, so that whatever lies beyond the image is black and no structure.
    """
    distance = np.abs(targets[:, None] - np.arange(sources)[None, :])
    weights = np.maximum(0.0, 1.0 - distance / support)
    total = weights.sum(axis=1, keepdims=True)
    inside = (targets > -0.5 - 1e-6) & (targets < sources - 0.5 + 1e-6)
    return (np.where(inside[:, None], weights, 0.0) / np.maximum(total, 1e-12)).astype(np.float32)


def _into_crop(stack: Stack, crop: Crop) -> tuple[np.ndarray, np.ndarray]:
    matrices = []
    for axis in (0, 1):
        spacing = stack.geometry.spacing_zyx[1 + axis]
        targets = crop.native_indices(spacing, axis)
        # A coarser target averages over its own pixel, which keeps fine native grids from aliasing.
        matrices.append(_matrix(targets, stack.pixels.shape[1 + axis], max(1.0, crop.spacing_mm / spacing)))
    return matrices[0], matrices[1]


def to_network(stack: Stack, crop: Crop, sampling: Sampling) -> np.ndarray:
    """The crop of an image stack, float32 (slices, 1, size, size), 0..1 by the clip percentiles of the crop.

    The percentiles are those of the whole cropped stack, over the pixels that lie in the image.
    """
    rows, columns = _into_crop(stack, crop)
    pixels = rows @ stack.pixels.astype(np.float32) @ columns.T
    inside = np.outer(rows.any(axis=1), columns.any(axis=1))
    values = pixels[:, inside] if inside.any() else pixels
    scaled = sampling.scale(pixels, values) * inside
    return np.ascontiguousarray(crop.turn.apply(scaled)[:, None], dtype=np.float32)


def labels_to_network(mask: Stack, crop: Crop) -> np.ndarray:
    """The crop of a label stack, uint8 (slices, size, size): every label interpolated on its own, the largest wins."""
    rows, columns = _into_crop(mask, crop)
    shares = np.stack([rows @ (mask.pixels == label).astype(np.float32) @ columns.T for label in (1, 2, 3)])
    return np.ascontiguousarray(crop.turn.apply(_largest(shares)))


def from_network(probabilities: np.ndarray, crop: Crop, stack: Stack) -> np.ndarray:
    """Labels on the grid of `stack`, uint8 (slices, rows, columns), from class probabilities in the crop.

    Parameters
    ----------
    probabilities
        float (slices, 4, size, size); background, LV, MYO, RV. Outside the crop everything is background.
    """
    probabilities = crop.turn.undo(probabilities)
    matrices = []
    for axis in (0, 1):
        native = stack.geometry.spacing_zyx[1 + axis]
        pixels = np.arange(stack.pixels.shape[1 + axis])
        targets = (pixels - crop.center_rc[axis]) * native / crop.spacing_mm + (crop.size - 1) / 2
        matrices.append(_matrix(targets, crop.size, 1.0))
    rows, columns = matrices
    r, c = (np.flatnonzero(m.any(axis=1)) for m in matrices)
    labels = np.zeros(stack.pixels.shape, np.uint8)
    if len(r) and len(c):
        shares = np.einsum("slij->lsij", rows[r] @ probabilities[:, 1:].astype(np.float32) @ columns[c].T)
        labels[:, r[0] : r[-1] + 1, c[0] : c[-1] + 1] = _largest(shares)
    return labels


def _largest(shares: np.ndarray) -> np.ndarray:
    """Labels of the largest share, the first of equal ones; shares (3, …) of LV, MYO, RV, the rest is background."""
    labels, most = np.zeros(shares.shape[1:], np.uint8), 1.0 - shares.sum(axis=0)
    for label, share in enumerate(shares, start=1):
        np.copyto(labels, label, where=share > most)
        np.maximum(most, share, out=most)
    return labels


def center_crop(stack: Stack, sampling: Sampling, turn: Turn | None = None) -> Crop:
    """The crop around the centre of the image: what is left when no heart was seen. `turn` is for `Sampling.turn`."""
    _, height, width = stack.pixels.shape
    middle = ((height - 1) / 2, (width - 1) / 2)
    return Crop(middle, sampling.spacing_mm, sampling.size, False, turn or sampling.turn(stack))


def locator_crop(stack: Stack, sampling: Sampling, turn: Turn | None = None) -> Crop:
    """The window of the coarse first pass: the whole image at `locator_spacing_mm`, coarser where it would not fit. `turn` is
    for `Sampling.turn`."""
    _, height, width = stack.pixels.shape
    _, dy, dx = stack.geometry.spacing_zyx
    field = max(height * dy, width * dx)
    spacing = max(sampling.locator_spacing_mm, field / sampling.locator_size)
    middle = ((height - 1) / 2, (width - 1) / 2)
    return Crop(middle, spacing, sampling.locator_size, turn=turn or sampling.turn(stack))


def crop_around(mask: np.ndarray, coarse: Crop, stack: Stack, sampling: Sampling) -> Crop:
    """The network's crop around a heart mask, boolean (size, size), seen in the window `coarse`."""
    if not mask.any():
        return center_crop(stack, sampling, coarse.turn)
    mask = coarse.turn.undo(mask)
    center = []
    for axis in (0, 1):
        hit = np.flatnonzero(mask.any(axis=1 - axis))
        middle = (hit[0] + hit[-1]) / 2
        native = coarse.native_indices(stack.geometry.spacing_zyx[1 + axis], axis)
        center.append(float(np.interp(middle, np.arange(coarse.size), native)))
    return Crop((center[0], center[1]), sampling.spacing_mm, sampling.size, turn=coarse.turn)


def find_heart(
    stack: Stack, locator: nn.Module, sampling: Sampling, *, device: str = "cpu", turn: Turn | None = None
) -> Crop:
    """Where the heart is, from a small network on the whole image at a few millimetres.

    The locator gives heart or not, a pixel and a slice. Of the connected regions of their union over the slices, the
    one with the most heart over all slices is the heart; the crop is centred on its bounding box. Of a tall stack every other slice is enough.
    """
    import SimpleITK as sitk
    import torch

    coarse = locator_crop(stack, sampling, turn)
    image = torch.from_numpy(to_network(stack, coarse, sampling)[:: 2 if len(stack.pixels) >= 8 else 1]).to(device)
    with torch.inference_mode():
        heart = locator(image).softmax(dim=1)[:, 1].cpu().numpy() > 0.5
    votes = heart.sum(axis=0)
    if not votes.any():
        log.warning("No heart was found in %s; the centre of the image is used.", stack.source or stack.name)
        return center_crop(stack, sampling, turn)
    pieces = sitk.GetArrayFromImage(sitk.ConnectedComponent(sitk.GetImageFromArray((votes > 0).astype(np.uint8))))
    sizes = np.bincount(pieces.ravel(), weights=votes.ravel())
    return crop_around(pieces == 1 + sizes[1:].argmax(), coarse, stack, sampling)
