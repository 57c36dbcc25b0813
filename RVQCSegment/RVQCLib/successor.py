"""The bundle that comes after: refined networks, the parent's name and hash, and a calibration that is honest again."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from RVQCLib import __version__
from RVQCLib.bundle import Bundle, entries, load_bundle, replace_calibration, write_bundle
from RVQCLib.calibration import calibrate_view
from RVQCLib.files import read_json, write_json
from RVQCLib.study import StudySource

Report = Callable[[dict[str, Any]], None]

WIDER = 2.0
"""Factor on the conformal quantile where the new networks could not be calibrated."""


def write_successor(
    draft: Path, parent: Bundle, weights: Mapping[str, dict[str, Any]], records: Mapping[str, dict[str, Any]], name: str
) -> None:
    """Write the new bundle, not yet calibrated anew, to `draft`.

    Parameters
    ----------
    weights
        State dicts by file of the networks that have changed; the others are the parent's.
    records
        By the same files what is said of the network's refinement.
    """
    import torch
    from safetensors.torch import load_file

    description = json.loads(json.dumps(parent.description))
    description |= {
        "name": name,
        "created": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "rvqc": __version__,
        "torch": torch.__version__,
        "parent": {"name": parent.name, "hash": parent.hash},
    }
    everything = {}
    for part in description["views"].values():
        changed = [entry["file"] for entry in entries(part) if entry["file"] in weights]
        for entry in entries(part):
            file = entry["file"]
            everything[file] = weights[file] if file in weights else load_file(parent.path / file)
            if file in records:
                entry["refined"] = records[file]
        if changed and part.get("calibration"):
            part["calibration"] = widened(part["calibration"])
    write_bundle(draft, description, everything)


def widened(calibration: dict[str, Any]) -> dict[str, Any]:
    """The parent's calibration with lower bounds twice as far away, for networks that it was not made for."""
    new = json.loads(json.dumps({key: value for key, value in calibration.items() if key != "model"}))
    for models in new["prediction"].values():
        for model in models.values():
            model["quantile"] *= WIDER if model["quantile"] > 0 else 1.0
    return {**new, "widened": WIDER * float(calibration.get("widened", 1.0))}


def recalibrate(
    draft: Path,
    guards: Mapping[str, Sequence[StudySource]],
    *,
    device: str,
    allow: Sequence[str],
    kept: Path,
    report: Report = lambda event: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """Calibrate the views of the bundle `draft` on the labelled studies that guard them, no network having seen these.

    A calibration that is done lies in the folder `kept`, so that a killed run does it once.
    """
    for view, sources in guards.items():
        file = kept / f"calibration-{view}.json"
        if not file.exists():
            models = load_bundle(draft, allow=allow).models(view, device)
            write_json(file, calibrate_view(sources, view, models, report=report, cancelled=cancelled))
        replace_calibration(draft, {view: read_json(file)})
