"""One real study in the panel, from the click to the saved scene.

A run takes as long as the networks need, so one run serves all tests that only look: it is saved as a scene and opened
again, which is a test in itself.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY, Blocks, Panel
from segment_steps import press

ACDC = REPOSITORY.parent / "shared" / "data" / "acdc" / "training"


@dataclass(frozen=True)
class Finished:
    """A run of a real study: its saved scene, what was seen meanwhile, and where the results are."""

    scene: Path
    results: Path
    progress: tuple[str, ...]
    blocks: Blocks


@pytest.fixture(scope="module")
def finished(host: Any, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The way of the self test with an ACDC study: load, cancel, run, look, switch, accept SA ED, save, open again."""
    if not ACDC.is_dir():
        pytest.skip(f"the ACDC patients are not here ({ACDC})")
    import slicer

    from RVQCSlicerLib.self_test import Walk, study_through_the_panel

    folder = tmp_path_factory.mktemp("wirklich echt")
    panel = Panel(host, folder)
    slicer.mrmlScene.Clear(0)
    walk = Walk(folder, click=panel.click, watch=panel.watch)
    scene = study_through_the_panel(walk, ACDC / "patient001")
    slicer.mrmlScene.Clear(0)
    return Finished(scene, folder / "results", tuple(walk.progress), walk.seen)


@pytest.fixture
def opened(finished: Finished, widget: Any, panel: Panel) -> Any:
    """The panel with the saved scene of the real study opened in it."""
    import slicer

    slicer.util.loadScene(str(finished.scene))
    panel.turn()
    return widget


def test_progress_is_real(finished: Finished) -> None:
    """Ten slices a forward pass, of stacks that are judged side by side."""
    steps = [text.partition(" steps, ")[0] for text in finished.progress if " steps, " in text]
    counts = [text.partition(": ")[2] for text in steps]
    done = [int(text.removesuffix(" of 80")) for text in counts]
    assert len(set(done)) > 3 and done == sorted(done) and not any(number % 10 for number in done)
    assert {text.partition(": ")[0] for text in steps} == {"patient001 SA ED", "patient001 SA ES"}
    assert " steps, " not in finished.progress[0]


def longest_s() -> float:
    """What may pass between two turns. On a machine that others load, cores and caches are shared: it takes longer."""
    return 0.1 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def test_nothing_blocks_the_event_loop(finished: Finished) -> None:
    """From the click on Run QC to the result in the panel; saving a scene is not meant."""
    assert finished.blocks.busiest < longest_s() and finished.blocks.longest < longest_s()


def test_loading_a_study_does_not_block_the_event_loop(widget: Any, panel: Panel) -> None:
    if not ACDC.is_dir():
        pytest.skip(f"the ACDC patients are not here ({ACDC})")
    with panel.watch() as blocks:
        panel.turn()
        widget.onLoad(str(ACDC / "patient001"))
        panel.turn()
    assert blocks.busiest < longest_s()


def test_the_results_are_on_the_disk(finished: Finished) -> None:
    quality = json.loads((finished.results / "patient001" / "quality.json").read_text(encoding="utf-8"))
    assert [stack["phase"] for stack in quality["stacks"]] == ["ED", "ES"]
    (line,) = (finished.results / "reviews.jsonl").read_text(encoding="utf-8").splitlines()
    review = json.loads(line)
    assert (review["study"], review["view"], review["phase"], review["decision"]) == (
        "patient001",
        "SA",
        "ED",
        "accepted",
    )
    assert (review["reviewer"], review["note"]) == ("Dr. Müller", "fine at the base")
    from RVQCLib.files import sha256

    images = [ACDC / "patient001" / f"patient001_frame{frame}.nii.gz" for frame in ("01", "12")]
    assert [stack["image"]["file"] for stack in quality["stacks"]] == [str(image) for image in images]
    assert review["bundle_hash"] == quality["bundle"]["hash"] and review["image_sha256"] == sha256(images[0])
    accepted, written = finished.results / "accepted" / "patient001_SA_ED.nii.gz", finished.results / "patient001"
    assert review["mask_sha256"] == sha256(accepted)
    from RVQCLib.images import read_mask

    masks = [read_mask(path, view="SA", phase="ED") for path in (accepted, written / accepted.name)]
    assert np.array_equal(masks[0].pixels, masks[1].pixels)
    assert np.allclose(masks[0].geometry.origin, masks[1].geometry.origin, atol=1e-4)


