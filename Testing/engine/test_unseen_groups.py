"""Leaving one group out: what is compared with what, by hand, and a tiny run from end to end."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1]))

import trials
import unseen_groups
from RVQCLib.files import read_json
from unseen_groups import as_markdown, compare

pytestmark = pytest.mark.usefixtures("one_core")


def row(group: str, dice: float) -> dict[str, str]:
    return {"group": group, "RV_dice": str(dice), "RV_hd_mm": str(100 * (1 - dice))}


def test_only_what_both_judged_is_compared() -> None:
    unseen = {
        ("0", "a", "SA", "ED"): row("RV", 0.6),
        ("0", "b", "SA", "ED"): row("RV", 0.7),
        ("0", "c", "SA", "ED"): row("RV", 0.2),
        ("0", "d", "SA", "ED"): row("NOR", 0.1),  # in the test part, but of a group that was learnt from
    }
    seen = {
        ("0", "a", "SA", "ED"): row("RV", 0.8),
        ("0", "b", "SA", "ED"): row("RV", 0.9),
        ("0", "d", "SA", "ED"): row("NOR", 0.9),
    }
    found = compare(unseen, seen, "RV", resamples=100)
    assert (found["n_stacks"], found["n_paired"]) == (3, 2)
    assert found["RV_dice"]["unseen"]["mean"] == pytest.approx(0.5)
    assert found["RV_dice"]["seen"]["mean"] == pytest.approx(0.85)
    gap = found["RV_dice"]["difference"]
    assert (gap["low"], gap["mean"], gap["high"]) == pytest.approx((-0.2, -0.2, -0.2))
    assert found["RV_hd_mm"]["difference"]["mean"] == pytest.approx(20)
    alone = compare(unseen, {}, "RV", resamples=100)
    assert alone["n_paired"] == 0 and alone["RV_dice"]["difference"] is None
    text = as_markdown([found, alone], [0])
    assert "| RV | 3, 2 |" in text and "-0.200 [-0.200, -0.200]" in text and "| – | – |" in text


def test_a_tiny_run_from_end_to_end(
    tiny_acdc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    tiny = ["--width", "4", "--stages", "3", "--size", "32", "--spacing", "4"]
    short = ["--epochs", "1", "--qc-epochs", "1", "--locator-epochs", "1"]
    arguments = [str(tiny_acdc), "--out", str(out), "--device", "cpu", "--groups", "DCM", *tiny, *short]
    unseen_groups.main(arguments)
    assert capsys.readouterr().out == (out / "unseen.md").read_text(encoding="utf-8")
    (found,) = read_json(out / "unseen.json")["groups"]
    assert (found["group"], found["n_stacks"], found["n_paired"]) == ("DCM", 10, 2)
    assert read_json(out / "seed0" / "without-DCM" / "evaluation" / "summary.json")["unseen_groups"] == ["DCM"]
    for module, name in ((unseen_groups, "train_bundle"), (trials, "evaluate")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("done twice"))
    unseen_groups.main(arguments)  # what is finished is not done again
    assert read_json(out / "unseen.json")["groups"] == [found]
