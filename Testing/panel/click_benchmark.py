"""From the click on Run QC to the overlay, beside the engine's own segment of the same study in the same worker.

    python Testing/panel/click_benchmark.py STUDY BUNDLE [REPEATS]

prints one JSON line: the medians in seconds, warm. ``make bench`` calls it and sets it beside the bare forward passes.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from conftest import MODULES, Panel, start
from refine_walk import PATIENCE_S


def click(panel: Panel, widget: Any) -> float:
    """Seconds from the click to the mask over the image."""
    from RVQCSlicerLib.self_test import visible_segments

    widget.panel.show_result(None)
    began = time.perf_counter()
    panel.click(widget.panel.run.run)
    panel.wait(lambda: widget._run is None, PATIENCE_S)
    panel.turn()  # in which the views are drawn
    seconds = time.perf_counter() - began
    assert widget.panel.result is not None, widget.panel.message.text
    shown = visible_segments(widget.panel.result.get("overlay", widget.panel.key))
    assert shown == {"mask.RV", "mask.LV", "mask.MYO"}, shown
    return seconds


def engine(panel: Panel, widget: Any, study: str, out: Path) -> float:
    """Seconds of the worker's job for the same study from the disk: read, segment, judge, write the selected masks."""
    ends: list[Any] = []
    bundle = widget.logic.parameters.bundle
    job = {"study": study, "out": str(out), "bundle": bundle, "candidates": False, "report": False, "device": "cpu"}
    began = time.perf_counter()
    widget.logic.worker.submit("segment", job, done=ends.append)
    panel.wait(lambda: ends, PATIENCE_S)
    assert ends[0].kind == "result", ends[0].message
    return time.perf_counter() - began


def measure(study: str, bundle: str, repeats: int, scratch: Path) -> dict[str, float]:
    """Medians of `repeats` alternating turns, after one that warms up."""
    host = start.start(testing=True, temporary=scratch, modules=MODULES)
    panel = Panel(host, scratch)
    widget = panel.open("RVQCSegment")
    parameters = widget.logic.parameters
    parameters.results_folder, parameters.bundle, parameters.device = str(scratch / "panel"), bundle, "cpu"
    widget.panel.refresh()
    widget.onLoad(study)
    turns = [(click(panel, widget), engine(panel, widget, study, scratch / "engine")) for _ in range(repeats + 1)]
    host.close()
    clicks, engines = zip(*turns[1:], strict=True)
    medians = statistics.median(clicks), statistics.median(engines)
    return {"click_s": medians[0], "engine_s": medians[1], "click_over_engine": medians[0] / medians[1]}


def main() -> None:
    """Measure and print; a sentence and exit code 77 where the stand-in for Slicer cannot run."""
    if reason := start.missing():
        sys.stderr.write(f"{reason}\n")
        sys.exit(77)
    study, bundle, *repeats = sys.argv[1:]
    with tempfile.TemporaryDirectory() as scratch:
        paths = (str(Path(path).resolve()) for path in (study, bundle))  # the worker has a folder of its own
        numbers = measure(*paths, int(repeats[0]) if repeats else 5, Path(scratch))
    sys.stdout.write(json.dumps(numbers) + "\n")


if __name__ == "__main__":
    main()
