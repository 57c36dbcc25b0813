"""The model card: every number in it stands in the bundle's files or in the evaluation, and nothing is made up."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tiny_description, write_tiny_bundle

from RVQCLib.bundle import Bundle, load_bundle, shipped_bundle
from RVQCLib.card import card, read_evaluation
from RVQCLib.cli import BAD_INPUT, main
from RVQCLib.evaluation import MEASURES, summarize
from RVQCLib.failures import Failure, worst, write_failures
from RVQCLib.files import BundleError, write_json
from RVQCLib.stack import STRUCTURES
from RVQCLib.training import TrainingConfig


def row(study: str, group: str, phase: str, dice: float, hd: float, predicted: float | None) -> dict[str, Any]:
    head = {"study": study, "group": group, "vendor": "", "view": "SA", "phase": phase}
    measures = {f"{s}_{m}": dice if m == "dice" else hd for s in STRUCTURES for m in MEASURES}
    return head | measures | {"verdict": "look", "ood": False, "RV_predicted_dice": predicted}


ROWS = [
    row("p1", "NOR", "ED", 0.90, 8.0, 0.91),
    row("p1", "NOR", "ES", 0.80, 12.0, 0.85),
    row("p2", "RV", "ED", 0.70, 20.0, 0.60),
    row("p2", "RV", "ES", 0.10, 60.0, None),
    *(row("p3", "NOR", phase, 0.95, 5.0, 0.95) for phase in ("ED", "ES")),
]


def write_evaluation(bundle: Bundle, folder: Path, data: str = "none") -> Path:
    """What `rvqc evaluate` writes, with ROWS for what it found."""
    summary = summarize(ROWS, seed=0, resamples=50)
    summary |= {"bundle": {"name": bundle.name, "hash": bundle.hash}, "data": data, "part": "test", "seed": 0}
    folder.mkdir(exist_ok=True)
    grey = np.zeros((4, 4, 3), np.uint8)
    summary["worst"] = write_failures(worst(Failure(one, grey) for one in ROWS), folder)
    said = "1 of 3 studies taught these networks; give others for an honest number"
    summary |= {"unseen_groups": ["RV"], "not_new": {"taught": ["p1"], "chose": [], "said": said}}
    write_json(folder / "summary.json", summary)
    return folder


def test_the_card_says_what_the_files_say(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    bundle = load_bundle(tiny_bundle)
    found = write_evaluation(bundle, tmp_path / "evaluation")
    target = tmp_path / "README.md"
    assert main(["info", str(tiny_bundle), "--card", str(target), "--evaluation", str(found)]) == 0
    text = target.read_text(encoding="utf-8")
    assert "bundle tiny" in capsys.readouterr().out
    for said in (bundle.hash, bundle.description["intended_use"], bundle.description["license"], "0 train"):
        assert said in text
    for view in tiny_description()["views"].values():
        for entry in view["segmenters"]:
            said = [entry["network"], *(f"{name} {value}" for name, value in entry["parameters"].items())]
            assert f": {', '.join(said)} |" in text
    assert text.count("**Not calibrated:**") == 2 and "32 x 32 pixels of 4 mm" in text
    assert "These studies are of the same data set as those of the training" in text
    assert "**1 of 3 studies taught these networks; give others for an honest number.**" in text
    lines = text.splitlines()
    # By hand: the mean of 0.90, 0.80, 0.70, 0.10, 0.95, 0.95; of the RV group, of 0.70 and 0.10.
    assert any(line.startswith("| RV cavity | 0.733 ±") for line in lines)
    assert any(line.startswith("| group RV (not in training) | 2 | 0.400 ± 0.424") for line in lines)
    assert any(line.startswith("| group NOR | 4 | 0.900 ±") for line in lines)
    start = lines.index("## Known failures")
    worst = [line.split(" | ")[0] for line in lines[start:] if line.startswith("| p")]
    assert worst == ["| p2 SA ES", "| p2 SA ED", "| p1 SA ES", "| p1 SA ED", "| p3 SA ED"]
    assert (
        "| p2 SA ES | RV | 0.100 | 60.0 | – | look |" in lines
        and "| p2 SA ED | RV | 0.700 | 20.0 | 0.600 | look |" in lines
    )


def test_groups_that_were_left_out_are_named_and_single_studies_are_not(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    description = json.loads(json.dumps(bundle.description))
    config = TrainingConfig(leave_out=("TRI", "161"), epochs=7, start="f" * 64).to_json()
    description["views"]["SA"]["training"] = {
        "data": "MnM2",
        "split": {"train": ["001", "002"], "validation": ["003"], "test": ["161"]},
        "config": config,
    }
    text = card(replace(bundle, description=description))
    assert (
        "Data: the folder `MnM2`; studies: 2 train, 1 validation, 1 test." in text
        and "Left out of training: TRI.\n" in text
    )
    assert "7 epochs of the candidates, from the weights of bundle `ffffffffffff`, 60 of R, seed 0" in text


def test_without_an_evaluation_the_card_says_so(tiny_bundle: Path) -> None:
    text = card(load_bundle(tiny_bundle))
    assert "No evaluation was given when this card was made." in text and "## Results:" not in text


def test_other_data_are_not_called_those_of_the_training(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    measured = read_evaluation(bundle, write_evaluation(bundle, tmp_path, data="another hospital"))
    text = card(bundle, [measured])
    assert "## Results: `another hospital`, the test part" in text and "same data set" not in text


def test_the_evaluation_of_another_bundle_is_refused(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    other = load_bundle(write_tiny_bundle(tmp_path / "other", views=("SA",)))
    found = write_evaluation(other, tmp_path / "evaluation")
    target = tmp_path / "card.md"
    arguments = ["info", str(tiny_bundle), "--card", str(target), "--evaluation"]
    assert main([*arguments, str(found)]) == BAD_INPUT
    assert "is the evaluation of another bundle (tiny, " in capsys.readouterr().err
    (found / "worst" / "p2_SA_ES.png").unlink()
    assert main([*arguments, str(found)]) == BAD_INPUT
    assert "lacks its picture worst/p2_SA_ES.png" in capsys.readouterr().err
    (found / "summary.json").write_text("{}")
    assert main([*arguments, str(found)]) == BAD_INPUT
    assert "is no evaluation that a card can be made of (no 'bundle')" in capsys.readouterr().err
    shutil.rmtree(found)
    assert main([*arguments, str(found)]) == BAD_INPUT and not target.exists()
    assert main(["info", str(tiny_bundle), "--evaluation", str(found)]) == BAD_INPUT
    assert "give --card FILE too" in capsys.readouterr().err


def test_a_card_without_pictures_names_the_failures(tiny_bundle: Path, tmp_path: Path) -> None:
    """For images that may not be given on: the table stays, nothing is copied, no link points nowhere."""
    found, target = write_evaluation(load_bundle(tiny_bundle), tmp_path / "evaluation"), tmp_path / "card.md"
    assert main(["info", str(tiny_bundle), "--card", str(target), "--evaluation", str(found), "--no-pictures"]) == 0
    text = target.read_text(encoding="utf-8")
    assert "| p2 SA ES |" in text and "![" not in text and "true outline" not in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.md", "evaluation"]


def test_the_shipped_bundle_has_a_card() -> None:
    try:
        bundle = load_bundle(shipped_bundle())
    except BundleError as error:
        pytest.skip(f"there is no shipped bundle to look into: {error}")
    text = card(bundle)
    assert "CC BY-NC-SA 4.0" in text and "doi 10.1109/TMI.2018.2837502" in text
    for view in bundle.views:
        calibration = bundle.description["views"][view]["calibration"]
        assert f"Calibrated on {calibration['n_stacks']} stacks of {calibration['n_studies']} studies" in text
    assert bundle.cautions["LA"] in text
    written = bundle.path / "README.md"
    assert not written.is_file() or bundle.hash in written.read_text(encoding="utf-8"), "the card is of another bundle"
