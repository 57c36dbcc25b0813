"""Calibration: on whom, on which versions of a stack, and what each of its numbers is made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import schematic_study, write_tiny_bundle

from RVQCLib import calibration
from RVQCLib.bundle import load_bundle
from RVQCLib.calibration import Pool, Rows, calibrate_bundle
from RVQCLib.features import SLICE_FEATURES, STACK_FEATURES, Features
from RVQCLib.inference import choose, propose_stack
from RVQCLib.metrics import dice
from RVQCLib.stack import LABELS, STRUCTURES


def test_who_trained_never_calibrates(tiny_acdc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"patient{number:03d}" for number in range(1, 11)]
    split = {"train": names[:8], "validation": names[8:9], "test": names[9:]}
    path = write_tiny_bundle(tmp_path / "bundle", views=("SA",), split=split)
    seen: list[str] = []

    def stop(sources: Any, *_: Any, **__: Any) -> None:
        seen.extend(source.name for source in sources)
        raise KeyboardInterrupt

    monkeypatch.setattr(calibration, "calibrate_view", stop)
    with pytest.raises(KeyboardInterrupt):
        calibrate_bundle(path, tiny_acdc, part="all", device="cpu")
    assert seen == names[8:]


def test_a_stack_is_seen_shifted_with_errors_and_at_es_without_its_basal_slice(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, study = Pool(load_bundle(tiny_bundle), "SA", "cpu"), schematic_study("one", 3)
    tables = {phase: {"RV": {"th_low": 0.0, "th_up": 99.0, "n": 1}} for phase in ("ED", "ES")}
    monkeypatch.setattr(calibration, "most_basal", lambda areas: 0)  # where random weights find no RV
    monkeypatch.setattr(calibration, "DRAWS", 1)
    versions, spoilt = 1 + len(calibration.SHIFTS), len(calibration.STRENGTHS)
    for phase, shortened in (("ED", 0), ("ES", versions)):
        pair = ("one", study.stack("SA", phase), study.label("SA", phase))
        rows = calibration._grade((1, pair), pool=pool, tables=tables, cancelled=None)
        assert (len(rows.dice), sum(rows.damaged)) == (versions + spoilt + shortened, spoilt + shortened)


def test_every_slice_has_its_own_dice(tiny_bundle: Path) -> None:
    models, image = load_bundle(tiny_bundle).models("SA", "cpu"), schematic_study("one", 3).stack("SA", "ED")
    proposal = propose_stack(image, models)
    chosen, rows = choose(proposal, None, models), Rows()
    truth = image.with_pixels(np.full(image.pixels.shape, LABELS["RV"], np.uint8))
    truth.pixels[1:] = LABELS["LV"]
    truth.pixels[2:] = LABELS["MYO"]
    rows.add("one", proposal, chosen, truth)
    native = calibration.from_network(chosen.probabilities, proposal.crop, image)
    expected = [
        [dice(mask == LABELS[s], true == LABELS[s]) for s in STRUCTURES]
        for mask, true in zip(native, truth.pixels, strict=True)
    ]
    assert rows.slice_dice[0].tolist() == expected and len({*map(tuple, expected)}) > 1


def rows_by_chance(count: int = 60) -> Rows:
    """Rows whose Dice is that which `quality`, the second feature, tells, and a damaged one beside each with less."""
    rows, rng = Rows(), np.random.default_rng(0)
    for number in range(count):
        quality = rng.random()
        for damaged in (False, True):
            stack = rng.normal(0, 0.1, (3, len(STACK_FEATURES) - 1))
            slices = rng.normal(0, 0.1, (3, 3, len(SLICE_FEATURES)))
            for features in (stack, slices):
                features[..., 0], features[..., 1] = 1, 4 * quality
            dices = np.full(3, 0.2 if damaged else 0.5 + quality / 2)
            rows.extend(
                Rows(
                    [f"p{number}"],
                    [damaged],
                    [Features(stack, slices, np.ones((3, 3)))],
                    [dices],
                    [np.tile(dices, (3, 1))],
                )
            )
    return rows


def test_trust_is_learnt_from_masks_as_they_were_found() -> None:
    rows = rows_by_chance()
    found = [dices[0] for dices, damaged in zip(rows.dice, rows.damaged, strict=True) if not damaged]
    assert calibration._fit(rows)["trust"]["RV"]["n_bad"] == sum(one < 0.8 for one in found)


def test_stacks_learn_from_slices_predicted_as_those_of_new_patients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a fit says of patients left out, here 0.25, is what the stacks' fits see."""
    taught, real = [], calibration.fit

    def fit(features: np.ndarray, *how: Any) -> Any:
        taught.append(features)
        one = real(features, *how)
        return replace(one, outside=np.full_like(one.outside, 0.25))

    monkeypatch.setattr(calibration, "fit", fit)
    rows, column = rows_by_chance(20), STACK_FEATURES.index("slices")
    calibration._fit(rows)
    expected = rows.features[0].with_slices(np.full((3, 3), 0.25))[0, column]
    assert all(features[:, column] == pytest.approx(expected) for features in taught[len(STRUCTURES) :])


def test_every_structure_is_trusted_from_its_own_limit(tiny_bundle: Path) -> None:
    models, image = load_bundle(tiny_bundle).models("SA", "cpu"), schematic_study("one", 3).stack("SA", "ED")
    found, least = calibration._fit(rows_by_chance(20)), dict(zip(STRUCTURES, (0.7, 0.8, 0.9), strict=True))
    found["trust"] = {s: {**found["trust"][s], "least": least[s]} for s in STRUCTURES}
    proposal = propose_stack(image, models)
    graded = calibration.opinion(found, proposal, choose(proposal, None, models))
    assert graded.trusted_from.tolist() == list(least.values())