def test_the_same_masks_as_the_command(finished: Finished) -> None:
    """One path: the panel's volumes give what the files give."""
    from RVQCLib.images import read_image, read_mask

    mask = read_mask(finished.results / "patient001" / "patient001_SA_ED.nii.gz", view="SA", phase="ED")
    image = read_image(ACDC / "patient001" / "patient001_frame01.nii.gz", view="SA", phase="ED")
    assert mask.pixels.shape == image.pixels.shape
    assert np.allclose(mask.geometry.origin, image.geometry.origin, atol=1e-3)
    assert np.allclose(mask.geometry.direction, image.geometry.direction, atol=1e-5)
    truth = read_mask(ACDC / "patient001" / "patient001_frame01_gt.nii.gz", view="SA", phase="ED", convention="acdc")
    overlap = (
        2 * ((mask.pixels == 1) & (truth.pixels == 1)).sum() / ((mask.pixels == 1).sum() + (truth.pixels == 1).sum())
    )
    assert overlap > 0.9


def test_a_saved_scene_brings_everything_back(opened: Any, panel: Panel) -> None:
    import slicer

    result = opened.panel.result
    assert result is not None and result.study == "patient001"
    assert "Trusted: patient001" in opened.panel.banner.text and "SA ED" in opened.panel.banner.text
    assert opened.panel.review.state.text == "SA ED: ✓ trusted, 2 of 10 slices flagged; accepted by Dr. Müller"
    final = slicer.util.getNode("patient001 SA ED")
    names = [final.GetSegmentation().GetNthSegment(i).GetName() for i in range(3)]
    assert names == ["RV cavity", "LV cavity", "LV myocardium"]
    overlay = result.get("overlay", "SA_ES")
    assert overlay.GetSegmentation().GetNumberOfSegments() == 3 + 3 + 1 + 3 * len(result.stacks["SA_ES"]["candidates"])
    assert len(opened.panel.strip.tiles) == 10
    assert opened.logic.parameters.reviewer == "Dr. Müller"


def test_the_banner_says_what_was_done_and_where_to_look(opened: Any) -> None:
    text = opened.panel.banner.text
    assert {stack["verdict"] for stack in opened.panel.result.stacks.values()} == {"trusted"}
    assert text.startswith("Trusted") and "2 of 10 slices flagged" in text
    assert "SA ES: slice 2 probably shows the atrium" in text  # which its true mask does not have there either


def test_a_click_on_a_tile_goes_there_and_scrolling_follows(opened: Any, panel: Panel) -> None:
    import slicer

    strip, viewer = opened.panel.strip, opened.panel.viewer
    panel.click(strip.tiles[6])
    assert strip.current == 6 and viewer.index == 6 and strip.reasons.startswith("Slice 7 of 10")
    view = slicer.app.layoutManager().sliceWidget(viewer.view_name)
    assert view.visible
    panel.turn_wheel(view.sliceView(), 1)
    assert abs(strip.current - 6) == 1 and strip.tiles[strip.current].checked and not strip.tiles[6].checked


def test_keys_walk_through_flagged_slices(opened: Any, panel: Panel) -> None:
    panel.click(opened.panel.strip.stack_buttons["SA_ED"])
    flagged = [entry["index"] for entry in opened.panel.result.stacks["SA_ED"]["slices"] if entry["flag"]]
    assert len(flagged) >= 2 and opened.panel.strip.current == flagged[0]
    walked = []
    for _ in flagged:
        press(panel, panel.window, "Period")
        walked.append(opened.panel.strip.current)
    assert walked == flagged[1:] + flagged[:1]
    press(panel, panel.window, "Comma")
    assert opened.panel.strip.current == flagged[-1]


def test_overlays_are_switched_by_click_and_key(opened: Any, panel: Panel) -> None:
    from RVQCSlicerLib.self_test import visible_segments

    panel.click(opened.panel.strip.stack_buttons["SA_ES"])
    overlay, box = opened.panel.result.get("overlay", "SA_ES"), opened.panel.overlay
    mask = {"mask.RV", "mask.LV", "mask.MYO"}
    assert visible_segments(overlay) == mask
    panel.click(box.reconstruction, (8, 8))
    assert visible_segments(overlay) == mask | {"again.RV", "again.LV", "again.MYO"}
    press(panel, panel.window, "3")
    press(panel, panel.window, "2")
    press(panel, panel.window, "1")
    assert visible_segments(overlay) == {"difference"}
    press(panel, panel.window, "1")
    press(panel, panel.window, "3")
    box.candidate.currentIndex = 2
    assert visible_segments(overlay) == {"candidate2.RV", "candidate2.LV", "candidate2.MYO"}
    box.candidate.currentIndex = 0
    assert visible_segments(opened.panel.result.get("overlay", "SA_ED")) == set()


