"""Switches for what lies over the image."""

from __future__ import annotations

from collections.abc import Callable

import qt

from RVQCSlicerLib import overlays
from RVQCSlicerLib.parameters import Parameters
from RVQCSlicerLib.results import Result
from RVQCSlicerLib.segments import DIFFERENCE_COLOR, RECONSTRUCTION_COLOR, STRUCTURES, Color


class OverlayBox:
    """Mask, reconstruction, difference, and whose mask. `changed` is called when the user switches anything.

    Parameters
    ----------
    parameters : Gives the parameters of the scene that is open now.
    """

    def __init__(self, parameters: Callable[[], Parameters], changed: Callable[[], None]) -> None:
        self._parameters, self._changed, self._updating = parameters, changed, False
        self.widget = qt.QWidget()
        column, row = qt.QVBoxLayout(self.widget), qt.QHBoxLayout()
        column.setContentsMargins(0, 0, 0, 0)
        self.mask = self._switch("Mask", "The outline of every structure (key 1)")
        self.reconstruction = self._switch("Reconstruction", "What the QC module makes of the mask, in white (key 2)")
        self.difference = self._switch("Difference", "Where mask and reconstruction differ, in yellow (key 3)")
        self.candidate = qt.QComboBox()
        self.candidate.objectName = "RVQCCandidate"
        self.candidate.toolTip = "Whose mask is shown, and decided on"
        self.candidate.connect("currentIndexChanged(int)", self._on_candidate)
        for switch in (self.mask, self.reconstruction, self.difference):
            row.addWidget(switch)
        row.addStretch(1)
        self.legend = qt.QLabel(_legend())
        self.legend.objectName = "RVQCLegend"
        self.legend.wordWrap = True
        column.addLayout(row)
        column.addWidget(self.legend)
        column.addWidget(self.candidate)

    def show(self, result: Result | None, key: str) -> None:
        """Offer the candidates of a stack, and show what is switched on."""
        self._updating = True
        parameters = self._parameters()
        self.widget.enabled = result is not None
        self.candidate.clear()
        if result is not None:
            stack = result.stacks[key]
            taken = " + ".join(str(index + 1) for index in stack["selected"])
            final = result.get("accepted", key) is not None
            self.candidate.addItem("final segmentation" if final else f"selected mask (candidate {taken})")
            there = stack["candidates"] if overlays.has_candidates(result, key) else []
            for number, candidate in enumerate(there, start=1):
                self.candidate.addItem(f"candidate {number} ({candidate['network']})")
            if parameters.candidate > len(there):
                parameters.candidate = 0
            self.candidate.currentIndex = parameters.candidate
        self.mask.checked = parameters.show_mask
        self.reconstruction.checked = parameters.show_reconstruction
        self.difference.checked = parameters.show_difference
        self._updating = False

    def _switch(self, text: str, words: str) -> qt.QCheckBox:
        box = qt.QCheckBox(text)
        box.objectName = f"RVQCShow{text}"
        box.toolTip = words
        box.connect("toggled(bool)", self._on_switched)
        return box

    def _on_switched(self, checked: bool) -> None:
        if self._updating:
            return
        parameters = self._parameters()
        parameters.show_mask = self.mask.checked
        parameters.show_reconstruction = self.reconstruction.checked
        parameters.show_difference = self.difference.checked
        self._changed()

    def _on_candidate(self, index: int) -> None:
        if not self._updating and index >= 0:
            self._parameters().candidate = index
            self._changed()


def _legend() -> str:
    """What the colours are, as rich text: a patch on the dark of an image, and words."""
    entries = [(structure.color, structure.name) for structure in STRUCTURES]
    entries += [(RECONSTRUCTION_COLOR, "reconstruction"), (DIFFERENCE_COLOR, "difference")]
    return " &nbsp; ".join(f"{_patch(color)} {name.replace(' ', '&nbsp;')}" for color, name in entries)


def _patch(color: Color) -> str:
    red, green, blue = (round(255 * part) for part in color)
    return f'<span style="background: #1b2530; color: rgb({red},{green},{blue})">&nbsp;\N{BLACK SQUARE}&nbsp;</span>'
