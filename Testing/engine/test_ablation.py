"""Fig. 3: which candidates every method may choose from, paired differences by hand, and the command from end to end."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_tiny_bundle

from RVQCLib import inference, pipeline
from RVQCLib.ablation import MEAN, REFINED, SELECTED, SINGLE, _masks, ablation, pools, summarize_ablation
from RVQCLib.bundle import load_bundle
from RVQCLib.cli import main
from RVQCLib.evaluation import MEASURES
from RVQCLib.files import RVQCError, read_json
from RVQCLib.inference import one_hot
from RVQCLib.stack import LABELS, STRUCTURES, Study


def test_who_may_be_chosen_by_hand() -> None:
    networks = [("BN2", 0.88), ("BN1", 0.89), ("BN2", 0.90), ("BN1", 0.89)]
    assert pools(networks, consensus=True) == {
        SINGLE: [2],
        MEAN: [4],
        SELECTED: [0, 1, 2, 3, 4],
        f"{SINGLE}, BN1": [1],  # of equals the first
        f"{SELECTED}, BN1": [1, 3],
        f"{SINGLE}, BN2": [2],
        f"{SELECTED}, BN2": [0, 2],
    }
    assert MEAN not in pools(networks, consensus=False) and pools(networks, consensus=False)[SELECTED] == [0, 1, 2, 3]


def row(study: str, method: str, value: float) -> dict[str, Any]:
    head = {"study": study, "group": "NOR", "view": "SA", "phase": "ED", "method": method}
    return head | {f"{s}_{m}": value for s in STRUCTURES for m in MEASURES}


def test_differences_are_paired_by_stack() -> None:
    # The same values in another order: the means are equal, and so are all differences but of the stacks themselves.
    rows = [row("a", SINGLE, 0.5), row("b", SINGLE, 0.7), row("b", SELECTED, 0.9), row("a", SELECTED, 0.6)]
    found = summarize_ablation(rows, seed=0, resamples=200)["SA"]
    assert found[SELECTED]["n_stacks"] == 2
    assert found[SELECTED]["RV"]["dice"]["mean"] == pytest.approx(0.75)
    gap = found[SELECTED]["minus_single"]["RV"]["dice"]
    assert gap["mean"] == pytest.approx(0.15) and gap["low"] == pytest.approx(0.1) and gap["high"] == pytest.approx(0.2)
    assert found[SINGLE]["minus_single"]["LV"]["hd_mm"]["mean"] == 0


def test_from_end_to_end(
    tiny_acdc: Path, calibrated_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    bundle = str(calibrated_bundle)
    arguments = ["ablation", str(tiny_acdc), "--bundle", bundle, "--refined", bundle, "--device", "cpu"]
    assert main([*arguments, "-o", str(tmp_path / "out"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == read_json(tmp_path / "out" / "ablation.json") and said["note"] == ""
    methods = said["views"]["SA"]
    assert {SINGLE, SELECTED, REFINED} <= set(methods)
    # The refined bundle is the bundle itself here, so that it must do what the selection did.
    for network in ("", ", BN1", ", BN2"):
        for structure in STRUCTURES:
            assert methods[REFINED + network][structure] == methods[SELECTED + network][structure]
    with open(tmp_path / "out" / "ablation.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == sum(found["n_stacks"] for found in methods.values()) and methods[SINGLE]["n_stacks"] == 20
    mean = sum(float(r["RV_dice"]) for r in rows if r["method"] == SELECTED) / 20
    assert methods[SELECTED]["RV"]["dice"]["mean"] == pytest.approx(mean)


class Nowhere:
    """A domain that no image is of, so that the refined pool is never asked."""

    def holds(self, *_: Any) -> bool:
        return False


@pytest.mark.parametrize("phase", ["ED", "ES"])
def test_a_refined_pool_that_is_never_asked_wins_nothing(
    phase: str, tiny_study: Study, calibrated_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every method's mask at ES is without the slice above the base, as the pipeline's is."""

    def squares(images: np.ndarray, *_: Any) -> np.ndarray:
        """Three candidates of an RV alone, each a little larger."""
        masks = np.zeros((3, len(images), *images.shape[-2:]), np.uint8)
        for k, mask in enumerate(masks):
            mask[:, 8 : 16 + k, 8:16] = LABELS["RV"]
        return np.stack([one_hot(mask) for mask in masks])

    monkeypatch.setattr(inference, "propose", squares)
    monkeypatch.setattr(pipeline, "slice_above_base", lambda areas, predicted: 1)
    bundle, refined = load_bundle(calibrated_bundle), load_bundle(calibrated_bundle)
    models = bundle.models("SA", "cpu")
    refined._models["SA", "cpu"] = replace(models, refined=replace(models, domain=Nowhere()))  # type: ignore[arg-type]
    stack = replace(tiny_study.stacks[0], view="SA", phase=phase)
    masks = {method: mask.pixels == LABELS["RV"] for method, mask in _masks(stack, [bundle, refined], "cpu")}
    assert {SINGLE, SELECTED, REFINED, f"{SELECTED}, BN1"} <= set(masks)
    assert masks[SELECTED].any() and np.array_equal(masks[SELECTED], masks[REFINED])
    assert any(mask[1].any() for mask in masks.values()) == (phase == "ED")


def test_without_calibration_it_is_refused(tiny_acdc: Path, tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle", views=("SA",))
    with pytest.raises(RVQCError, match="is not calibrated for SA; run 'rvqc calibrate' first"):
        ablation(tiny_acdc, bundle, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()
