"""The shipped bundle on patients that no part of its making has seen: it does what the README says of it."""

from __future__ import annotations

from pathlib import Path

from RVQCLib.bundle import load_bundle, shipped_bundle
from RVQCLib.evaluation import evaluate
from RVQCLib.pipeline import segment_study
from RVQCLib.study import read_study


def test_the_shipped_bundle_on_the_patients_it_never_saw(acdc: Path, tmp_path: Path) -> None:
    split = load_bundle(shipped_bundle()).description["views"]["SA"]["training"]["split"]
    assert len(split["test"]) == 20 and not set(split["test"]) & {*split["train"], *split["validation"]}
    summary = evaluate(acdc, shipped_bundle(), tmp_path / "out", part="test", device="cpu")
    assert summary["n_stacks"] == 40
    dice = {structure: measures["dice"]["mean"] for structure, measures in summary["structures"].items()}
    assert dice["RV"] >= 0.88 and dice["LV"] >= 0.92 and dice["MYO"] >= 0.83
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"summary.json", "stacks.csv", "evaluation.html"}


def test_the_shipped_bundle_is_small_and_says_what_it_is() -> None:
    bundle = load_bundle(shipped_bundle())
    assert sum(file.stat().st_size for file in bundle.path.rglob("*")) < 40e6
    assert "non-commercial" in bundle.description["license"] and "Bernard" in bundle.description["citation"]
    assert "Not a medical device" in bundle.description["intended_use"]
    assert bundle.description["views"]["SA"]["calibration"]["n_studies"] == 20


def test_ed_and_es_of_a_real_cine_are_found(acdc: Path) -> None:
    """Info.cfg of patient 90 gives frames 4 and 11, counted from 1."""
    study = read_study(acdc / "patient090" / "patient090_4d.nii.gz")
    result = segment_study(study, load_bundle(shipped_bundle()), device="cpu").to_json()
    (cine,) = result["cine"]
    assert cine["view"] == "SA" and {s["phase"] for s in result["stacks"]} == {"ED", "ES"}
    assert abs(cine["es"] - 10) <= 2
    assert min((cine["ed"] - 3) % len(study.cines[0]), (3 - cine["ed"]) % len(study.cines[0])) <= 4
