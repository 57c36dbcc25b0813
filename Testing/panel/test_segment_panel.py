"""The panel as a clinician uses it: load, Run QC, look, switch, decide, save, open again; and everything that can go wrong.

The worker is the real one with the shipped bundle. A run takes as long as the networks need, so one run of a real study
serves all tests that only look: it is saved as a scene and opened again, which is a test in itself.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY, Panel

ACDC = REPOSITORY.parent / "shared" / "data" / "acdc" / "training"
RUN_S = 240
"""How long a run may take on a busy machine."""

SPARE_NONES = [None] * 5_000_000
"""PySide6 6.12 takes one reference from None at every call of a static void function, such as processEvents; without
spare ones a long wait ends the process."""
ctypes.pythonapi.Py_IncRef(ctypes.py_object(SPARE_NONES))  # never freed, or the references would be missing at the end


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles of tiny networks with random weights, for "SA LA" and for "SA": what is judged is nonsense, but fast."""
    folder = tmp_path_factory.mktemp("Bündel mit Leerzeichen")
    code = (
        "import importlib.util, pathlib, sys\n"
        "spec = importlib.util.spec_from_file_location('tiny', sys.argv[1])\n"
        "tiny = importlib.util.module_from_spec(spec); spec.loader.exec_module(tiny)\n"
        "for views in ('SA LA', 'SA'):\n"
        "    tiny.write_tiny_bundle(pathlib.Path(sys.argv[2]) / views, views=tuple(views.split()))\n"
    )
    maker = str(REPOSITORY / "Testing" / "engine" / "conftest.py")
    command = [sys.executable, "-c", code, maker, str(folder)]
    subprocess.run(command, cwd=REPOSITORY / "RVQCSegment", check=True)
    return {views: folder / views for views in ("SA LA", "SA")}


@pytest.fixture
def widget(panel: Panel, tmp_path: Path, bundles: dict[str, Path]) -> Iterator[Any]:
    """The panel, opened, with a fast bundle and results going to a folder with a space and an umlaut."""
    opened = panel.open("RVQCSegment")
    opened.logic.parameters.results_folder = str(tmp_path / "Ergebnisse für uns")
    opened.logic.parameters.bundle = str(bundles["SA LA"])
    opened.panel.refresh()
    yield opened
    opened.onCancel()
    panel.turn()


