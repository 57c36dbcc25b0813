"""Whose new mask is believed."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from RVQCLib.acceptance import accept
from RVQCLib.newdomain import decide
from RVQCLib.recipes import RefinementConfig

YES = "neither opinion speaks against it"
RISES = "the predicted Dice of the RV rises from 0.70 to 0.76"


def entry(**rv: Any) -> dict[str, Any]:
    good = {"pDC": 0.9, "agreement": 0.9, "predicted_dice": 0.7, "volume_ml": 120.0}
    return {
        "phase": "ES",
        "ood": False,
        "slices": [],
        "structures": {"RV": {**good, **rv}, "LV": dict(good), "MYO": dict(good)},
    }


def with_areas(areas: list[float], **rv: Any) -> dict[str, Any]:
    return {**entry(**rv), "slices": [{"structures": {"RV": {"area_mm2": area}}} for area in areas]}


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ({}, {}, "the mask is the same"),
        (
            {},
            {"predicted_dice": 0.71, "agreement": 0.5, "pDC": 0.5},
            "the predicted Dice of the RV rises from 0.700 to 0.710",
        ),
        ({}, {"predicted_dice": 0.69, "agreement": 0.91}, "the agreement of the RV rises from 0.900 to 0.910"),
        # However much the candidates agree, an opinion that is worse is not outvoted.
        ({}, {"predicted_dice": 0.66, "agreement": 0.91}, "the predicted Dice of the RV is worse (0.700, now 0.660)"),
        (
            {},
            {"predicted_dice": 0.69, "pDC": 0.4, "agreement": 0.99},
            "the shape of the RV is worse (0.900, now 0.400)",
        ),
        ({}, {"predicted_dice": 0.681, "pDC": 0.881, "agreement": 0.801}, YES),
        ({}, {"predicted_dice": 0.76, "pDC": 0.5, "agreement": 0.5}, RISES),
        (
            {},
            {"predicted_dice": 0.64, "pDC": 0.99, "agreement": 0.99},
            "predicted Dice of the RV falls from 0.70 to 0.64",
        ),
        ({}, {"predicted_dice": 0.67, "agreement": 0.83}, "the predicted Dice of the RV is worse (0.700, now 0.670)"),
        ({}, {"predicted_dice": 0.69, "agreement": 0.79}, "the agreement of the RV is worse (0.900, now 0.790)"),
        (
            {},
            {"predicted_dice": 0.69, "pDC": 0.87},
            "nothing speaks for it, and the shape of the RV is worse (0.900, now 0.870)",
        ),
        ({}, {"predicted_dice": 0.76, "volume_ml": 361.0}, "volume of the RV changes from 120 to 361 ml"),
        ({}, {"predicted_dice": 0.76, "volume_ml": 359.0}, RISES),
        ({}, {"predicted_dice": 0.81, "volume_ml": 361.0}, "rises from 0.70 to 0.81"),
        ({}, {"predicted_dice": 0.81, "volume_ml": 79.0}, "volume of the RV changes"),
        ({}, {"predicted_dice": 0.76, "volume_ml": 79.0}, "volume of the RV changes"),
        ({}, {"predicted_dice": 0.76, "volume_ml": 0.0}, "volume of the RV changes"),
        # An RV that was missing everywhere has pDC and agreement 1.
        ({"volume_ml": 0.0, "pDC": 1.0, "agreement": 1.0}, {"predicted_dice": 0.4}, "the RV was missing"),
        ({"volume_ml": 0.0}, {"volume_ml": 0.0, "pDC": 0.8}, "still missing"),
        ({"predicted_dice": None}, {"predicted_dice": None, "pDC": 0.95}, "no Dice is predicted"),
    ],
)
def test_whose_mask_is_believed(old: dict[str, Any], new: dict[str, Any], reason: str) -> None:
    found = accept(entry(**old), entry(**new))
    assert reason in found.reason and found.accepted == (reason in (YES, "the RV was missing") or "rises" in reason)


def test_a_mask_that_becomes_out_of_distribution_or_loses_another_structure_is_not_believed() -> None:
    better, worse = entry(predicted_dice=0.74), entry(predicted_dice=0.69)
    assert accept(entry(), better).accepted and accept(entry(), worse).accepted
    assert not accept(entry(), {**better, "ood": True}).accepted
    assert accept(entry(), {**entry(predicted_dice=0.76), "ood": True}).accepted  # it clearly rises
    assert accept({**entry(), "ood": True}, {**worse, "ood": True}).accepted
    lost = copy.deepcopy(better)
    lost["structures"]["MYO"]["volume_ml"] = 10.0
    assert "volume of the MYO" in accept(entry(), lost).reason


def test_another_structure_may_grow_much_only_where_its_own_predicted_dice_rises() -> None:
    old, new = entry(), entry(predicted_dice=0.85)
    new["structures"]["LV"] = {**new["structures"]["LV"], "volume_ml": 800.0}
    assert "volume of the LV changes from 120 to 800 ml" in accept(old, new).reason
    new["structures"]["LV"]["predicted_dice"] = 0.9
    assert accept(old, new).accepted


def test_at_es_an_rv_above_its_base_needs_a_predicted_dice_that_clearly_rises() -> None:
    old, better = with_areas([0.0, 900.0, 500.0, 0.0]), {"predicted_dice": 0.74}
    found = accept(old, with_areas([400.0, 900.0, 500.0, 0.0], **better))
    assert not found.accepted and "at ES the RV comes to slice 1 above its base" in found.reason
    turned = accept(with_areas([0.0, 500.0, 900.0, 0.0]), with_areas([0.0, 500.0, 900.0, 400.0], **better))
    assert not turned.accepted and "slice 4 above" in turned.reason
    assert accept(old, with_areas([400.0, 900.0, 500.0, 0.0], predicted_dice=0.76)).accepted
    assert accept({**old, "phase": "ED"}, with_areas([400.0, 900.0, 500.0, 0.0], **better)).accepted
    assert accept(old, with_areas([250.0, 900.0, 500.0, 0.0], **better)).accepted  # little of it
    assert accept(old, with_areas([0.0, 900.0, 500.0, 400.0], **better)).accepted  # toward the apex
    assert accept(
        with_areas([50.0, 900.0, 500.0]), with_areas([400.0, 900.0, 500.0], **better)
    ).accepted  # one that was there
    assert accept(with_areas([0.0, 0.0]), with_areas([900.0, 900.0], **better)).accepted
    older = {**entry(), "slices": [{"structures": {"RV": {}}}] * 3}
    assert accept(older, {**older, **entry(**better), "slices": older["slices"]}).accepted


def test_a_study_is_decided_by_the_numbers_of_one_calibration() -> None:
    old = {**entry(), "view": "SA", "verdict": "look"}
    graded = {"structures": entry(predicted_dice=0.76)["structures"], "ood": False}
    look = {"taken": True, "reason": "because", "graded": graded}
    new = {**old, **entry(predicted_dice=0.6), "second_look": look}
    for seen, accepted in ((new, True), ({**new, "second_look": {**look, "graded": {}}}, False)):
        found = decide({"study": "s", "stacks": [old]}, {"study": "s", "stacks": [seen]}, RefinementConfig())
        assert found["accepted"] is accepted
    again = {
        **new,
        "second_look": {**look, "graded": {**graded, "structures": entry(predicted_dice=0.8)["structures"]}},
    }
    found = decide({"study": "s", "stacks": [new]}, {"study": "s", "stacks": [again]}, RefinementConfig())
    assert found["stacks"][0]["reason"] == "the predicted Dice of the RV rises from 0.760 to 0.800"
