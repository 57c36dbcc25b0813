"""Candidates, reconstructions and the selection among them for one stack: the forward passes of M and R (Sec. 2.3)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from RVQCLib.files import RunError
from RVQCLib.measures import Measures, measure
from RVQCLib.orientation import Turn
from RVQCLib.selection import Fences, Selection, select
from RVQCLib.slices import Crop, find_heart, to_network
from RVQCLib.stack import LABELS, STRUCTURES, Stack

if TYPE_CHECKING:
    from torch import nn

    from RVQCLib.bundle import ViewModels

log = logging.getLogger(__name__)

BATCH = 32
"""Slices a forward pass; a short-axis stack fits into one."""

RISE = 1.5
"""By which factor the RV's area may grow from a slice to the next, outward from its largest. In the true masks of ACDC's 100
patients it never grows by more than 1.36, in 99 of 100 steps by no more than 1.04."""

Tick = Callable[[int], None]
"""Is told how many slices one more step has finished; may raise, which stops the work."""


def choose_device(name: str = "auto") -> str:
    """The torch device to use: `name`, or with ``auto`` the first of cuda, mps, cpu that really computes.

    Raises
    ------
    RunError
        The device that was asked for does not work here.
    """
    wanted = ("cuda", "mps", "cpu") if name == "auto" else (name,)
    for device in wanted:
        try:
            _try_kernel(device)
            return device
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0].split(". ")[0]  # torch goes on with all that it was built for
            log.info("The device %s does not work here: %s", device, reason)
    raise RunError(f"The device {name!r} does not work here ({reason}); use --device auto or cpu.")


def _try_kernel(device: str) -> None:
    """One convolution: a driver that is listed may still lack kernels for the card."""
    import torch

    image = torch.ones(1, 1, 4, 4, device=device)
    torch.nn.functional.conv2d(image, image[..., :3, :3]).sum().item()


def propose(images: np.ndarray, models: ViewModels, tick: Tick | None = None) -> np.ndarray:
    """Class probabilities of every candidate, float32 (m, slices, 4, size, size), of images (slices, 1, size, size).

    In a bundle with a consensus the mean of all segmenters is the last candidate. `tick` is told of every forward pass.
    """
    probabilities = [_probabilities(segmenter, images, models.device, tick) for segmenter in models.segmenters]
    if models.consensus:
        probabilities.append(np.mean(probabilities, axis=0, dtype=np.float32))
    return np.stack(probabilities)


def _probabilities(model: nn.Module, inputs: np.ndarray, device: str, tick: Tick | None = None) -> np.ndarray:
    import torch

    parts = []
    with torch.inference_mode():
        for start in range(0, len(inputs), BATCH):
            batch = torch.from_numpy(inputs[start : start + BATCH]).to(device, memory_format=torch.channels_last)
            parts.append(model(batch).float().softmax(1).cpu().numpy())
            if tick is not None:
                tick(len(batch))
    return np.concatenate(parts)


def one_hot(masks: np.ndarray) -> np.ndarray:
    """Hard masks (slices, size, size) as probabilities, float32 (slices, 4, size, size)."""
    return (masks[:, None] == np.arange(4, dtype=np.uint8)[:, None, None]).astype(np.float32)


def reconstruct(masks: np.ndarray, models: ViewModels) -> np.ndarray:
    """What R makes of hard masks: uint8 of the same shape (…, size, size).

    A slice without any structure stays as it is: there is nothing in it that could look wrong to R.
    """
    flat = masks.reshape(-1, *masks.shape[-2:])
    result = np.zeros_like(flat)
    filled = np.flatnonzero(flat.any(axis=(1, 2)))
    if len(filled):
        result[filled] = _probabilities(models.qc, one_hot(flat[filled]), models.device).argmax(axis=1)
    return result.reshape(masks.shape)


def hard_masks(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The masks that probabilities (slices, 4, size, size) stand for, without what cannot be part of a heart.

    Of every structure only the largest connected piece of the stack is kept (26 neighbours), as nnU-Net does: a heart has
    one of each. The RV ends where its area rises again (`RISE`), seen from its largest slice: what is larger again
    toward the apex is liver, stomach or the other ventricle. Returns uint8 (slices, size, size) and the probabilities in which
    all else is background.
    """
    masks = probabilities.argmax(axis=1).astype(np.uint8)
    cleaned = probabilities
    for structure in STRUCTURES:
        label = LABELS[structure]
        found = masks == label
        loose = _islands(found)
        if structure == "RV":
            loose = loose | _beyond(found & ~loose)
        if loose.any():
            cleaned = cleaned.copy() if cleaned is probabilities else cleaned
            cleaned[:, label][loose] = 0.0
            masks[loose] = 0
    return masks, cleaned


