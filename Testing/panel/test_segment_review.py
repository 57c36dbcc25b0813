"""Decisions on a result that is made by hand, without a run: what is shown, what is accepted, what lies on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Panel

from RVQCLib.files import sha256
from RVQCLib.reviews import read_reviews

SHAPE = (3, 40, 44)
MEASURES = {"predicted_dice": 0.9, "lower_bound_90": 0.8, "pDC": 0.9, "pHD_mm": 5.0, "agreement": 0.9}


def heart(side: int) -> np.ndarray:
    """Labels whose RV is `side` pixels wide."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[:, 8:28, 24:40], labels[:, 12:24, 28:36], labels[:, 10:26, 22 - side : 22] = 2, 1, 3
    return labels


def stack_of(key: str, folder: Path, sides: tuple[int, ...]) -> dict[str, Any]:
    """The entry of quality.json of a trusted stack, with its files: the mask is that of the first of two candidates."""
    from RVQCLib.images import write_mask
    from RVQCLib.stack import Geometry, Stack

    view, phase = key.split("_")
    for end, side in zip(
        ("", "_reconstruction", "_candidate1", "_candidate2"), (sides[0], *sides[:1], *sides), strict=True
    ):
        mask = Stack(heart(side), Geometry(spacing=(1.5, 1.5, 9.0)), view, phase)
        write_mask(mask, folder / f"case_{key}{end}.nii.gz")
    slices = [{"index": i, "position": "mid", "flag": i == 1, "reasons": ["odd"] if i == 1 else []} for i in range(3)]
    return {
        "view": view, "phase": phase, "mask": f"case_{key}.nii.gz", "selected": [0], "verdict": "trusted", "ood": False,
        "reasons": [], "slices": slices, "structures": dict.fromkeys(("RV", "LV", "MYO"), MEASURES), "fences": {},
        "candidates": [{"network": "BN1"}, {"network": "BN2"}], "image": {"file": "", "frame": None, "sha256": "0" * 64},
    }  # fmt: skip


@pytest.fixture
def shown(widget: Any, panel: Panel, tmp_path: Path) -> Any:
    """`shown(checks)` brings up a study of SA ED and ES and of LA ED, of which only the checks can be bad."""

    def show(*checks: str) -> Any:
        from RVQCLib.stack import Geometry, Stack
        from RVQCSlicerLib import overlays
        from RVQCSlicerLib.results import Result
        from RVQCSlicerLib.scene import add_volume

        folder = tmp_path / "out" / "case"
        folder.mkdir(parents=True, exist_ok=True)
        sides = {"SA_ED": (14, 10), "SA_ES": (8, 6), "LA_ED": (14, 10)}
        stacks = [stack_of(key, folder, both) for key, both in sides.items()]
        quality = {"study": "case", "bundle": {"name": "b", "hash": "1" * 64}, "cine": [], "checks": [*checks]}
        result = Result.create({**quality, "stacks": stacks}, str(folder))
        for key in result.stacks:
            image = Stack(np.zeros(SHAPE, np.float32), Geometry(spacing=(1.5, 1.5, 9.0)), *key.split("_"))
            result.set("volume", key, add_volume(image, key))
            for _ in overlays.build(result, key):
                pass
        widget.logic.parameters.result, widget.logic.parameters.reviewer = result.node, "Dr. Müller"
        widget.panel.show_result(result)
        widget.panel.show_stack("SA_ED")
        panel.turn()
        return widget.panel

    return show


def decide(panel: Panel, ui: Any, kind: str) -> None:
    panel.click(ui.review.buttons[kind])
    assert ui.message.text == ""


def accepted_file(tmp_path: Path, key: str = "SA_ED") -> Path:
    return tmp_path / "out" / "accepted" / f"case_{key}.nii.gz"


def pixels(path: Path) -> np.ndarray:
    from RVQCLib.images import read_mask

    return read_mask(path, view="SA", phase="ED").pixels


def draw(final: Any, volume: Any) -> None:
    import slicer

    drawn = np.zeros(SHAPE, np.uint8)
    drawn[:, 2:7, 2:7] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(drawn, final, "RV", volume)


def finals() -> dict[str, bool]:
    """The names of the segmentations that are no overlays, and whether they are shown."""
    import slicer

    nodes = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    return {n.GetName(): bool(n.GetDisplayNode().GetVisibility()) for n in nodes if not n.GetName().endswith(" QC")}


