"""The losses of Sec. 2.2 against MONAI and against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from RVQCLib.losses import (
    WEIGHTS_RV,
    deep_supervised_loss,
    generalized_dice_loss,
    one_hot,
    reconstruction_loss,
    semi_supervised_loss,
    supervised_loss,
)


def some_case(seed: int, classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(3, 4, 16, 16, generator=generator)
    return logits, torch.randint(0, classes, (3, 16, 16), generator=generator)


def four_pixels(labels: list[int], chances: list[list[float]]) -> tuple[Tensor, Tensor]:
    """Probabilities (1, 4, 1, n) and one-hot target from a list of pixels."""
    return torch.tensor(chances).T[None, :, None, :], one_hot(torch.tensor(labels)[None, None, :])


# Three pixels of background, one of LV; the last pixel is only half believed, one background pixel is half RV.
CASE = four_pixels(
    [0, 0, 0, 1], [[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.5, 0.0, 0.0, 0.5], [0.5, 0.5, 0.0, 0.0]]
)


def test_one_hot_has_the_channels_background_lv_myo_rv() -> None:
    hot = one_hot(torch.tensor([[[0, 1], [2, 3]]], dtype=torch.uint8))
    assert hot.shape == (1, 4, 2, 2) and hot.dtype == torch.float32
    assert hot[0].argmax(0).tolist() == [[0, 1], [2, 3]] and (hot.sum(1) == 1).all()


def test_generalized_dice_by_hand() -> None:
    """w = 1/9, 1, 1 (MYO absent: the largest), 1 (RV absent). Overlaps 2.5, 0.5, 0, 0; sums 3 + 3, 1 + 0.5, 0, 0.5."""
    expected = 1 - 2 * (2.5 / 9 + 0.5) / (6 / 9 + 1.5 + 0 + 0.5)
    assert float(generalized_dice_loss(*CASE)) == pytest.approx(expected, rel=1e-6)


def test_rv_weights_by_hand() -> None:
    """L_WGD: the same with w times 0, 1/4, 1/4, 1/2."""
    assert WEIGHTS_RV == (0.0, 0.25, 0.25, 0.5)
    expected = 1 - 2 * (0.25 * 0.5) / (0.25 * 1.5 + 0.5 * 0.5)
    assert float(generalized_dice_loss(*CASE, weights=WEIGHTS_RV)) == pytest.approx(expected, rel=1e-6)


def test_the_whole_batch_is_one_set() -> None:
    """Two images, LV in the first only: volumes are summed over the batch, not averaged over images."""
    p, r = four_pixels([1, 0, 0, 0], [[0.5, 0.5, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0.0]])
    halves = [torch.cat(t.split(2, dim=3)) for t in (p, r)]
    assert float(generalized_dice_loss(*halves)) == pytest.approx(float(generalized_dice_loss(p, r)), rel=1e-6)


@pytest.mark.parametrize("classes", [4, 3, 1])
@pytest.mark.parametrize("seed", [0, 1])
def test_generalized_dice_is_monais(classes: int, seed: int) -> None:
    """With batch=True the definitions coincide, absent classes included; only MONAI's smoothing must go."""
    losses = pytest.importorskip("monai.losses")
    logits, labels = some_case(seed, classes)
    theirs = losses.GeneralizedDiceLoss(
        include_background=True, to_onehot_y=True, softmax=True, batch=True, smooth_nr=0.0, smooth_dr=1e-12
    )
    ours = generalized_dice_loss(logits.softmax(1), one_hot(labels))
    assert float(ours) == pytest.approx(float(theirs(logits, labels[:, None])), abs=1e-5)


@pytest.mark.parametrize("weights", [None, WEIGHTS_RV])
def test_generalized_dice_runs_from_zero_to_one(weights: tuple | None) -> None:
    labels = torch.tensor([[[0, 1], [2, 3]]])
    assert float(generalized_dice_loss(one_hot(labels), one_hot(labels), weights=weights)) == pytest.approx(0, abs=1e-6)
    wrong = one_hot(torch.tensor([[[1, 2], [3, 0]]]))
    assert float(generalized_dice_loss(wrong, one_hot(labels), weights=weights)) == pytest.approx(1, abs=1e-6)


