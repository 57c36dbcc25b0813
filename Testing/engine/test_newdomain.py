"""The unlabelled studies of a refinement: what goes wrong with one is named, the rest is done, a resume finishes."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import NAMES, write_tiny_bundle

from RVQCLib import pipeline, refinement, result
from RVQCLib.bundle import load_bundle
from RVQCLib.calibration import calibrate_bundle
from RVQCLib.cli import main
from RVQCLib.files import read_json, sha256
from RVQCLib.newdomain import NewDomain
from RVQCLib.phantom import write_phantom
from RVQCLib.recipes import RefinementConfig
from RVQCLib.refinement import refine_bundle
from RVQCLib.study import StudySource, find_studies

NONE = RefinementConfig(mode="none")


@pytest.fixture
def refine(studies: Path, tiny_bundle: Path, tmp_path: Path) -> Callable[[], dict[str, Any]]:
    """Refines on five studies, learning nothing; the events of the last call are in ``refine.events``."""

    def run() -> dict[str, Any]:
        run.events = []
        return refine_bundle(studies, tiny_bundle, tmp_path / "new", NONE, device="cpu", report=run.events.append)

    return run


def test_two_corrupt_studies_are_named_and_a_resume_finishes(refine: Callable, studies: Path) -> None:
    whole = {}
    for name in NAMES[1:3]:
        image = studies / name / f"{name}_frame01.nii.gz"
        whole[image] = image.read_bytes()
        image.write_bytes(whole[image][:200])
    answer = refine()
    assert {
        entry["study"]: name in entry["reason"] for entry, name in zip(answer["failed"], NAMES[1:3], strict=True)
    } == dict.fromkeys(NAMES[1:3], True)
    assert [entry["study"] for entry in answer["studies"]] == [NAMES[0], *NAMES[3:]]
    told = [event for event in refine.events if event["event"] == "left out"]
    assert [event["study"] for event in told] == NAMES[1:3] and all(event["message"] for event in told)
    counted = [(event["moment"], event["done"]) for event in refine.events if event["event"] == "segment"]
    assert counted == [*(("before", done) for done in range(1, 6)), *(("after", done) for done in (3, 4, 5))]
    for image, content in whole.items():
        image.write_bytes(content)
    answer = refine()
    assert answer["failed"] == [] and [entry["study"] for entry in answer["studies"]] == NAMES


def test_what_an_earlier_run_left_of_other_images_of_that_name_is_not_taken(refine: Callable, studies: Path) -> None:
    refine()
    first, second = (studies / name / f"{name}_frame01.nii.gz" for name in NAMES[:2])
    first.write_bytes(second.read_bytes())
    answer = refine()
    assert [entry["study"] for entry in answer["failed"]] == NAMES[:1]
    assert f"{NAMES[0]} has other images than when " in answer["failed"][0]["reason"]
    assert [entry["study"] for entry in answer["studies"]] == NAMES[1:]


def test_a_full_disk_stops_it_and_a_resume_finishes(
    refine: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, home = result.write_json, tmp_path / "new.refinement" / "studies"

    def full(path: Path, content: Any) -> None:
        if content["study"] == NAMES[2]:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(result, "write_json", full)
        with pytest.raises(OSError, match="No space left"):
            refine()
    assert not (tmp_path / "new").exists() and not (home / NAMES[2] / "before").exists()
    before = {name: sha256(home / name / "before" / "quality.json") for name in NAMES[:2]}
    assert [entry["study"] for entry in refine()["studies"]] == NAMES
    assert {name: sha256(home / name / "before" / "quality.json") for name in before} == before


def test_studies_removed_between_before_and_after_are_named(studies: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    bundle = load_bundle(tiny_bundle)
    domain = NewDomain(find_studies(studies), tmp_path / "work", "cpu", report=events.append)
    domain.segment_before(bundle)
    shutil.move(studies / NAMES[1], tmp_path / "moved")
    chosen = [(name, "ED") for name in NAMES[:3]]
    ready = domain.load(chosen, "SA", bundle.models("SA", "cpu"), 40)
    assert [stack.study for stack in ready] == [NAMES[0], NAMES[2]] and list(domain.failed) == [NAMES[1]]
    decisions = domain.segment_after(bundle, NONE)
    assert [decision["study"] for decision in decisions] == [NAMES[0], *NAMES[2:]]
    assert (tmp_path / "work" / NAMES[1] / "before" / "quality.json").is_file()
    assert [(e["study"], e["moment"]) for e in events if e["event"] == "left out"] == [
        (NAMES[1], "refine"),
        (NAMES[1], "after"),
    ]
    shutil.move(tmp_path / "moved", studies / NAMES[1])
    assert [decision["study"] for decision in domain.segment_after(bundle, NONE)] == NAMES and domain.failed == {}


def test_a_cine_is_segmented_at_the_frames_of_before(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other networks may find other frames, whose masks are no answer to those of before."""
    write_phantom(tmp_path / "cines", 1, views=("SA",), cine_frames=4, spacing=(8.0, 8.0, 20.0), size=(40, 40))
    for file in (tmp_path / "cines").rglob("*_SA_E[DS]*"):
        file.unlink()
    bundle, found, asked = load_bundle(tiny_bundle), iter([(2, 1), (0, 1)]), []
    monkeypatch.setattr(pipeline, "find_phases", lambda *how, **more: asked.append(how) or next(found))
    domain = NewDomain(find_studies(tmp_path / "cines"), tmp_path / "work", "cpu")
    domain.segment_before(bundle)
    domain.segment_after(bundle, NONE)
    before, after = (read_json(file)["cine"][0] for file in sorted((tmp_path / "work").rglob("quality.json"))[::-1])
    assert (before["ed"], before["es"]) == (after["ed"], after["es"]) == (2, 1) and len(asked) == 1


