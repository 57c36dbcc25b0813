"""The shipped bundle on patients that no part of its making has seen: it does what the README says of it."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from RVQCLib.bundle import load_bundle, shipped_bundle
from RVQCLib.evaluation import compare, evaluate
from RVQCLib.metrics import dice
from RVQCLib.orientation import Turn
from RVQCLib.phantom import phantom_study
from RVQCLib.phantom_anatomy import DISEASES
from RVQCLib.pipeline import segment_study
from RVQCLib.reformat import four_chamber
from RVQCLib.samples import sample_studies
from RVQCLib.stack import LABELS, Geometry, Study
from RVQCLib.study import read_study


def test_the_shipped_bundle_on_the_patients_it_never_saw(acdc: Path, tmp_path: Path) -> None:
    split = load_bundle(shipped_bundle()).description["views"]["SA"]["training"]["split"]
    assert len(split["test"]) == 20 and not set(split["test"]) & {*split["train"], *split["validation"]}
    summary = evaluate(acdc, shipped_bundle(), tmp_path / "out", part="test", device="cpu")
    assert summary["n_stacks"] == 40
    found = {structure: measures["dice"]["mean"] for structure, measures in summary["structures"].items()}
    assert found["RV"] >= 0.88 and found["LV"] >= 0.92 and found["MYO"] >= 0.83
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"summary.json", "stacks.csv", "evaluation.html"}


def test_the_shipped_bundle_is_small_and_says_what_it_is() -> None:
    bundle = load_bundle(shipped_bundle())
    assert sum(file.stat().st_size for file in bundle.path.rglob("*")) < 40e6
    assert "non-commercial" in bundle.description["license"] and "Bernard" in bundle.description["citation"]
    assert "Not a medical device" in bundle.description["intended_use"]
    assert bundle.description["views"]["SA"]["calibration"]["n_studies"] == 20


def test_of_the_samples_one_is_sound_and_one_out_of_distribution() -> None:
    bundle, verdicts = load_bundle(shipped_bundle()), {}
    for study in sample_studies(bundle.views):
        stacks = segment_study(study, bundle, device="cpu").to_json()["stacks"]
        verdicts[study.name] = [stack["verdict"] for stack in stacks]
    assert verdicts["sound"] == 4 * ["trusted"] and "trusted" not in verdicts["spoilt"]
    assert verdicts["spoilt"][:2] == ["ood", "ood"]  # its short axis


def test_ed_and_es_of_a_real_cine_are_found(acdc: Path) -> None:
    """Info.cfg of patient 90 gives frames 4 and 11, counted from 1."""
    study = read_study(acdc / "patient090" / "patient090_4d.nii.gz")
    result = segment_study(study, load_bundle(shipped_bundle()), device="cpu").to_json()
    (cine,) = result["cine"]
    assert cine["view"] == "SA" and {s["phase"] for s in result["stacks"]} == {"ED", "ES"}
    assert abs(cine["es"] - 10) <= 2
    assert min((cine["ed"] - 3) % len(study.cines[0]), (3 - cine["ed"]) % len(study.cines[0])) <= 4


LA_SEEDS = range(900, 912)
"""Phantoms that no part of the LA networks' making has seen; their training seeds begin at 71 * 100003."""


def test_the_long_axis_networks_on_phantoms_they_never_saw() -> None:
    bundle = load_bundle(shipped_bundle())
    found: dict[str, list[float]] = {"RV": [], "LV": [], "MYO": []}
    for seed in LA_SEEDS:
        study = phantom_study(seed, views=("LA",), disease=DISEASES[seed % len(DISEASES)])
        for stack in segment_study(study, bundle, device="cpu").stacks:
            truth = study.label("LA", stack.image.phase)
            assert stack.mask.geometry == stack.image.geometry and stack.mask.pixels.shape == truth.pixels.shape
            for structure, values in found.items():
                values.append(compare(stack.mask, truth)[f"{structure}_dice"])
    means = {structure: float(np.mean(values)) for structure, values in found.items()}
    assert means["RV"] >= 0.90 and means["LV"] >= 0.93 and means["MYO"] >= 0.85, means


