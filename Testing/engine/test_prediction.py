"""Predicted Dice: the model finds what is there, its bound covers as promised, and degenerate data have an answer."""

from __future__ import annotations

import numpy as np
import pytest

from RVQCLib.prediction import (
    FEATURES,
    DiceModel,
    confidence,
    fit,
    slice_features,
    stack_features,
)


def synthetic(seed: int, patients: int, rows: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Features whose agreement column explains the Dice by a logistic curve, with noise that grows towards poor masks."""
    rng = np.random.default_rng(seed)
    n = patients * rows
    features = rng.normal(size=(n, len(FEATURES)))
    features[:, 0] = 1
    mean = 1 / (1 + np.exp(-(1.5 + 1.2 * features[:, 2])))
    dice = np.clip(mean + rng.normal(size=n) * 0.15 * (1.03 - mean), 0, 1)
    return features, dice, [f"p{k // rows}" for k in range(n)]


def test_the_fit_follows_the_feature_that_explains() -> None:
    features, dice, patients = synthetic(0, 40, 10)
    model = fit(features, dice, patients)
    assert int(np.argmax(np.abs(model.weights[1:]))) + 1 == 2
    fresh, truth, _ = synthetic(1, 40, 10)
    predicted, _ = model.predict(fresh)
    assert np.abs(predicted - truth).mean() < 0.05
    assert np.corrcoef(predicted, truth)[0, 1] > 0.9


def test_the_bound_covers_nine_of_ten_unseen_rows() -> None:
    covered = []
    for seed in range(20):
        features, dice, patients = synthetic(seed, 30, 10)
        _, bound = fit(features, dice, patients).predict(synthetic(100 + seed, 30, 10)[0])
        covered.append((synthetic(100 + seed, 30, 10)[1] >= bound).mean())
    assert 0.87 < np.mean(covered) < 0.93


def test_a_patient_is_never_graded_by_a_model_that_saw_it() -> None:
    """A quarter of the rows are one odd patient, marked by a column of its own: fitted, it would be explained."""
    features, dice, patients = synthetic(2, 20, 5)
    dice[:25], features[:, 4] = 0.05, 0.0
    features[:25, 4] = 1.0
    patients[:25] = ["odd"] * 25
    assert fit(features, dice, patients).quantile > 1.0
    assert fit(features, dice, [str(k) for k in range(100)]).quantile < 0.5


@pytest.mark.parametrize("value", [0.0, 0.7, 1.0])
def test_constant_dice_has_a_finite_answer(value: float) -> None:
    features, _, patients = synthetic(3, 6, 4)
    model = fit(features, np.full(len(features), value), patients)
    predicted, bound = model.predict(features)
    assert np.isfinite(predicted).all() and np.isfinite(bound).all()
    assert np.allclose(predicted, value, atol=0.05)
    assert ((bound >= 0) & (bound <= 1)).all()


def test_one_patient_and_constant_features_have_an_answer() -> None:
    features = np.ones((3, len(FEATURES)))
    predicted, bound = fit(features, np.array([0.8, 0.9, 0.85]), ["p"] * 3).predict(features)
    assert np.allclose(predicted, 0.85, atol=0.02) and np.isfinite(bound).all()


def test_what_was_never_seen_is_not_extrapolated_to_certainty() -> None:
    features, dice, patients = synthetic(4, 30, 10)
    model = fit(features, dice, patients)
    far = np.zeros((2, len(FEATURES)))
    far[:, 0] = 1
    far[:, 2] = 50, 500
    assert model.predict(far)[0][0] == model.predict(far)[0][1]


def test_a_model_survives_json() -> None:
    model = fit(*synthetic(5, 10, 4))
    assert DiceModel.from_json(model.to_json()) == model


def test_confidence_is_the_expected_dice_worked_by_hand() -> None:
    """RV: two pixels of the mask with p 0.8, one outside with p 0.4: (2 x 1.6 + 3) / (2 + 2.0 + 3) = 6.2 / 7."""
    mask = np.zeros((1, 4, 4), np.uint8)
    mask[0, 0, :2] = 3
    probabilities = np.zeros((1, 4, 4, 4))
    probabilities[0, 3, 0, :2] = 0.8
    probabilities[0, 3, 1, 0] = 0.4
    stack, slices = confidence(mask, probabilities)
    assert stack[0] == pytest.approx(6.2 / 7) and slices[0, 0] == pytest.approx(6.2 / 7)
    assert stack[1] == 1 and slices[0, 2] == 1


def test_features_are_finite_for_perfect_lost_and_empty_structures() -> None:
    three = np.array([1.0, 0.0, 0.5])
    features = stack_features(three, np.array([0.0, 271.5, 5.0]), three, three, np.array([0.0, 500.0, 20.0]))
    assert features.shape == (3, len(FEATURES)) and np.isfinite(features).all()
    grid = np.tile(three, (4, 1))
    columns = slice_features(grid, grid, grid, grid, grid * 100, three)
    assert columns.shape == (4, 3, len(FEATURES)) and np.isfinite(columns).all()
