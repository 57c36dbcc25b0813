"""Calibration of a bundle: reference fences and the map to Dice, from labelled studies that no network was trained on.

Fences come from the stacks as they are. The map to Dice also sees them under graded image shifts (`shifts.py`), because
clean stacks hold too few bad masks to learn from.
"""

from __future__ import annotations

import datetime
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from RVQCLib.bundle import ViewModels, load_bundle, replace_calibration
from RVQCLib.dataset import fingerprint_of, select_part
from RVQCLib.files import Cancelled, RVQCError
from RVQCLib.inference import Chosen, Proposal, choose, choose_device, propose_stack
from RVQCLib.metrics import dice
from RVQCLib.prediction import DiceModel, confidence, fit, slice_features, stack_features
from RVQCLib.selection import Fences, fences, slice_position
from RVQCLib.shifts import SEVERITIES, SHIFTS, shift_stack
from RVQCLib.slices import from_network
from RVQCLib.stack import LABELS, STRUCTURES, Stack
from RVQCLib.study import StudySource, find_studies

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Opinion:
    """Predicted Dice and 90 % lower bound of one chosen mask: (3,) of the stack, (slices, 3) of its slices."""

    stack: np.ndarray
    stack_bound: np.ndarray
    slices: np.ndarray
    slices_bound: np.ndarray


@dataclass
class _Rows:
    """What one view's labelled stacks showed: features and real Dice, row by row, with the patient of each row."""

    patients: list[str] = field(default_factory=list)
    stack: list[np.ndarray] = field(default_factory=list)
    stack_dice: list[np.ndarray] = field(default_factory=list)
    slice_inputs: list[tuple[np.ndarray, ...]] = field(default_factory=list)
    slice_dice: list[np.ndarray] = field(default_factory=list)


def opinion(calibration: dict[str, Any], proposal: Proposal, chosen: Chosen) -> Opinion:
    """Grade a chosen mask by the calibration of its view."""
    models = calibration["prediction"]
    features, inputs = _features(proposal, chosen)
    graded = [DiceModel.from_json(models["stack"][s]).predict(features[k]) for k, s in enumerate(STRUCTURES)]
    stack = np.array([g[0] for g in graded])
    columns = slice_features(*inputs, stack)
    per_slice = [DiceModel.from_json(models["slice"][s]).predict(columns[:, k]) for k, s in enumerate(STRUCTURES)]
    return Opinion(
        stack,
        np.array([g[1] for g in graded]),
        np.stack([g[0] for g in per_slice], axis=1),
        np.stack([g[1] for g in per_slice], axis=1),
    )


