"""Every label can be read in Slicer's light and in its dark style: measured in what is painted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Panel
from refine_walk import Walk
from segment_steps import judged, load, small_phantom

LEAST = 4.5
"""Of contrast, between text and what is behind it (WCAG 2.2, AA)."""
DARK = {
    "Window": "#323232", "WindowText": "#ffffff", "Base": "#1e1e1e", "AlternateBase": "#323232", "Text": "#ffffff",
    "Button": "#323232", "ButtonText": "#ffffff", "BrightText": "#ff0000", "PlaceholderText": "#d3d3d3", "Light": "#828284",
    "Midlight": "#5a5a5b", "Dark": "#232323", "Mid": "#2b2b2b", "Shadow": "#141414", "Highlight": "#3ca4ff",
    "HighlightedText": "#000000",
}  # fmt: skip
"""The colours of Slicer's dark style."""


@pytest.fixture(params=["light", "dark"])
def palette(request: pytest.FixtureRequest, panel: Panel) -> Iterator[str]:
    from PySide6.QtGui import QColor, QPalette
    from PySide6.QtWidgets import QApplication

    before = QApplication.palette()
    if request.param == "dark":
        dark = QPalette(before)
        for role, color in DARK.items():
            dark.setColor(getattr(QPalette.ColorRole, role), QColor(color))
        QApplication.setPalette(dark)
    panel.turn()
    yield request.param
    QApplication.setPalette(before)
    panel.turn()


def luminance(pixels: np.ndarray) -> np.ndarray:
    """Relative luminance of RGB from 0 to 255, (…, 3), as WCAG defines it."""
    part = np.asarray(pixels) / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(pixels: np.ndarray) -> float:
    """Of the colour that most of a picture has, what is behind the text, and the pixel that differs from it most."""
    behind, _ = Counter(map(tuple, pixels.reshape(-1, 3))).most_common(1)[0]
    light, ground = luminance(pixels).ravel() + 0.05, float(luminance(np.array(behind))) + 0.05
    return float(max(light.max() / ground, ground / light.min()))


def part_of(picture: np.ndarray, widget: Any, window: Any, rect: Any = None) -> np.ndarray:
    rect = rect or widget.rect
    corner = widget.mapTo(window, rect.topLeft())
    return picture[corner.y() : corner.y() + rect.height(), corner.x() : corner.x() + rect.width()]


def unread(panel: Panel, window: Any) -> tuple[list[str], set[str]]:
    """The labels of a window that can be seen but not read, with their contrast; and the names of all that can be seen."""
    from PySide6.QtWidgets import QLabel

    panel.turn(10)
    picture, bad, seen = panel.pixels(window), [], set()
    for label in window.findChildren(QLabel):
        if label.isVisibleTo(window) and label.text.strip():
            seen.add(label.objectName)
            if (found := contrast(part_of(picture, label, window))) < LEAST:
                bad.append(f"{found:.1f}: {label.text}")
    return bad, seen


def test_contrast_is_that_of_the_definition() -> None:
    black, white, grey = np.zeros((3, 3, 3)), np.full((3, 3, 3), 255.0), np.full((3, 3, 3), 255.0)
    grey[0, 0] = 119
    white[1, 1] = 0
    assert (
        contrast(white) == pytest.approx(21)
        and contrast(black) == 1
        and contrast(grey) == pytest.approx(4.48, abs=0.01)
    )


def test_the_panel_can_be_read(widget: Any, panel: Panel, palette: str, tmp_path: Path) -> None:
    import slicer

    from RVQCSlicerLib.chosen_bundle import SETTING

    ui, settings = widget.panel, slicer.app.userSettings()
    settings.setValue(SETTING, str(tmp_path / "gone"))
    try:
        widget.logic.parameters.bundle = ""
        volumes = load(widget, small_phantom()).volumes
        ui.show_result(judged(volumes, "case"))
        ui.message.say("This went wrong; do that.")
        ui.run.widget.findChildren(type(ui.inputs.widget))[0].collapsed = False
        ui.run.show()
        bad, seen = unread(panel, ui.widget)
        panel.shot(ui.widget, f"panel {palette}")
    finally:
        settings.remove(SETTING)
        ui.message.clear()
        ui.put_away()
    assert bad == []
    assert {"RVQCBundleInUse", "RVQCResultsIn", "RVQCMessageText", "RVQCBannerTitle", "RVQCSliceReasons"} <= seen


def test_the_dialog_can_be_read(walk: Walk, panel: Panel, palette: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from RVQCRefineLib.adopt_box import _table
    from RVQCRefineLib.adoption import Comparison
    from RVQCRefineLib.rows import Judged, Row

    dialog = walk.dialog
    monkeypatch.setattr(dialog.session.worker, "submit", lambda *_, **__: 1)
    dialog.settings.bundle.currentPath = "/nowhere"
    numbers = {"RV": {"predicted_dice": 0.5, "lower_bound_90": 0.4}}
    rows = []
    for verdict in ("trusted", "look", "ood"):
        stack = {"view": "SA", "verdict": verdict, "reasons": ["odd"], "slices": [], "structures": numbers}
        stacked = {"view": "SA", "phase": "ED", "n_slices": 1, "before": None}
        rows.append(Row(verdict, **stacked, after=Judged(Path("mask"), stack, ""), proposal="a shape"))
    box = dialog.review.adopt
    said = _table(Comparison("new", "old", "Dice", 0.9, 0.8, 3, 1, 2, 1, 0, 0, False, "old", "done"), [])
    bad, seen = unread(panel, walk.module.parent)
    for page in range(4):
        dialog.stack.setCurrentIndex(page)
        if page == 3:
            dialog.review.table.show(rows)
            dialog.review.why.text = "Why it is flagged."
            box.widget.visible = box.comparison.visible = True
            box.comparison.text = said
        dialog.run.where.text = "/data/new.refinement"
        more, names = unread(panel, dialog.window)
        bad, seen = bad + more, seen | names
        panel.shot(dialog.window, f"dialog {page + 1} {palette}")
    assert bad == []
    assert {"RVQCBundleSaid", "RVQCLabelsSaid", "RVQCReviewWhy", "RVQCComparison"} <= seen
    box.comparison.text = re.findall("<p style.*?</p>", said)[0]
    assert unread(panel, dialog.window)[0] == []
    dialog.review.table.choose(-1)
    table, picture = dialog.review.table.widget, panel.pixels(dialog.window)
    for place in range(len(rows)):
        cell = part_of(picture, table.viewport(), dialog.window, table.visualItemRect(table.item(place, 3)))
        assert contrast(cell) >= LEAST, rows[place].study