def test_the_long_axis_networks_on_real_tissue_of_patients_they_never_saw(acdc: Path) -> None:
    bundle, found = load_bundle(shipped_bundle()), []
    for name in bundle.description["views"]["SA"]["training"]["split"]["test"][::4]:
        study = read_study(acdc / name, labels=True)
        image, truth = four_chamber(study.stack("SA", "ED"), study.label("SA", "ED"))
        (stack,) = segment_study(Study(name, (image,)), bundle, device="cpu").stacks
        found.append(compare(stack.mask, truth)["RV_dice"])
    assert np.mean(found) >= 0.75, found


def test_a_long_axis_image_whose_header_lies_is_trusted_only_where_the_mask_is_right() -> None:
    """Turned or mirrored pixels under a header that says upright: a heart that lies like no other."""
    bundle = load_bundle(shipped_bundle())
    turns = [Turn(*flags) for flags in product((False, True), repeat=3)]
    for seed in (901, 902, 903):
        study = phantom_study(seed, views=("LA",))
        image, truth = study.stack("LA", "ED"), study.label("LA", "ED").pixels == LABELS["RV"]
        verdicts, wrong = [], []
        for turn in turns:
            pixels = np.ascontiguousarray(turn.apply(image.pixels))
            lying = replace(image, pixels=pixels)
            (stack,) = segment_study(Study("lying", (lying,)), bundle, device="cpu").stacks
            verdicts.append(stack.judgement["verdict"])
            wrong.append(dice(stack.mask.pixels == LABELS["RV"], turn.apply(truth)) < 0.9)
        assert verdicts[0] == "trusted" and verdicts[1:].count("trusted") <= 1, (seed, verdicts)
        assert "trusted" not in [verdict for verdict, bad in zip(verdicts, wrong, strict=True) if bad], (seed, verdicts)


@pytest.mark.parametrize("turn", [Turn(True, False, True), Turn(False, True, False)])
def test_a_long_axis_image_whose_header_says_nothing_is_laid_down_where_the_rv_is_found(turn: Turn) -> None:
    study = phantom_study(904, views=("LA",))
    image, truth = study.stack("LA", "ED"), study.label("LA", "ED").pixels == LABELS["RV"]
    pixels = np.ascontiguousarray(turn.apply(image.pixels))
    bare = replace(image, pixels=pixels, geometry=Geometry(spacing=image.geometry.spacing))
    result = segment_study(Study("bare", (bare,)), load_bundle(shipped_bundle()), device="cpu")
    assert dice(result.stacks[0].mask.pixels == LABELS["RV"], turn.apply(truth)) > 0.9
    assert result.stacks[0].judgement["ways_tried"] == 8
    assert any("header does not say how the patient lies" in check for check in result.checks)


def test_the_long_axis_qc_module_can_reconstruct_every_structure() -> None:
    part = load_bundle(shipped_bundle()).description["views"]["LA"]
    assert min(part["qc"]["ceiling"].values()) >= 0.9
    assert part["calibration"]["n_studies"] >= 40 and len(part["segmenters"]) == 3
    split = part["training"]["split"]
    assert not set(split["train"]) & {*split["validation"], *split["test"]}


def test_every_long_axis_result_says_what_its_networks_have_seen() -> None:
    bundle = load_bundle(shipped_bundle())
    study = phantom_study(LA_SEEDS[0])
    checks = segment_study(study, bundle, device="cpu").checks
    assert any("LA" in check and "never been measured on an acquired" in check for check in checks)
    alone = phantom_study(LA_SEEDS[0], views=("SA",))
    assert not any("synthetic" in check for check in segment_study(alone, bundle, device="cpu").checks)
    assert "non-commercial" in bundle.description["views"]["LA"]["license"]
