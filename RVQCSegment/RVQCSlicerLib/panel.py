"""The parts of the panel in their order, and what they show of the scene."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ctk
import qt
import slicer

from RVQCSlicerLib import dicom_seg, overlays, review, saved
from RVQCSlicerLib.banner import Banner
from RVQCSlicerLib.function_box import FunctionBox
from RVQCSlicerLib.inputs import InputsBox
from RVQCSlicerLib.looks import hint
from RVQCSlicerLib.message import MessageBar
from RVQCSlicerLib.overlay_box import OverlayBox
from RVQCSlicerLib.parameters import STACKS
from RVQCSlicerLib.results import Result
from RVQCSlicerLib.review_box import BUTTONS, ReviewBox
from RVQCSlicerLib.run_box import RunBox
from RVQCSlicerLib.saved_box import SavedBox
from RVQCSlicerLib.setup_row import SetupRow
from RVQCSlicerLib.shortcuts import Shortcuts
from RVQCSlicerLib.steps import Steps
from RVQCSlicerLib.strip import SliceStrip
from RVQCSlicerLib.table import QualityTable
from RVQCSlicerLib.timers import one_shot
from RVQCSlicerLib.viewer import StackViewer, one_picture
from RVQCSlicerLib.words import failure_of, short

RESEARCH = "Research use only. RVQC is not a medical device; a clinician reviews every mask."
EDIT_PAUSE_MS = 400
"""How long after the last edit of a final segmentation its state is looked at again."""


class Panel:
    """Everything that can be seen. `host` is the module's widget: it has the logic and takes the clicks."""

    def __init__(self, host: Any) -> None:
        self._host = host
        self.result: Result | None = None
        self.key = ""
        self._bringing: Steps | None = None
        parameters = lambda: host.logic.parameters  # noqa: E731
        self.inputs = InputsBox(parameters, self.rest, self.show_choice, host.onLoad)
        self.saved = SavedBox(self.open_results, self.open_result)
        self.setup = SetupRow(host.onCheck, host.onInstall)
        self.run = RunBox(parameters, host.onRun, host.onCancel)
        self.message = MessageBar()
        self.banner = Banner(os.path.dirname(host.resourcePath("Icons/RVQCSegment.png")))
        self.strip = SliceStrip(self.show_stack, self.go_to)
        self.overlay = OverlayBox(parameters, self.show_masks)
        self.table = QualityTable(self.show_stack)
        self.review = ReviewBox(parameters, host.onDecide, self._on_edit, self._on_save_dicom)
        self.function = FunctionBox()
        self.viewer = StackViewer(self.strip.mark)
        self.shortcuts = Shortcuts(self._keys())
        self._watched: list[tuple[slicer.vtkMRMLNode, int]] = []
        self._edits = one_shot(self._on_edited, EDIT_PAUSE_MS)
        self.widget = self._assembled()

    def refresh(self) -> None:
        """Show what the scene holds now."""
        parameters = self._host.logic.parameters
        self.inputs.show()
        self.run.show()
        self.rest()
        node = parameters.result
        if node is None:
            self.show_result(None)
        elif self.result is None or self.result.node is not node:
            self.show_result(Result(node))

    def rest(self) -> None:
        """Run QC is possible as soon as there is an image and a name, and nothing is running or being installed."""
        worker = self._host.logic.worker
        if worker.held:
            self.run.run.enabled = False
        if worker.held or worker.occupied:
            return
        parameters = self._host.logic.parameters
        self.run.rest(ready=bool(parameters.images() and parameters.study.strip()))

    def show_choice(self, key: str) -> None:
        """The user chose another image of a stack or view: it is shown, and a result that is not its own is put away."""
        parameters = self._host.logic.parameters
        if self.result is not None and not self.result.is_of(parameters):
            self.put_away()
        self.rest()
        self.show_images(key)

    def put_away(self) -> None:
        """Show no result; it stays in the scene, hidden."""
        self._host.logic.parameters.result = None
        self.show_result(None)

    def show_images(self, key: str = "") -> None:
        """Show the image that is chosen for `key`, else the first of all, before there is a result."""
        images = (self.inputs.image(one) for one in (key, *STACKS))
        volume = next((image for image in images if image is not None), None) if self.result is None else None
        if volume is not None and volume is not self.viewer.volume:  # another frame is seen in the slice that was
            self.viewer.show(volume)

    def open_results(self, path: str) -> None:
        """Show results of an earlier run from the disk; of several studies one is chosen next."""
        found: list[Path] = []
        if self._host._guarded(lambda: found.extend(saved.result_folders(path))):
            self.saved.offer(found)
            if len(found) == 1:
                self.open_result(found[0])

    def open_result(self, folder: Path) -> None:
        """Show the results of one study; no worker is started."""
        self.message.clear()
        self._host._guarded(lambda: self._take_saved(folder))

    def _take_saved(self, folder: Path) -> None:
        p = self._host.logic.parameters
        result, lacks = saved.open_result(folder, p.volumes())
        p.result, p.stack = result.node, ""
        self.refresh()
        if lacks:
            self.message.say(lacks)

    def show_result(self, result: Result | None) -> None:
        """Show a result: the stack that was looked at last, at first the worst."""
        for _ in self._showing(result):
            pass

    def take(self, result: Result, shown: Callable[[], None]) -> None:
        """Remember and show a new result, in steps, then call `shown`; not at all where `forget` comes first."""
        parameters = self._host.logic.parameters
        self.inputs.take_frames(result)
        parameters.result, parameters.stack = result.node, ""

        def ended(error: Exception | None) -> None:
            if error is not None:
                logging.error("RVQC: the result of %s could not be shown (%s).", result.study, error)
            shown()

        self._bringing = Steps(self._showing_at_once(result), ended)

    def _showing_at_once(self, result: Result) -> Iterator[None]:
        with one_picture():
            yield from self._showing(result)

    def _showing(self, result: Result | None) -> Iterator[None]:
        self.result, self.key = result, ""
        overlays.hide_others(result)
        self.banner.show(result)
        self.table.show(result)
        self.results.visible = result is not None
        if result is None:
            self.viewer.release()
            self._unwatch()
            self.strip.show(None, "")
            return
        self.inputs.widget.collapsed = True
        last = self._host.logic.parameters.stack
        yield
        yield from self._showing_stack(last if last in result.stacks else self._worst())

    def show_stack(self, key: str) -> None:
        """Bring up a stack: its slices, its overlays, its image in the view of the acquisition plane."""
        for _ in self._showing_stack(key):
            pass

    def _showing_stack(self, key: str) -> Iterator[None]:
        parameters = self._host.logic.parameters
        if key != self.key:
            parameters.candidate = 0 if self.key else parameters.candidate
        self.key = parameters.stack = key
        self.strip.show(self.result, key)
        self.overlay.show(self.result, key)
        yield
        volume = self.result.get("volume", key)
        if volume is not None:
            self.viewer.show(volume, overlays.heart_centre(self.result, key))
        yield
        self.show_overlays()
        yield
        self.show_review()
        stack = self.result.stacks[key]
        flagged = [entry["index"] for entry in stack["slices"] if entry["flag"]]
        # A mask that failed as a whole is judged where most of the heart is.
        middle = failure_of(stack) or not flagged
        self.go_to(len(stack["slices"]) // 2 if middle else flagged[0])

    def go_to(self, index: int) -> None:
        """Show a slice."""
        self.viewer.go_to(index)
        self.strip.mark(index)

    def show_overlays(self) -> None:
        """Show what is switched on."""
        if self.result is None:
            return
        p = self._host.logic.parameters
        overlays.show(
            self.result, self.key, mask=p.show_mask, reconstruction=p.show_reconstruction, difference=p.show_difference,
            candidate=p.candidate,
        )  # fmt: skip

    def show_masks(self) -> None:
        """Show what is switched on, and what is said of it."""
        self.show_overlays()
        self.show_review()

    def show_decision(self) -> None:
        """Show what has become of the masks: another final segmentation, or none any more."""
        self.overlay.show(self.result, self.key)
        self.show_masks()

    def look_again(self) -> None:
        """A node has gone that may be a mask of the result."""
        self._edits.start()

    def show_review(self) -> None:
        """Show how the review stands, and what follows from what was accepted."""
        result = self.result
        if result is None:
            return
        editable = result.get("accepted", self.key) is not None
        self.review.show(
            self.key,
            review.state_words(result, self.key, self._host.logic.parameters.candidate),
            editable=editable,
            no_dicom=dicom_seg.obstacle(result, self.key),
        )
        self.function.show(review.function_of(result))
        self._watch()

    def forget(self) -> None:
        """Let go of every node: the scene is about to close."""
        if self._bringing is not None:
            self._bringing.stop()
        self.inputs.widget.collapsed = False  # the next scene begins with a study
        self.inputs.forget()
        self.show_result(None)

    def close(self) -> None:
        """The panel goes."""
        self.shortcuts.remove()
        self._edits.stop()
        self.forget()
        self.widget.deleteLater()  # Slicer's reload only takes it out of the layout

    def _assembled(self) -> qt.QWidget:
        widget = qt.QWidget()
        column = qt.QVBoxLayout(widget)
        column.setContentsMargins(0, 0, 0, 0)
        self.results = qt.QWidget()
        inner = qt.QVBoxLayout(self.results)
        inner.setContentsMargins(0, 0, 0, 0)
        for part in (self.inputs, self.saved, self.setup, self.run, self.message, self.banner):
            column.addWidget(part.widget)
        column.addWidget(self.results)
        for title, part in (
            ("Slices", self.strip), ("", self.overlay), ("Numbers", self.table), ("Review", self.review),
            ("Accepted", self.function),
        ):  # fmt: skip
            inner.addWidget(_framed(title, part.widget) if title in ("Numbers", "Review") else part.widget)
        research = qt.QLabel(RESEARCH)
        research.wordWrap = True
        hint(research)
        column.addWidget(research)
        return widget

    def _keys(self) -> dict[str, Any]:
        keys = {keys: lambda name=kind: self._host.onDecide(name) for kind, (_, keys, _) in BUTTONS.items()}
        keys |= {".": lambda: self._flagged(1), ",": lambda: self._flagged(-1)}
        switches = (self.overlay.mask, self.overlay.reconstruction, self.overlay.difference)
        return keys | {str(n): lambda box=box: box.click() for n, box in enumerate(switches, start=1)}

    def _flagged(self, step: int) -> None:
        index = self.strip.next_flagged(step)
        if self.result is not None and index is not None:
            self.go_to(index)

    def _worst(self) -> str:
        order = ("ood", "look", "trusted")
        return min(self.result.stacks, key=lambda key: order.index(self.result.stacks[key]["verdict"]))

    def _on_edit(self) -> None:
        from RVQCSlicerLib.editor import open_editor

        if self.result is not None:
            self._host._guarded(lambda: open_editor(self.result, self.key))

    def _on_save_dicom(self) -> None:
        folder = qt.QFileDialog.getExistingDirectory(self.widget, "Where to write the DICOM SEG", "")
        reviewer = self._host.logic.parameters.reviewer
        if not folder or self.result is None:
            return
        if self._host._guarded(lambda: dicom_seg.save(self.result, self.key, folder, reviewer)):
            self.message.say(f"The DICOM SEG of {short(self.key)} is in {folder} and in Slicer's DICOM database.")

    def _watch(self) -> None:
        """Notice edits of final segmentations."""
        self._unwatch()
        for key in self.result.stacks:
            if (final := self.result.get("accepted", key)) is not None:
                for event in (
                    slicer.vtkSegmentation.SourceRepresentationModified,
                    slicer.vtkSegmentation.SegmentRemoved,
                ):
                    tag = final.AddObserver(event, lambda caller, event: self._edits.start())
                    self._watched.append((final, tag))

    def _unwatch(self) -> None:
        for node, tag in self._watched:
            node.RemoveObserver(tag)
        self._watched = []

    def _on_edited(self) -> None:
        if self.result is None or not self.key:
            return
        for key in self.result.stacks:
            if review.is_edited(self.result, key):
                review.mark_edited(self.result, key)
        gone = any(node.GetScene() is None for node, _ in self._watched)
        (self.show_decision if gone else self.show_review)()


def _framed(title: str, inner: qt.QWidget) -> qt.QWidget:
    box = ctk.ctkCollapsibleButton()
    box.text = title
    layout = qt.QVBoxLayout(box)
    layout.addWidget(inner)
    return box
