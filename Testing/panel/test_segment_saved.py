"""Results of an earlier run are opened from their folder, without torch and without a worker."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Panel

from RVQCLib.files import read_json, sha256, write_json
from RVQCLib.reviews import read_reviews


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A batch of four studies, as `rvqc batch` writes it."""
    home = tmp_path_factory.mktemp("Daten für RVQC")
    script = Path(__file__).with_name("refine_data.py")
    subprocess.run([sys.executable, str(script), str(home)], check=True, timeout=900)
    return home / "batch"


@pytest.fixture
def widget(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> Any:
    opened = panel.open("RVQCSegment")
    opened.logic.worker.stop()

    def refuse(*job: Any, **calls: Any) -> None:
        raise AssertionError("a worker was asked for")

    monkeypatch.setattr(opened.logic.worker, "submit", refuse)
    return opened


def choose(widget: Any, panel: Panel, path: Path) -> None:
    panel.answers.paths.append(str(path))
    panel.click(widget.panel.saved.open)


def test_a_study_is_opened(widget: Any, panel: Panel, batch: Path) -> None:
    import slicer

    from RVQCLib.images import read_image

    choose(widget, panel, batch / "patient101")
    quality = read_json(batch / "patient101" / "quality.json")
    result = widget.panel.result
    assert result.quality == quality and "patient101" in widget.panel.banner.text
    assert len(widget.panel.strip.tiles) == len(quality["stacks"][0]["slices"])
    assert widget.panel.table.widget.rowCount == 3 * len(quality["stacks"])
    assert widget.panel.message.text == ""
    for key in result.stacks:
        image = read_image(
            quality["stacks"][list(result.stacks).index(key)]["image"]["file"], view=key[:2], phase=key[3:]
        )
        assert np.array_equal(slicer.util.arrayFromVolume(result.get("volume", key)), image.pixels)
    for key in result.stacks:
        assert result.get("overlay", key).GetSegmentation().GetNumberOfSegments() == 3 + 3 + 1
    assert widget.panel.overlay.candidate.count == 1, "the candidates were not written"
    choose(widget, panel, batch / "patient101")
    assert len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == len(quality["stacks"])


def test_a_review_of_opened_results_has_every_hash(widget: Any, panel: Panel, batch: Path, tmp_path: Path) -> None:
    home = shutil.copytree(batch, tmp_path / "copy", ignore=shutil.ignore_patterns(".run", "reviews.jsonl", "accepted"))
    choose(widget, panel, home / "patient102")
    widget.panel.review.reviewer.text = ""
    panel.type(widget.panel.review.reviewer, "B. Reader")
    panel.click(widget.panel.review.buttons["accepted"])
    (review,) = read_reviews(home / "reviews.jsonl")
    (stack,) = [s for s in widget.panel.result.stacks.values() if s["phase"] == review.phase]
    assert review.image_sha256 == sha256(stack["image"]["file"])
    assert review.mask_sha256 == sha256(home / "accepted" / stack["mask"])
    assert review.bundle_hash == widget.panel.result.quality["bundle"]["hash"]


def test_an_accepted_file_that_was_edited_elsewhere_is_not_lost(
    widget: Any, panel: Panel, batch: Path, tmp_path: Path
) -> None:
    home = shutil.copytree(batch, tmp_path / "copy", ignore=shutil.ignore_patterns(".run", "reviews.jsonl", "accepted"))
    choose(widget, panel, home / "patient102")
    widget.logic.parameters.reviewer = "B. Reader"
    widget.panel.show_review()
    panel.click(widget.panel.review.buttons["accepted"])
    (mask,) = (home / "accepted").glob("*.nii.gz")
    panel.click(widget.panel.review.buttons["accepted"])
    assert not (home / "edited").exists(), "what RVQC wrote itself is no edit"
    shutil.copy(next((home / "patient101").glob("*_ED.nii.gz")), mask)
    edited = sha256(mask)
    panel.click(widget.panel.review.buttons["accepted"])
    assert [sha256(path) for path in (home / "edited").iterdir()] == [edited] and sha256(mask) != edited


def test_results_that_name_no_image_are_not_reviewed(widget: Any, panel: Panel, batch: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(batch / "patient102", tmp_path / "old" / "patient102")
    quality = read_json(folder / "quality.json")
    for stack in quality["stacks"]:
        del stack["image"]
    write_json(folder / "quality.json", quality)
    choose(widget, panel, folder)
    assert "so its mask lies on black; load the study first to see it" in widget.panel.message.text
    widget.logic.parameters.reviewer = "B. Reader"
    widget.panel.show_review()
    panel.click(widget.panel.review.buttons["accepted"])
    assert "does not say which image" in widget.panel.message.text
    assert not (tmp_path / "old" / "reviews.jsonl").exists() and not (tmp_path / "old" / "accepted").exists()


def test_a_folder_that_is_half_written_is_no_result(batch: Path, tmp_path: Path) -> None:
    from RVQCRefineLib.rows import batch_rows
    from RVQCSlicerLib.saved import result_folders

    home = shutil.copytree(batch, tmp_path / "batch")
    names, keys = [folder.name for folder in result_folders(str(home))], [row.key for row in batch_rows(home)]
    shutil.copytree(batch / "patient101", home / ".part-patient101-ab12cd34")
    assert [folder.name for folder in result_folders(str(home))] == names
    assert [row.key for row in batch_rows(home)] == keys


def test_an_image_that_was_changed_is_not_shown_as_the_judged_one(
    widget: Any, panel: Panel, batch: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(batch / "patient103", tmp_path / "patient103")
    quality = read_json(folder / "quality.json")
    quality["stacks"][0]["image"]["sha256"] = "0" * 64
    write_json(folder / "quality.json", quality)
    choose(widget, panel, folder)
    assert "was changed since QC ran" in widget.panel.message.text
    assert widget.panel.message.text.count("lies on black") == 1


def test_with_the_study_loaded_its_images_lie_behind(widget: Any, panel: Panel, batch: Path) -> None:
    panel.answers.paths.append(str(batch.parent / "new" / "patient101"))
    import slicer

    widget.panel.inputs.widget.collapsed = False
    panel.turn(10)
    panel.click(slicer.util.findChild(widget.panel.widget, "RVQCLoadFolder"))
    choose(widget, panel, batch / "patient101")
    assert widget.panel.message.text == ""
    assert widget.panel.result.get("volume", "SA_ED") is widget.logic.parameters.volume("SA_ED")


def test_of_several_studies_one_is_chosen(widget: Any, panel: Panel, batch: Path) -> None:
    choose(widget, panel, batch)
    studies = widget.panel.saved.studies
    assert studies.visible and studies.count == 5 and widget.panel.result is None
    studies.currentIndex = 2
    studies.activated.emit(2)
    assert widget.panel.result.study == "patient102"


def test_what_is_no_result_is_one_sentence(widget: Any, panel: Panel, batch: Path, tmp_path: Path) -> None:
    choose(widget, panel, tmp_path)
    assert "holds no results" in widget.panel.message.text
    shutil.copytree(batch / "patient101", tmp_path / "torn")
    (tmp_path / "torn" / "patient101_SA_ES_reconstruction.nii.gz").unlink()
    choose(widget, panel, tmp_path / "torn")
    import slicer

    assert "patient101_SA_ES_reconstruction.nii.gz" in widget.panel.message.text and widget.panel.result is None
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == []
    assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") == []


def test_a_mask_that_failed_as_a_whole_has_no_sound_slice(
    widget: Any, panel: Panel, batch: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(batch / "patient103", tmp_path / "patient103")
    quality = read_json(folder / "quality.json")
    stack = quality["stacks"][0]
    stack |= {"verdict": "ood", "ood": True, "reasons": ["no RV was found"]}
    stack["evidence"]["failed"] = ["no RV was found"]
    for entry in stack["slices"]:
        entry |= {"flag": False, "reasons": []}
    write_json(folder / "quality.json", quality)
    choose(widget, panel, folder)
    count = len(stack["slices"])
    assert f"no RV was found; {count} of {count} slices flagged" in widget.panel.banner.text
    assert all("no RV was found" in tile.toolTip for tile in widget.panel.strip.tiles)
    assert widget.panel.strip.current == count // 2 and "no RV was found" in widget.panel.strip.reasons
    assert widget.panel.strip.next_flagged(1) == count // 2 + 1
