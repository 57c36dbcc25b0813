"""The self test of the panel's module, as "Reload and Test" and ctest run it."""

from __future__ import annotations

from typing import Any

import slicer

from RVQCLib.files import RVQCError
from RVQCSlicerLib import overlays, review
from RVQCSlicerLib.sample_data import sound
from RVQCSlicerLib.words import VERDICTS


def phantom_through_the_panel(test: Any, logic: Any) -> None:
    """A phantom is judged by `logic`, shown and accepted; `test` is the unittest that asserts. Without torch one sentence."""
    loaded, folder = sound(), slicer.app.temporaryPath
    try:
        result = logic.runQC(saED=loaded.volumes["SA_ED"], name="self test", results=folder)
    except RVQCError as error:
        test.assertIn("is not installed", str(error))
        test.delayDisplay(f"Skipped: {error}")
        return
    test.assertEqual(list(result.stacks), ["SA_ED"])
    test.assertIn(result.stacks["SA_ED"]["verdict"], VERDICTS)
    overlays.show(result, "SA_ED", reconstruction=True)
    review.decide(result, "SA_ED", review.ACCEPTED, review.Decision("self test"), fallback=folder)
    final = slicer.util.getNode("self test SA ED")
    test.assertEqual(final.GetSegmentation().GetNumberOfSegments(), 3)
    logic.worker.stop()
    test.delayDisplay("The self test passed.")
