"""The images that are chosen: only what the user chose, and nothing of another patient when nodes go or a scene comes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from conftest import Panel
from segment_steps import load, pick, small_phantom


def chosen(widget: Any) -> dict[str, str | None]:
    """What the selectors show, which must be what the parameters say."""
    shown = {key: selector.currentNode() for key, selector in widget.panel.inputs.volumes.items()}
    assert shown == widget.logic.parameters.volumes()
    return {key: node and node.GetName() for key, node in shown.items()}


def test_a_volume_that_is_deleted_leaves_no_other_patient_in_its_place(widget: Any, panel: Panel) -> None:
    import slicer

    first = load(widget, small_phantom("first"))
    load(widget, small_phantom("other"))
    load(widget, small_phantom("third"))
    widget.panel.inputs.take(first)
    widget.panel.rest()
    assert chosen(widget)["SA_ED"] == "first SA ED" and widget.panel.run.run.enabled
    for volume in filter(None, first.volumes.values()):
        slicer.mrmlScene.RemoveNode(volume)
        panel.turn()
    assert set(chosen(widget).values()) == {None}
    assert not widget.panel.run.run.enabled
    pick(panel, widget.panel.inputs.volumes["SA_ES"], "other SA ES")
    assert chosen(widget) == dict.fromkeys(widget.panel.inputs.volumes) | {"SA_ES": "other SA ES"}
    assert widget.panel.inputs.study.text == "other", "the results would go under the name of the patient before"
    assert widget.panel.run.run.enabled


def test_a_name_that_was_typed_stays(widget: Any, panel: Panel) -> None:
    load(widget, small_phantom("first"))
    for key in ("SA_ED", "SA_ES"):
        pick(panel, widget.panel.inputs.volumes[key], "None")
    widget.panel.inputs.study.text = ""
    panel.type(widget.panel.inputs.study, "mine")
    pick(panel, widget.panel.inputs.volumes["SA_ED"], "first SA ED")
    assert chosen(widget)["SA_ED"] == "first SA ED" and widget.logic.parameters.study == "mine"


def test_an_imported_scene_leaves_the_choice_alone(widget: Any, panel: Panel, tmp_path: Path) -> None:
    import slicer

    scene = tmp_path / "other.mrml"
    scene.write_text('<MRML version="Slicer5.12"><Text id="vtkMRMLTextNode1" name="something else"></Text></MRML>')
    load(widget, small_phantom("mine"))
    before = chosen(widget)
    slicer.util.loadScene(str(scene), {"clear": False})
    panel.turn()
    assert slicer.util.getNode("something else")
    assert chosen(widget) == before and before["SA_ED"] == "mine SA ED" and widget.panel.run.run.enabled


def test_an_imported_scene_brings_its_choice(widget: Any, panel: Panel, tmp_path: Path) -> None:
    import slicer

    load(widget, small_phantom("brought"))
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(0)
    panel.turn()
    assert set(chosen(widget).values()) == {None}
    slicer.util.loadScene(str(tmp_path / "scene.mrb"), {"clear": False})
    panel.turn()
    assert chosen(widget)["SA_ED"] == "brought SA ED" and widget.panel.inputs.study.text == "brought"


def test_a_scene_without_a_name_gets_none(widget: Any, panel: Panel, tmp_path: Path) -> None:
    """The selectors are set, and tell so; nobody chose anything."""
    import slicer

    load(widget, small_phantom("unnamed"))
    widget.logic.parameters.study = ""
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(0)
    panel.turn()
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    panel.turn()
    assert chosen(widget)["SA_ED"] == "unnamed SA ED"
    assert widget.logic.parameters.study == widget.panel.inputs.study.text == "" and not widget.panel.run.run.enabled


def test_a_study_that_is_shown_is_not_chosen_again(widget: Any, panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    from RVQCSlicerLib.parameters import Parameters

    first, other = load(widget, small_phantom("first")), load(widget, small_phantom("other"))
    taken: list[str] = []
    choose = Parameters.choose
    monkeypatch.setattr(Parameters, "choose", lambda p, *what: (taken.append(what[1]), choose(p, *what)))
    widget.panel.inputs.take(first)
    assert sorted(taken) == ["LA", "LA_ED", "LA_ES", "SA", "SA_ED", "SA_ES"], "once each"
    taken.clear()
    pick(panel, widget.panel.inputs.volumes["SA_ED"], other.volumes["SA_ED"].GetName())
    assert set(taken) == {"SA_ED"} and chosen(widget)["SA_ED"] == "other SA ED"


def test_an_emptied_path_is_the_default_again(widget: Any, panel: Panel, tmp_path: Path) -> None:
    parameters, run = widget.logic.parameters, widget.panel.run
    before = parameters.bundle, parameters.results_folder
    for line, name in ((run.bundle, "bundle"), (run.results, "results_folder")):
        line.currentPath = str(tmp_path)
        assert getattr(parameters, name) == str(tmp_path)
        line.currentPath = ""
        assert getattr(parameters, name) == ""
    assert run.in_use.text == "Bundle: the one that comes with RVQC."
    parameters.bundle, parameters.results_folder = before


@pytest.mark.parametrize(
    "fault", [subprocess.CalledProcessError(1, "pip"), ImportError("no torch"), RuntimeError("no wheel")]
)
def test_a_torch_that_cannot_be_installed_is_said(
    widget: Any, panel: Panel, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    from RVQCSlicerLib import installer

    def refuse(**how: Any) -> None:
        raise fault

    torch_utils = ModuleType("PyTorchUtils")
    torch_utils.PyTorchUtilsLogic = lambda: SimpleNamespace(installTorch=refuse)
    monkeypatch.setitem(sys.modules, "PyTorchUtils", torch_utils)
    monkeypatch.setattr(installer, "TORCH_NEEDS_GB", 0)
    asked = []
    monkeypatch.setattr(widget.logic.worker, "submit", lambda job, *_, **__: asked.append(job))
    widget.panel.setup.missing = ["torch"]
    widget.onInstall()
    assert "torch could not be installed" in widget.panel.message.text and asked == ["check"]


def test_while_torch_is_installed_nothing_else_can_be_started(
    widget: Any, panel: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slicer lives a moment at every line that pip prints, and takes clicks then."""
    import qt

    from RVQCLib.files import RVQCError
    from RVQCSlicerLib import installer
    from RVQCSlicerLib.process import WorkerProcess

    study = load(widget, small_phantom("first"))
    widget.logic.worker.stop()  # it was asked when the panel was opened
    setup, run = widget.panel.setup, widget.panel.run.run
    setup.show({"missing": ["torch"], "problems": ["torch is missing."], "bundle": None})
    other, ends, during = WorkerProcess(), [], []

    def install_torch(**how: Any) -> Any:
        widget.onInstall()
        widget.panel.refresh()
        widget.onCheck()
        other.submit("scan", {"folder": "x"}, done=ends.append)
        with pytest.raises(RVQCError, match="Packages are being installed; wait until that has ended"):
            widget.logic.runQC(saED=study.volumes["SA_ED"])
        during.append((setup.said.text, [b.enabled for b in (setup.check, setup.install, run)]))
        assert qt.QApplication.overrideCursor().shape() == qt.Qt.WaitCursor
        assert not other.running and not widget.logic.worker.running
        return object()

    torch_utils = ModuleType("PyTorchUtils")
    torch_utils.PyTorchUtilsLogic = lambda: SimpleNamespace(installTorch=install_torch)
    monkeypatch.setitem(sys.modules, "PyTorchUtils", torch_utils)
    monkeypatch.setattr(installer, "TORCH_NEEDS_GB", 0)
    asked = []
    monkeypatch.setattr(widget, "_on_checked", lambda outcome: asked.append(outcome.kind))
    panel.click(setup.install)
    assert during == [("Installing; this can take minutes, in which Slicer may not answer.", [False] * 3)]
    assert [end.message for end in ends] == ["Packages are being installed; wait until that has ended."]
    assert run.enabled and qt.QApplication.overrideCursor() is None and setup.said.text == "Looking …"
    panel.wait(lambda: asked)
    assert asked == ["result"] and widget.panel.message.text == ""
    setup.show({"missing": ["torch"], "problems": ["torch is missing."], "bundle": None})
    assert setup.check.enabled and setup.install.enabled
