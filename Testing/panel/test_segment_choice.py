"""What is chosen is what is seen: no image, mask, frame or name of another patient stays behind."""

from __future__ import annotations

from typing import Any

from conftest import Panel
from segment_steps import beats, judged, load, pick, seen, small_phantom, visible_masks


def test_no_mask_lies_over_another_patients_image(widget: Any, panel: Panel) -> None:
    one = load(widget, small_phantom("one")).volumes
    two = load(widget, small_phantom("two")).volumes
    results = [judged({"SA_ED": volumes["SA_ED"]}, name) for name, volumes in (("one", one), ("two", two))]
    for result, name in zip(results, ("one", "two"), strict=True):
        widget.panel.show_result(result)
        assert visible_masks() == [f"{name} SA_ED QC"]
    widget.panel.put_away()
    assert visible_masks() == []


def test_a_result_is_put_away_when_other_images_are_chosen(widget: Any, panel: Panel) -> None:
    other = load(widget, small_phantom("other")).volumes
    mine = load(widget, small_phantom("mine")).volumes
    result = judged({key: mine[key] for key in ("SA_ED", "SA_ES")}, "mine")
    widget.logic.parameters.result = result.node
    widget.panel.refresh()
    widget.panel.inputs.widget.collapsed = False
    pick(panel, widget.panel.inputs.volumes["SA_ES"], "None")
    assert widget.panel.result.node is result.node, "what is chosen is its own"
    pick(panel, widget.panel.inputs.volumes["SA_ES"], "other SA ES")
    assert widget.panel.result is widget.logic.parameters.result is None and visible_masks() == []
    assert not widget.panel.results.visible and seen(widget) is other["SA_ES"]
    assert widget.panel.inputs.study.text == "other", "the results would go under the name of the patient before"


def test_a_cine_can_be_seen_and_another_one_has_its_own_frames(widget: Any, panel: Panel) -> None:
    import slicer

    cines = {name: beats(name) for name in ("first", "second")}
    inputs = widget.panel.inputs
    inputs.cine_box.collapsed = False
    pick(panel, inputs.cines["SA"], "first")
    shown = lambda: slicer.util.arrayFromVolume(seen(widget)).max()  # noqa: E731
    assert shown() == 0
    inputs.frames["SA_ED"].value, inputs.frames["SA_ES"].value = 2, 3
    assert shown() == 2
    result = judged({"SA_ED": seen(widget)}, "first", {"view": "SA", "ed": 1, "es": 2})
    result.set("cine", "SA", cines["first"])
    assert result.is_of(widget.logic.parameters)
    pick(panel, inputs.cines["SA"], "second")
    assert [widget.logic.parameters.frame(f"SA_{phase}") for phase in ("ED", "ES")] == [None, None]
    assert [inputs.frames[f"SA_{phase}"].value for phase in ("ED", "ES")] == [0, 0] and shown() == 0
    assert not result.is_of(widget.logic.parameters)
    inputs.take_frames(result)
    assert widget.logic.parameters.frame("SA_ED") is None, "those were another cine's"