def _features(proposal: Proposal, chosen: Chosen) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Features of the stack (3, n), and the arguments of `slice_features` but its context."""
    expected, expected_slices = confidence(chosen.mask, proposal.voters.mean(axis=0))
    own, all_ = chosen.measures, proposal.measures
    area = own.slice_mm2[0]
    volume = area.sum(axis=0) * proposal.spacing_zyx[0] / 1000.0
    stack = stack_features(own.stack_pDC[0], own.stack_pHD[0], all_.stack_agreement, expected, volume)
    return stack, (own.slice_pDC[0], own.slice_pHD[0], all_.slice_agreement, expected_slices, area)


def calibrate_bundle(
    path: str | Path,
    data: str | Path,
    *,
    part: str = "validation",
    device: str = "auto",
    allow: Sequence[str] = (),
    report: Callable[[dict[str, Any]], None] = lambda event: None,
) -> dict[str, dict[str, Any]]:
    """Calibrate every view of the bundle that `data` has labels of, and store it in the bundle at `path`.

    The calibrations of other views stay as they are.

    Parameters
    ----------
    part
        Part of the split that the bundle records; studies of its training part are always refused.

    Returns
    -------
    The new calibrations by view.

    Raises
    ------
    RVQCError
        No labelled stack is left to calibrate on.
    """
    bundle = load_bundle(path, allow=allow)
    device = choose_device(device)
    found = find_studies(data)
    labelled = {view for source in found for view, _ in source.labels}
    views = bundle.description["views"]
    result = {}
    for view, description in views.items():
        if view not in labelled and labelled & set(views):
            continue
        sources = select_part(found, {view: description}, part)
        seen = set(description.get("training", {}).get("split", {}).get("train", ()))
        unseen = [source for source in sources if source.name not in seen]
        result[view] = calibrate_view(unseen, view, bundle.models(view, device), report=report)
    replace_calibration(path, result)
    return result


def calibrate_view(
    sources: Sequence[StudySource],
    view: str,
    models: ViewModels,
    *,
    report: Callable[[dict[str, Any]], None] = lambda event: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """The calibration of one view as ``bundle.json`` stores it (without the hash of the networks).

    `cancelled` is asked before every stack and every shifted version of it; when it says so, `Cancelled` is raised.
    """

    def proposed(stack: Stack) -> Proposal:
        if cancelled():
            raise Cancelled
        return propose_stack(stack, models)

    pairs = list(_labelled(sources, view))
    if not pairs:
        raise RVQCError(f"No labelled {view} stack is left to calibrate on; give studies that training never saw.")
    clean = [(study, image.phase, proposed(image)) for study, image, _ in pairs]
    tables = _stack_fences(clean)
    slice_tables = _slice_fences(clean)
    agreement = _agreement_fences(clean)
    del clean
    rows = _Rows()
    for number, (study, image, truth) in enumerate(pairs, start=1):
        fence = Fences.from_json(tables[image.phase]["RV"])
        for version in _versions(image, number):
            proposal = proposed(version)
            _add(rows, study, proposal, choose(proposal, fence, models), truth)
        report({"event": "calibrate", "study": study, "stack": image.name, "done": number, "total": len(pairs)})
    return {
        "n_stacks": len(pairs),
        "n_studies": len({study for study, _, _ in pairs}),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "data_fingerprint": fingerprint_of((study, image, truth) for study, image, truth in pairs),
        "shifts": {"names": list(SHIFTS), "severities": list(SEVERITIES)},
        "fences": tables,
        "agreement_fences": agreement,
        "slice_fences": slice_tables,
        "prediction": _fit(rows),
    }


def _labelled(sources: Sequence[StudySource], view: str) -> Iterator[tuple[str, Stack, Stack]]:
    for source in sources:
        study = source.load(labels=True)
        for image in study.stacks:
            truth = study.label(image.view, image.phase)
            if image.view == view and truth is not None:
                yield study.name, image, truth


def _versions(image: Stack, number: int) -> Iterator[Stack]:
    """The stack as it is and once under every shift; the severities take turns, so that all are seen."""
    yield image
    for k, name in enumerate(SHIFTS):
        yield shift_stack(image, name, SEVERITIES[(number + k) % len(SEVERITIES)], seed=0)


def _add(rows: _Rows, study: str, proposal: Proposal, chosen: Chosen, truth: Stack) -> None:
    native = from_network(chosen.probabilities, proposal.crop, proposal.stack)
    rows.patients.append(study)
    features, inputs = _features(proposal, chosen)
    rows.stack.append(features)
    rows.slice_inputs.append(inputs)
    pairs = [(native == LABELS[s], truth.pixels == LABELS[s]) for s in STRUCTURES]
    rows.stack_dice.append(np.array([dice(a, b) for a, b in pairs]))
    rows.slice_dice.append(np.array([[dice(a[k], b[k]) for a, b in pairs] for k in range(len(native))]))


def _fit(rows: _Rows) -> dict[str, dict[str, Any]]:
    """The models of stacks and slices by structure."""
    features, real = np.stack(rows.stack), np.stack(rows.stack_dice)
    stack = {s: fit(features[:, k], real[:, k], rows.patients) for k, s in enumerate(STRUCTURES)}
    columns = []
    for row, inputs in zip(features, rows.slice_inputs, strict=True):
        context = np.array([stack[s].predict(row[k])[0] for k, s in enumerate(STRUCTURES)])
        columns.append(slice_features(*inputs, context))
    patients = [p for p, real in zip(rows.patients, rows.slice_dice, strict=True) for _ in real]
    everything, real = np.concatenate(columns), np.concatenate(rows.slice_dice)
    slices = {s: fit(everything[:, k], real[:, k], patients) for k, s in enumerate(STRUCTURES)}
    return {
        "stack": {s: model.to_json() for s, model in stack.items()},
        "slice": {s: model.to_json() for s, model in slices.items()},
    }


_Clean = Sequence[tuple[str, str, Proposal]]


def _stack_fences(clean: _Clean) -> dict[str, dict[str, dict[str, Any]]]:
    """Eqs. 3 and 4 a phase and structure over all candidates of the clean stacks; ``all`` pools the phases."""
    pDC: dict[str, list[np.ndarray]] = defaultdict(list)
    pHD: dict[str, list[np.ndarray]] = defaultdict(list)
    for _, phase, proposal in clean:
        for key in (phase, "all"):
            pDC[key].append(proposal.measures.stack_pDC)
            pHD[key].append(proposal.measures.stack_pHD)
    return {
        key: {
            s: fences(np.concatenate(pDC[key])[:, k], np.concatenate(pHD[key])[:, k]).to_json()
            for k, s in enumerate(STRUCTURES)
        }
        for key in pDC
    }


def _slice_fences(clean: _Clean) -> dict[str, dict[str, dict[str, Any]]]:
    """Eqs. 3 and 4 a slice position and structure, over slices and candidates in which the structure is seen."""
    values: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for _, _, proposal in clean:
        for m, masks in enumerate(proposal.masks):
            positions = slice_position((masks > 0).sum(axis=(1, 2)))
            for s, position in enumerate(positions):
                for k, structure in enumerate(STRUCTURES):
                    if (masks[s] == LABELS[structure]).any():
                        pair = (proposal.measures.slice_pDC[m, s, k], proposal.measures.slice_pHD[m, s, k])
                        values[(position, structure)].append(pair)
    tables: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for (position, structure), pairs in values.items():
        tables[position][structure] = fences(*np.array(pairs).T).to_json()
    return dict(tables)


def _agreement_fences(clean: _Clean) -> dict[str, Any]:
    """Eq. 3 for the candidates' agreement: of stacks by structure, and of slices by position and structure."""
    stack = np.stack([proposal.measures.stack_agreement for _, _, proposal in clean])
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _, _, proposal in clean:
        positions = slice_position((proposal.masks[0] > 0).sum(axis=(1, 2)))
        for s, position in enumerate(positions):
            for k, structure in enumerate(STRUCTURES):
                values[(position, structure)].append(float(proposal.measures.slice_agreement[s, k]))
    tables: dict[str, dict[str, float]] = defaultdict(dict)
    for (position, structure), numbers in values.items():
        tables[position][structure] = _low(np.array(numbers))
    return {"stack": {s: _low(stack[:, k]) for k, s in enumerate(STRUCTURES)}, "slice": dict(tables)}


def _low(values: np.ndarray) -> float:
    return fences(values, np.zeros_like(values)).th_low
