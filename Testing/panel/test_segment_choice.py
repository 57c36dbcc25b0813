"""What is chosen is what is seen: no image, mask, frame or name of another patient stays behind."""

from __future__ import annotations

from typing import Any

from conftest import Panel
from segment_steps import beats, judged, load, pick, put_under, seen, small_phantom, visible_masks


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


def refused(widget: Any, panel: Panel) -> str:
    """What the panel says to a click on Run QC, which starts nothing."""
    panel.click(widget.panel.run.run)
    assert widget._run is None
    return widget.panel.message.text


def test_images_that_cannot_be_of_one_examination_are_refused(widget: Any, panel: Panel) -> None:
    one = load(widget, small_phantom("one", 3)).volumes
    load(widget, small_phantom("two", 2))
    choose = widget.panel.inputs.choose
    choose("volume", "SA_ED", one["SA_ED"])
    said = "SA ED has 3 slices of {0} mm, but SA ES has 2 slices of {0} mm; choose two images of one examination."
    assert refused(widget, panel) == said.format(" x ".join(f"{size:.3g}" for size in one["SA_ED"].GetSpacing()))
    choose("volume", "SA_ES", one["SA_ES"])
    spacing = [*one["SA_ES"].GetSpacing()]
    one["SA_ES"].SetSpacing(*spacing[:2], 1.5 * spacing[2])
    assert "choose two images of one examination" in refused(widget, panel)
    choose("volume", "SA_ES", one["SA_ED"])
    assert refused(widget, panel) == "one SA ED is chosen for SA ED and for SA ES; choose another image for one."
    one["SA_ES"].SetSpacing(*spacing)
    choose("volume", "SA_ES", one["SA_ES"])
    put_under("17", one["SA_ED"])
    put_under("4", one["SA_ES"])
    assert refused(widget, panel) == "The images are of the patients 17, 4; choose those of one."


def test_the_volume_that_shows_a_cine_is_no_image_of_a_phase(widget: Any, panel: Panel) -> None:
    from RVQCSlicerLib.scene import show_frame

    proxy = show_frame(beats("beat"), 0)
    widget.panel.inputs.choose("volume", "SA_ED", proxy)
    said = f"{proxy.GetName()}, chosen for SA ED, shows the frames of a cine in turn; choose beat under “Cines,"
    assert said in refused(widget, panel)


def test_one_slice_is_no_short_axis(widget: Any, panel: Panel) -> None:
    """Of a short axis that is a series a slice Slicer's DICOM module makes a node a slice."""
    from RVQCSlicerLib.run import Request

    volumes = load(widget, small_phantom("one", 1, ("SA", "LA"))).volumes
    said = "{}, chosen for {}, is one slice and not a short-axis stack; load the folder with all its slices"
    assert refused(widget, panel).startswith(said.format("one SA ED", "SA ED"))
    for key in ("SA_ED", "SA_ES"):
        widget.panel.inputs.choose("volume", key, None)
    widget.panel.inputs.choose("cine", "SA", beats("series 7", slices=1))
    assert refused(widget, panel).startswith(said.format("series 7", "SA"))
    Request("one", "", {"LA_ED": volumes["LA_ED"]}).check()


def test_frames_of_several_places_are_no_beat(widget: Any, panel: Panel) -> None:
    """Slicer's DICOM module offers a series of all slices and phases as one sequence of frames."""
    import slicer

    from RVQCSlicerLib.run import Cine, Request

    cine = beats("series 8")
    widget.panel.inputs.choose("cine", "SA", cine)
    request, frame = Request("one", "", cines={"SA": Cine(cine)}), cine.GetNthDataNode(2)
    x, y, z = frame.GetOrigin()
    frame.SetOrigin(x, y, z + 0.05)
    request.check()
    said = (
        "The frames of series 8, chosen for SA, differ in size or place, as those of several slices do; load the folder"
    )
    frame.SetOrigin(x, y, z + 8)
    assert refused(widget, panel).startswith(said)
    frame.SetOrigin(x, y, z)
    spacing = frame.GetSpacing()
    frame.SetSpacing(1.02 * spacing[0], *spacing[1:])
    assert refused(widget, panel).startswith(said)
    frame.SetSpacing(*spacing)
    request.check()
    slicer.util.updateVolumeFromArray(frame, slicer.util.arrayFromVolume(frame)[:1].copy())
    assert refused(widget, panel).startswith(said)


def test_a_cine_in_colours_is_refused(widget: Any, panel: Panel) -> None:
    import numpy as np
    import slicer

    cine = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "echo")
    for frame in range(2):
        volume = slicer.vtkMRMLVectorVolumeNode()
        slicer.util.updateVolumeFromArray(volume, np.zeros((1, 4, 5, 3), np.uint8))
        cine.SetDataNodeAtValue(volume, str(frame))
    widget.panel.inputs.choose("cine", "SA", cine)
    assert refused(widget, panel) == "echo, chosen for SA, has several values a pixel; choose a greyscale cine."


def test_what_slicer_calls_a_series_can_name_a_study(widget: Any, panel: Panel) -> None:
    from RVQCSlicerLib.scene import show_frame

    volumes, cine = load(widget, small_phantom("one")).volumes, beats("13: cine")
    volumes["SA_ED"].SetName("12: cine_tf2d_sax")
    widget.panel.inputs.choose("volume", "SA_ED", volumes["SA_ED"])
    assert widget.panel.inputs.study.text == "12 cine_tf2d_sax"
    put_under("17/a", volumes["SA_ES"])
    widget.panel.inputs.choose("volume", "SA_ES", volumes["SA_ES"])
    assert widget.panel.inputs.study.text == "17 a"
    put_under("4", show_frame(cine, 0))
    widget.panel.inputs.choose("cine", "SA", cine)
    assert widget.panel.inputs.study.text == "4", "a cine lies where the volume is that shows it"


def test_a_result_goes_with_the_volumes_that_were_made_for_it_alone(widget: Any, panel: Panel) -> None:
    import slicer

    from RVQCSlicerLib.results import MADE

    volumes = load(widget, small_phantom("one", 1, ("SA", "LA"))).volumes
    result = judged(volumes, "one")
    for key in ("SA_ED", "SA_ES", "LA_ED"):
        volumes[key].SetAttribute(MADE, "a file")
    for key in volumes:
        widget.logic.parameters.choose("volume", key, volumes[key] if key == "LA_ED" else None)
    final = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "one SA ES")
    final.SetReferenceImageGeometryParameterFromVolumeNode(volumes["SA_ES"])
    own = {node.GetName() for node in result.own_nodes()}
    assert own == {"one quality", "one SA ED", *(f"one {key} QC" for key in volumes)}


def test_every_image_is_seen_in_its_own_plane_whatever_was_seen_before(widget: Any, panel: Panel) -> None:
    import numpy as np
    import slicer

    from RVQCSlicerLib.scene import matrix_of

    volumes = load(widget, small_phantom("one", 2, ("SA", "LA"))).volumes
    viewer = widget.panel.viewer
    for key in ("SA_ED", "LA_ED", "SA_ES", "LA_ES", "SA_ED"):
        widget.panel.show_images(key)
        view = slicer.app.applicationLogic().GetSliceLogicByLayoutName(viewer.view_name).GetSliceNode()
        normal = np.array([view.GetSliceToRAS().GetElement(row, 2) for row in range(3)])
        axis = matrix_of(volumes[key])[:3, 2]
        assert abs(normal @ axis) / np.linalg.norm(axis) > 0.999, key
        for index in range(slicer.util.arrayFromVolume(volumes[key]).shape[0]):
            viewer.go_to(index)
            assert viewer.index == index
