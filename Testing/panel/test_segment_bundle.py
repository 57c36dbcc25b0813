"""Which bundle the panel uses, said in words, and the way to RVQC Refine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Panel

SETTING = "RVQC/Bundle"


@pytest.fixture
def widget(panel: Panel) -> Iterator[Any]:
    import slicer

    slicer.app.userSettings().remove(SETTING)
    opened = panel.open("RVQCSegment")
    opened.logic.parameters.bundle = ""
    yield opened
    opened.logic.worker.stop()
    slicer.app.userSettings().remove(SETTING)


def adopt(panel: Panel, path: Path) -> None:
    """What RVQC Refine does on Adopt, while the panel is elsewhere."""
    import slicer

    panel.open("RVQCRefine")
    slicer.app.userSettings().setValue(SETTING, str(path))
    panel.open("RVQCSegment")


def said(widget: Any) -> str:
    return widget.panel.run.in_use.text


def asked(widget: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The arguments of jobs that would go to the worker."""
    jobs: list[Any] = []

    def submit(job: str, arguments: dict, *, done: Any) -> int:
        from RVQCSlicerLib.process import Outcome

        jobs.append(arguments)
        done(Outcome("cancelled"))
        return 1

    monkeypatch.setattr(widget.logic.worker, "submit", submit)
    return jobs


def test_an_adopted_bundle_is_used_and_named(
    widget: Any, panel: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said(widget) == "Bundle: the one that comes with RVQC."
    (adopted := tmp_path / "Klinik Süd").mkdir()
    adopt(panel, adopted)
    assert said(widget) == "Bundle: Klinik Süd, adopted in RVQC Refine."
    jobs = asked(widget, monkeypatch)
    widget.logic.worker.stop()  # it is still asked what is there
    panel.click(widget.panel.setup.check)
    assert jobs[-1]["bundle"] == str(adopted)


def test_an_adopted_bundle_that_is_gone_is_said(
    widget: Any, panel: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adopt(panel, tmp_path / "deleted")
    assert "The adopted bundle deleted is no longer at" in said(widget) and "comes with RVQC is used" in said(widget)
    jobs = asked(widget, monkeypatch)
    widget.logic.worker.stop()  # it is still asked what is there
    panel.click(widget.panel.setup.check)
    assert jobs[-1]["bundle"] is None


def test_what_is_chosen_in_the_scene_goes_first(widget: Any, panel: Panel, tmp_path: Path) -> None:
    from RVQCSlicerLib.chosen_bundle import chosen_bundle

    adopt(panel, tmp_path)
    widget.panel.run.bundle.currentPath = str(tmp_path / "mine")
    assert said(widget) == "Bundle: mine, chosen in this scene."
    assert chosen_bundle(str(tmp_path / "mine")).path == str(tmp_path / "mine"), "a choice is never exchanged silently"


def test_the_panel_leads_to_refine(widget: Any, panel: Panel) -> None:
    import slicer

    panel.click(slicer.util.findChild(widget.panel.widget, "RVQCRefine"))
    assert slicer.util.moduleSelector().selectedModule == "RVQCRefine"
