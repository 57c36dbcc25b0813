"""The benchmark of refinement: what its table says, by hand, and a tiny run from end to end."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1]))

from conftest import REPOSITORY

import refinement_benchmark
from refinement_benchmark import recovered, rows_so_far, summary, tables
from RVQCLib.bundle import load_bundle, replace_calibration
from RVQCLib.files import RVQCError, read_json
from RVQCLib.slices import Sampling
from RVQCLib.training import TrainingConfig, train_bundle

pytestmark = pytest.mark.usefixtures("one_core")


def stack(study: str, dice: float) -> dict[str, Any]:
    return {
        "study": study,
        "RV_dice": dice,
        "RV_hd_mm": 100 * (1 - dice),
        "RV_predicted_dice": 0.8,
        "RV_lower_bound_90": 0.75,
    }


@pytest.fixture
def row() -> dict[str, Any]:
    """Two flagged studies that lost 0.2 each, one of which gained half back and is accepted, and one that is not flagged."""
    return {
        "shift": "noise:5",
        "seed": 0,
        "variant": "guarded",
        "studies": [
            {"study": "a", "flagged_before": True, "accepted": True},
            {"study": "b", "flagged_before": True, "accepted": False},
            {"study": "c", "flagged_before": False, "accepted": False},
        ],
        "clean": {f"{s} ED": stack(s, 0.9) for s in "abc"},
        "before": {f"{s} ED": stack(s, 0.7) for s in "abc"},
        "after": {f"{s} ED": stack(s, dice) for s, dice in zip("abc", (0.8, 0.68, 0.7), strict=True)},
        "untouched_before": {"d ED": stack("d", 0.9)},
        "untouched_after": {"d ED": stack("d", 0.86)},
    }


def test_what_was_lost_what_came_back_and_to_whom(row: dict[str, Any]) -> None:
    back = recovered([row])
    assert back["lost"] == pytest.approx(0.2)
    assert back["recovered"] == pytest.approx((0.1 - 0.02) / 0.4) and back["accepted"] == pytest.approx(0.25)
    flagged, plain, other = (summary([row], which) for which in ("flagged", "unflagged", "untouched"))
    assert flagged and plain and other
    assert (flagged["n_stacks"], flagged["harmed"]) == (2, 0.5) and flagged["worst"] == pytest.approx(-0.02)
    assert flagged["hd_mm"]["mean"] == pytest.approx(-4) and plain["dice"]["mean"] == 0
    assert other["worst"] == pytest.approx(-0.04)
    text = tables([row])
    assert "## noise:5" in text and "| guarded | 1 | 0.200 | 20 % | 25 % | +0.040 " in text
    assert text.rstrip().endswith("| 0.073 | 0.33 |")


TINY = TrainingConfig(
    width=4,
    parameters={"BN1": {"stages": 3}, "BN2": {"stages": 3}},
    epochs=1,
    qc_epochs=1,
    locator_epochs=1,
    sampling=Sampling(size=32, spacing_mm=4.0),
)


def tiny_call(data: Path, home: Path, *modes: str) -> list[str]:
    """The command line of a run over one patient in a few steps; the rows come to ``r.json`` in `home`."""
    sizes = {"seeds": 0, "patients": 1, "untouched": 1, "epochs": 1, "steps": 2, "batch": 2, "guard-slices": 4}
    sizes |= {"threads": 1, "out": home / "r.json", "table": home / "r.md", "work": home / "work"}
    return [str(data), "--no-calibration", *(f"--{name}={value}" for name, value in sizes.items()), "--modes", *modes]


def test_a_tiny_run_from_end_to_end(tiny_acdc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_bundle(tiny_acdc, tmp_path / "bundle", TINY, device="cpu")
    command = tiny_call(tiny_acdc, tmp_path, "none", "ceiling")
    command += ["--bundle", str(tmp_path / "bundle"), "--shifts", "noise:5"]
    refinement_benchmark.main(command)
    none, ceiling = read_json(tmp_path / "r.json")["rows"]
    assert none["changed"] == [] and none["after"] == none["before"] != none["clean"]
    assert ceiling["changed"] == ["SA 1", "SA 2"] and ceiling["after"] != ceiling["before"] == none["before"]
    assert not set(ceiling["after"]) & set(ceiling["untouched_after"])
    assert (tmp_path / "r.md").read_text(encoding="utf-8") == tables([none, ceiling])
    monkeypatch.setattr(refinement_benchmark, "refine_bundle", lambda *_, **__: pytest.fail("done twice"))
    refinement_benchmark.main(command)
    refinement_benchmark.main([*command, "--rejudge"])
    again = read_json(tmp_path / "r.json")["rows"]
    for old, new in zip((none, ceiling), again, strict=True):
        assert new["rejudged"] and {k: new[k] for k in old if k != "studies"} == {
            k: v for k, v in old.items() if k != "studies"
        }
        assert [one["study"] for one in new["studies"]] == sorted(one["study"] for one in old["studies"])
    assert not any(one["accepted"] for one in again[0]["studies"])
    shutil.copytree(tmp_path / "bundle", other := tmp_path / "other")
    replace_calibration(
        other, {"SA": {**load_bundle(other).description["views"]["SA"]["calibration"], "date": "2001-01-01"}}
    )
    for changed, said in (("--bundle", str(other)), "bundle"), (("--patients", "2"), "patients 1, not 2"):
        with pytest.raises(RVQCError, match=f"r.json holds rows with {said}"):
            refinement_benchmark.main([*command, *changed])


def test_a_group_that_no_network_saw(tiny_acdc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(data: Path, out: Path, config: TrainingConfig, **how: Any) -> None:
        train_bundle(data, out, replace(TINY, leave_out=config.leave_out), **{**how, "jobs": 1})

    monkeypatch.setattr(refinement_benchmark, "train_bundle", train)
    refinement_benchmark.main([*tiny_call(tiny_acdc, tmp_path, "none", "ceiling"), "--leave-out", "DCM"])
    none, ceiling = read_json(tmp_path / "r.json")["rows"]
    training = read_json(tmp_path / "work" / "bundle-without-DCM" / "bundle.json")["views"]["SA"]["training"]
    group = {f"patient{number:03d}" for number in range(2, 11, 2)}
    learnt_from = {*training["split"]["train"], *training["split"]["validation"]}
    judged, others = ({s["study"] for s in none[key].values()} for key in ("before", "untouched_before"))
    assert len(judged) == len(others) == 1 and judged < group
    assert not learnt_from & group and not others & (learnt_from | group)
    assert none["clean"] == none["before"] == none["after"] != ceiling["after"]
    # Another group in the same folder: nothing of the first one is taken for it.
    call = [*tiny_call(tiny_acdc, tmp_path, "none"), "--leave-out", "NOR"]
    with pytest.raises(RVQCError, match=r"r\.json holds rows with .*; name another --out"):
        refinement_benchmark.main(call)
    refinement_benchmark.main([*call, "--out", str(tmp_path / "s.json")])
    (row,) = read_json(tmp_path / "s.json")["rows"]
    assert (none["shift"], row["shift"]) == ("group DCM:0", "group NOR:0")
    judged, others = ({s["study"] for s in row[key].values()} for key in ("before", "untouched_before"))
    assert len(judged) == len(others) == 1 and not judged & group and others < group


def test_the_rows_of_the_documentation_are_read_as_before() -> None:
    documented = REPOSITORY / "Docs" / "refinement_benchmark.json"
    stored = read_json(documented)
    head = {"data": stored["data"], "bundle": "any", "arguments": {**stored["arguments"], "seeds": [7]}}
    assert rows_so_far(documented, head) == stored["rows"]
    assert "## group:0" in tables(stored["rows_of_the_group"])
