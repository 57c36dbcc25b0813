"""Augmentation: drawn from the generator alone, bounded, and never moving labels against images."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional

from RVQCLib import augmentation
from RVQCLib.augmentation import AugmentationConfig, augment, rescale, sample_grid, warp, warp_labels

STILL = AugmentationConfig(
    rotation_degrees=0, scale=(1, 1), shear=0, shift_pixels=0, elastic_pixels=0, dihedral=0,
    remap=0, relabel=0, gamma=0, bias=0, blur=0, noise=0, ghost=0,
)  # fmt: skip
INTENSITY = ("remap", "gamma", "bias", "blur", "noise", "ghost")


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def hearts(batch: int = 6, size: int = 64) -> tuple[Tensor, Tensor]:
    """Smooth images 0..1 and labels: a disc of LV in a ring of MYO, RV beside it, elsewhere in every image."""
    r, c = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    labels = torch.zeros(batch, size, size, dtype=torch.uint8)
    for k in range(batch):
        y, x = 26 + 2 * k, 36 - k
        labels[k][torch.hypot(r - y + 0.0, c - x + 14.0) < 9] = 3
        labels[k][torch.hypot(r - y + 0.0, c - x + 0.0) < 11] = 2
        labels[k][torch.hypot(r - y + 0.0, c - x + 0.0) < 7] = 1
    clean = torch.tensor([0.4, 0.9, 0.15, 0.8])[labels.long()][:, None]
    return clean + 0.02 * torch.rand(clean.shape, generator=seeded()), labels


def transform(name: str) -> Callable[..., Tensor]:
    return getattr(augmentation, name)


def test_everything_comes_from_the_generator() -> None:
    images, labels = hearts()
    torch.manual_seed(1)
    first = augment(images, labels, 48, config=AugmentationConfig(), generator=seeded(5))
    torch.manual_seed(2)
    second = augment(images, labels, 48, config=AugmentationConfig(), generator=seeded(5))
    other = augment(images, labels, 48, config=AugmentationConfig(), generator=seeded(6))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0]) and not torch.equal(first[1], other[1])


def test_the_inputs_are_left_alone() -> None:
    images, labels = hearts()
    before = images.clone(), labels.clone()
    augment(images, labels, 48, config=AugmentationConfig(), generator=seeded())
    assert torch.equal(images, before[0]) and torch.equal(labels, before[1])


@pytest.mark.parametrize("seed", range(5))
def test_labels_stay_labels_and_images_stay_in_range(seed: int) -> None:
    images, labels = hearts()
    moved, truth = augment(images, labels, 48, config=AugmentationConfig(), generator=seeded(seed))
    assert moved.shape == (6, 1, 48, 48) and truth.shape == (6, 48, 48)
    assert truth.dtype == torch.uint8 and set(truth.unique().tolist()) == {0, 1, 2, 3}
    assert moved.isfinite().all() and moved.min() >= 0 and moved.max() <= 1
    assert moved.flatten(1).std(1).min() > 0.01


def test_a_still_grid_only_stretches_a_little() -> None:
    """With all ranges at zero nothing turns, mirrors, shears, shifts or bends; a stretch of up to 10 % an axis is left."""
    grid = sample_grid(8, 64, 64, config=STILL, generator=seeded())
    whole = functional.affine_grid(torch.eye(2, 3)[None].repeat(8, 1, 1), [8, 1, 64, 64], False)
    factor = (grid * whole).sum((1, 2)) / (whole * whole).sum((1, 2))  # (8, 2): x and y
    torch.testing.assert_close(grid, whole * factor[:, None, None, :], atol=1e-5, rtol=0)
    assert factor.min() > 0.9 and factor.max() < 1.11
    torch.testing.assert_close(factor.prod(1), torch.ones(8), atol=1e-5, rtol=0)


def test_an_identity_grid_is_the_identity() -> None:
    images, labels = hearts()
    whole = functional.affine_grid(torch.eye(2, 3)[None].repeat(6, 1, 1), [6, 1, 64, 64], False)
    moved, truth = warp(images, labels, whole)
    torch.testing.assert_close(moved, images, atol=1e-5, rtol=0)
    assert torch.equal(truth, labels)


def test_a_smaller_crop_is_the_middle_of_the_source() -> None:
    images, labels = hearts()
    grid = functional.affine_grid(torch.eye(2, 3)[None].repeat(6, 1, 1) * 0.5, [6, 1, 32, 32], False)
    moved, truth = warp(images, labels, grid)
    torch.testing.assert_close(moved, images[..., 16:48, 16:48], atol=1e-5, rtol=0)
    assert torch.equal(truth, labels[:, 16:48, 16:48])
    drawn = sample_grid(1, 64, 32, config=STILL, generator=seeded())
    assert drawn.abs().max() == pytest.approx(0.5, rel=0.11)


def test_a_shift_by_hand() -> None:
    """x grows with columns, y with rows; 2 / 64 of the grid's range is a pixel."""
    images, labels = hearts()
    matrix = torch.tensor([[1, 0, 2 * 5 / 64], [0, 1, -2 * 3 / 64]])[None].repeat(6, 1, 1)
    moved, truth = warp(images, labels, functional.affine_grid(matrix, [6, 1, 64, 64], False))
    torch.testing.assert_close(moved[..., 3:, :-5], images[..., :-3, 5:], atol=1e-4, rtol=0)
    assert torch.equal(truth[:, 3:, :-5], labels[:, :-3, 5:])
    assert not moved[..., :3, :].any() and not truth[:, :, -5:].any()


