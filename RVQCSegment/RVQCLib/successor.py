"""The bundle that comes after: refined networks, the parent's name and hash, and the parent's calibration with wider bounds."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from RVQCLib import __version__
from RVQCLib.bundle import Bundle, entries, pools, write_bundle
from RVQCLib.domain import Domain
from RVQCLib.files import read_json

WIDER = 2.0
"""Factor on the conformal quantile where the new networks could not be calibrated."""


def write_successor(
    draft: Path,
    parent: Bundle,
    weights: Mapping[str, Sequence[dict[str, Any]]],
    records: Mapping[str, Sequence[dict[str, Any]]],
    name: str,
    *,
    second: bool,
    domains: Mapping[str, Domain],
    labelled: Mapping[str, Sequence[str]],
) -> None:
    """Write the new bundle, not yet calibrated anew, to `draft`.

    Parameters
    ----------
    weights
        By view the state dicts of all segmenters of the pool that learnt; views that are missing stay as they are.
    records
        By view what is said of the refinement of each; empty for one that has not changed.
    second
        Whether they become the refined pool beside the first; else they take the place of the pool that learnt.
    domains
        By view how to know an image that the refined pool is for; without, it is for all.
    labelled
        Names of the studies that were learnt from (``train``) and that guarded (``validation``). They join these parts of the
        split of what was refined: none of them says any more how good the new networks are.
    """
    import torch
    from safetensors.torch import load_file

    former = draft / "bundle.json"  # of a run that was killed after it: results already name its hash
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    description = json.loads(json.dumps(parent.description))
    description |= {
        "name": name,
        "created": read_json(former)["created"] if former.exists() else today,
        "rvqc": __version__,
        "torch": torch.__version__,
        "parent": {"name": parent.name, "hash": parent.hash},
    }
    new: dict[str, dict[str, Any]] = {}
    for view, part in description["views"].items():
        if view in weights:
            new |= _with_learnt(view, part, weights[view], records[view], second)
            _record(part, labelled)
            if "refined" in part:
                part["refined"].pop("domain", None)  # of what an earlier refinement learnt from
                part["refined"] |= {"domain": domains[view].to_json()} if view in domains else {}
    files = {e["file"] for part in description["views"].values() for e in entries(part)} - set(new)
    write_bundle(draft, description, {**new, **{file: load_file(parent.path / file) for file in files}})


def _with_learnt(
    view: str,
    part: dict[str, Any],
    weights: Sequence[dict[str, Any]],
    records: Sequence[dict[str, Any]],
    second: bool,
) -> dict[str, dict[str, Any]]:
    """Put what was learnt into the view's part of the description; returns the state dicts by file."""
    old = pools(part)[-1]
    learnt = []
    for k, (entry, record) in enumerate(zip(old["segmenters"], records, strict=True), start=1):
        file = f"{view}/refined{k}.safetensors" if second or "refined" in part else entry["file"]
        learnt.append({**entry, "file": file, **({"refined": record} if record else {})})
    if second:
        part["refined"] = {}
    home = part.get("refined", part)
    home["segmenters"] = learnt
    if old.get("calibration"):
        home["calibration"] = widened(old["calibration"])
    return {entry["file"]: state for entry, state in zip(learnt, weights, strict=True)}


def _record(part: dict[str, Any], labelled: Mapping[str, Sequence[str]]) -> None:
    """Add the names of `labelled` that are new to the split of a view's part of the description."""
    split = part.setdefault("training", {}).setdefault("split", {})
    for name, studies in labelled.items():
        split[name] = [*split.get(name, ()), *(study for study in studies if study not in split.get(name, ()))]


def widened(calibration: dict[str, Any]) -> dict[str, Any]:
    """The parent's calibration with lower bounds twice as far away, for networks that it was not made for."""
    new = json.loads(json.dumps({key: value for key, value in calibration.items() if key != "model"}))
    for models in new["prediction"].values():
        for model in models.values():
            model["quantile"] *= WIDER if model["quantile"] > 0 else 1.0
    return {**new, "widened": WIDER * float(calibration.get("widened", 1.0))}
