"""Refinement: from a calibrated bundle and unlabelled studies to a new bundle, in every mode."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY, schematic_study, write_acdc, write_tiny_bundle

from RVQCLib import calibration, refinement, training, verdict
from RVQCLib.adaptation import SHARES, Refinement, _Slices
from RVQCLib.bundle import entries, join_bundles, load_bundle, replace_calibration
from RVQCLib.cli import main
from RVQCLib.distributed import Crew
from RVQCLib.domain import Domain
from RVQCLib.files import Cancelled, RVQCError, read_json, sha256
from RVQCLib.labelled import labelled_parts
from RVQCLib.learner import Learner
from RVQCLib.material import Material
from RVQCLib.phantom import write_phantom
from RVQCLib.pipeline import segment_study
from RVQCLib.refinement import RefinementConfig, refine_bundle
from RVQCLib.shapes import Shapes
from RVQCLib.slices import Sampling
from RVQCLib.training import TrainingConfig, train_bundle

STAGES = {"stages": 3}
TINY = TrainingConfig(
    networks=("BN1", "BN2"),
    width=4,
    parameters={"BN1": STAGES, "BN2": STAGES, "AE": {"width": 4, "latent": 8}},
    epochs=2,
    qc_epochs=2,
    locator_epochs=2,
    batch=8,
    source_size=40,
    precision="float32",
    sampling=Sampling(spacing_mm=4.0, size=32, locator_spacing_mm=6.0, locator_size=32),
)
QUICK = RefinementConfig(epochs=2, steps=2, batch=4, guard_slices=6, precision="float32", recalibrate=False)


@pytest.fixture(autouse=True, scope="module")
def one_core() -> Iterator[None]:
    """One thread, so that every run computes alike and leaves the other tests' threads alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.os, "cpu_count", lambda: 1)
        patch.setattr(refinement, "FEW", 2)  # two studies guard here, and a bundle is calibrated on them
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def parent(one_core: None, tiny_acdc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated bundle of barely trained networks: every stack is flagged."""
    out = tmp_path_factory.mktemp("parent") / "bundle"
    train_bundle(tiny_acdc, out, TINY, name="parent", device="cpu")
    return out


@pytest.fixture(scope="module")
def strict(parent: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same bundle with fences that no candidate can keep: every stack is out of distribution."""
    out = tmp_path_factory.mktemp("strict") / "bundle"
    shutil.copytree(parent, out)
    calibration = load_bundle(out).description["views"]["SA"]["calibration"]
    for table in calibration["fences"].values():
        table["RV"]["th_low"] = 1.1
    replace_calibration(out, {"SA": calibration})
    return out


def files_of(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def guarded(
    parent: Path, tiny_acdc: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], list]:
    """One whole guarded refinement: the bundle's folder, what was returned, what was reported."""
    out, events = tmp_path_factory.mktemp("guarded") / "bundle", []
    was = files_of(parent)
    config = replace(QUICK, recalibrate=True)
    test = load_bundle(parent).description["views"]["SA"]["training"]["split"]["test"]
    result = refine_bundle(
        tiny_acdc, parent, out, config, labelled=tiny_acdc, device="cpu", names=test, report=events.append
    )
    assert files_of(parent) == was
    return out, result, events


def refine(parent: Path, data: Path, out: Path, config: RefinementConfig = QUICK, **how: Any) -> dict[str, Any]:
    """Refine on two studies of the folder, on the CPU."""
    how = {"names": ["patient001", "patient002"], "labelled": data, "device": "cpu", **how}
    return refine_bundle(data, parent, out, config, **how)


def hashes(path: Path) -> list[str]:
    return [entry["sha256"] for entry in entries(load_bundle(path).description["views"]["SA"])]


def test_the_new_bundle_opens_names_its_parent_and_says_what_was_done(guarded: Any, parent: Path) -> None:
    out, result, _ = guarded
    bundle, old = load_bundle(out), load_bundle(parent)
    assert bundle.description["parent"] == {"name": "parent", "hash": old.hash} and bundle.name == "bundle"
    assert read_json(out / "refinement.json") == result
    part, was = (b.description["views"]["SA"] for b in (bundle, old))
    assert part["qc"] == was["qc"] and part["locator"] == was["locator"] and part["training"] == was["training"]
    for entry, before in zip(part["segmenters"], was["segmenters"], strict=True):
        changed = entry["file"] in result["changed"]
        assert (entry["sha256"] != before["sha256"]) == changed == ("refined" in entry)
    segment_study(schematic_study("new", 99, views=("SA",)), bundle, device="cpu")


def test_the_report_has_the_keys_that_machines_read(guarded: Any, parent: Path) -> None:
    _, result, _ = guarded
    split = load_bundle(parent).description["views"]["SA"]["training"]["split"]
    assert result["mode"] == "guarded" and 1 <= result["epochs"] <= 2 and result["stopped_because"]
    assert set(result["guard"]) == {"before", "after", "of"} and 0 <= result["guard"]["before"] <= 1
    assert result["guard"]["after"] >= result["guard"]["before"] - QUICK.margin
    assert [study["study"] for study in result["studies"]] == split["test"]
    for study in result["studies"]:
        assert {"study", "flagged_before", "flagged_after", "accepted"} <= set(study)
        assert study["flagged_before"] and len(study["stacks"]) == 2
    # What guards was never learnt from, and what tests was never read.
    assert result["labelled"] == {"train": split["train"], "guard": split["validation"]}


def test_the_events_say_how_far_it_is(guarded: Any) -> None:
    _, result, events = guarded
    epochs = [event for event in events if event["event"] == "epoch"]
    wanted = {
        "candidate",
        "epoch",
        "epochs",
        "loss",
        "alpha",
        "flagged_before",
        "flagged",
        "guard_dice",
        "seconds_left",
    }
    assert epochs and all(wanted <= set(event) for event in epochs)
    assert all(0 <= e["guard_dice"] <= 1 and e["alpha"] == e["loss_flagged"] == 0 and e["epochs"] == 2 for e in epochs)
    counted = [sum(e["candidate"] == k for e in epochs) for k in (1, 2, 3)]
    assert counted == [len(c["epochs"]) - 1 for c in result["views"]["SA"]["candidates"]]
    assert [event["candidate"] for event in events if event["event"] == "candidate"] == [1, 2, 3]
    segments = [event for event in events if event["event"] == "segment"]
    assert [(e["moment"], e["done"], e["total"]) for e in segments] == [
        (moment, done, 2) for moment in ("before", "after") for done in (1, 2)
    ]
    json.dumps(events)


def test_the_last_word_and_the_new_calibration_are_of_the_guard_set(guarded: Any, parent: Path) -> None:
    _, result, events = guarded
    guard = load_bundle(parent).description["views"]["SA"]["training"]["split"]["validation"]
    assert result["changed"] and result["views"]["SA"]["guard"]["stacks"] == 2 * len(guard)
    assert [event["study"] for event in events if event["event"] == "calibrate"] == [n for n in guard for _ in range(2)]


def test_every_study_has_its_masks_before_and_after_and_the_decision(guarded: Any) -> None:
    out, result, _ = guarded
    for study in result["studies"]:
        home = out.with_name("bundle.refinement") / "studies" / study["study"]
        assert read_json(home / "decision.json") == study
        for moment in ("before", "after"):
            assert (home / moment / f"{study['study']}_SA_ED.nii.gz").is_file()
            assert (home / moment / "report.html").is_file()
            assert read_json(home / moment / "quality.json")["study"] == study["study"]


def test_none_changes_no_network_and_says_so(parent: Path, tiny_acdc: Path, tmp_path: Path) -> None:
    result = refine(parent, tiny_acdc, tmp_path / "new", replace(QUICK, mode="none", most_stacks=1))
    assert result["views"]["SA"]["flagged_stacks"] == 4  # though one would be learnt from
    assert hashes(tmp_path / "new") == hashes(parent) and result["changed"] == []
    assert "the mode is none" in result["stopped_because"] and result["calibration"].startswith("the parent's")
    new, old = (load_bundle(p).description["views"]["SA"]["calibration"] for p in (tmp_path / "new", parent))
    assert new == old and not any(study["accepted"] for study in result["studies"])
    home = tmp_path / "new.refinement" / "studies" / "patient001"
    assert files_of(home / "before") == files_of(home / "after")
    result = refine(parent, tiny_acdc, tmp_path / "still", replace(QUICK, epochs=0))
    assert result["stopped_because"] == "no epoch was asked for" and result["changed"] == []


@pytest.mark.parametrize("mode", ["paper", "entropy"])
def test_the_baselines_run_in_the_same_loop(mode: str, strict: Path, tiny_acdc: Path, tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    result = refine(strict, tiny_acdc, tmp_path / "new", replace(QUICK, mode=mode), report=events.append)
    epochs = [event for event in events if event["event"] == "epoch"]
    alphas = {"paper": {1: 1.0, 2: 0.5}, "entropy": {1: 1.0, 2: 1.0}}[mode]
    assert epochs and all(event["alpha"] == alphas[event["epoch"]] for event in epochs)
    assert (mode == "paper") == all(event["loss_supervised"] > 0 for event in epochs)
    assert len(result["changed"]) == 3 and hashes(tmp_path / "new")[3:] == hashes(strict)[3:]
    assert "twice as far away" in result["calibration"]
    new, old = (load_bundle(p).description["views"]["SA"]["calibration"] for p in (tmp_path / "new", strict))
    quantiles = [c["prediction"]["stack"]["RV"]["quantile"] for c in (new, old)]
    assert quantiles[0] == pytest.approx(2 * quantiles[1]) and new["fences"] == old["fences"]


def test_when_the_guard_falls_everything_is_taken_back(
    parent: Path, tiny_acdc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is learnt, networks of zeros come of it, at every part of the way."""

    def nothing(self: Learner, share: float) -> dict[str, torch.Tensor]:
        return {n: torch.zeros_like(v) if self.epoch else v.clone() for n, v in self.average.items()}

    monkeypatch.setattr(Learner, "toward", nothing)
    result = refine(parent, tiny_acdc, tmp_path / "new", replace(QUICK, patience=2))
    candidates = result["views"]["SA"]["candidates"]
    assert all(c["stopped_because"] == "the guard fell" and c["rolled_back"] for c in candidates)
    assert [c["kept_epoch"] for c in candidates] == [0, 0, 0]
    assert all(look["share"] == min(SHARES) for c in candidates for look in c["epochs"][1:])
    assert result["changed"] == [] and hashes(tmp_path / "new") == hashes(parent)
    assert result["guard"]["after"] == result["guard"]["before"]


def test_a_candidate_goes_as_far_as_its_guard_holds(
    parent: Path, tiny_acdc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guard that falls by 0.02 times the share of the way: half the way, where it fell by 0.01, is as far as 0.012 lets."""

    def guard(self: Refinement, learner: Learner, weights: dict[str, torch.Tensor], examples: Any) -> dict[str, float]:
        name = (
            next(n for n, v in learner.average.items() if n.endswith("weight") and not v.equal(learner.start[n]))
            if learner.epoch
            else ""
        )
        whole = (learner.average[name] - learner.start[name]).norm() if name else 1.0
        went = float((weights[name] - learner.start[name]).norm() / whole) if name else 0.0
        rises = examples is self.material.styled
        return {"RV": 0.8 + (0.02 if rises else -0.02) * went, "LV": 0.8, "MYO": 0.8}

    monkeypatch.setattr(Refinement, "_guard", guard)
    result = refine(parent, tiny_acdc, tmp_path / "new", replace(QUICK, slack=0.012, epochs=1))
    for candidate in result["views"]["SA"]["candidates"]:
        before, after = candidate["epochs"]
        assert (before["share"], after["share"]) == (1.0, 0.5)
        assert after["guard"]["RV"] == pytest.approx(0.79, abs=1e-4)


def test_three_of_four_labelled_slices_get_the_look_last_of_all(parent: Path, tmp_path: Path) -> None:
    class Grey:
        """A look in which every image is grey."""

        def give(self, images: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
            return torch.full_like(images, 0.5)

    images = torch.rand((5, 40, 40), generator=torch.Generator().manual_seed(2)).numpy().astype("float16")
    labels = (images > 0.5).astype("uint8")
    models, material = load_bundle(parent).models("SA", "cpu"), Material([], looks=Grey())  # type: ignore[arg-type]
    for mode, count in (("guarded", 6), ("paper", 0)):
        one = Refinement(RefinementConfig(mode=mode), 0, models, material, [], tmp_path / "none", 0.0)
        drawn = torch.Generator().manual_seed(0)
        found, truth = one._known(_Slices(images, labels, labels[:, 0, 0]), 8, drawn)
        assert found.shape == (8, 1, 32, 32) and truth.shape == (8, 32, 32) and truth.flatten(1).any(1).all()
        assert [bool((image == 0.5).all()) for image in found] == [True] * count + [False] * (8 - count)


def test_larger_rvs_are_learnt_from_watched_and_known_again(
    parent: Path, tiny_acdc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the flagged RVs are larger, labelled slices and the guard of the new domain get larger ones, and the second pool
    is asked about a stack with such an RV; what else is new is told from the stacks to learn from."""
    drawn, old = [], []
    tell = Domain.of
    monkeypatch.setattr(Domain, "of", lambda new, known: old.extend(known) or tell(new, known))

    class Larger(Shapes):
        def give(self, images: torch.Tensor, labels: torch.Tensor, *, generator: torch.Generator) -> Any:
            made, masks = super().give(images, labels, generator=generator)
            drawn.append((images.shape[-1], int((masks == 3).sum()) - int((labels == 3).sum())))
            return made, masks

    monkeypatch.setattr(Shapes, "of", lambda new, old: Larger(1.8, 0.7))
    monkeypatch.setattr("RVQCLib.refinement.too_few_learnt", lambda refined: None)
    refine(parent, tiny_acdc, tmp_path / "out", replace(QUICK, margin=1.0, slack=1.0))
    sizes = {size for size, _ in drawn}
    assert sizes == {TINY.source_size} and sum(grown for _, grown in drawn) > 0
    part = load_bundle(parent).description["views"]["SA"]
    steps = len(part["segmenters"]) * QUICK.epochs * QUICK.steps
    assert len(drawn) == steps + 2 * len(part["training"]["split"]["validation"])
    domain = load_bundle(tmp_path / "out").models("SA", "cpu").latest.domain
    assert domain is not None and domain.size == 0.7
    size = TINY.sampling.size
    assert len(old) == 2 * len(part["training"]["split"]["train"]) and {images.shape[1:] for images in old} == {
        (size, size)
    }
    assert all(0 <= images.min() < images.max() == 1 for images in old)


def test_without_labels_agreement_guards_and_the_test_is_said(parent: Path, tiny_acdc: Path, tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    result = refine(parent, tiny_acdc, tmp_path / "new", labelled=None, report=events.append)
    epochs = [event for event in events if event["event"] == "epoch"]
    assert not result["supervised"] and result["labelled"] == {"train": [], "guard": []}
    assert all(e["guard_dice"] is None and 0 <= e["agreement"] <= 1 and e["loss_supervised"] == 0 for e in epochs)
    assert result["guard"]["of"] == "agreement, no labels"
    assert result["calibration"].startswith("the parent's")


def test_a_view_without_labels_stays_beside_one_with_labels(parent: Path, tiny_acdc: Path, tmp_path: Path) -> None:
    """A hospital's folder has both views, ACDC's labels are of one: the other is left as it is, and that is said."""
    both = tmp_path / "both"
    join_bundles(parent, write_tiny_bundle(tmp_path / "la", views=("LA",)), both)
    write_phantom(tmp_path / "studies", 1, 5, size=(64, 64), spacing=(4.4, 4.4, 10.0))
    result = refine_bundle(tmp_path / "studies", both, tmp_path / "new", QUICK, labelled=tiny_acdc, device="cpu")
    assert result["views"]["LA"]["stopped_because"] == "no labelled LA stack teaches, or fewer than two guard"
    assert result["views"]["LA"]["flagged_stacks"] == 2 and len(result["views"]["SA"]["candidates"]) == 3
    old, new = (load_bundle(path).description["views"]["LA"] for path in (both, tmp_path / "new"))
    assert entries(old) == entries(new)


def test_who_is_kept_from_one_view_teaches_none(tiny_acdc: Path, tmp_path: Path) -> None:
    """In a bundle whose views were split apart, as could be made before."""
    a, b, c, d, e = (f"patient{number:03d}" for number in range(1, 6))
    short = write_tiny_bundle(
        tmp_path / "sa", views=("SA",), split={"train": [a, b, c], "validation": [d], "test": [e]}
    )
    long = write_tiny_bundle(tmp_path / "la", views=("LA",), split={"train": [a, e], "validation": [b, d], "test": [c]})
    join_bundles(short, long, tmp_path / "both")
    parts = labelled_parts(tiny_acdc, load_bundle(tmp_path / "both"), QUICK, print)
    assert {part: [source.name for source in found] for part, found in parts.items()} == {"train": [a], "guard": [d]}


def test_r_does_not_teach_what_is_better_than_its_ceiling(
    parent: Path, tiny_acdc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = []

    class Watched(Refinement):
        def run(self) -> Any:
            weights.append(self.reconstruction)
            return super().run()

    monkeypatch.setattr(refinement, "Refinement", Watched)
    result = refine(parent, tiny_acdc, tmp_path / "new", replace(QUICK, epochs=1))
    said = result["views"]["SA"]["reconstruction"]
    ceiling = load_bundle(parent).description["views"]["SA"]["qc"]["ceiling"]["RV"]
    assert said["ceiling"] == ceiling and 0 <= said["predicted_quality"] <= 1
    assert said["teaches"] == (ceiling > said["predicted_quality"])
    assert set(weights) == {QUICK.reconstruction if said["teaches"] else 0.0}
    assert not said["teaches"] and QUICK.reconstruction


def test_own_labelled_studies_join_the_split_and_few_of_them_calibrate_nothing(
    parent: Path, tiny_acdc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refinement, "FEW", calibration.FEW)
    own, events = tmp_path / "own", []
    own.mkdir()
    for k in range(1, 6):
        write_acdc(schematic_study(f"x{k:03d}", 20 + k, views=("SA",)), own)
    how = {"labelled": own, "report": events.append}
    result = refine(parent, tiny_acdc, tmp_path / "new", replace(QUICK, recalibrate=True), **how)
    was, now = (load_bundle(p).description["views"]["SA"] for p in (parent, tmp_path / "new"))
    assert result["changed"] and len(result["labelled"]["guard"]) == 1
    for part, ours in (("train", "train"), ("validation", "guard"), ("test", "")):
        assert now["training"]["split"][part] == was["training"]["split"][part] + result["labelled"].get(ours, [])
    said = [event["message"] for event in events if event["event"] == "warning"]
    assert said == [
        "SA: 1 labelled studies guard, fewer than 10; the refined networks keep the parent's calibration, its lower bounds "
        "twice as far away."
    ]
    assert "twice as far away" in result["calibration"] and now["refined"]["calibration"]["widened"] == 2.0


def test_labelled_studies_that_are_unlabelled_too_or_in_no_part_are_named(
    parent: Path, tiny_acdc: Path, tmp_path: Path
) -> None:
    data, events = tmp_path / "data", []
    shutil.copytree(tiny_acdc, data)
    write_acdc(schematic_study("x001", 1, views=("SA",)), data)
    split = load_bundle(parent).description["views"]["SA"]["training"]["split"]
    how = {"labelled": data, "names": [split["train"][0], split["test"][0]], "report": events.append}
    refine(parent, tiny_acdc, tmp_path / "new", replace(QUICK, epochs=0), **how)
    said = [event["message"] for event in events if event["event"] == "warning"]
    assert "does not name x001" in said[0] and f"unlabelled studies is {split['train'][0]} of the labelled" in said[1]
    assert len(said) == 2


def test_a_new_calibration_is_kept_only_where_the_guard_bears_what_it_selects(
    guarded: Any, parent: Path, tiny_acdc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, expected, _ = guarded
    assert expected["calibration"] == "made anew on the guard set"
    out, events, asked = tmp_path / "bundle", [], []
    shutil.copytree(reference.with_name("bundle.refinement"), tmp_path / "bundle.refinement")

    def judge(models: Any, new: Any, *how: Any) -> Any:
        asked.append("widened" in new.latest.calibration)
        found = verdict.judge(models, new, *how)
        return found if asked[-1] else replace(found, rolled_back=True)

    monkeypatch.setattr(refinement, "judge", judge)
    test = [study["study"] for study in expected["studies"]]
    result = refine(parent, tiny_acdc, out, replace(QUICK, recalibrate=True), names=test, report=events.append)
    assert asked == [True, False] and "twice as far away" in result["calibration"]
    assert load_bundle(out).description["views"]["SA"]["refined"]["calibration"]["widened"] == 2.0
    assert any("by the new calibration the guard" in event.get("message", "") for event in events)


def test_cancel_comes_within_a_step_and_the_rest_is_done_later(
    guarded: Any, parent: Path, tiny_acdc: Path, tmp_path: Path
) -> None:
    """Asked to stop at one moment after another, from the first look on; then continued to the same bundle."""
    reference, expected, _ = guarded
    test = [study["study"] for study in expected["studies"]]
    out, count = tmp_path / "bundle", 0
    how = {"names": test, "config": replace(QUICK, recalibrate=True)}
    for patience in (0, 5, 40, 90):
        asked = iter(range(patience))
        with contextlib.suppress(Cancelled):
            refine(parent, tiny_acdc, out, cancelled=lambda left=asked: next(left, None) is None, **how)
            break
        count += 1
        assert not out.exists()
    assert count >= 3
    refine(parent, tiny_acdc, out, **how)
    assert files_of(out) == files_of(reference)


def test_called_again_after_the_end_a_later_calibration_stays(
    guarded: Any, parent: Path, tiny_acdc: Path, tmp_path: Path
) -> None:
    reference, expected, _ = guarded
    out, events = tmp_path / "bundle", []
    for name in ("bundle", "bundle.refinement"):
        shutil.copytree(reference.with_name(name), tmp_path / name)
    calibration = {**load_bundle(out).description["views"]["SA"]["calibration"], "date": "2001-01-01"}
    replace_calibration(out, {"SA": calibration})
    was = files_of(out)
    how = {"names": [study["study"] for study in expected["studies"]], "config": replace(QUICK, recalibrate=True)}
    assert refine(parent, tiny_acdc, out, report=events.append, **how) == expected
    assert files_of(out) == was
    assert [event["event"] for event in events] == ["warning"] and "nothing was done" in events[0]["message"]
    shutil.rmtree(out)
    refine(parent, tiny_acdc, out, **how)
    assert files_of(out) == files_of(reference)


def test_wrong_input_is_one_sentence(
    guarded: Any, parent: Path, tiny_acdc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = tmp_path / "new"
    with pytest.raises(RVQCError, match="is the bundle that is refined"):
        refine(parent, tiny_acdc, parent)
    with pytest.raises(RVQCError, match="has no study 'nobody'"):
        refine(parent, tiny_acdc, new, names=["nobody"])
    with pytest.raises(RVQCError, match=r"go on with it \(--resume\), or choose another --work"):
        refine(parent, tiny_acdc, new, work=guarded[0].with_name("bundle.refinement"), resume=False)
    with pytest.raises(RVQCError, match="another configuration"):
        refine(parent, tiny_acdc, new, replace(QUICK, seed=8), work=guarded[0].with_name("bundle.refinement"))
    with pytest.raises(RVQCError, match="is not calibrated for SA"):
        refine(write_tiny_bundle(tmp_path / "raw", views=("SA",)), tiny_acdc, new, labelled=None)
    assert not (tmp_path / "new.refinement").exists(), "said before the work"
    monkeypatch.setattr(refinement, "crew", lambda: Crew(0, 2))
    with pytest.raises(RVQCError, match="mode paper normalizes by the batch, which processes do not share"):
        refine(parent, tiny_acdc, new, replace(QUICK, mode="paper"))
    monkeypatch.setattr(refinement, "crew", lambda: Crew(0, 3))
    with pytest.raises(RVQCError, match="A batch of 4 slices cannot be shared by 3 processes; change --batch"):
        refine(parent, tiny_acdc, new)
    assert not new.exists() and not (tmp_path / "new.refinement").exists()


def test_a_study_that_cannot_be_read_is_left_out_and_named(parent: Path, tiny_acdc: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_acdc / "patient001", data / "patient001")
    shutil.copytree(tiny_acdc / "patient002", data / "patient002")
    for file in (data / "patient002").glob("*frame01.nii.gz"):
        file.write_bytes(file.read_bytes()[:-300])
    result = refine(parent, data, tmp_path / "new", replace(QUICK, mode="none"), labelled=None)
    assert [study["study"] for study in result["studies"]] == ["patient001"]
    assert [f["study"] for f in result["failed"]] == ["patient002"] and "patient002" in result["failed"][0]["reason"]


# In processes of their own -----------------------------------------------------------------------------------------------

COMMAND = ["refine", "--device", "cpu", "--precision", "float32", "--epochs", "2", "--steps", "3", "--batch", "4"]
ALONE = ["-c", "from RVQCLib import cli, refinement; refinement.FEW = 2; raise SystemExit(cli.main())"]
TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def start(launcher: list[str], parent: Path, data: Path, out: Path, *more: str) -> subprocess.Popen:
    options = ["--bundle", str(parent), "--labelled", str(data), "--out", str(out), *more]
    command = [sys.executable, *launcher, *COMMAND, *options, "--names", "patient001", "patient002", "--", str(data)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY / "RVQCSegment")}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen) -> tuple[str, list[dict[str, Any]]]:
    """stdout and the events of a command that ended well."""
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    return stdout, [json.loads(line) for line in stderr.splitlines() if line.startswith("{")]


def test_killed_at_random_moments_it_ends_in_the_same_bundle(
    parent: Path, tiny_acdc: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """kill -9 a random while after a random event, as often as ``--kills`` says (20 is the number of the promise)."""
    stdout, events = finished(start(ALONE, parent, tiny_acdc, tmp_path / "whole", "--json"))
    assert json.loads(stdout)["mode"] == "guarded"
    generator, was, out = random.Random(0), files_of(parent), tmp_path / "killed"
    for _ in range(request.config.getoption("--kills")):
        process = start(ALONE, parent, tiny_acdc, out)  # the same line again
        for _ in range(generator.randrange(len(events))):
            if not process.stderr.readline():
                break
        time.sleep(generator.uniform(0, 0.15))
        process.kill()
        process.communicate()
    finished(start(ALONE, parent, tiny_acdc, out))
    whole, killed = files_of(tmp_path / "whole"), files_of(out)
    assert set(whole) == set(killed)
    assert [name for name in whole if whole[name] != killed[name]] == ["bundle.json"]  # which has the bundle's name
    descriptions = [read_json(tmp_path / name / "bundle.json") for name in ("whole", "killed")]
    for description in descriptions:
        description.pop("name"), description.pop("checksum")
    assert descriptions[0] == descriptions[1]
    assert files_of(parent) == was


def test_two_processes_take_the_steps_of_one(parent: Path, tiny_acdc: Path, tmp_path: Path) -> None:
    """torchrun with gloo: the same losses as one process with the same global batch, and one alone segments the studies."""
    program = tmp_path / "rvqc.py"
    program.write_text(
        "import os, sys\nfrom RVQCLib import cli, newdomain\nif os.environ['RANK'] == '1':\n"
        "    newdomain.segment_study = lambda *_, **__: sys.exit('segmented twice')\nsys.exit(cli.main())"
    )
    processes = [
        start(ALONE, parent, tiny_acdc, tmp_path / "one", "--no-calibration"),
        start([*TWO, str(program)], parent, tiny_acdc, tmp_path / "two", "--no-calibration"),
    ]
    one, two = ([e for e in finished(p)[1] if e["event"] == "epoch"] for p in processes)
    assert len(one) == len(two) > 0
    for a, b in zip(one, two, strict=True):
        assert (a["candidate"], a["epoch"]) == (b["candidate"], b["epoch"])
        assert b["loss_supervised"] == pytest.approx(a["loss_supervised"], rel=1e-4)
        assert b["loss_flagged"] == pytest.approx(a["loss_flagged"], rel=1e-4)
        assert b["guard_dice"] == pytest.approx(a["guard_dice"], abs=2e-3)


def test_the_command_says_what_is_wrong(parent: Path, tiny_acdc: Path, tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(RVQCError, match="a seed from 0 to 4294967295"):
        RefinementConfig(seed=-1)
    arguments = ["refine", str(tmp_path / "nothing"), "--bundle", str(parent), "--out", str(tmp_path / "new")]
    assert main(arguments) == 2
    assert str(tmp_path / "nothing") in capsys.readouterr().err and not (tmp_path / "new").exists()
