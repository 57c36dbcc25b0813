"""Predicted Dice: the model finds what is there, its bound covers as promised, and degenerate data have an answer."""

from __future__ import annotations

import numpy as np
import pytest

from RVQCLib.prediction import DiceModel, fit, trust

COLUMNS = 7


def synthetic(seed: int, patients: int, rows: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Features whose agreement column explains the Dice by a logistic curve, with noise that grows towards poor masks."""
    rng = np.random.default_rng(seed)
    n = patients * rows
    features = rng.normal(size=(n, COLUMNS))
    features[:, 0] = 1
    mean = 1 / (1 + np.exp(-(1.5 + 1.2 * features[:, 2])))
    dice = np.clip(mean + rng.normal(size=n) * 0.15 * (1.03 - mean), 0, 1)
    return features, dice, [f"p{k // rows}" for k in range(n)]


def test_the_fit_follows_the_feature_that_explains() -> None:
    features, dice, patients = synthetic(0, 40, 10)
    model = fit(features, dice, patients).model
    assert int(np.argmax(np.abs(model.weights[1:]))) + 1 == 2
    fresh, truth, _ = synthetic(1, 40, 10)
    predicted, _ = model.predict(fresh)
    assert np.abs(predicted - truth).mean() < 0.05
    assert np.corrcoef(predicted, truth)[0, 1] > 0.9


def test_the_bound_covers_nine_of_ten_unseen_rows() -> None:
    covered = []
    for seed in range(20):
        features, dice, patients = synthetic(seed, 30, 10)
        _, bound = fit(features, dice, patients).model.predict(synthetic(100 + seed, 30, 10)[0])
        covered.append((synthetic(100 + seed, 30, 10)[1] >= bound).mean())
    assert 0.87 < np.mean(covered) < 0.93


def test_a_patient_is_never_graded_by_a_model_that_saw_it() -> None:
    """A quarter of the rows are one odd patient, marked by a column of its own: fitted, it would be explained."""
    features, dice, patients = synthetic(2, 20, 5)
    dice[:25], features[:, 4] = 0.05, 0.0
    features[:25, 4] = 1.0
    patients[:25] = ["odd"] * 25
    assert fit(features, dice, patients).outside[:25].mean() > 0.4
    assert fit(features, dice, [str(k) for k in range(100)]).outside[:25].mean() < 0.25


@pytest.mark.parametrize("value", [0.0, 0.7, 1.0])
def test_constant_dice_has_a_finite_answer(value: float) -> None:
    features, _, patients = synthetic(3, 6, 4)
    model = fit(features, np.full(len(features), value), patients).model
    predicted, bound = model.predict(features)
    assert np.isfinite(predicted).all() and np.isfinite(bound).all()
    assert np.allclose(predicted, value, atol=0.05)
    assert ((bound >= 0) & (bound <= 1)).all()


def test_one_patient_and_constant_features_have_an_answer() -> None:
    features = np.ones((3, COLUMNS))
    predicted, bound = fit(features, np.array([0.8, 0.9, 0.85]), ["p"] * 3).model.predict(features)
    assert np.allclose(predicted, 0.85, atol=0.02) and np.isfinite(bound).all()


def test_what_was_never_seen_is_not_extrapolated_to_certainty() -> None:
    features, dice, patients = synthetic(4, 30, 10)
    model = fit(features, dice, patients).model
    far = np.zeros((2, COLUMNS))
    far[:, 0] = 1
    far[:, 2] = 50, 500
    assert model.predict(far)[0][0] == model.predict(far)[0][1]


def test_a_model_survives_json() -> None:
    model = fit(*synthetic(5, 10, 4)).model
    assert DiceModel.from_json(model.to_json()) == model


def test_what_is_left_out_is_what_a_model_of_the_others_predicts() -> None:
    features, dice, patients = synthetic(6, 10, 4)
    found, first = fit(features, dice, patients), np.array(patients) == "p3"
    alone = fit(features[~first], dice[~first], [p for p in patients if p != "p3"]).model
    # The other model centres by other means, which the penalty sees a little.
    assert np.abs(found.outside[first] - alone.predict(features[first])[0]).max() < 0.02


def test_the_bound_is_wider_where_errors_are_larger() -> None:
    """Column 4 says how far the Dice strays from the curve: with it the width follows, and both halves are covered."""
    rng = np.random.default_rng(7)

    def rows(patients: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
        features, _, names = synthetic(int(rng.integers(1000)), patients, 10)
        features[:, 4] = rng.random(len(features)) < 0.5
        mean = 1 / (1 + np.exp(-(1.5 + 0.5 * features[:, 2])))
        noise = np.where(features[:, 4] > 0, 0.15, 0.02) * rng.normal(size=len(features))
        return features, np.clip(mean + noise, 0, 1), names

    model = fit(*rows(60)).model
    features, dice, _ = rows(200)
    predicted, bound = model.predict(features)
    wild = features[:, 4] > 0
    assert (predicted - bound)[wild].mean() > 2 * (predicted - bound)[~wild].mean()
    for half in (wild, ~wild):
        assert 0.78 < (dice >= bound)[half].mean() < 0.98


def test_trust_by_hand() -> None:
    # Twenty bad stacks with predictions 0.50 to 0.88 in steps of 0.02: one of twenty may be trusted, that with 0.88.
    bad = 0.5 + 0.02 * np.arange(20)
    good = np.array([0.85, 0.865, 0.9, 0.95])
    found = trust(np.append(bad, good), np.append(np.full(20, 0.6), np.full(4, 0.9)))
    assert found.least == pytest.approx(0.86) and found.least > bad[18]
    assert (found.n_bad, found.missed_bad, found.good_trusted, found.note) == (20, 0.05, 0.75, "")
    # The limit is never below what counts as bad, and ties go to the safe side.
    assert trust(np.array([0.3, 0.4, 0.9]), np.array([0.1, 0.2, 0.9])).least == 0.8
    tied = trust(np.full(40, 0.9), np.repeat([0.6, 0.9], 20))
    assert (tied.missed_bad, tied.good_trusted) == (0.0, 0.0)


def test_trust_without_bad_or_without_good_stacks_has_a_sentence_or_a_number() -> None:
    found = trust(np.array([0.9, 0.7]), np.array([0.95, 0.9]))
    assert (found.least, found.missed_bad, found.good_trusted) == (0.8, None, 0.5)
    assert found.note.startswith("no calibration stack has a Dice below 0.8")
    assert trust(np.array([0.9, 0.7]), np.array([0.1, 0.2])).good_trusted is None