def small_phantom(name: str = "Phantom Ü 1", slices: int = 2, views: tuple[str, ...] = ("SA",)) -> Any:
    """A phantom study whose SA stacks have their middle slices only, so that a run is short."""
    from RVQCLib.phantom import phantom_study

    study = phantom_study(6, views=views, name=name)
    stacks = []
    for stack in study.stacks:
        first = max((len(stack.pixels) - slices) // 2, 0)
        origin = (
            np.array(stack.geometry.origin)
            + first * stack.geometry.spacing[2] * np.reshape(stack.geometry.direction, (3, 3))[:, 2]
        )
        place = replace(stack.geometry, origin=tuple(origin))
        stacks.append(replace(stack, pixels=stack.pixels[first : first + slices], geometry=place))
    return replace(study, stacks=tuple(stacks), labels=())


def load(widget: Any, study: Any) -> Any:
    """Bring a study of the engine into the scene and choose it."""
    from RVQCSlicerLib.loading import add_study

    loaded = add_study(study, "a phantom")
    widget.panel.inputs.take(loaded)
    widget.panel.rest()
    return loaded


def finish(panel: Panel, widget: Any) -> None:
    panel.wait(lambda: widget._run is None, RUN_S)


def scene_names() -> list[str]:
    import slicer

    return sorted(
        node.GetName() for node in slicer.util.getNodes("*", useLists=False).values() if not node.GetHideFromEditors()
    )


def visible_segments(node: Any) -> set[str]:
    if not node.GetDisplayNode().GetVisibility():
        return set()
    segmentation, display = node.GetSegmentation(), node.GetDisplayNode()
    names = [segmentation.GetNthSegmentID(i) for i in range(segmentation.GetNumberOfSegments())]
    return {name for name in names if display.GetSegmentVisibility(name)}


# ---- one real study, from the click to the saved scene


@dataclass(frozen=True)
class Finished:
    """A run of a real study: its saved scene, what was seen meanwhile, and where the results are."""

    scene: Path
    results: Path
    progress: tuple[str, ...]
    longest_block: float
    seconds: float


@pytest.fixture(scope="module")
def finished(host: Any, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Load an ACDC study by the button, run, accept SA ED by its key, save."""
    if not ACDC.is_dir():
        pytest.skip(f"the ACDC patients are not here ({ACDC})")
    import slicer

    folder = tmp_path_factory.mktemp("wirklich echt")
    panel = Panel(host, folder)
    slicer.mrmlScene.Clear(0)
    widget = panel.open("RVQCSegment")
    widget.logic.parameters.results_folder = str(folder / "results")
    panel.answers.paths.append(str(ACDC / "patient001"))
    panel.click(child(widget, "RVQCLoadFolder"))
    warm(panel, widget)
    panel.click(widget.panel.run.run)
    seen, began = [], time.monotonic()
    with panel.watch() as blocks:
        while widget._run is not None and time.monotonic() - began < RUN_S:
            panel.app.processEvents()
            if not seen or seen[-1] != widget.panel.run.said.text:
                seen.append(widget.panel.run.said.text)
            time.sleep(0.002)
    seconds = time.monotonic() - began
    assert widget.panel.message.text == ""
    widget.logic.parameters.reviewer = "Dr. Müller"
    widget.panel.show_review()
    widget.panel.show_stack("SA_ED")
    widget.panel.review.note.text = "fine at the base"
    press(panel, panel.window, "Return", control=True)
    slicer.util.saveScene(str(folder / "szene.mrb"))
    slicer.mrmlScene.Clear(0)
    return Finished(folder / "szene.mrb", folder / "results", tuple(seen), blocks.longest, seconds)


@pytest.fixture
def opened(finished: Finished, widget: Any, panel: Panel) -> Any:
    """The panel with the saved scene of the real study opened in it."""
    import slicer

    slicer.util.loadScene(str(finished.scene))
    panel.turn()
    return widget


def child(widget: Any, name: str) -> Any:
    import slicer

    return slicer.util.findChild(widget.panel.widget, name)


def warm(panel: Panel, widget: Any) -> dict:
    """Have the worker started and looked at, as opening the panel does."""
    widget.onCheck()
    panel.wait(lambda: widget.panel.setup.check.enabled, RUN_S)
    return widget.panel.setup.said.text


def press(panel: Panel, where: Any, key: str, *, control: bool = False) -> None:
    import qt

    panel.press(where, getattr(qt.Qt, f"Key_{key}"), qt.Qt.ControlModifier if control else None)


def test_progress_is_real(finished: Finished) -> None:
    steps = [text for text in finished.progress if " steps, " in text]
    assert any(text.startswith("patient001 SA ED: 10 of 80 steps, ") for text in steps)
    assert any(text.startswith("patient001 SA ES: 70 of 80 steps, ") for text in steps)
    assert finished.progress[0] == "starting the worker"


@pytest.mark.xfail(
    reason="blocks above 100 ms were seen when the first networks load or the result comes in; to be found"
)
def test_nothing_blocks_the_event_loop(finished: Finished) -> None:
    # On a machine that others load the processor is taken away for longer than anything here takes.
    limit = 0.1 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    assert finished.longest_block < limit, f"{finished.longest_block:.3f} s of {finished.seconds:.1f} s"


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
    assert "Look at it: patient001" in opened.panel.banner.text and "SA ED" in opened.panel.banner.text
    assert opened.panel.review.state.text == "SA ED: accepted by Dr. Müller"
    final = slicer.util.getNode("patient001 SA ED")
    names = [final.GetSegmentation().GetNthSegment(i).GetName() for i in range(3)]
    assert names == ["RV cavity", "LV cavity", "LV myocardium"]
    overlay = result.get("overlay", "SA_ES")
    assert overlay.GetSegmentation().GetNumberOfSegments() == 3 + 3 + 1 + 3 * len(result.stacks["SA_ES"]["candidates"])
    assert len(opened.panel.strip.tiles) == 10
    assert opened.logic.parameters.reviewer == "Dr. Müller"


def test_the_banner_names_reason_and_place(opened: Any) -> None:
    text = opened.panel.banner.text
    worst = {stack["verdict"] for stack in opened.panel.result.stacks.values()}
    assert "look" in worst and text.startswith("Look at it")
    assert "of 10 slices flagged" in text


def test_a_click_on_a_tile_goes_there_and_scrolling_follows(opened: Any, panel: Panel) -> None:
    import slicer

    strip, viewer = opened.panel.strip, opened.panel.viewer
    panel.click(strip.tiles[6])
    assert strip.current == 6 and viewer._index_shown() == 6 and strip.reasons.startswith("Slice 7 of 10")
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
    assert opened.panel.review.state.text == "SA ED: accepted by Dr. Müller"
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
    assert opened.panel.review.state.text == "SA ES: rejected by Eva"
    assert not [
        node for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if node.GetName() == "patient001 SA ES"
    ]
    assert (finished.results / "reviews.jsonl").read_bytes().startswith(before)


def test_needs_edit_makes_what_the_editor_edits(opened: Any, panel: Panel) -> None:
    import slicer

    panel.click(opened.panel.strip.stack_buttons["SA_ES"])
    assert not opened.panel.review.edit.enabled
    panel.click(opened.panel.review.buttons["needs edit"])
    assert opened.panel.review.edit.enabled and opened.panel.review.state.text.startswith("SA ES: needs edit by")
    assert slicer.util.getNode("patient001 SA ES").GetSegmentation().GetNumberOfSegments() == 3


def test_a_decision_that_cannot_be_recorded_changes_nothing(opened: Any, panel: Panel, tmp_path: Path) -> None:
    (tmp_path / "in the way").write_text("a file")
    opened.panel.result.node.SetAttribute("RVQC.Folder", "")
    opened.logic.parameters.results_folder = str(tmp_path / "in the way")
    panel.click(opened.panel.strip.stack_buttons["SA_ES"])
    panel.click(opened.panel.review.buttons["accepted"])
    assert "in the way" in opened.panel.message.text
    assert opened.panel.result.get("accepted", "SA_ES") is None and not opened.panel.result.decision("SA_ES")


# ---- short runs, and what can go wrong


@pytest.mark.parametrize("views", ["SA LA", "SA"])
def test_a_study_of_both_views(widget: Any, panel: Panel, bundles: dict[str, Path], views: str) -> None:
    import slicer

    widget.logic.parameters.bundle = str(bundles[views])
    load(widget, small_phantom(views=("SA", "LA")))
    assert [widget.panel.inputs.volumes[key].currentNode().GetName() for key in ("SA_ED", "LA_ES")] == [
        "Phantom Ü 1 SA ED",
        "Phantom Ü 1 LA ES",
    ]
    panel.click(widget.panel.run.run)
    finish(panel, widget)
    assert widget.panel.message.text == ""
    result = widget.panel.result
    assert list(result.stacks) == [f"{view}_{phase}" for view in views.split() for phase in ("ED", "ES")]
    assert ("LA was left out" in widget.panel.banner.text) == (views == "SA")
    for key in result.stacks:
        panel.click(widget.panel.strip.stack_buttons[key])
        logic = slicer.app.layoutManager().sliceWidget(widget.panel.viewer.view_name).sliceLogic()
        normal = np.array([logic.GetSliceNode().GetSliceToRAS().GetElement(row, 2) for row in range(3)])
        from RVQCSlicerLib.scene import matrix_of

        axis = matrix_of(result.get("volume", key))[:3, 2]
        assert abs(normal @ axis) / np.linalg.norm(axis) > 0.999
        assert logic.GetBackgroundLayer().GetVolumeNode() is result.get("volume", key)
    folder = Path(result.folder)
    assert folder.parent.name == "Ergebnisse für uns" and (folder / "report.html").is_file()


def test_cancel_within_two_seconds_and_run_again(widget: Any, panel: Panel) -> None:
    load(widget, small_phantom(slices=8))
    before = scene_names()
    panel.click(widget.panel.run.run)
    panel.wait(lambda: " steps, " in widget.panel.run.said.text, RUN_S)
    asked = time.monotonic()
    panel.click(widget.panel.run.cancel)
    panel.wait(lambda: not widget.logic.worker.busy, 10)
    assert time.monotonic() - asked < 2.0
    assert widget.panel.message.text == "Cancelled; the scene is as before." and scene_names() == before
    assert widget.panel.run.run.enabled and not widget.panel.run.cancel.visible
    load(widget, small_phantom("again", slices=1))
    panel.click(widget.panel.run.run)
    finish(panel, widget)
    assert widget.panel.result is not None and widget.panel.message.text == ""


def test_cancel_while_the_worker_loads(widget: Any, panel: Panel) -> None:
    load(widget, small_phantom())
    widget.logic.worker.stop()
    panel.click(widget.panel.run.run)
    panel.wait(lambda: widget.logic.worker.busy, RUN_S)
    asked = time.monotonic()
    panel.click(widget.panel.run.cancel)
    panel.wait(lambda: not widget.logic.worker.busy, 10)
    assert time.monotonic() - asked < 2.0 and widget._run is None


def test_a_cine_is_judged_and_its_frames_are_shown(widget: Any, panel: Panel) -> None:
    from RVQCSlicerLib.loading import add_study

    study = small_phantom("beat", slices=1)
    ed, es = study.stacks
    frames = tuple(replace(stack, phase="") for stack in (es, ed, ed, es, es))
    widget.panel.inputs.take(add_study(replace(study, stacks=(), cines=(frames,)), "a cine"))
    widget.panel.rest()
    assert widget.panel.inputs.frames["SA_ED"].value == 0
    panel.click(widget.panel.run.run)
    finish(panel, widget)
    assert widget.panel.message.text == ""
    (found,) = widget.panel.result.quality["cine"]
    assert widget.panel.inputs.frames["SA_ED"].value == found["ed"] + 1
    import slicer

    frame = slicer.util.arrayFromVolume(widget.panel.result.get("volume", "SA_ED"))
    assert np.array_equal(frame, frames[found["ed"]].pixels)
    widget.panel.inputs.frames["SA_ES"].value = 1
    assert widget.logic.parameters.frame("SA_ES") == 0


def test_a_volume_deleted_while_running(widget: Any, panel: Panel) -> None:
    import slicer

    loaded = load(widget, small_phantom(slices=1))
    panel.click(widget.panel.run.run)
    panel.wait(lambda: " steps, " in widget.panel.run.said.text, RUN_S)
    slicer.mrmlScene.RemoveNode(loaded.volumes["SA_ES"])
    before = scene_names()
    finish(panel, widget)
    assert "The volume of SA ES was removed while QC ran" in widget.panel.message.text
    assert scene_names() == before and widget.panel.result is None


def test_the_scene_closed_while_running(widget: Any, panel: Panel) -> None:
    import slicer

    load(widget, small_phantom(slices=4))
    panel.click(widget.panel.run.run)
    panel.wait(lambda: " steps, " in widget.panel.run.said.text, RUN_S)
    slicer.mrmlScene.Clear(0)
    panel.turn()
    assert widget._run is None and "The scene was closed" in widget.panel.message.text
    panel.wait(lambda: not widget.logic.worker.busy, 10)
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == [] and widget.panel.result is None


def test_two_runs_at_once_are_refused(widget: Any, panel: Panel) -> None:
    from RVQCLib.files import RVQCError

    loaded = load(widget, small_phantom(slices=4))
    panel.click(widget.panel.run.run)
    assert not widget.panel.run.run.enabled
    with pytest.raises(RVQCError, match="The QC run of Phantom Ü 1 is going on"):
        widget.logic.runQC(saED=loaded.volumes["SA_ED"], results=widget.logic.parameters.results_folder)
    panel.click(widget.panel.run.cancel)


def test_a_crash_of_the_worker_is_one_sentence_with_a_log(widget: Any, panel: Panel) -> None:
    load(widget, small_phantom(slices=4))
    before = scene_names()
    panel.click(widget.panel.run.run)
    panel.wait(lambda: " steps, " in widget.panel.run.said.text, RUN_S)
    os.kill(widget.logic.worker._pid, signal.SIGKILL)
    finish(panel, widget)
    assert widget.panel.message.text.startswith("The worker process ended unexpectedly") and scene_names() == before
    assert not widget.panel.message.log.visible
    panel.click(widget.panel.message.show_log)
    assert widget.panel.message.log.visible and widget.panel.message.log.plainText
    panel.click(widget.panel.message.close)
    assert widget.panel.message.text == ""
    assert warm(panel, widget).startswith("✓ torch")


def test_a_bundle_that_is_missing(widget: Any, panel: Panel, tmp_path: Path) -> None:
    load(widget, small_phantom(slices=1))
    widget.panel.run.bundle.currentPath = str(tmp_path / "no bundle")
    assert warm(panel, widget).startswith("▲") and "no bundle" in widget.panel.setup.said.text
    panel.click(widget.panel.run.run)
    finish(panel, widget)
    assert "no bundle is no bundle" in widget.panel.message.text and widget.panel.result is None


def test_a_volume_under_a_transform_is_hardened_on_consent(widget: Any, panel: Panel) -> None:
    import slicer
    import vtk

    loaded = load(widget, small_phantom(slices=1))
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 3, 12.5)
    transform.SetMatrixTransformToParent(matrix)
    volume = loaded.volumes["SA_ED"]
    x = volume.GetOrigin()[0]
    volume.SetAndObserveTransformNodeID(transform.GetID())
    panel.click(widget.panel.run.run)
    assert "Phantom Ü 1 SA ED lies under a transform" in widget.panel.message.text and widget._run is None
    assert volume.GetParentTransformNode() is transform
    panel.click(widget.panel.message.help)
    assert volume.GetParentTransformNode() is None and volume.GetOrigin()[0] == pytest.approx(x + 12.5)
    finish(panel, widget)
    assert widget.panel.result is not None


def test_a_name_that_cannot_be_a_folder_is_refused(widget: Any, panel: Panel) -> None:
    load(widget, small_phantom())
    widget.panel.inputs.study.text = ""
    panel.type(widget.panel.inputs.study, "../a")
    panel.click(widget.panel.run.run)
    assert "cannot name a study's folder" in widget.panel.message.text and widget._run is None


def test_without_torch_the_panel_says_so(
    widget: Any, panel: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide = (
        "import importlib.metadata as m, sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch': raise ModuleNotFoundError('No module named torch', name='torch')\n"
        "sys.meta_path.insert(0, Hidden())\n"
        "real = m.version\n"
        "def version(name):\n"
        "    if name == 'torch': raise m.PackageNotFoundError(name)\n"
        "    return real(name)\n"
        "m.version = version\n"
    )
    (tmp_path / "sitecustomize.py").write_text(hide)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    widget.logic.worker.stop()
    load(widget, small_phantom())
    assert warm(panel, widget).startswith("▲ torch cannot be found") and widget.panel.setup.install.visible
    panel.click(widget.panel.run.run)
    finish(panel, widget)
    assert "torch is not installed" in widget.panel.message.text
    asked: list[Any] = []

    class Utils:
        def installTorch(self, askConfirmation: bool, torchVersionRequirement: str) -> None:
            asked.append((askConfirmation, torchVersionRequirement))

    monkeypatch.setitem(sys.modules, "PyTorchUtils", SimpleNamespace(PyTorchUtilsLogic=Utils))
    panel.click(widget.panel.setup.install)
    assert asked == [(True, ">=2.8")] and "torch was not installed" in widget.panel.message.text
    widget.logic.worker.stop()


def test_packages_are_installed_by_slicers_packaging(
    monkeypatch: pytest.MonkeyPatch, panel: Panel, tmp_path: Path
) -> None:
    import slicer

    from RVQCLib.files import RVQCError
    from RVQCSlicerLib.installer import install

    requirements = REPOSITORY / "RVQCSegment" / "Resources" / "requirements.txt"
    named = {line.split(">")[0] for line in requirements.read_text().splitlines() if line and not line.startswith("#")}
    assert named == {"safetensors", "Jinja2"}
    asked: list[Any] = []
    fake = SimpleNamespace(
        load_requirements=lambda path: path, pip_ensure=lambda what, requester: asked.append((what, requester))
    )
    monkeypatch.setattr(slicer, "packaging", fake, raising=False)
    install(["safetensors"], str(requirements))
    assert asked == [(str(requirements), "RVQC")]

    def refuse(what: Any, requester: str) -> None:
        raise RuntimeError("User declined package installation")

    fake.pip_ensure = refuse
    with pytest.raises(RVQCError, match="Nothing was installed"):
        install(["jinja2"], str(requirements))
    with pytest.raises(RVQCError, match="belong to Slicer itself"):
        install(["numpy"], str(requirements))
    with pytest.raises(RVQCError, match="the extension that installs it"):
        install(["torch"], str(requirements))
    assert len(asked) == 1


def test_the_module_is_reloaded(widget: Any, panel: Panel) -> None:
    import slicer

    load(widget, small_phantom(slices=4))
    panel.click(widget.panel.run.run)
    slicer.util.reloadScriptedModule("RVQCSegment")
    panel.turn()
    again = slicer.util.getModuleWidget("RVQCSegment")
    assert again is not widget and widget._run is None
    assert again.panel.inputs.study.text == "Phantom Ü 1"
    assert again.panel.run.run.enabled and not again.logic.worker.occupied


def test_the_console_call_waits_or_not(widget: Any, panel: Panel, tmp_path: Path) -> None:
    import slicer

    from RVQCLib.files import RVQCError

    loaded = load(widget, small_phantom("console", slices=1))
    logic = slicer.util.getModuleLogic("RVQCSegment")
    volume = loaded.volumes["SA_ED"]
    where = {"results": str(tmp_path), "bundle": widget.logic.parameters.bundle}
    result = logic.runQC(saED=volume, **where)
    assert result.study == "console" and list(result.stacks) == ["SA_ED"]
    assert result.get("overlay", "SA_ED").GetName() == "console SA ED QC"
    ends: list[Any] = []
    logic.runQC(saED=volume, **where, wait=False, done=ends.append)
    assert ends == []
    panel.wait(lambda: ends, RUN_S)
    assert ends[0].study == "console"
    overlays = [n.GetName() for n in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")]
    assert overlays == ["console SA ED QC"], "a new run replaces what the last one showed"
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "cine")
    with pytest.raises(RVQCError, match="is a cine of several frames"):
        logic.runQC(saED=sequence)
    with pytest.raises(RVQCError, match="No image is chosen"):
        logic.runQC()


def test_sample_data_is_made_on_the_spot(widget: Any, panel: Panel) -> None:
    import SampleData

    names = [source.sampleName for source in SampleData.SampleDataLogic.sampleDataSourcesByCategory("RVQC")]
    assert names == ["RVQC phantom, sound", "RVQC phantom, spoilt"]
    logic = SampleData.SampleDataLogic()
    nodes = logic.downloadFromSource(logic.sourceForSampleName("RVQC phantom, spoilt"))
    assert [node.GetName() for node in nodes] == [f"spoilt {v} {p}" for v in ("SA", "LA") for p in ("ED", "ES")]


def test_the_self_test_of_the_module(panel: Panel) -> None:
    import RVQCSegment

    RVQCSegment.RVQCSegmentTest().runTest()


def test_nothing_heavy_is_loaded_at_start(widget: Any) -> None:
    code = (
        f"import sys; sys.path[:0] = [{str(REPOSITORY / 'Testing')!r}, {str(REPOSITORY / 'RVQCSegment')!r}]\n"
        "from pathlib import Path\nfrom host.start import start\n"
        f"start(testing=True, modules=(Path({str(REPOSITORY / 'RVQCSegment' / 'RVQCSegment.py')!r}),))\n"
        "import os; print(sorted({'torch', 'SimpleITK', 'jinja2', 'RVQCLib.pipeline'} & set(sys.modules)), flush=True)\n"
        "os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("[]"), done.stdout + done.stderr