def test_a_view_without_labels_keeps_its_calibration(
    studies: Path, tiny_acdc: Path, few_acdc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labelled short-axis studies calibrate a bundle of both views: as ACDC does the shipped one."""
    monkeypatch.setattr(refinement, "FEW", 2)
    parent = write_tiny_bundle(tmp_path / "parent")
    calibrate_bundle(parent, few_acdc, part="all", device="cpu")
    config = RefinementConfig(mode="paper", epochs=1, steps=1, batch=4, guard_slices=6, precision="float32")
    answer = refine_bundle(studies, parent, tmp_path / "new", config, labelled=tiny_acdc, device="cpu")
    assert answer["changed"] and {file[:2] for file in answer["changed"]} == {"SA"}
    before, after = (load_bundle(path).description["views"] for path in (parent, tmp_path / "new"))
    assert after["LA"]["calibration"] is before["LA"]["calibration"] is None
    assert "widened" not in after["SA"]["calibration"] and after["SA"]["calibration"] != before["SA"]["calibration"]


def test_an_edited_mask_survives_every_resume(refine: Callable, tmp_path: Path) -> None:
    refine()
    for moment in ("before", "after"):
        mask = tmp_path / "new.refinement" / "studies" / NAMES[0] / moment / f"{NAMES[0]}_SA_ED.nii.gz"
        mask.write_bytes(mask.with_name(f"{NAMES[0]}_SA_ES.nii.gz").read_bytes())
        edited = sha256(mask)
        refine()
        assert sha256(mask) == edited


def test_the_same_command_goes_on_unless_that_is_refused(
    studies: Path, tiny_bundle: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["refine", str(studies), "--bundle", str(tiny_bundle), "--out", str(tmp_path / "new"), "--mode", "none"]
    line += ["--device", "cpu"]
    whole = NewDomain._segment

    def crash(domain: NewDomain, source: StudySource, *how: Any) -> dict[str, Any]:
        if source.name == NAMES[1]:
            raise MemoryError
        return whole(domain, source, *how)

    with monkeypatch.context() as patch:
        patch.setattr(NewDomain, "_segment", crash)
        assert main(line) == 1
    written = tmp_path / "new.refinement" / "studies" / NAMES[0] / "before" / "quality.json"
    was = written.stat().st_mtime_ns
    assert main([*line, "--no-resume"]) == 2 and "go on with it (--resume)" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    for again in (line, [*line, "--resume"]):
        assert main(again) == 0 and (tmp_path / "new" / "refinement.json").is_file()
    assert written.stat().st_mtime_ns == was
