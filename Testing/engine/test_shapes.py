"""The size of the RV: measured where it can be seen, a new domain's told from others, and given to image and mask alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import true_masks
from torch import Generator, Tensor

from RVQCLib.domain import relative_size
from RVQCLib.shapes import MORE, Shapes
from RVQCLib.stack import LABELS
from RVQCLib.study import find_studies

SIZE = 128


def heart(radius: float, *, left: float = 20.0) -> np.ndarray:
    """One slice (size, size): a round RV of this radius beside a round left heart with a myocardium."""
    y, x = np.mgrid[:SIZE, :SIZE]
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[np.hypot(y - 64, x - 45) < radius] = LABELS["RV"]
    mask[np.hypot(y - 64, x - 85) < left] = LABELS["MYO"]
    mask[np.hypot(y - 64, x - 85) < 0.6 * left] = LABELS["LV"]
    return mask


def stack(*radii: float) -> np.ndarray:
    return np.stack([heart(radius) for radius in radii])


def test_the_relative_size_is_that_of_the_slices_in_which_both_are_seen() -> None:
    assert relative_size(stack(10, 10)) == pytest.approx(0.25, rel=0.05)
    # A lost RV, and the tip of a left heart beside which every RV is large, say nothing.
    tip = np.stack([heart(10), heart(0), heart(10, left=4.0)])
    assert relative_size(tip) == pytest.approx(0.25, rel=0.05)
    assert np.isnan(relative_size(stack(0, 0))) and np.isnan(relative_size(np.zeros((0, 8, 8), np.uint8)))


def test_only_larger_rvs_are_a_domain_of_their_own() -> None:
    usual = [stack(r, r) for r in (9, 10, 11, 12, 13)]
    found = Shapes.of([stack(0, 16), stack(15, 8), stack(0, 0)], usual)
    assert found is not None
    large = np.median([relative_size(stack(16)), relative_size(stack(15, 8))])
    assert found.growth == pytest.approx(large / relative_size(stack(11)), rel=1e-6)
    assert relative_size(stack(12)) < found.least < relative_size(stack(15))
    assert Shapes.of([stack(12, 12)], usual) is None  # usual
    assert Shapes.of([stack(5, 5)], usual) is None  # small: that is how networks fail
    assert Shapes.of([stack(0)], usual) is None and Shapes.of([stack(16)], [stack(0)]) is None


def areas(labels: Tensor, structure: str) -> np.ndarray:
    return (labels == LABELS[structure]).sum((1, 2)).numpy().astype(float)


def test_the_rv_grows_and_the_image_with_it() -> None:
    labels = torch.from_numpy(stack(10, 14, 0).repeat(20, axis=0))
    images = (labels == LABELS["RV"]).float()[:, None]
    made, masks = Shapes(1.6, 1.0).give(images, labels, generator=Generator().manual_seed(0))
    grown = areas(masks, "RV")[:40] / areas(labels, "RV")[:40]
    assert grown.min() >= 0.98 and grown.max() < MORE * 1.6 and np.ptp(grown) > 0.7
    # What is bright in the image is what the mask says.
    assert float(((made[:, 0] > 0.5) == (masks == LABELS["RV"])).float().mean()) > 0.995
    # The left heart keeps its size, and a slice without an RV stays as it is.
    assert np.abs(areas(masks, "LV") / areas(labels, "LV") - 1).max() < 0.25
    assert torch.equal(masks[40:], labels[40:]) and torch.allclose(made[40:], images[40:], atol=1e-5)
    again, same = Shapes(1.6, 1.0).give(images, labels, generator=Generator().manual_seed(0))
    assert torch.equal(made, again) and torch.equal(masks, same)


def test_dilated_rvs_of_real_patients_are_a_domain_and_hearts_of_other_groups_are_none(acdc: Path) -> None:
    """True masks of 8 patients of the group RV and of every other group, beside 40 others of all groups but RV."""
    sources = [source for source in find_studies(acdc) if int(source.name[-3:]) % 20 < 16]

    def masks(group: str, part: slice) -> list[np.ndarray]:
        return [truth.pixels for truth in true_masks([source for source in sources if source.group == group][part])]

    others = ("NOR", "DCM", "HCM", "MINF")
    usual = [mask for group in others for mask in masks(group, slice(0, 8))]
    dilated = Shapes.of(masks("RV", slice(0, 8)), usual)
    assert dilated is not None and 1.5 < dilated.growth < 4
    assert [group for group in others[1:] if Shapes.of(masks(group, slice(8, 16)), usual)] == []