def test_what_is_accepted_is_what_is_shown(shown: Any, panel: Panel, tmp_path: Path) -> None:
    """Also where another mask was accepted before; hand's edits of that one are kept."""
    from RVQCSlicerLib.self_test import visible_segments

    ui = shown()
    decide(panel, ui, "accepted")
    assert np.array_equal(pixels(accepted_file(tmp_path)), heart(14)) and finals() == {"case SA ED": True}
    assert ui.overlay.candidate.itemText(0) == "final segmentation"
    ui.overlay.candidate.currentIndex = 2
    assert "another mask than QC judged" in ui.review.state.text
    assert visible_segments(ui.result.get("overlay", "SA_ED")) == {"candidate2.RV", "candidate2.LV", "candidate2.MYO"}
    decide(panel, ui, "accepted")
    assert np.array_equal(pixels(accepted_file(tmp_path)), heart(10)) and finals() == {"case SA ED": True}
    assert ui.overlay.candidate.currentIndex == 0 and not visible_segments(ui.result.get("overlay", "SA_ED"))
    draw(ui.result.get("accepted", "SA_ED"), ui.result.get("volume", "SA_ED"))
    ui.overlay.candidate.currentIndex = 1
    decide(panel, ui, "accepted")
    assert np.array_equal(pixels(accepted_file(tmp_path)), heart(14))
    assert finals() == {"case SA ED": True, "case SA ED (earlier)": False}
    *_, last = read_reviews(tmp_path / "out" / "reviews.jsonl")
    assert last.mask_sha256 == sha256(accepted_file(tmp_path))


def test_what_is_rejected_is_no_longer_accepted(shown: Any, panel: Panel, tmp_path: Path) -> None:
    ui = shown()
    for edited in (False, True):
        decide(panel, ui, "accepted")
        assert accepted_file(tmp_path).is_file()
        if edited:
            draw(ui.result.get("accepted", "SA_ED"), ui.result.get("volume", "SA_ED"))
        decide(panel, ui, "rejected")
        assert not accepted_file(tmp_path).exists() and ui.result.get("accepted", "SA_ED") is None
        assert finals() == ({"case SA ED (rejected)": False} if edited else {})
        assert ui.review.state.text.endswith("rejected by Dr. Müller") and not ui.review.edit.enabled
    decide(panel, ui, "accepted")
    decide(panel, ui, "needs edit")
    assert not accepted_file(tmp_path).exists() and finals()["case SA ED"]
    decide(panel, ui, "accepted")
    accepted_file(tmp_path).write_bytes(b"edited elsewhere")
    decide(panel, ui, "rejected")
    assert [path.read_bytes() for path in (tmp_path / "out" / "edited").iterdir()] == [b"edited elsewhere"]


def test_a_number_has_no_verdict_of_another_mask(shown: Any, panel: Panel) -> None:
    ui = shown()
    for key in ("SA_ED", "SA_ES"):
        panel.click(ui.strip.stack_buttons[key])
        decide(panel, ui, "accepted")
    fraction = lambda: ui.function.widget.item(3, 1).text().splitlines()[1]  # noqa: E731
    assert fraction() == "✓ trusted, accepted"
    draw(ui.result.get("accepted", "SA_ES"), ui.result.get("volume", "SA_ES"))
    panel.wait(lambda: fraction() == "– not judged, edited after acceptance", 10)
    decide(panel, ui, "accepted")
    assert (
        fraction() == "– not judged, accepted" and "another than QC judged" in ui.function.widget.item(3, 1).toolTip()
    )
    assert ui.function.widget.item(0, 1).text().endswith("✓ trusted, accepted")
    assert ui.review.state.text == "SA ES: – another mask than QC judged; accepted by Dr. Müller"


def test_ed_and_es_exchanged_are_not_trusted(shown: Any, panel: Panel) -> None:
    ui = shown("anatomy: SA RV is larger at end-systole than at end-diastole")
    assert ui.banner.text.startswith("Look at it: case\nanatomy: SA RV is larger")
    assert [button.text[0] for button in ui.strip.stack_buttons.values()] == ["▲", "▲", "✓"]
    ui.overlay.candidate.currentIndex = 2
    decide(panel, ui, "accepted")
    assert ui.review.state.text.startswith("SA ED: – another mask")
    decide(panel, ui, "rejected")
    decide(panel, ui, "accepted")
    assert ui.function.widget.item(0, 1).text().endswith("▲ look at it, accepted")


def test_one_slice_has_no_volume(shown: Any, panel: Panel) -> None:
    from RVQCSlicerLib import review

    ui = shown()
    for key in ("SA_ED", "SA_ES"):
        panel.click(ui.strip.stack_buttons[key])
        decide(panel, ui, "accepted")
    assert len(review.function_of(ui.result)) > 1 and ui.function.widget.isVisible()
    for key, left in (("SA_ES", {"ED"}), ("SA_ED", set())):
        del ui.result.stacks[key]["slices"][1:]
        assert {p for q, *_ in review.function_of(ui.result) if q.amount is not None for p in q.phases} == left


