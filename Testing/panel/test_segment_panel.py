"""The panel with short runs of small studies, and everything that can go wrong. The worker is the real one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import unittest
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY, Panel
from segment_steps import RUN_S, beats, finish, load, put_under, scene_names, small_phantom, warm

from host import application


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
    load(widget, small_phantom("again"))
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

    study = small_phantom("beat")
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


def test_frames_of_a_cine_lie_where_it_lies_and_go_with_their_result(widget: Any, panel: Panel) -> None:
    import slicer

    from RVQCSlicerLib.hierarchy import INSTANCES
    from RVQCSlicerLib.scene import show_frame

    cine = beats("beat")
    for number in range(3):
        cine.GetNthDataNode(number).SetAttribute(INSTANCES, f"1.2.{number}")
    study = put_under("17", show_frame(cine, 0))
    widget.panel.inputs.choose("cine", "SA", cine)
    widget.panel.inputs.frames["SA_ED"].value, widget.panel.inputs.frames["SA_ES"].value = 1, 3
    before = len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"))
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    for _ in range(2):
        panel.click(widget.panel.run.run)
        finish(panel, widget)
        assert widget.panel.message.text == ""
        volumes = [widget.panel.result.get("volume", key) for key in ("SA_ED", "SA_ES")]
        assert [volume.GetAttribute(INSTANCES) for volume in volumes] == ["1.2.0", "1.2.2"]
        assert {hierarchy.GetItemParent(hierarchy.GetItemByDataNode(volume)) for volume in volumes} == {study}
        assert len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")) == before + 2


def test_a_volume_deleted_while_running(widget: Any, panel: Panel) -> None:
    import slicer

    loaded = load(widget, small_phantom())
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
    load(widget, small_phantom())
    widget.panel.run.bundle.currentPath = str(tmp_path / "no bundle")
    assert warm(panel, widget).startswith("▲") and "no bundle" in widget.panel.setup.said.text
    panel.click(widget.panel.run.run)
    finish(panel, widget)
    assert "no bundle is no bundle" in widget.panel.message.text and widget.panel.result is None


def test_a_volume_under_a_transform_is_hardened_on_consent(widget: Any, panel: Panel) -> None:
    import slicer
    import vtk

    loaded = load(widget, small_phantom())
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
    assert again._open and again.panel.shortcuts._installed and again.panel.setup.said.text != "Not looked at yet."


def test_an_application_that_is_too_old_is_told_so(widget: Any, panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    import slicer

    from RVQCLib.files import RVQCError
    from RVQCSlicerLib import installer

    with monkeypatch.context() as patch:
        patch.setattr(application, "VERSION", (6, 0, 0))
        assert installer.outdated() == ""
        patch.setattr(application, "VERSION", (5, 10, 0))  # with Python 3.12 and without slicer.packaging
        with pytest.raises(RVQCError, match=r"^RVQC needs Slicer 5\.12 or later: this is Slicer 5\.10\.$"):
            widget.logic.runQC()
        slicer.util.reloadScriptedModule("RVQCSegment")
        old = panel.open("RVQCSegment")
        slicer.mrmlScene.Clear(0)
        panel.turn()
        words = slicer.util.findChild(old.parent, "RVQCOutdated")
        assert words.visible and words.text == installer.outdated() and not old.panel.widget.isVisible()
        assert not old.logic.worker.running
        refine = panel.open("RVQCRefine")
        panel.click(refine.open)
        assert refine.state.text == installer.outdated() and refine.dialog is None
    refine.state.text = ""
    slicer.util.reloadScriptedModule("RVQCSegment")
    assert panel.open("RVQCSegment").panel.widget.isVisible() and installer.outdated() == ""


def test_the_console_call_waits_or_not(widget: Any, panel: Panel, tmp_path: Path) -> None:
    import slicer

    from RVQCLib.files import RVQCError

    loaded = load(widget, small_phantom("console"))
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
    source = SampleData.SampleDataLogic().sourceForSampleName("RVQC phantom, spoilt")
    nodes = source.customDownloader(source)  # what the button in Slicer's Sample Data module calls
    assert [node.GetName() for node in nodes] == [f"spoilt {v} {p}" for v in ("SA", "LA") for p in ("ED", "ES")]


def test_the_self_test_of_the_module(panel: Panel) -> None:
    """As `slicer.testing` runs it: every test of the module's file by unittest's loader."""
    suite = unittest.TestLoader().loadTestsFromName("RVQCSegment")
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    assert result.wasSuccessful() and result.testsRun >= 1 and not result.skipped


def test_the_script_for_ctest_goes_the_same_way(widget: Any, panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    from RVQCSlicerLib import self_test

    sys.path.insert(0, str(REPOSITORY / "Testing" / "slicer"))
    import study_in_slicer

    gone: list[Any] = []
    monkeypatch.setattr(self_test, "study_through_the_panel", lambda walk, study: gone.append(study))
    for missing in (Path("no such study"), None):
        assert study_in_slicer.go(missing) == study_in_slicer.SKIPPED and gone == []
    assert study_in_slicer.go(REPOSITORY) == 0 and gone == [REPOSITORY]

    def fail(walk: Any, study: Path) -> None:
        raise AssertionError("the mask is missing")

    monkeypatch.setattr(self_test, "study_through_the_panel", fail)
    assert study_in_slicer.go(REPOSITORY) == 1


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