def test_the_overlay_is_what_the_files_say(opened: Any, finished: Finished) -> None:
    from RVQCLib.images import read_mask
    from RVQCSlicerLib.overlays import layer
    from RVQCSlicerLib.scene import mask_of

    result = opened.panel.result
    for candidate, name in ((0, ""), (1, "_candidate1"), (4, "_candidate4")):
        path = finished.results / "patient001" / f"patient001_SA_ES{name}.nii.gz"
        shown = mask_of(result.get("overlay", "SA_ES"), result.get("volume", "SA_ES"), "SA", "ES", layer(candidate))
        assert np.array_equal(shown.pixels, read_mask(path, view="SA", phase="ES").pixels)


def test_the_picture_shows_the_mask(opened: Any, panel: Panel) -> None:
    import slicer

    panel.click(opened.panel.strip.stack_buttons["SA_ES"])
    panel.click(opened.panel.strip.tiles[6])  # a middle slice, where there is an RV whatever was flagged
    view = slicer.app.layoutManager().sliceWidget(opened.panel.viewer.view_name).sliceView()
    panel.turn(10)
    with_mask = panel.pixels(view)
    panel.click(opened.panel.overlay.mask, (8, 8))
    panel.turn(10)
    without = panel.pixels(view)
    orange = np.abs(with_mask.astype(int) - [255, 125, 31]).max(axis=2) < 40
    assert orange.sum() > 50 and not (np.abs(without.astype(int) - [255, 125, 31]).max(axis=2) < 40).any()
    panel.click(opened.panel.overlay.mask, (8, 8))


def test_the_table_has_every_structure_and_its_rows_lead_to_the_stack(opened: Any, panel: Panel) -> None:
    table, result = opened.panel.table.widget, opened.panel.result
    texts = [[table.item(row, column).text() for column in range(table.columnCount)] for row in range(table.rowCount)]
    assert [row[:2] for row in texts] == [[f"SA {p}", s] for p in ("ED", "ES") for s in ("RV", "LV", "MYO")]
    said = result.stacks["SA_ED"]["structures"]["RV"]
    assert texts[0][2:4] == [f"{said['predicted_dice']:.2f}", f"{said['lower_bound_90']:.2f}"]
    assert texts[0][4].startswith(f"{said['pDC']:.2f}") and texts[0][6] == f"{said['agreement']:.2f}"
    assert any("↑" in row[5] for row in texts)
    opened.panel.table._on_clicked(4, 0)
    assert opened.panel.key == "SA_ES" and opened.panel.strip.stack_buttons["SA_ES"].checked


def test_volumes_and_fraction_come_with_their_state(opened: Any, panel: Panel) -> None:
    table = opened.panel.function.widget
    text = lambda row, column: table.item(row, column).text() if table.item(row, column) else ""  # noqa: E731
    volume = opened.panel.result.stacks["SA_ED"]["structures"]["RV"]["volume_ml"]
    state = {"trusted": "✓ trusted", "look": "▲ look at it"}[opened.panel.result.stacks["SA_ED"]["verdict"]]
    assert text(0, 1) == f"{volume:.0f}\N{NO-BREAK SPACE}ml\n{state}, accepted"
    assert text(3, 1) == "– needs ED and ES"
    panel.click(opened.panel.strip.stack_buttons["SA_ES"])
    panel.click(opened.panel.review.buttons["accepted"])
    ended = opened.panel.result.stacks["SA_ES"]["structures"]["RV"]["volume_ml"]
    assert text(3, 1).startswith(f"{100 * (volume - ended) / volume:.0f}\N{NO-BREAK SPACE}%")


def test_an_edit_after_acceptance_is_noticed(opened: Any, panel: Panel) -> None:
    import slicer
    import vtk

    panel.click(opened.panel.strip.stack_buttons["SA_ED"])
    final, volume = opened.panel.result.get("accepted", "SA_ED"), opened.panel.result.get("volume", "SA_ED")
    pixels = slicer.util.arrayFromSegmentBinaryLabelmap(final, "RV", volume)
    pixels[5] = 0
    slicer.util.updateSegmentBinaryLabelmapFromArray(pixels, final, "RV", volume)
    panel.wait(lambda: "edited since" in opened.panel.review.state.text, 10)
    assert "edited after acceptance" in opened.panel.function.widget.item(0, 1).text()
    tag = vtk.reference("")
    assert (
        final.GetSegmentation().GetSegment("RV").GetTag("DICOM.SegmentAlgorithmType", tag)
        and tag.get() == "SEMIAUTOMATIC"
    )
    panel.click(opened.panel.review.buttons["accepted"])
    assert opened.panel.review.state.text == "SA ED: – another mask than QC judged; accepted by Dr. Müller"
    from RVQCLib.images import read_mask

    log = Path(opened.panel.result.folder).parent
    again = read_mask(log / "accepted" / "patient001_SA_ED.nii.gz", view="SA", phase="ED").pixels
    assert not (again[5] == 3).any() and (again[4] == 3).any()