def test_a_heart_that_grows_has_no_ejection_fraction(shown: Any, panel: Panel) -> None:
    ui = shown()
    decide(panel, ui, "accepted")
    panel.click(ui.strip.stack_buttons["SA_ES"])
    decide(panel, ui, "needs edit")
    segmentation, volume = ui.result.get("accepted", "SA_ES"), ui.result.get("volume", "SA_ES")
    import slicer

    slicer.util.updateSegmentBinaryLabelmapFromArray(np.ones(SHAPE, np.uint8), segmentation, "RV", volume)
    decide(panel, ui, "accepted")
    assert [ui.function.widget.item(row, 1).text() for row in (2, 3)] == ["– impossible: larger at end-systole"] * 2


def test_a_mask_that_was_edited_before_it_was_accepted_is_tagged_so(shown: Any, panel: Panel) -> None:
    import vtk

    ui, tag = shown(), vtk.reference("")
    for drawn, tagged in ((False, "AUTOMATIC"), (True, "SEMIAUTOMATIC")):
        decide(panel, ui, "needs edit")
        final = ui.result.get("accepted", "SA_ED")
        if drawn:
            draw(final, ui.result.get("volume", "SA_ED"))
        decide(panel, ui, "accepted")
        final.GetSegmentation().GetSegment("RV").GetTag("DICOM.SegmentAlgorithmType", tag)
        assert tag.get() == tagged


def test_a_bundles_caution_is_on_the_view_that_it_is_of(shown: Any) -> None:
    ui = shown("LA: never measured; check every LA mask", "SA ES: slice 2 probably shows the atrium")
    assert [button.text[0] for button in ui.strip.stack_buttons.values()] == ["✓", "✓", "▲"]
    assert ui.banner.text.startswith("Look at it: case\nLA: never measured; check every LA mask")


def test_the_verdict_stands_where_it_is_decided(shown: Any, panel: Panel) -> None:
    ui = shown("LA: check every LA mask")
    assert ui.review.state.text == "SA ED: ✓ trusted, 1 of 3 slices flagged; not reviewed yet"
    panel.click(ui.strip.stack_buttons["LA_ED"])
    assert ui.review.state.text == "LA ED: ▲ look at it, 1 of 3 slices flagged; not reviewed yet"


def test_a_final_segmentation_that_is_deleted_takes_its_numbers_along(shown: Any, panel: Panel) -> None:
    import slicer

    from RVQCSlicerLib.self_test import visible_segments

    ui = shown()
    panel.click(ui.strip.stack_buttons["SA_ES"])
    decide(panel, ui, "accepted")
    slicer.mrmlScene.RemoveNode(ui.result.get("volume", "SA_ES"))
    panel.wait(lambda: not ui.function.widget.isVisible(), 10)
    panel.click(ui.strip.stack_buttons["SA_ED"])
    decide(panel, ui, "accepted")
    assert ui.function.widget.isVisible()
    slicer.mrmlScene.RemoveNode(ui.result.get("accepted", "SA_ED"))
    panel.wait(lambda: "segmentation removed" in ui.review.state.text, 10)
    assert not ui.function.widget.isVisible() and not ui.review.edit.enabled
    assert visible_segments(ui.result.get("overlay", "SA_ED")) == {"mask.RV", "mask.LV", "mask.MYO"}


def test_an_image_that_was_moved_is_not_decided_on(shown: Any, panel: Panel, tmp_path: Path) -> None:
    import slicer
    import vtk

    ui = shown()
    volume, transform = ui.result.get("volume", "SA_ED"), slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 3, 20.0)
    transform.SetMatrixTransformToParent(matrix)
    for node in (volume, ui.result.get("overlay", "SA_ED")):
        node.SetAndObserveTransformNodeID(transform.GetID())
        panel.click(ui.review.buttons["accepted"])
        assert ui.message.text.startswith(f"{node.GetName()} lies under a transform now; take it out of the transform")
        node.SetAndObserveTransformNodeID(None)
    volume.SetAndObserveTransformNodeID(transform.GetID())
    volume.HardenTransform()
    panel.click(ui.review.buttons["accepted"])
    assert ui.message.text == "SA_ED was moved since QC ran; run QC again."
    assert (
        not read_reviews(tmp_path / "out" / "reviews.jsonl") and not accepted_file(tmp_path).exists() and not finals()
    )


def test_a_candidate_that_is_not_there_is_not_chosen(shown: Any, widget: Any, panel: Panel) -> None:
    """A batch writes none, whatever was chosen in the scene before."""
    ui = shown()
    segmentation = ui.result.get("overlay", "SA_ED").GetSegmentation()
    for candidate in (1, 2):
        for name in ("RV", "LV", "MYO"):
            segmentation.RemoveSegment(f"candidate{candidate}.{name}")
    widget.logic.parameters.candidate = 2
    ui.show_stack("SA_ED")
    assert widget.logic.parameters.candidate == 0 and ui.overlay.candidate.count == 1
