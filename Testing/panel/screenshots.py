"""``make screenshots``: a picture of every state of the panel and of the refine dialog's four pages, on phantoms only.

    python Testing/panel/screenshots.py FOLDER [panel|refine]

Everything in the pictures comes from the real worker with the shipped bundle; nothing is painted or typed in.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from conftest import MODULES, Panel, start
from refine_walk import PATIENCE_S, Walk
from small_picture import make_small

HIDE_TORCH = """
import importlib.metadata, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError("No module named torch", name="torch")
sys.meta_path.insert(0, Hidden())
real = importlib.metadata.version
def version(name):
    if name == "torch":
        raise importlib.metadata.PackageNotFoundError(name)
    return real(name)
importlib.metadata.version = version
"""
SIZE = (1180, 900)
SPOILT = {
    "blur": (("blur", 4),),
    "blur and noise": (("blur", 5), ("noise", 5)),
    "noise": (("ghosting", 5), ("noise", 5), ("noise", 5)),
}
"""Shifts of a sound phantom among which the first that is to be looked at, and the first that is OoD, are shown."""
NAMES = {"trusted": "3-trusted", "look": "4-look-at-it", "ood": "5-out-of-distribution"}


class Pictures:
    """Takes the pictures one after the other in one application."""

    def __init__(self, panel: Panel, scratch: Path) -> None:
        self.panel, self.scratch = panel, scratch
        self.widget = panel.open("RVQCSegment")
        self.seen: set[str] = set()

    def shot(self, name: str) -> None:
        self.panel.turn(20)
        self.panel.shot(self.panel.window, name)

    def fresh(self) -> None:
        """An empty scene with results in a folder of its own."""
        import slicer

        slicer.mrmlScene.Clear(0)
        self.widget.panel.message.clear()
        self.widget.logic.parameters.results_folder = str(self.scratch / "results")
        self.widget.logic.parameters.reviewer = "A. Reader"
        self.widget.panel.refresh()

    def check(self) -> None:
        """Wait until the worker has said what is there."""
        self.widget.onCheck()
        self.panel.wait(lambda: self.widget.panel.setup.check.enabled, PATIENCE_S)

    def load(self, study: Any) -> None:
        from RVQCSlicerLib.loading import add_study

        self.fresh()
        self.widget.panel.inputs.take(add_study(study, "a phantom"))
        self.widget.panel.rest()
        self.widget.panel.show_images()

    def judge(self, study: Any) -> str:
        """Load, click Run QC, wait; the worst verdict."""
        from RVQCLib.overall import worst

        self.load(study)
        self.panel.click(self.widget.panel.run.run)
        self.panel.wait(lambda: self.widget._run is None, PATIENCE_S)
        result = self.widget.panel.result
        return worst(map(result.verdict, result.stacks))

    def before_a_result(self, sound: Any) -> None:
        """Empty, running, and what a crash looks like."""
        self.fresh()
        self.check()
        self.shot("1-empty")
        self.load(sound)
        self.panel.click(self.widget.panel.run.run)
        self.panel.wait(lambda: " steps, " in self.widget.panel.run.said.text, PATIENCE_S)
        self.shot("2-running")
        os.kill(self.widget.logic.worker._pid, signal.SIGKILL)
        self.panel.wait(lambda: self.widget._run is None, PATIENCE_S)
        self.shot("8-worker-crash")
        self.check()

    def verdicts(self, sound: Any) -> None:
        """One picture of every verdict, the flagged ones with the reconstruction over the mask."""
        from RVQCLib.shifts import shift_stack

        short_axis = tuple(stack for stack in sound.stacks if stack.view == "SA")
        # A long axis is to be looked at, whatever it is like.
        self.verdict(replace(sound, stacks=short_axis, labels=()))
        for words, shifts in SPOILT.items():
            stacks = short_axis
            for shift, severity in shifts:
                stacks = tuple(shift_stack(stack, shift, severity, seed=3) for stack in stacks)
            if self.seen < set(NAMES):
                self.verdict(replace(sound, name=f"phantom with {words}", stacks=stacks, labels=()))

    def verdict(self, study: Any) -> None:
        """Judge a study and take its picture, where there is none of its verdict yet."""
        if (verdict := self.judge(study)) in self.seen:
            return
        self.seen.add(verdict)
        self.panel.turn(20)
        box, strip = self.widget.panel.overlay, self.widget.panel.strip
        if verdict == "trusted":
            self.panel.click(strip.tiles[len(strip.tiles) // 2])
        else:
            box.reconstruction.click()
        self.shot(NAMES[verdict])
        if verdict != "trusted":
            box.reconstruction.click()

    def accepted(self, study: Any) -> None:
        """Both short-axis masks accepted: volumes with the QC state beside every number."""
        self.judge(study)
        for key in ("SA_ED", "SA_ES"):
            self.panel.click(self.widget.panel.strip.stack_buttons[key])
            self.widget.onDecide("accepted")
        strip, area = self.widget.panel.strip, self.panel.window._area
        self.panel.click(strip.tiles[len(strip.tiles) // 2])
        self.panel.turn(20)
        area.verticalScrollBar().setValue(area.verticalScrollBar().maximum)
        self.shot("6-accepted")
        area.verticalScrollBar().setValue(0)

    def without_torch(self) -> None:
        """The set-up row where torch is missing."""
        (self.scratch / "sitecustomize.py").write_text(HIDE_TORCH, encoding="utf-8")
        self.fresh()
        self.widget.logic.worker.stop()
        os.environ["PYTHONPATH"] = str(self.scratch)
        self.check()
        self.shot("7-torch-missing")
        del os.environ["PYTHONPATH"]
        self.widget.logic.worker.stop()

    def refine_pages(self) -> None:
        """The four pages of the refine dialog, on a short refinement of the shipped bundle."""
        data, script = self.scratch / "data", Path(__file__).with_name("picture_data.py")
        subprocess.run([sys.executable, str(script), str(data)], check=True, timeout=PATIENCE_S)
        walk = Walk(self.panel)
        walk.choose_folder(data / "new")
        walk.picture("refine-1-folder")
        walk.set(bundle=data / "long-axis", labelled=data / "labelled", epochs=3, steps=6, batch=4)
        walk.picture("refine-2-settings")
        walk.start()
        self.panel.wait(lambda: walk.dialog.session.state in ("done", "failed"), PATIENCE_S)
        assert walk.dialog.session.state == "done", walk.dialog.session.progress.said
        walk.picture("refine-3-run")
        self.panel.click(walk.dialog.next)
        walk.select([0])
        self.panel.turn(20)
        walk.picture("refine-4-review")
        walk.module.cleanup()


@contextmanager
def application(out: Path) -> Iterator[tuple[Panel, Path]]:
    """The host with both modules, and a folder for what the pictures need."""
    with tempfile.TemporaryDirectory(prefix="rvqc-pictures-") as scratch:
        host = start.start(testing=True, temporary=Path(scratch), modules=MODULES)
        host.window.resize(*SIZE)
        try:
            yield Panel(host, out), Path(scratch)
        finally:
            host.close()


def main() -> None:
    """Take all pictures, or those of `sys.argv[2]` ("panel" or "refine"), into the folder that is named."""
    reason = start.missing()
    if reason:
        sys.exit(reason)
    which = sys.argv[2:] or ["panel", "refine"]
    with application(Path(sys.argv[1]).resolve()) as (panel, scratch):
        from RVQCLib.samples import sample_studies

        pictures, sound = Pictures(panel, scratch), replace(sample_studies(("SA", "LA"))[0], name="phantom")
        if "panel" in which:
            pictures.before_a_result(sound)
            pictures.verdicts(sound)
            pictures.accepted(sound)
            pictures.without_torch()
        if "refine" in which:
            pictures.refine_pages()
        for path in panel.pictures.glob("*.png"):
            make_small(path)


if __name__ == "__main__":
    main()