def test_a_rejection_makes_no_segmentation_and_needs_a_name(opened: Any, panel: Panel, finished: Finished) -> None:
    import slicer

    panel.click(opened.panel.strip.stack_buttons["SA_ES"])
    opened.logic.parameters.reviewer = ""
    opened.panel.show_review()
    before = (finished.results / "reviews.jsonl").read_bytes()
    panel.click(opened.panel.review.buttons["rejected"])
    assert opened.panel.message.text == "Nobody is named as the reviewer; fill in who reviews."
    assert (finished.results / "reviews.jsonl").read_bytes() == before
    panel.type(opened.panel.review.reviewer, "Eva")
    panel.click(opened.panel.review.buttons["rejected"])
    assert opened.panel.review.state.text.endswith("; rejected by Eva")
    assert not [
        node for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if node.GetName() == "patient001 SA ES"
    ]
    assert (finished.results / "reviews.jsonl").read_bytes().startswith(before)


def test_needs_edit_makes_what_the_editor_edits(opened: Any, panel: Panel) -> None:
    import slicer

    panel.click(opened.panel.strip.stack_buttons["SA_ES"])
    assert not opened.panel.review.edit.enabled
    panel.click(opened.panel.review.buttons["needs edit"])
    assert opened.panel.review.edit.enabled and "; needs edit by" in opened.panel.review.state.text
    assert slicer.util.getNode("patient001 SA ES").GetSegmentation().GetNumberOfSegments() == 3


def test_a_decision_that_cannot_be_recorded_changes_nothing(opened: Any, panel: Panel, tmp_path: Path) -> None:
    (tmp_path / "in the way").write_text("a file")
    opened.panel.result.node.SetAttribute("RVQC.Folder", "")
    opened.logic.parameters.results_folder = str(tmp_path / "in the way")
    panel.click(opened.panel.strip.stack_buttons["SA_ES"])
    panel.click(opened.panel.review.buttons["accepted"])
    assert "in the way" in opened.panel.message.text
    assert opened.panel.result.get("accepted", "SA_ES") is None and not opened.panel.result.decision("SA_ES")


def test_a_dicom_seg_is_saved_by_slicers_exporter_where_that_makes_sense(
    opened: Any, panel: Panel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    box, result = opened.panel.review, opened.panel.result
    panel.click(opened.panel.strip.stack_buttons["SA_ES"])
    assert not box.dicom.enabled and "accept SA ES first" in box.dicom.toolTip
    panel.click(opened.panel.strip.stack_buttons["SA_ED"])
    assert not box.dicom.enabled and "did not come from Slicer's DICOM database" in box.dicom.toolTip
    result.get("volume", "SA_ED").SetAttribute("DICOM.instanceUIDs", "1.2.3 1.2.4")
    opened.panel.show_review()
    assert not box.dicom.enabled and "has no DICOM SEG exporter" in box.dicom.toolTip
    exported, answers = [], ["", "itkimage2segimage failed"]

    class Exporter:
        def examineForExport(self, item: int) -> list[Any]:
            return [SimpleNamespace(item=item, tags={}, setTag=lambda name, value: tags.__setitem__(name, value))]

        def export(self, found: list[Any]) -> str:
            exported.extend(found)
            return answers.pop(0)

    tags: dict[str, str] = {}
    fake = ModuleType("DICOMSegmentationPlugin")
    fake.DICOMSegmentationPluginClass = Exporter
    fake.__spec__ = ModuleSpec(fake.__name__, None)
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    opened.panel.show_review()
    for said in (f"SA ED is in {tmp_path} and in Slicer's DICOM database.", "failed"):
        panel.answers.paths.append(str(tmp_path))
        panel.click(box.dicom)
        assert said in opened.panel.message.text
    assert [found.directory for found in exported] == [str(tmp_path)] * 2
    assert tags == {"SeriesDescription": "RVQC patient001 SA ED", "ContentCreatorName": "Dr. Müller"}
    assert "was not written (itkimage2segimage failed)" in opened.panel.message.text
