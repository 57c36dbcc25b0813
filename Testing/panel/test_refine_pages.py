"""Pages of the refine dialog one by one: the plots of a batch, the bundle that is proposed, thousands of studies."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from conftest import Panel
from refine_walk import Walk

from RVQCLib.cohort_table import COLUMNS
from RVQCLib.files import write_json

SETTING = "RVQC/Bundle"


# The plots of a batch -------------------------------------------------------------------------------------------------


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    """A folder as ``rvqc batch`` leaves it, of three stacks with reference fences, and fences of the cohort at ED."""
    out = tmp_path / "out"
    out.mkdir()
    with (out / "cohort.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, COLUMNS)
        table.writeheader()
        for study, phase, dice, distance in (("1", "ED", 0.5, 30.0), ("1", "ES", 0.8, 12.0), ("2", "ED", 0.9, 6.0)):
            numbers = {"RV_predicted_dice": dice, "RV_pDC": dice, "RV_pHD_mm": distance}
            table.writerow({"study": study, "view": "SA", "phase": phase, "verdict": "look", **numbers})

    def limits(low: float, up: float) -> dict[str, Any]:
        return {s: {"th_low": low + k, "th_up": up + k, "n": 20} for k, s in enumerate(("RV", "LV", "MYO"))}

    fences = {
        "SA_ED": {"reference": limits(0.7, 15.0), "cohort": limits(0.6, 20.0), "note": ""},
        "SA_ES": {"reference": limits(0.65, 18.0), "cohort": None, "note": "too few"},
    }
    fences["SA_ED"]["references"] = [limits(0.7, 15.0), limits(0.75, 14.0)]  # the second are a refined bundle's
    write_json(out / "run.json", {"state": "done", "fences": fences, "studies": []})
    return out


def series_of(chart: Any) -> dict[str, Any]:
    """By name: (column of the y axis, values, line style, whether there are markers)."""
    import slicer

    found = {}
    for number in range(chart.GetNumberOfPlotSeriesNodes()):
        one = slicer.mrmlScene.GetNodeByID(chart.GetNthPlotSeriesNodeID(number))
        column = one.GetTableNode().GetTable().GetColumnByName(one.GetYColumnName())
        values = [column.GetValue(k) for k in range(column.GetNumberOfTuples())]
        found[one.GetName()] = (values, one.GetLineStyle(), one.GetMarkerStyle() != one.MarkerStyleNone)
    return found


def test_the_fences_are_lines_in_the_plots_of_pdc_and_phd(panel: Panel, batch: Path) -> None:
    import slicer

    from RVQCRefineLib.nodes import cohort_to_scene

    for _ in range(2):  # a second call refills the same nodes
        dice, pdc, phd = cohort_to_scene(batch)
    node = slicer.vtkMRMLPlotSeriesNode
    solid, dash = node.LineStyleSolid, node.LineStyleDash
    assert list(series_of(dice)) == ["out RV_predicted_dice"]
    assert series_of(pdc) == {
        "out RV_pDC": ([0.5, 0.8, 0.9], node.LineStyleNone, True),
        "out SA ED reference fence of pDC": ([0.7, 0.7], solid, False),
        "out SA ED reference 2 fence of pDC": ([0.75, 0.75], solid, False),
        "out SA ED cohort fence of pDC": ([0.6, 0.6], dash, False),
        "out SA ES reference fence of pDC": ([0.65, 0.65], solid, False),
    }
    assert series_of(phd) == {
        "out RV_pHD_mm": ([30.0, 12.0, 6.0], node.LineStyleNone, True),
        "out SA ED reference fence of pHD in mm": ([15.0, 15.0], solid, False),
        "out SA ED reference 2 fence of pHD in mm": ([14.0, 14.0], solid, False),
        "out SA ED cohort fence of pHD in mm": ([20.0, 20.0], dash, False),
        "out SA ES reference fence of pHD in mm": ([18.0, 18.0], solid, False),
    }
    place = slicer.util.getNode("out fences of pDC").GetTable().GetColumnByName("place")
    assert [place.GetValue(k) for k in range(2)] == [0.0, 4.0]
    assert len(slicer.util.getNodesByClass("vtkMRMLPlotChartNode")) == 3
    (batch / "run.json").unlink()
    assert [len(series_of(chart)) for chart in cohort_to_scene(batch)] == [1, 1, 1]


def test_without_a_plot_view_that_is_said_and_the_layout_stays(panel: Panel, batch: Path) -> None:
    import slicer

    from RVQCLib.files import RVQCError
    from RVQCRefineLib.nodes import cohort_to_scene, show_chart

    manager = slicer.app.layoutManager()
    before = manager.layout
    with pytest.raises(RVQCError, match=r"^There is no plot view here; .* out pDC are in the scene"):
        show_chart(cohort_to_scene(batch)[1])
    assert manager.layout == before


# The bundle that is proposed ------------------------------------------------------------------------------------------


def test_the_bundle_in_use_is_proposed_and_one_that_is_gone_is_said(
    walk: Walk, panel: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import slicer

    for name in ("adopted", "mine", "other"):
        (tmp_path / name).mkdir()
    page, session = walk.dialog.settings, walk.dialog.session
    monkeypatch.setattr(session.worker, "submit", lambda *_, **__: 1)
    parameters = panel.open("RVQCSegment").logic.parameters
    parameters.bundle = ""

    def enter() -> tuple[str, str]:
        walk.dialog.go_to(1)
        return page.bundle.currentPath, page.bundle_said.text

    assert enter() == ("", "Bundle: the one that comes with RVQC.")
    slicer.app.userSettings().setValue(SETTING, str(tmp_path / "adopted"))
    assert enter() == (str(tmp_path / "adopted"), "Bundle: adopted, adopted in RVQC Refine.")
    parameters.bundle = str(tmp_path / "mine")
    assert enter() == (str(tmp_path / "mine"), "Bundle: mine, chosen in this scene.")
    page.bundle.currentPath = str(tmp_path / "other")  # what the user names is never exchanged
    assert enter() == (str(tmp_path / "other"), "Bundle: other, chosen here.")
    page.bundle.currentPath = str(tmp_path / "mine")
    parameters.bundle = ""
    (tmp_path / "adopted").rmdir()
    path, said = enter()
    assert path == "" and "adopted is no longer at" in said and "comes with RVQC is used" in said
    page.bundle.currentPath = str(tmp_path / "gone")
    assert f"{tmp_path / 'gone'} is no folder; choose" in page.bundle_said.text
    parameters.bundle = ""


def test_an_emptied_field_is_said_and_starts_nothing(
    walk: Walk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialog = walk.dialog
    page, session = dialog.settings, dialog.session
    monkeypatch.setattr(session.worker, "submit", lambda *_, **__: 1)
    dialog.go_to(1)
    page.labelled.currentPath = str(tmp_path)
    assert page.labels.text.startswith("Learnt from in every step (L_SUP)")
    page.labelled.currentPath = ""
    assert page.labels.text.startswith("Without labelled studies")
    page.bundle.currentPath = str(tmp_path)
    page.bundle.currentPath = ""
    assert page.bundle_said.text == "Bundle: the one that comes with RVQC."
    page.out.currentPath = str(tmp_path / "new")
    page.out.currentPath = ""
    assert page.out_said.text == ""
    page.checked = {"problems": []}  # as the worker answered while there was a name
    page.out.currentPath = ""
    dialog._on_next()
    assert dialog.page == 1 and session.run is None


# The slices of a stack -----------------------------------------------------------------------------------------------


def test_the_tiles_of_a_longer_stack_are_alike(panel: Panel) -> None:
    from RVQCRefineLib.flag_strips import FlagStrips
    from RVQCRefineLib.rows import Judged, Row

    def row(slices: int) -> Row:
        stack = {"slices": [{"index": k, "flag": False, "reasons": []} for k in range(slices)]}
        return Row("1", "SA", "ED", slices, None, Judged(Path("mask.nii.gz"), stack, ""))

    strips = FlagStrips(lambda index: None)
    strips.widget.resize(900, 40)
    strips.widget.show()
    for slices in (3, 9, 1, 10):
        strips.show(row(slices))
        panel.turn()
        widths = [tile.width for tile in strips.tiles["after"]]
        assert len(widths) == slices and max(widths[:9]) - min(widths[:9]) <= 2
    strips.widget.close()


# Thousands of studies -------------------------------------------------------------------------------------------------


def scanned(count: int) -> list[dict[str, Any]]:
    image = {"view": "SA", "phase": "ED", "file": "a.nii.gz", "frame": None}
    return [{"study": f"s{n:04d}", "layout": "plain", "images": [image], "problems": []} for n in range(count)]


def test_an_update_touches_only_the_rows_that_changed(walk: Walk, panel: Panel) -> None:
    session, table = walk.dialog.session, walk.dialog.folder.table
    touched: set[tuple[int, int]] = set()
    table.connect("itemChanged(QTableWidgetItem*)", lambda item: touched.add((item.row(), item.column())))

    def after(what: str) -> set[tuple[int, int]]:
        touched.clear()
        session.tell(what)
        return set(touched)

    session.studies = studies = scanned(2000)
    assert {row for row, _ in after("scan")} == set(range(2000)) and table.rowCount == 2000
    assert after("scan") == after("run") == after("ticks") == set()
    session.studies = [*studies[:700], {**studies[700], "problems": ["It is torn."]}, *studies[701:]]
    assert {row for row, _ in after("scan")} == {700} and table.item(700, 4).text() == "It is torn."
    session.studies = [*session.studies, *scanned(2001)[2000:]]
    assert {row for row, _ in after("scan")} == {
        2000
    } and "2001 studies found, 2000 will be used" in walk.dialog.folder.said.text
    touched.clear()
    walk.tick("s0003")
    assert touched == {(3, 0)} and session.left_out == {"s0003"}
    assert after("scan") == set()
    panel.click(walk.dialog.folder.all)
    assert touched == {(3, 0)} and session.left_out == set()


# The table of the review ----------------------------------------------------------------------------------------------


def test_a_decision_reaches_no_row_that_the_filter_hides(panel: Panel) -> None:
    import qt

    from RVQCLib.reviews import Review
    from RVQCRefineLib.rows import Judged, Row
    from RVQCRefineLib.stack_table import StackTable

    numbers = {"predicted_dice": 0.5, "lower_bound_90": 0.4}
    judged = Judged(
        Path("mask"), {"view": "SA", "verdict": "look", "reasons": [], "slices": [], "structures": {"RV": numbers}}, ""
    )
    hashes = dict.fromkeys(("image_sha256", "mask_sha256", "bundle_hash"), "0" * 64)
    rejected = Review(study="1", view="SA", phase="ED", decision="rejected", reviewer="Eva", note="", **hashes)
    rows = [Row(str(k), "SA", "ED", 1, judged, judged, review=rejected if k == 1 else None) for k in range(3)]
    told: list[list[int]] = []
    table = StackTable(lambda: told.append(table.places))
    table.widget.show()
    table.show(rows)
    table.filter.currentIndex = table.filter.findText("Undecided")
    panel.press(table.widget, qt.Qt.Key_A, qt.Qt.ControlModifier)
    assert table.places == told[-1] == [0, 2]
    table.choose(1)
    assert table.places == []
    table.filter.currentIndex = 0
    assert table.places == told[-1] == [1], "the page is told that a row is seen again"
    table.widget.hide()
