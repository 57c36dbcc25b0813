"""The refine dialog, all four steps with real clicks and a real worker; what counts is what lies on the disk."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from refine_walk import PATIENCE_S, Walk

from RVQCLib.bundle import load_bundle
from RVQCLib.files import read_json, sha256
from RVQCLib.reviews import read_reviews


@pytest.fixture
def saved(data: Path, tmp_path: Path) -> Path:
    """A copy of the saved run: the folder of its bundle."""
    for name in ("saved", "saved.refinement"):
        shutil.copytree(data / name, tmp_path / name)
    return tmp_path / "saved"


SETTING = "RVQC/Bundle"


def files_of(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256(path) for path in folder.rglob("*") if path.is_file()}


def segmentations() -> list[str]:
    import slicer

    nodes = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    return sorted(node.GetName() for node in nodes if node.GetAttribute("RVQC.Refine.Accepted"))


def table_of(name: str) -> Any:
    import slicer

    return slicer.util.getNode(name).GetTable()


def test_from_a_folder_to_an_adopted_bundle(walk: Walk, panel: Any, data: Path, tmp_path: Path) -> None:
    import qt
    import slicer

    shutil.copytree(data / "new", tmp_path / "new")
    dialog, parent_was = walk.dialog, files_of(data / "parent")
    walk.choose_folder(tmp_path / "new")
    assert "5 studies found, 4 will be used; 1 cannot be read" in dialog.folder.said.text
    assert (
        "holds no image" in dialog.folder.table.item(0, 4).text() and dialog.folder.table.item(1, 2).text() == "ED, ES"
    )
    walk.tick("patient104")
    assert "3 will be used" in dialog.folder.said.text

    panel.click(dialog.next)
    panel.click(dialog.back)  # a step can be left and come back to
    assert "3 will be used" in dialog.folder.said.text
    walk.set(bundle=data / "parent", labelled=None)
    assert "no L_SUP" in dialog.settings.labels.text
    panel.click(dialog.back)
    walk.set(bundle=data / "parent", labelled=data / "labelled", epochs=3, steps=2, batch=4)
    assert (
        "Learnt from in every step (L_SUP)" in dialog.settings.labels.text
        and "bundle tiny" in dialog.settings.device_said.text
    )
    assert dialog.settings.out.currentPath == str(tmp_path / "tiny-refined")

    # Cancelled in the middle, the window closed: the checkpoint stays, no bundle appears.
    walk.start()
    walk.wait_for("epoch")
    panel.click(dialog.run.cancel)
    walk.wait_until("cancelled")
    out, work = tmp_path / "tiny-refined", tmp_path / "tiny-refined.refinement"
    assert walk.work == work and not out.exists() and walk.events()[-1]["event"] == "cancelled"
    assert (work / "SA" / "candidate1.safetensors").is_file() and not dialog.session.worker.running
    assert read_json(work / "request.json")["left_out"] == ["patient104"]
    dialog.window.close()
    assert not dialog.window.visible

    # Slicer is closed and opened again; the run goes on from its checkpoint while the window is closed.
    walk.restart()
    dialog = walk.dialog
    panel.answers.paths.append(str(work))
    panel.click(dialog.open)
    assert dialog.page == 2 and dialog.session.state == "cancelled" and dialog.run.flagged.lines
    panel.click(dialog.run.resume)
    dialog.window.close()
    walk.wait_until("done")
    assert "Done" in walk.module.state.text
    walk.open()
    assert walk.dialog is dialog and dialog.page == 2
    events = walk.events()
    epochs = [(e["candidate"], e["epoch"]) for e in events if e["event"] == "epoch"]
    assert len(epochs) == len(set(epochs)) and epochs[0] == (1, 1)  # none was done twice
    assert [e["event"] for e in events if e["event"] in ("started", "cancelled", "done")] == [
        *("started", "cancelled", "started", "done")
    ]

    # The curves are those of the file, in the window and as nodes.
    result = read_json(out / "refinement.json")
    looks = [candidate["epochs"] for candidate in result["views"]["SA"]["candidates"]]
    assert [line.points for line in dialog.run.guard.lines] == [
        tuple((look["epoch"], look["guard"]["RV"]) for look in own) for own in looks
    ]
    table = table_of("tiny-refined epochs")
    assert table.GetColumnByName("SA candidate 1 flagged").GetValue(0) == looks[0][0]["flagged"]

    # Review: three accepted at once, one rejected by key.
    panel.click(dialog.next)
    page = dialog.review
    assert len(page.table.rows) == 6 and [row.study for row in page.table.rows].count("patient104") == 0
    badness = [row.shown.badness for row in page.table.rows]
    assert badness == sorted(badness)
    walk.select([0, 1, 2])
    walk.decide("accepted")
    assert "Nobody is named" in dialog.message.text and not (work / "reviews.jsonl").exists()
    panel.type(page.reviewer, "Ada")
    walk.decide("accepted")
    taken = page.table.rows[:3]
    assert page.table.places == [3]
    panel.press(page.reviewer, qt.Qt.Key_Backspace, qt.Qt.ControlModifier)
    walk.settle()
    reviews = read_reviews(work / "reviews.jsonl")
    assert [r.decision for r in reviews] == ["accepted", "accepted", "accepted", "rejected"]
    made_by = load_bundle(out if result["changed"] else data / "parent")  # masks that did not change are the parent's
    assert {r.reviewer for r in reviews} == {"Ada"} and {r.bundle_hash for r in reviews} == {made_by.hash}
    for row, review in zip(taken, reviews, strict=False):
        file = work / "accepted" / f"{row.study}_{row.view}_{row.phase}.nii.gz"
        image = tmp_path / "new" / row.study / f"{row.study}_frame{'01' if row.phase == 'ED' else '12'}.nii.gz"
        assert sha256(file) == review.mask_sha256 == sha256(row.after.mask) and review.image_sha256 == sha256(image)
    assert len(list((work / "accepted").iterdir())) == 3
    assert segmentations() == sorted(f"{row.study} {row.view} {row.phase}" for row in taken)

    # Adopted only on the explicit yes, which shows guard and flags before and after.
    panel.click(page.adopt.ask)
    text = page.adopt.comparison.text
    assert all(f"{result['guard'][moment]:.3f}" in text for moment in ("before", "after"))
    assert f"{sum(s['flagged_after'] for s in result['studies'])} of 3" in text
    assert not slicer.app.userSettings().value(SETTING)
    panel.click(page.adopt.yes)
    assert slicer.app.userSettings().value(SETTING) == str(out)
    adopted = walk.events()[-1]
    assert (adopted["event"], adopted["bundle"], adopted["hash"]) == ("adopted", str(out), load_bundle(out).hash)
    assert adopted["decisions"] == {"accepted": 3, "rejected": 1, "open": 2}
    assert files_of(data / "parent") == parent_was
    panel.click(page.adopt.back)
    assert not slicer.app.userSettings().value(SETTING) and walk.events()[-1]["event"] == "returned"

    # A restart shows the same.
    shown = [(row.key, row.decision, row.shown.badness) for row in page.table.rows]
    walk.restart()
    walk.dialog.open_run(str(out))
    assert walk.dialog.page == 3
    assert [(row.key, row.decision, row.shown.badness) for row in walk.dialog.review.table.rows] == shown
    assert "torch" not in sys.modules


def test_a_worker_that_is_killed_is_one_sentence_and_resume_goes_on(
    walk: Walk, panel: Any, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data / "new", tmp_path / "new")
    walk.choose_folder(tmp_path / "new")
    walk.set(bundle=data / "parent", labelled=data / "labelled", epochs=1, steps=1, batch=4)
    walk.start()
    walk.wait_for("segment", 2)
    os.kill(walk.dialog.session.worker._pid, signal.SIGKILL)
    walk.wait_until("failed")
    said = walk.dialog.message.text
    assert said.startswith("The worker process ended unexpectedly") and said.endswith("Resume goes on from there.")
    assert "\n" not in said and walk.events()[-1]["event"] == "failed"
    panel.click(walk.dialog.run.resume)
    walk.wait_for("epoch")
    panel.click(walk.dialog.run.pause)
    walk.wait_until("paused")
    panel.click(walk.dialog.run.resume)
    walk.wait_until("done")
    assert (tmp_path / "tiny-refined" / "refinement.json").is_file()


def test_a_saved_run_is_reviewed_without_torch_and_without_a_worker(
    walk: Walk, panel: Any, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("torch", "safetensors"):
        monkeypatch.setitem(sys.modules, name, None)  # an import of it raises
    panel.answers.paths.append(str(saved))
    panel.click(walk.dialog.open)
    page = walk.dialog.review
    assert walk.dialog.page == 3 and len(page.table.rows) == 8
    panel.type(page.reviewer, "Ada")
    page.into_scene.checked = False
    walk.select([1])
    assert walk.dialog.review.buttons["accepted"].text.startswith("Accept new  ")
    walk.decide("kept old")
    walk.select([0])
    walk.decide("accepted")
    assert [r.decision for r in read_reviews(walk.work / "reviews.jsonl")] == ["kept old", "accepted"]
    assert len(list((walk.work / "accepted").iterdir())) == 1 and segmentations() == []
    panel.click(page.adopt.ask)
    assert "Nothing has changed" in page.adopt.comparison.text
    panel.click(page.adopt.no)
    assert not page.adopt.comparison.visible and not walk.dialog.session.worker.running
    walk.select([0])
    walk.decide("rejected")
    assert list((walk.work / "accepted").iterdir()) == []


def test_a_stack_is_seen_before_beside_after_in_the_slice_views(walk: Walk, panel: Any, saved: Path) -> None:
    import slicer

    walk.dialog.open_run(str(saved))
    page = walk.dialog.review
    row = page.table.rows[0]
    name = f"{row.study} {row.view} {row.phase}"
    volume = slicer.util.getNode(name)
    red, yellow = (slicer.app.layoutManager().sliceWidget(view) for view in ("Red", "Yellow"))
    assert red.isVisible() and yellow.isVisible()
    for widget, moment in ((red, "before"), (yellow, "after")):
        assert widget.mrmlSliceCompositeNode().GetBackgroundVolumeID() == volume.GetID()
        display = slicer.util.getNode(f"{name} {moment}").GetDisplayNode()
        assert list(display.GetViewNodeIDs()) == [widget.mrmlSliceNode().GetID()]
    for moment in ("before", "after"):
        assert len(page.strips.tiles[moment]) == row.n_slices
        assert [("▲" in tile.text) for tile in page.strips.tiles[moment]] == [
            bool(getattr(row, moment).doubt(index)) for index in range(row.n_slices)
        ]
    panel.click(page.strips.tiles["after"][2])
    places = [widget.mrmlSliceNode().GetSliceOffset() for widget in (red, yellow)]
    panel.click(page.strips.tiles["before"][0])
    moved = [widget.mrmlSliceNode().GetSliceOffset() for widget in (red, yellow)]
    assert places[0] == places[1] and moved[0] == moved[1] and abs(moved[0] - places[0]) == pytest.approx(18.0)
    walk.dialog.window.close()
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == []
    assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") == []


def test_a_batch_is_a_table_and_charts_and_can_be_reviewed(walk: Walk, panel: Any, data: Path, tmp_path: Path) -> None:
    import slicer

    shutil.copytree(data / "batch", tmp_path / "batch")
    walk.dialog.open_run(str(tmp_path / "batch"))
    page = walk.dialog.review
    assert walk.dialog.page == 3 and len(page.table.rows) == 8 and not page.adopt.widget.visible
    assert not page.buttons["kept old"].enabled
    assert page.buttons["accepted"].text.startswith("Accept  "), "there is one mask only"
    panel.click(page.plot)
    table = table_of("batch cohort")
    assert table.GetNumberOfRows() == 9  # eight stacks and the study that failed
    assert table.GetColumnByName("RV_pDC").GetDataTypeAsString() == "double"
    chart = slicer.util.getNode("batch pDC")
    series = slicer.mrmlScene.GetNodeByID(chart.GetNthPlotSeriesNodeID(0))
    assert series.GetYColumnName() == "RV_pDC" and series.GetTableNode().GetTable() is table
    panel.type(page.reviewer, "Ada")
    walk.select([0])
    walk.decide("accepted")
    (review,) = read_reviews(tmp_path / "batch" / "reviews.jsonl")
    assert review.image_sha256 and len(list((tmp_path / "batch" / "accepted").iterdir())) == 1


def test_wrong_folders_are_one_sentence(walk: Walk, panel: Any, data: Path, tmp_path: Path) -> None:
    dialog = walk.dialog
    dialog.folder.path.currentPath = str(tmp_path / "nowhere")
    panel.wait(lambda: "is no folder" in dialog.folder.said.text, 5)
    (tmp_path / "none").mkdir()
    walk.dialog.folder.path.currentPath = str(tmp_path / "none")
    panel.wait(lambda: "holds no study" in dialog.message.text, PATIENCE_S)
    dialog.open_run(str(tmp_path))
    assert "holds no refinement" in dialog.message.text and dialog.page == 0
    walk.choose_folder(data / "new")
    walk.set(bundle=data / "parent", labelled=None)
    dialog.settings.out.currentPath = str(data / "new" / "inside")
    panel.wait(lambda: dialog.next.enabled, PATIENCE_S)
    walk.start()
    assert "lies in the folder of the studies" in dialog.message.text and dialog.page == 1
    assert not (data / "new" / "inside.refinement").exists()