@pytest.mark.parametrize("seed", range(4))
def test_nothing_moves_labels_against_images(seed: int) -> None:
    """An image that shows the labels themselves goes through the same grid: where it is sure, it says what they say."""
    _, labels = hearts()
    grid = sample_grid(6, 64, 48, config=AugmentationConfig(), generator=seeded(seed))
    for k in (1, 2, 3):
        share, truth = warp((labels == k).float()[:, None], labels, grid)
        assert torch.equal(share[:, 0] > 0.999, (share[:, 0] > 0.999) & (truth == k))
        assert not ((truth == k) & (share[:, 0] < 0.25 - 1e-4)).any()  # nearest has at least a quarter of the weight
    assert torch.equal(warp_labels(labels, grid), truth)


@pytest.mark.parametrize("name", [*INTENSITY, "relabel"])
def test_intensity_transforms_keep_shape_and_stay_finite(name: str) -> None:
    images, labels = hearts()
    images[0] = 0
    extra = (labels,) if name == "relabel" else ()
    for seed in range(5):
        changed = transform(name)(images, *extra, probability=1.0, generator=seeded(seed))
        assert changed.shape == images.shape and changed.dtype == images.dtype and changed.isfinite().all()
        assert changed.min() > -1 and changed.max() < 8
        assert not torch.equal(changed[1], images[1])


@pytest.mark.parametrize("name", [*INTENSITY, "relabel"])
def test_probability_zero_changes_nothing(name: str) -> None:
    images, labels = hearts()
    extra = (labels,) if name == "relabel" else ()
    assert torch.equal(transform(name)(images, *extra, probability=0.0, generator=seeded()), images)


@pytest.mark.parametrize("name", INTENSITY)
def test_probability_is_the_share_of_images_changed(name: str) -> None:
    images = hearts(1)[0].expand(200, -1, -1, -1)
    changed = transform(name)(images, probability=0.3, generator=seeded(2))
    share = (changed != images).flatten(1).any(1).float().mean()
    assert 0.2 < share < 0.4


@pytest.mark.parametrize("name", ["bias", "blur", "noise", "gamma"])
def test_intensity_transforms_leave_the_bright_spot_where_it_is(name: str) -> None:
    r, c = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    spot = torch.exp(-((r - 40) ** 2 + (c - 20) ** 2) / 18)[None, None].expand(8, -1, -1, -1)
    for seed in range(4):
        bright = transform(name)(spot, probability=1.0, generator=seeded(seed))[:, 0] > 0.5
        for one in bright[bright.flatten(1).any(1)]:
            near = one & (torch.hypot(r - 40, c - 20) < 12)
            assert r[near].mean() == pytest.approx(40, abs=1) and c[near].mean() == pytest.approx(20, abs=1)


def test_gamma_is_a_power_between_a_half_and_two() -> None:
    ramp = torch.linspace(0.05, 0.95, 64)[None, None, None, :].expand(30, 1, 2, 64)
    changed = augmentation.gamma(ramp, probability=1.0, generator=seeded())
    low = torch.minimum(ramp**2, 1 - (1 - ramp) ** 0.5)
    high = torch.maximum(ramp**0.5, 1 - (1 - ramp) ** 2)
    assert (changed >= low - 1e-4).all() and (changed <= high + 1e-4).all()
    assert (changed.diff(dim=-1) > 0).all()


def test_noise_is_rician() -> None:
    """Of nothing: a Rayleigh amplitude, whose mean over its root mean square is sqrt(pi) / 2."""
    black = torch.zeros(4, 1, 128, 128)
    drawn = augmentation.noise(black, probability=1.0, generator=seeded()).flatten(1)
    ratio = drawn.mean(1) / drawn.square().mean(1).sqrt()
    torch.testing.assert_close(ratio, torch.full((4,), 0.8862), atol=0.01, rtol=0)
    sigma = drawn.square().mean(1).sqrt() / 2**0.5
    assert sigma.min() > 0.009 and sigma.max() < 0.121


def test_relabel_shifts_structures_as_a_whole_and_no_background() -> None:
    images, labels = torch.full((20, 1, 64, 64), 0.5), hearts(1)[1].expand(20, -1, -1)
    change = augmentation.relabel(images, labels, probability=1.0, generator=seeded()) - images
    far = functional.max_pool2d((labels > 0).float()[:, None], 3, 1, 1) == 0
    assert not change[far].any()
    core = (functional.max_pool2d((labels != 1).float()[:, None], 3, 1, 1) == 0).expand_as(change)
    for one, where in zip(change, core, strict=True):
        assert one[where].std() < 1e-5 and one[where].abs().max() <= 0.25


def test_rescale_returns_to_the_range_and_survives_a_constant() -> None:
    images = torch.stack([torch.full((1, 8, 8), 3.0), torch.linspace(-5, 9, 64).view(1, 8, 8)])
    scaled = rescale(images, generator=seeded())
    assert scaled.isfinite().all() and scaled.min() >= 0 and scaled.max() <= 1
    assert (scaled[1].flatten().diff() >= 0).all() and scaled[1].max() > 0.9 and scaled[1].min() < 0.1
