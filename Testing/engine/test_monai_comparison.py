"""The comparison with MONAI's U-Net: networks of one size, paired differences by hand, and a tiny run from end to end."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("monai")
sys.path.append(str(Path(__file__).resolve().parents[1]))

import monai_comparison
from monai_comparison import OURS, THEIRS, compare_rows, monai_like, parameters_of
from RVQCLib.ablation import SINGLE
from RVQCLib.evaluation import MEASURES
from RVQCLib.files import RVQCError, read_json
from RVQCLib.stack import STRUCTURES

pytestmark = pytest.mark.usefixtures("one_core")


@pytest.mark.parametrize("width", [8, 16, 32])
def test_both_networks_are_of_one_size(width: int) -> None:
    ours = parameters_of(OURS, {"width": width, "stages": 6})
    assert abs(parameters_of(THEIRS, monai_like(width, 6)) / ours - 1) < 0.12
    assert len(monai_like(width, 6)["channels"]) == 6


def row(network: str, seed: int, study: str, value: float) -> dict[str, Any]:
    head = {"method": f"{SINGLE}, {network}", "seed": str(seed), "study": study, "view": "SA", "phase": "ED"}
    return head | {f"{s}_{m}": str(value) for s in STRUCTURES for m in MEASURES}


def test_differences_are_paired_by_seed_and_stack() -> None:
    ours = [row(OURS, 0, "a", 0.9), row(OURS, 0, "b", 0.5), row(OURS, 1, "a", 0.7), row(OURS, 1, "b", 0.3)]
    theirs = [row(THEIRS, 1, "b", 0.2), row(THEIRS, 1, "a", 0.6), row(THEIRS, 0, "b", 0.4), row(THEIRS, 0, "a", 0.8)]
    found = compare_rows(ours + theirs, resamples=100)
    assert (found["n_stacks"], found["n_patients"]) == (4, 2)
    dice = found["structures"]["RV"]["dice"]
    assert dice["ours"]["mean"] == pytest.approx(0.6) and dice["theirs"]["mean"] == pytest.approx(0.5)
    # Every stack differs by 0.1, so that the paired interval has no width although the stacks differ much.
    assert dice["difference"]["low"] == pytest.approx(0.1) and dice["difference"]["high"] == pytest.approx(0.1)
    assert dice["ours"]["high"] - dice["ours"]["low"] > 0.2
    with pytest.raises(ValueError, match="different stacks"):
        compare_rows(ours + theirs[1:], resamples=100)


def test_a_tiny_run_from_end_to_end(
    tiny_acdc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    tiny = ["--width", "4", "--stages", "3", "--epochs", "1", "--locator-epochs", "1", "--size", "32", "--spacing", "4"]
    arguments = [str(tiny_acdc), "--out", str(out), "--device", "cpu", *tiny]
    monai_comparison.main(arguments)
    said = capsys.readouterr().out
    found = read_json(out / "comparison.json")
    assert said == (out / "comparison.md").read_text(encoding="utf-8") and "difference, paired" in said
    assert (found["n_stacks"], found["n_patients"], found["seeds"]) == (4, 2, [0])
    ours, theirs, gap = (found["structures"]["RV"]["dice"][k]["mean"] for k in ("ours", "theirs", "difference"))
    assert gap == pytest.approx(ours - theirs)
    split = json.loads((out / "seed0" / "bundle" / "bundle.json").read_text())["views"]["SA"]["training"]["split"]
    assert len(split["test"]) == 2 and not set(split["test"]) & {*split["train"], *split["validation"]}
    monkeypatch.setattr(monai_comparison, "train_bundle", lambda *_, **__: pytest.fail("trained twice"))
    monai_comparison.main(arguments)  # what is finished is not done again
    assert read_json(out / "comparison.json") == found
    with pytest.raises(RVQCError, match="holds a comparison with other options"):
        monai_comparison.main([*arguments, "--epochs", "2"])
