"""The guards of a refinement: what is looked at, when it stops."""

from __future__ import annotations

import numpy as np
import pytest

from RVQCLib.dataset import Example
from RVQCLib.files import RVQCError
from RVQCLib.guards import EpochRecord, best_of, fallen, reason_to_stop, thinned, weighted
from RVQCLib.recipes import RECIPES, RefinementConfig
from RVQCLib.successor import widened


def look(epoch: int, rv: float, score: float, flagged: int = 5, other: float = 0.9) -> EpochRecord:
    return EpochRecord(epoch, {"RV": rv, "LV": other, "MYO": other}, score, flagged)


def example(name: str, slices: int) -> Example:
    images = np.zeros((slices, 4, 4), np.float16) + np.arange(slices, dtype=np.float16)[:, None, None]
    return Example(name, "NOR", "SA_ED", images, images.astype(np.uint8), (8.0, 1.5, 1.5))


def test_slices_are_left_out_evenly_and_of_no_stack_all() -> None:
    thin = thinned([example("a", 6), example("b", 6), example("c", 1)], 4)  # 13 slices: every third
    assert [one.images[:, 0, 0].tolist() for one in thin] == [[0, 3], [1, 4], [0]]
    assert [one.labels[:, 0, 0].tolist() for one in thin] == [[0, 3], [1, 4], [0]]
    everything = thinned([example("a", 6), example("b", 6)], 100)
    assert [len(one.images) for one in everything] == [6, 6]


def test_the_guard_falls_by_the_rv_or_by_the_mean() -> None:
    before = {"RV": 0.90, "LV": 0.90, "MYO": 0.90}
    assert fallen(before, {"RV": 0.88, "LV": 0.95, "MYO": 0.95}) == pytest.approx(0.02)
    assert fallen(before, {"RV": 0.90, "LV": 0.84, "MYO": 0.90}) == pytest.approx(0.02)
    assert fallen(before, {"RV": 0.91, "LV": 0.91, "MYO": 0.91}) == pytest.approx(-0.01)
    assert weighted({"RV": 0.8, "LV": 0.9, "MYO": 0.6}) == pytest.approx(0.775)


@pytest.mark.parametrize(
    ("looks", "kept"),
    [
        ([look(0, 0.90, 0.70)], 0),
        ([look(0, 0.90, 0.70), look(1, 0.90, 0.75), look(2, 0.90, 0.74)], 1),
        ([look(0, 0.90, 0.70), look(1, 0.89, 0.95)], 0),  # better there, but the guard fell
        ([look(0, 0.90, 0.70), look(1, 0.897, 0.72), look(2, 0.896, 0.80)], 2),
        ([look(0, 0.90, 0.70), look(1, 0.90, 0.7005)], 0),  # a hair is no progress
        ([look(0, 0.90, 0.70), look(1, 0.92, 0.60)], 0),
    ],
)
def test_the_epoch_that_is_kept(looks: list[EpochRecord], kept: int) -> None:
    assert best_of(looks, margin=0.005).epoch == kept


def test_the_reasons_to_stop() -> None:
    start = look(0, 0.90, 0.70)
    assert reason_to_stop([start], 0.005, 2) == ""
    assert reason_to_stop([look(0, 0.9, 0.7, flagged=0)], 0.005, 2) == ""
    assert reason_to_stop([look(0, 0.9, 0.7, flagged=0), look(1, 0.9, 0.71, flagged=0)], 0.005, 2) == ""
    assert reason_to_stop([start, look(1, 0.896, 0.71)], 0.005, 2) == ""
    assert reason_to_stop([start, look(1, 0.894, 0.80)], 0.005, 2) == ""  # it may come back
    assert reason_to_stop([start, look(1, 0.894, 0.80), look(2, 0.894, 0.81)], 0.005, 2) == "the guard fell"
    assert reason_to_stop([start, look(1, 0.90, 0.69, flagged=0)], 0.005, 2) == ""  # nothing is learnt yet
    better = look(1, 0.90, 0.71)
    assert reason_to_stop([start, better, look(2, 0.90, 0.70, flagged=0)], 0.005, 2) == "no flags are left"
    assert reason_to_stop([start, look(1, 0.90, 0.71, flagged=0)], 0.005, 2) == ""  # still becoming better
    assert reason_to_stop([start, look(1, 0.90, 0.69), look(2, 0.90, 0.70)], 0.005, 2) == "plateau"
    agreed = [EpochRecord(k, {"agreement": value}, 0.7 + k / 10, 5) for k, value in enumerate((0.8, 0.796, 0.79))]
    assert reason_to_stop(agreed[:2], 0.005, 1) == "" and reason_to_stop(agreed, 0.005, 1) == "the guard fell"
    assert best_of(agreed, 0.005).epoch == 1


def test_a_configuration_goes_to_json_and_back_and_refuses_what_cannot_be() -> None:
    config = RefinementConfig(mode="paper", epochs=3, seed=5, recalibrate=False)
    assert RefinementConfig.from_json(config.to_json()) == config
    assert RefinementConfig.from_json({"epochs": 2}) == RefinementConfig(epochs=2)
    for values in ({"mode": "magic"}, {"batch": 7}, {"epochs": -1}, {"steps": 0}, {"speed": 3}):
        with pytest.raises(RVQCError):
            RefinementConfig.from_json(values)


def test_only_the_guarded_mode_is_guarded_and_the_paper_s_alpha_fades() -> None:
    assert [name for name, recipe in RECIPES.items() if recipe.guarded] == ["guarded"]
    assert [name for name, recipe in RECIPES.items() if recipe.fading] == ["paper"]
    assert [name for name, recipe in RECIPES.items() if recipe.normalization_only] == ["entropy"]


def test_a_calibration_for_other_networks_has_wider_bounds() -> None:
    model = {"weights": [1.0], "quantile": 0.5}
    old = {"model": "hash", "fences": {}, "prediction": {"stack": {"RV": model}, "slice": {"RV": model}}}
    new = widened(old)
    assert "model" not in new and new["widened"] == 2.0 and old["model"] == "hash"
    assert new["prediction"]["stack"]["RV"] == {"weights": [1.0], "quantile": 1.0}
    assert widened(new)["widened"] == 4.0
