"""A module in the manner of Slicer's template, unchanged on the host: .ui file, clicks, scene, reload, self test."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from host import start

MODULE = Path(__file__).parent / "template" / "HostTemplate.py"


@pytest.fixture
def template(panel: Any) -> Any:
    """The widget of the template module, opened."""
    import slicer

    if not slicer.util.getNodes("NoSuchNode*") and "HostTemplate" not in slicer.util.moduleNames():
        start.load(MODULE)
        panel.app.startupCompleted.emit()
    return panel.open("HostTemplate")


def add_volume(name: str) -> Any:
    import numpy as np
    import slicer

    return slicer.util.addVolumeFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4), name=name)


def test_the_module_is_known_by_its_metadata(template: Any) -> None:
    import slicer

    module = slicer.modules.hosttemplate
    assert (module.title, module.name, module.path) == ("Host template", "HostTemplate", str(MODULE))
    assert list(module.categories) == ["Examples"]
    assert slicer.modules.hosttemplateStarted
    assert slicer.modules.HostTemplateWidget is template


def test_a_click_computes_what_the_selectors_say(panel: Any, template: Any) -> None:
    import slicer

    assert not template.ui.applyButton.enabled
    volume = add_volume("v")
    template.ui.inputSelector.setCurrentNode(volume)
    assert template.ui.applyButton.enabled and template.ui.applyButton.toolTip == "Compute"
    assert template.ui.thresholdSlider.value == pytest.approx(3.5)
    panel.click(template.ui.applyButton)
    assert template.ui.resultLabel.text == "20"  # 4 … 23 of 0 … 23
    assert template.logic.getParameterNode().GetParameter("Threshold") == "3.5"
    slicer.mrmlScene.RemoveNode(volume)
    assert template.ui.inputSelector.currentNode() is None and not template.ui.applyButton.enabled


def test_a_removed_node_leaves_its_neighbour_in_its_place(panel: Any, template: Any) -> None:
    import slicer

    selector, told, chosen = template.ui.inputSelector, [], []
    first, second, third = (add_volume(name) for name in ("first", "second", "third"))
    selector.setCurrentNode(second)
    selector.connect("currentNodeChanged(vtkMRMLNode*)", told.append)
    selector.connect("nodeActivated(vtkMRMLNode*)", chosen.append)
    slicer.mrmlScene.RemoveNode(second)
    assert selector.currentNode() is third
    slicer.mrmlScene.RemoveNode(third)
    assert selector.currentNode() is first
    assert told == [third, first] and chosen == []


def test_a_node_that_is_set_is_told_as_if_it_had_been_chosen(panel: Any, template: Any) -> None:
    """As in Slicer, whose setCurrentNode presses Enter in the list of the combo box, but not for None."""
    selector, chosen = template.ui.inputSelector, []
    first, second = add_volume("first"), add_volume("second")
    selector.setCurrentNode(first)
    selector.connect("nodeActivated(vtkMRMLNode*)", chosen.append)
    for node in (first, second, second, None):
        selector.setCurrentNode(node)
    assert chosen == [second]


def test_a_handler_that_raises_shows_one_error(panel: Any, template: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    template.ui.inputSelector.setCurrentNode(add_volume("v"))
    monkeypatch.setattr(template.logic, "process", lambda volume, threshold: 1 / 0)
    panel.click(template.ui.applyButton)
    (text,) = panel.answers.texts("error")
    assert text.startswith("Failed to compute results.") and "division by zero" in text
    assert isinstance(panel.raised.pop(), ZeroDivisionError)  # and the console has it, as in Slicer


def test_a_section_folds_by_a_click_on_its_header(panel: Any, template: Any) -> None:
    section = template.ui.inputsCollapsibleButton
    assert not section.collapsed and template.ui.inputSelector.visible
    panel.click(section, (30, 8))
    assert section.collapsed and not template.ui.inputSelector.visible
    panel.click(section, (30, 8))
    assert not section.collapsed and template.ui.inputSelector.visible


def test_the_selector_follows_the_scene(panel: Any, template: Any) -> None:
    import slicer

    selector = template.ui.inputSelector
    assert selector.nodeCount() == 0
    first, second = add_volume("first"), add_volume("second")
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    assert [selector.nodeFromIndex(i).GetName() for i in range(selector.nodeCount())] == ["first", "second"]
    selector.addAttribute("vtkMRMLScalarVolumeNode", "phase", "ED")
    assert selector.nodeCount() == 0
    second.SetAttribute("phase", "ED")
    selector.setMRMLScene(None)
    selector.setMRMLScene(slicer.mrmlScene)
    assert selector.nodeFromIndex(0) is second and first is not second
    selector._attributes.clear()


def test_reload_gives_new_code_and_cleans_up(panel: Any, template: Any) -> None:
    import slicer

    source = sys.modules["HostTemplate"]
    slicer.util.reloadScriptedModule("HostTemplate")
    panel.turn()
    fresh = slicer.util.getModuleWidget("HostTemplate")
    assert sys.modules["HostTemplate"] is not source and fresh is not template
    assert template.events[-1] == "cleanup" and not template.Observations
    assert fresh.events == [] and fresh.parent.isEntered and fresh.ui.applyButton.visible
    slicer.mrmlScene.Clear(0)
    assert fresh.events == ["closing"] and "closing" not in template.events[-1:]


def test_the_self_test_runs_and_can_fail(panel: Any, template: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import slicer

    slicer.selfTests["HostTemplate"]()
    logic = sys.modules["HostTemplate"].HostTemplateLogic
    monkeypatch.setattr(logic, "process", lambda self, volume, threshold: 0)
    with pytest.raises(AssertionError):
        slicer.selfTests["HostTemplate"]()