def test_eq_1_is_generalized_dice_plus_cross_entropy() -> None:
    logits, labels = some_case(3)
    chances = logits.softmax(1)
    entropy = -chances.gather(1, labels[:, None]).log().mean()
    expected = generalized_dice_loss(chances, one_hot(labels)) + entropy
    assert float(supervised_loss(logits, labels)) == pytest.approx(float(expected), rel=1e-5)
    undecided = torch.zeros(1, 4, 2, 2)
    # All chances 1/4, one pixel a class: overlap 4 * 1/4 of sums 4 * (1 + 1), and an entropy of log 4.
    value = supervised_loss(undecided, torch.tensor([[[0, 1], [2, 3]]]))
    assert float(value) == pytest.approx(1 - 2 * 1 / 8 + math.log(4), rel=1e-6)


def test_the_loss_of_r_is_mean_square_plus_generalized_dice() -> None:
    """The same undecided pixels: every pixel has squares (3/4)^2 + 3 (1/4)^2 = 12/16 over four channels."""
    value = reconstruction_loss(torch.zeros(1, 4, 2, 2), torch.tensor([[[0, 1], [2, 3]]]))
    assert float(value) == pytest.approx(12 / 16 / 4 + 0.75, rel=1e-6)


def test_eq_2_is_the_weighted_loss_against_the_reconstruction() -> None:
    logits, labels = some_case(5)
    expected = generalized_dice_loss(logits.softmax(1), one_hot(labels), weights=WEIGHTS_RV)
    assert float(semi_supervised_loss(logits, labels)) == float(expected)
    assert float(semi_supervised_loss(logits, labels, weights=(1, 1, 1, 1))) != float(expected)


def test_an_error_in_the_rv_costs_more_than_the_same_in_the_lv() -> None:
    labels = torch.tensor([[[0, 1, 1], [0, 3, 3]]])
    logits = 20 * one_hot(labels)

    def without(row: int) -> float:
        spoiled = logits.clone()
        spoiled[0, :, row, 2] = 20 * torch.eye(4)[0]
        return float(semi_supervised_loss(spoiled, labels))

    assert without(1) > without(0) > 0


def test_deep_supervision_by_hand() -> None:
    """Weights 4/7, 2/7, 1/7; labels of the coarser levels are every second and every fourth pixel."""
    labels = torch.arange(16).view(1, 4, 4) % 4
    generator = torch.Generator().manual_seed(0)
    levels = [torch.randn(1, 4, n, n, generator=generator) for n in (4, 2, 1)]
    coarse = [labels, labels[:, ::2, ::2], labels[:, ::4, ::4]]
    losses = [float(supervised_loss(a, b)) for a, b in zip(levels, coarse, strict=True)]
    expected = (4 * losses[0] + 2 * losses[1] + losses[2]) / 7
    assert float(deep_supervised_loss(levels, labels)) == pytest.approx(expected, rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.integers(1, 4), scale=st.sampled_from([0.0, 1.0, 100.0, 1e4]))
def test_losses_and_gradients_are_finite_for_any_logits_and_absent_classes(
    seed: int, classes: int, scale: float
) -> None:
    logits, labels = some_case(seed, classes)
    for loss in (supervised_loss, reconstruction_loss, semi_supervised_loss):
        leaf = (scale * logits).requires_grad_()
        value = loss(leaf, labels)
        value.backward()
        assert value.isfinite() and leaf.grad.isfinite().all() and value >= 0


def test_half_precision_logits_are_computed_in_single() -> None:
    logits, labels = some_case(1)
    half = logits.bfloat16()
    assert float(supervised_loss(half, labels)) == float(supervised_loss(half.float(), labels))
    assert supervised_loss(half, labels).dtype == torch.float32


def test_a_large_batch_keeps_its_precision() -> None:
    """16 slices of 128 x 128, a small RV: the weights span six orders of magnitude."""
    labels = torch.zeros(16, 128, 128, dtype=torch.long)
    labels[0, 60:63, 60:63] = 3
    assert float(generalized_dice_loss(one_hot(labels), one_hot(labels))) == pytest.approx(0, abs=1e-5)
    missed = one_hot(torch.zeros_like(labels))
    # The nine pixels weigh 1/81, LV and MYO as much but empty; background 1/N^2 of N - 9 and N.
    n = labels.numel()
    background = 1 / (n - 9) ** 2
    expected = 1 - 2 * background * (n - 9) / (background * (2 * n - 9) + 9 / 81)
    assert float(generalized_dice_loss(missed, one_hot(labels))) == pytest.approx(expected, abs=1e-5)
