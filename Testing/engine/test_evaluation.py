"""evaluation.py: what is measured where true masks lack a structure, and what is printed of two views."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import schematic_study

from RVQCLib.bundle import load_bundle
from RVQCLib.card import card, read_evaluation
from RVQCLib.cli import BAD_INPUT, DONE, main
from RVQCLib.evaluation import compare, interval
from RVQCLib.files import read_json, write_json
from RVQCLib.stack import Geometry, Stack

pytestmark = pytest.mark.usefixtures("one_core")


def put(folder: Path, stored: Iterable[int], *, views: tuple[str, ...] = ("SA",)) -> Path:
    """A folder with one study whose true masks have `stored` in place of 0 and LV, MYO and RV."""
    study = schematic_study("001", 1, views=views)
    (folder / "001").mkdir(parents=True)
    for stack, ending in [*((s, "") for s in study.stacks), *((s, "_gt") for s in study.labels)]:
        image = sitk.GetImageFromArray(np.array([*stored], np.uint8)[stack.pixels] if ending else stack.pixels)
        image.SetSpacing(stack.geometry.spacing)
        sitk.WriteImage(image, str(folder / "001" / f"001_{stack.name}{ending}.nii.gz"))
    return folder


def evaluate(data: Path, bundle: Path, out: Path, *options: str) -> int:
    return main(["evaluate", str(data), "--bundle", str(bundle), "-o", str(out), "--device", "cpu", *options])


def test_what_no_true_mask_has_is_not_measured(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = put(tmp_path / "data", (0, 1, 2, 0)), tmp_path / "e"
    assert evaluate(data, tiny_bundle, out) == DONE
    said = capsys.readouterr().out.splitlines()
    assert [line[:9] for line in said[:2]] == ["LV: dice ", "MYO: dice"] and said[2] == "RV: no true mask has an RV"
    summary = read_json(out / "summary.json")
    assert summary["structures"]["RV"] is summary["groups"]["view SA"]["RV"] is None and summary["worst"] == []
    assert summary["structures"]["LV"]["dice"]["mean"] >= 0 and summary["absent"] == {"RV": "no true mask has an RV"}
    header, first, *_ = (out / "stacks.csv").read_text(encoding="utf-8").splitlines()
    assert dict(zip(header.split(","), first.split(","), strict=True))["RV_dice"] == ""
    assert "no true mask has an RV" in (out / "evaluation.html").read_text(encoding="utf-8")
    bundle = load_bundle(tiny_bundle)
    assert "| – | – | – |" in card(bundle, [read_evaluation(bundle, out)])
    assert evaluate(data, tiny_bundle, tmp_path / "qc", "--qc") == BAD_INPUT
    assert f"in {data} no true mask has an RV; leave --qc out" in capsys.readouterr().err


def test_a_lone_label_1_is_asked_for_its_structure(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = put(tmp_path / "data", (0, 0, 0, 1))
    assert evaluate(data, tiny_bundle, tmp_path / "e") == BAD_INPUT
    assert f"The true masks in {data} hold no label but 1, which is the LV for M&Ms" in capsys.readouterr().err


def test_each_of_two_views_is_told(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = put(tmp_path / "data", range(4), views=("SA", "LA"))
    assert evaluate(data, tiny_bundle, tmp_path / "e") == DONE
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in said[:6]] == ["RV SA", "LV SA", "MYO SA", "RV LA", "LV LA", "MYO LA"]
    groups = read_json(tmp_path / "e" / "summary.json")["groups"]
    for view, line in (("SA", said[0]), ("LA", said[3])):
        assert f"dice {groups[f'view {view}']['RV']['dice']['mean']:.3f} [" in line


def test_the_qc_of_each_of_two_views_is_told(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = put(tmp_path / "data", range(4), views=("SA", "LA")), tmp_path / "e"
    assert evaluate(data, tiny_bundle, out, "--qc", "--severities", "1") == DONE
    said = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("QC per")]
    assert said == ["QC per stack, SA", "QC per slice, SA", "QC per stack, LA", "QC per slice, LA"]
    found = read_json(out / "summary.json")
    assert {view: one["n_stacks"] for view, one in found["qc"]["by_view"].items()} == {"SA": 18, "LA": 18}
    page, bundle = (out / "evaluation.html").read_text(encoding="utf-8"), load_bundle(tiny_bundle)
    for view in ("SA", "LA"):
        assert page.count(f"<h2>Does the QC know? {view}</h2>") == 1
        found["qc"]["by_view"][view]["stack"]["combined"]["mae"] = {"SA": 0.111, "LA": 0.222}[view]
    assert page.count("on 18 stacks") == 2 and "on 36 stacks" not in page
    write_json(out / "summary.json", found)
    text = card(bundle, [read_evaluation(bundle, out)])
    assert "The QC by stack, SA (predicted Dice, shifted images included): mae 0.111." in text
    assert "The QC by stack, LA (predicted Dice, shifted images included): mae 0.222." in text
    assert text.count("The QC by stack") == 2


def test_who_taught_chose_or_calibrated_is_told_once(
    few_acdc: Path, calibrated_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`calibrated_bundle` was calibrated on the very studies, which its split does not name."""
    said = "2 of 2 studies chose or calibrated these networks; give others for an honest number"
    assert evaluate(few_acdc, calibrated_bundle, tmp_path / "e") == DONE
    assert capsys.readouterr().err.count(said) == 1
    summary = read_json(tmp_path / "e" / "summary.json")
    assert summary["not_new"] == {"taught": [], "chose": ["patient001", "patient002"], "said": said}
    page = (tmp_path / "e" / "evaluation.html").read_text(encoding="utf-8")
    assert page.count(said) == 1 and "not new" not in page, "it is no provenance"
    bundle = load_bundle(calibrated_bundle)
    assert f"**{said}.**" in card(bundle, [read_evaluation(bundle, tmp_path / "e")])
    command = ["ablation", str(few_acdc), "--bundle", str(calibrated_bundle), "-o", str(tmp_path / "a")]
    assert main([*command, "--device", "cpu"]) == DONE
    assert capsys.readouterr().err.count(said) == 1
    assert read_json(tmp_path / "a" / "ablation.json")["not_new"] == summary["not_new"]


@pytest.mark.parametrize(("rows", "far", "usual"), [(0, 4.0, 1.9), (3, 1.5, 1.5)])
def test_distances_are_in_mm_along_rows_and_columns(rows: int, far: float, usual: float) -> None:
    """A bar that grows by two columns of 2 mm, at 2 of 42 places on its way back, or moves by rows of 0.5 mm."""
    true = np.zeros((3, 30, 30), np.uint8)
    true[1, 10, 5:25] = 3
    found = np.roll(true, rows, axis=1)
    if not rows:
        found[1, 10, 25:27] = 3
    mask, truth = (Stack(pixels, Geometry(spacing=(2.0, 0.5, 10.0)), "SA", "ED") for pixels in (found, true))
    row = compare(mask, truth)
    assert (row["RV_hd_mm"], row["RV_hd95_mm"]) == pytest.approx((far, usual))


def test_whole_patients_are_drawn_anew() -> None:
    """Of two patients one is drawn twice half the time, so that every mean from 0 to 1 is likely."""
    found = interval([0.0] * 50 + [1.0] * 50, ["a"] * 50 + ["b"] * 50, seed=0, resamples=200)
    assert (found["low"], found["high"]) == (0.0, 1.0)
