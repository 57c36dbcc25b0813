"""A clinician's way through the panel, by clicks: the self test, as "Reload and Test", ctest and the stand-in's tests run it."""

from __future__ import annotations

import tempfile
import time
import unittest
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import slicer

from RVQCLib.reviews import read_reviews
from RVQCSlicerLib import overlays
from RVQCSlicerLib.parameters import STACKS
from RVQCSlicerLib.results import Result
from RVQCSlicerLib.sample_data import sound
from RVQCSlicerLib.segments import NAMES
from RVQCSlicerLib.words import VERDICTS

PATIENCE_S = 900.0
"""How long a run may take on a busy machine without a GPU."""
CANCEL_S = 2.0
DATA = ("ScalarVolume", "Segmentation", "Text", "Sequence")


class Walk:
    """The steps of the way; each checks what a user would see. Files go to `folder`.

    Parameters
    ----------
    click : Clicks a button; by default what Qt calls a click, for a test with a mouse something sharper.
    watch : Gives a context that looks on while QC runs; what it yields is `seen`.
    """

    def __init__(
        self,
        folder: str | Path,
        click: Callable[[Any], None] | None = None,
        watch: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.check = unittest.TestCase()
        self.folder = Path(folder)
        self.click = click or self._click
        self._watch, self.seen, self.progress = watch, None, []
        slicer.util.selectModule("RVQCSegment")
        self.widget = slicer.util.getModuleWidget("RVQCSegment")
        self.panel = self.widget.panel
        self.widget.logic.parameters.results_folder = str(self.folder / "results")
        self.panel.refresh()

    @property
    def result(self) -> Result:
        """What the panel shows."""
        return self.panel.result

    def wait(self, condition: Callable[[], Any], seconds: float = PATIENCE_S) -> None:
        """Let the application live until `condition()` holds."""
        ends = time.monotonic() + seconds
        while not condition():
            self.check.assertLess(
                time.monotonic(), ends, f"waited {seconds:g} s; the panel says: {self.panel.message.text}"
            )
            slicer.app.processEvents()
            time.sleep(0.002)

    def choose_phantom(self) -> None:
        """The sample study, short and long axis, chosen in the selectors."""
        for key, volume in sound().volumes.items():
            self.panel.inputs.choose("volume", key, volume)
        self.check.assertEqual(self.panel.inputs.study.text, "sound")
        self.check.assertTrue(all(self.widget.logic.parameters.volumes().values()))

    def load(self, path: str | Path) -> None:
        """A study from the disk, as the load buttons do once a path is chosen."""
        self.widget.onLoad(str(path))
        self.check.assertEqual(self.panel.message.text, "")
        self.check.assertIn("Recognized", self.panel.inputs.recognized.text)

    def run(self) -> None:
        """Run QC to its end; all that is said of its progress is kept in `progress`. Skips where torch is missing."""
        self.click(self.panel.run.run)
        said = self.progress = [self.panel.run.said.text]

        def ended() -> bool:
            if said[-1] != self.panel.run.said.text:
                said.append(self.panel.run.said.text)
            return self.widget._run is None

        with self._watch() as self.seen:
            self.wait(ended)
        self._skip_without_torch()
        self.check.assertEqual(self.panel.message.text, "")
        self.check.assertTrue(any(" steps, " in text for text in said), said)
        for stack in self.result.stacks.values():
            self.check.assertIn(stack["verdict"], VERDICTS)
        self.check.assertIn(self.result.study, self.panel.banner.text)

    def cancel(self) -> None:
        """Begin a run and cancel it in the middle: two seconds later all is as before."""
        before = _names()
        self.click(self.panel.run.run)
        self.wait(lambda: " steps, " in self.panel.run.said.text or self.widget._run is None)
        self._skip_without_torch()
        began = time.monotonic()
        self.click(self.panel.run.cancel)
        self.wait(lambda: not self.widget.logic.worker.busy, 10 * CANCEL_S)
        self.check.assertLess(time.monotonic() - began, CANCEL_S)
        self.check.assertEqual(self.panel.message.text, "Cancelled; the scene is as before.")
        self.check.assertEqual(_names(), before)
        self.check.assertTrue(self.panel.run.run.enabled)
        self.click(self.panel.message.close)

    def look_at_flagged(self) -> int:
        """Every stack, and in it every flagged slice, by its tile; returns how many those were."""
        walked = 0
        for key, stack in self.result.stacks.items():
            self.click(self.panel.strip.stack_buttons[key])
            self.check.assertEqual(self.panel.key, key)
            for entry in stack["slices"]:
                if entry["flag"]:
                    self.click(self.panel.strip.tiles[entry["index"]])
                    self.check.assertEqual(self.panel.viewer.index, entry["index"])
                    self.check.assertIn("; ".join(entry["reasons"]), self.panel.strip.reasons)
                    walked += 1
        return walked

    def switch_overlays(self, key: str) -> None:
        """Mask, reconstruction and difference on and off, and another candidate's mask."""
        self.click(self.panel.strip.stack_buttons[key])
        box, overlay = self.panel.overlay, self.result.get("overlay", key)
        layers = (_layer("mask."), _layer("again."), {overlays.DIFFERENCE})
        for switch, segments in zip((box.mask, box.reconstruction, box.difference), layers, strict=True):
            before = visible_segments(overlay)
            self.click(switch)
            self.check.assertEqual(visible_segments(overlay), before ^ segments)
            self.click(switch)
            self.check.assertEqual(visible_segments(overlay), before)
        box.candidate.currentIndex = 1
        self.check.assertEqual(visible_segments(overlay), _layer("candidate1."))
        box.candidate.currentIndex = 0

    def accept(self, key: str, reviewer: str = "Dr. Müller", note: str = "fine at the base") -> None:
        """Accept a stack: a final segmentation with its structures, and a line in the log with every hash."""
        self.click(self.panel.strip.stack_buttons[key])
        self.widget.logic.parameters.reviewer = reviewer
        self.panel.show_review()
        self.panel.review.note.text = note
        self.click(self.panel.review.buttons["accepted"])
        self.check.assertEqual(self.panel.message.text, "")
        final = self.result.get("accepted", key)
        segments = [final.GetSegmentation().GetNthSegment(n).GetName() for n in range(len(NAMES))]
        self.check.assertEqual(
            (final.GetName(), segments), (f"{self.result.study} {key.replace('_', ' ')}", [*NAMES.values()])
        )
        line = read_reviews(self.folder / "results" / "reviews.jsonl")[-1]
        self.check.assertEqual((line.reviewer, line.decision, line.note), (reviewer, "accepted", note))
        for digest in (line.image_sha256, line.mask_sha256, line.bundle_hash):
            self.check.assertRegex(digest, "^[0-9a-f]{64}$")

    def save_and_reload(self) -> Path:
        """Save the scene as .mrb, close it, open it: everything is there. Returns the file."""
        path, before, seen = self.folder / "self test.mrb", _names(), self._seen()
        self.check.assertTrue(slicer.util.saveScene(str(path)))
        slicer.mrmlScene.Clear(0)
        self.check.assertIsNone(self.result)
        slicer.util.loadScene(str(path))
        self.wait(lambda: self.result is not None, 60)
        self.check.assertEqual(self._seen(), seen)
        self.check.assertEqual(_names(), before)
        return path

    def _seen(self) -> dict[str, Any]:
        """What the panel and the scene say of a result."""
        answer: dict[str, Any] = {"banner": self.panel.banner.text, "review": self.panel.review.state.text}
        answer["volumes"] = [self.widget.logic.parameters.volume(key) is not None for key in STACKS]
        for key in self.result.stacks:
            nodes = [self.result.get(role, key) for role in ("overlay", "accepted")]
            segments = [node.GetSegmentation().GetNumberOfSegments() if node is not None else 0 for node in nodes]
            answer[key] = (self.result.decision(key), segments, self.result.get("volume", key).GetName())
        return answer

    def _skip_without_torch(self) -> None:
        if "is not installed" in self.panel.message.text:
            raise unittest.SkipTest(self.panel.message.text)

    def _click(self, button: Any) -> None:
        self.check.assertTrue(button.isVisible() and button.isEnabled(), f"{button.objectName} cannot be clicked")
        button.click()
        slicer.app.processEvents()


def phantom_through_the_panel() -> None:
    """The whole way with the sample study, short and long axis."""
    with scratch_folder() as folder:
        walk = Walk(folder)
        walk.choose_phantom()
        walk.cancel()
        walk.run()
        walk.look_at_flagged()
        for key in ("SA_ED", "LA_ED"):
            walk.switch_overlays(key)
            walk.accept(key)
        walk.save_and_reload()
        walk.widget.logic.worker.stop()


def study_through_the_panel(walk: Walk, study: str | Path) -> Path:
    """The whole way with a study from the disk; its first stack is accepted. Returns the saved scene, which is open."""
    walk.load(study)
    walk.cancel()
    walk.run()
    walk.look_at_flagged()
    first = next(iter(walk.result.stacks))
    walk.switch_overlays(first)
    walk.accept(first)
    return walk.save_and_reload()


def say_if_skipped(test: Callable[[], None], say: Callable[[str], None]) -> None:
    """Run a test where there is no runner that would tell why it was skipped."""
    try:
        test()
    except unittest.SkipTest as why:
        say(f"Skipped: {why}")
    else:
        say("The self test passed.")


def scratch_folder() -> tempfile.TemporaryDirectory:
    """A folder for what a self test writes, among Slicer's temporary files."""
    return tempfile.TemporaryDirectory(prefix="rvqc-test-", dir=slicer.app.temporaryPath)


def visible_segments(node: slicer.vtkMRMLSegmentationNode) -> set[str]:
    """The ids of the segments that are shown."""
    display, segmentation = node.GetDisplayNode(), node.GetSegmentation()
    ids = [segmentation.GetNthSegmentID(index) for index in range(segmentation.GetNumberOfSegments())]
    return {name for name in ids if display.GetVisibility() and display.GetSegmentVisibility(name)}


def _layer(prefix: str) -> set[str]:
    return {prefix + key for key in NAMES}


def _names() -> list[str]:
    """What lies in the scene of what the panel makes and reads."""
    return sorted(node.GetName() for kind in DATA for node in slicer.util.getNodesByClass(f"vtkMRML{kind}Node"))