def _islands(structure: np.ndarray) -> np.ndarray:
    """Pixels of a boolean stack that lie outside its largest connected piece."""
    if not structure.any():
        return structure
    pieces = sitk.ConnectedComponent(sitk.GetImageFromArray(structure.astype(np.uint8)), True)
    labels = sitk.GetArrayViewFromImage(pieces)
    sizes = np.bincount(labels.ravel())
    if len(sizes) <= 2:
        return np.zeros_like(structure)
    return structure & (labels != 1 + sizes[1:].argmax())


def _beyond(rv: np.ndarray) -> np.ndarray:
    """Pixels of the RV in a boolean stack from where its area rises again, seen from its largest slice outward; none where that
    would be half of it or more, as it is not known then which part is the RV."""
    area = rv.sum(axis=(1, 2))
    first = last = int(area.argmax())
    while last + 1 < len(area) and area[last + 1] <= RISE * area[last]:
        last += 1
    while first > 0 and area[first - 1] <= RISE * area[first]:
        first -= 1
    outside = rv.copy()
    outside[first : last + 1] = False
    return outside if 2 * outside.sum() < area.sum() else np.zeros_like(rv)


@dataclass(frozen=True)
class Proposal:
    """All candidates of one stack on the networks' grid, before any is chosen.

    `masks` and `reconstructions` are uint8 (m, slices, size, size), `probabilities` float32 (m, slices, 4, size, size),
    `images` what the networks saw, float32 (slices, size, size), `spacing_zyx` the grid's spacing in mm.
    """

    stack: Stack
    crop: Crop
    images: np.ndarray
    masks: np.ndarray
    probabilities: np.ndarray
    reconstructions: np.ndarray
    measures: Measures
    spacing_zyx: tuple[float, float, float]
    n_voters: int

    @property
    def voters(self) -> np.ndarray:
        """The probabilities of the segmenters themselves, without their mean."""
        return self.probabilities[: self.n_voters]


@dataclass(frozen=True)
class Chosen:
    """The selected mask of a stack on the networks' grid with its own scores.

    `mask` and `reconstruction` are uint8 (slices, size, size); `measures` are those of this one mask (m = 1).
    """

    selection: Selection
    mask: np.ndarray
    probabilities: np.ndarray
    reconstruction: np.ndarray
    measures: Measures


def propose_stack(
    stack: Stack,
    models: ViewModels,
    tick: Tick | None = None,
    *,
    crop: Crop | None = None,
    turn: Turn | None = None,
) -> Proposal:
    """Find the heart (in the image turned by `turn`, without it by `Sampling.turn`), unless `crop` says where it is, run every
    candidate and R, and measure.

    `tick` is told of all slices once a segmenter, and once more when they are reconstructed and measured.
    """
    crop = crop or find_heart(stack, models.locator, models.sampling, device=models.device, turn=turn)
    images = to_network(stack, crop, models.sampling)
    pairs = [hard_masks(p) for p in propose(images, models, tick)]
    masks = np.stack([mask for mask, _ in pairs])
    reconstructions = reconstruct(masks, models)
    spacing = (stack.geometry.spacing_zyx[0], crop.spacing_mm, crop.spacing_mm)
    voters = len(models.segmenters)
    measures = measure(masks, reconstructions, spacing, voters=voters)
    if tick is not None:
        tick(len(stack.pixels))
    probabilities = np.stack([p for _, p in pairs])
    return Proposal(stack, crop, images[:, 0], masks, probabilities, reconstructions, measures, spacing, voters)


def choose(proposal: Proposal, fences: Fences | None, models: ViewModels, *, primary: str = "RV") -> Chosen:
    """Steps 1 to 5 of Sec. 2.3 by the scores of the `primary` structure.

    The average of step 5 is the mean of the two candidates' probabilities; it is reconstructed and measured anew.
    """
    k = STRUCTURES.index(primary)
    selection = select(proposal.measures.stack_pDC[:, k], proposal.measures.stack_pHD[:, k], fences)
    picked = list(selection.indices)
    if len(picked) == 1:
        i = picked[0]
        own = proposal.measures.of(i)
        return Chosen(selection, proposal.masks[i], proposal.probabilities[i], proposal.reconstructions[i], own)
    mask, probabilities = hard_masks(proposal.probabilities[picked].mean(axis=0))
    again = reconstruct(mask, models)
    own = measure(mask[None], again[None], proposal.spacing_zyx)
    return Chosen(selection, mask, probabilities, again, own)


def with_mask(
    chosen: Chosen, mask: np.ndarray, probabilities: np.ndarray, proposal: Proposal, models: ViewModels
) -> Chosen:
    """The choice with another mask, uint8 (slices, size, size), and its probabilities: reconstructed and measured anew."""
    again = reconstruct(mask, models)
    own = measure(mask[None], again[None], proposal.spacing_zyx)
    return replace(chosen, mask=mask, probabilities=probabilities, reconstruction=again, measures=own)
