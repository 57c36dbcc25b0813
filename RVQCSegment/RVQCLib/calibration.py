"""Calibration of a bundle: reference fences and the map to Dice, from labelled studies that no network was trained on.

Fences come from the stacks as they are. The map to Dice also sees them under graded image shifts (`shifts.py`), and their
masks with errors (`mask_errors.py`), because clean stacks hold too few bad masks to learn from.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from RVQCLib.basal import most_basal, without_rv
from RVQCLib.bundle import Bundle, ViewModels, load_bundle, replace_calibration
from RVQCLib.dataset import fingerprint_of, select_part
from RVQCLib.features import SLICE_FEATURES, STACK_FEATURES, Features, features_of
from RVQCLib.fence_tables import Clean, agreement_fences, slice_fences, stack_fences
from RVQCLib.files import BundleError, Cancelled, RVQCError, check_folder
from RVQCLib.inference import Chosen, Proposal, choose, choose_device, one_hot, propose_stack, with_mask
from RVQCLib.mask_errors import corrupt_mask
from RVQCLib.metrics import dice
from RVQCLib.parallel import in_order
from RVQCLib.prediction import DiceModel, Fit, fit, trust
from RVQCLib.selection import Fences
from RVQCLib.shifts import SEVERITIES, SHIFTS, seed_of, shift_stack
from RVQCLib.slices import from_network
from RVQCLib.stack import LABELS, STRUCTURES, Stack
from RVQCLib.study import StudySource, find_studies

log = logging.getLogger(__name__)

Labelled = tuple[str, Stack, Stack]
"""A study's name, an image, its true mask."""
STRENGTHS = (0.3, 0.6, 1.0)
"""Of the errors injected into masks (`mask_errors.corrupt_mask`)."""
FEW = 10
"""Studies below which a calibration says little of other patients: bounds and fences are shares of them."""
DRAWS = 2
"""How often a stack is seen under every shift, at severities that take turns, and its mask with errors of every strength."""


@dataclass(frozen=True)
class Pool:
    """The networks of one view of a bundle on a device: with `latest` those of its refined pool, where it has one."""

    bundle: Bundle
    view: str
    device: str
    latest: bool = False

    @property
    def models(self) -> ViewModels:
        """Built when a process first asks for them.

        Raises
        ------
        BundleError
            The bundle has no such view, or its weights do not fit its networks.
        """
        models = self.bundle.models(self.view, self.device)
        return models.latest if self.latest else models


@dataclass(frozen=True)
class Opinion:
    """Predicted Dice and 90 % lower bound of one chosen mask: (3,) of the stack, (slices, 3) of its slices; and from
    which predicted Dice on a stack is trusted, (3,)."""

    stack: np.ndarray
    stack_bound: np.ndarray
    slices: np.ndarray
    slices_bound: np.ndarray
    trusted_from: np.ndarray


@dataclass
class Rows:
    """What labelled stacks showed, row by row: whose, whether its mask was damaged or shortened, features, and the real Dice (3,) of the
    stack and (slices, 3)."""

    patients: list[str] = field(default_factory=list)
    damaged: list[bool] = field(default_factory=list)
    features: list[Features] = field(default_factory=list)
    dice: list[np.ndarray] = field(default_factory=list)
    slice_dice: list[np.ndarray] = field(default_factory=list)

    def add(self, study: str, proposal: Proposal, chosen: Chosen, truth: Stack, *, damaged: bool = False) -> None:
        """One chosen mask and its true one."""
        native = from_network(chosen.probabilities, proposal.crop, proposal.stack)
        pairs = [(native == LABELS[s], truth.pixels == LABELS[s]) for s in STRUCTURES]
        self.patients.append(study)
        self.damaged.append(damaged)
        self.features.append(features_of(proposal, chosen))
        self.dice.append(np.array([dice(a, b) for a, b in pairs]))
        self.slice_dice.append(np.array([[dice(a[k], b[k]) for a, b in pairs] for k in range(len(native))]))

    def extend(self, others: Rows) -> None:
        """Add all of the others' rows."""
        for name in ("patients", "damaged", "features", "dice", "slice_dice"):
            getattr(self, name).extend(getattr(others, name))


def opinion(calibration: dict[str, Any], proposal: Proposal, chosen: Chosen) -> Opinion:
    """Grade a chosen mask by the calibration of its view.

    Raises
    ------
    BundleError
        The calibration was made by an RVQC that measured other features.
    """
    if calibration.get("features") != _feature_names():
        raise BundleError("The bundle was calibrated by another version of RVQC; run 'rvqc calibrate' on it again.")
    models, features = calibration["prediction"], features_of(proposal, chosen)
    slices = [DiceModel.from_json(models["slice"][s]).predict(features.slices[:, k]) for k, s in enumerate(STRUCTURES)]
    predicted = np.stack([dice for dice, _ in slices], axis=1)
    row = features.with_slices(predicted)
    stack = [DiceModel.from_json(models["stack"][s]).predict(row[k]) for k, s in enumerate(STRUCTURES)]
    return Opinion(
        np.array([dice for dice, _ in stack]),
        np.array([bound for _, bound in stack]),
        predicted,
        np.stack([bound for _, bound in slices], axis=1),
        np.array([calibration["trust"][s]["least"] for s in STRUCTURES]),
    )


def _feature_names() -> dict[str, list[str]]:
    return {"stack": list(STACK_FEATURES), "slice": list(SLICE_FEATURES)}


def calibrate_bundle(
    path: str | Path,
    data: str | Path,
    *,
    part: str = "validation",
    views: Sequence[str] = (),
    device: str = "auto",
    allow: Sequence[str] = (),
    jobs: int = 1,
    report: Callable[[dict[str, Any]], None] = lambda event: None,
) -> dict[str, dict[str, Any]]:
    """Calibrate the views of the bundle that `data` has labels of, and store it in the bundle at `path`.

    The calibrations of other views stay as they are.

    Parameters
    ----------
    part
        Part of the split that the bundle records, of any view; studies of a view's own training part are always refused.
    views
        Views to calibrate; none: all that `data` has labels of.
    jobs
        Processes side by side.

    Returns
    -------
    The new calibrations by view; of a refined bundle those of its first networks, and the refined ones are calibrated as well.

    Raises
    ------
    RVQCError
        No labelled stack is left to calibrate on, the bundle has no such view, or it cannot be written to.
    """
    bundle = load_bundle(path, allow=allow)
    check_folder(path)
    device = choose_device(device)
    found = find_studies(data)
    labelled = {view for source in found for view, _ in source.labels}
    result: dict[str, dict[str, Any]] = {}
    refined: dict[str, dict[str, Any]] = {}
    for view in views or bundle.views:
        if not views and view not in labelled and labelled & set(bundle.views):
            continue
        pool = Pool(bundle, view, device)
        second = pool.models.refined is not None
        description = bundle.description["views"][view]
        sources = select_part(found, bundle.description["views"], part)  # who is kept from one view is kept from all
        seen = set(description.get("training", {}).get("split", {}).get("train", ()))
        unseen = [source for source in sources if source.name not in seen]
        if 0 < (count := sum(any(v == view for v, _ in source.labels) for source in unseen)) < FEW:
            said = f"{view}: {count} labelled studies to calibrate on say little of other patients; give {FEW} or more."
            report({"event": "warning", "message": said})
        result[view] = calibrate_view(unseen, pool, jobs=jobs, report=report)
        if second:
            refined[view] = calibrate_view(unseen, replace(pool, latest=True), jobs=jobs, report=report)
    replace_calibration(path, result, refined=refined)
    return result


def calibrate_view(
    sources: Sequence[StudySource],
    pool: Pool,
    *,
    jobs: int = 1,
    report: Callable[[dict[str, Any]], None] = lambda event: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """The calibration of one pool as ``bundle.json`` stores it (without the hash of the networks).

    `cancelled` is asked before every stack and every shifted version of it, with several jobs before every stack; when it
    says so, `Cancelled` is raised.
    """
    pairs = labelled_stacks(sources, pool.view)
    studies = sorted({study for study, _, _ in pairs})
    clean, tables, rows = observe(pairs, pool, jobs=jobs, report=report, cancelled=cancelled)
    return {
        "n_stacks": len(pairs),
        "n_studies": len(studies),
        "studies": studies,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "data_fingerprint": fingerprint_of(pairs),
        "shifts": {"names": list(SHIFTS), "severities": list(SEVERITIES), "draws": DRAWS, "errors": list(STRENGTHS)},
        "fences": tables,
        "agreement_fences": agreement_fences(clean),
        "slice_fences": slice_fences(clean),
        **_fit(rows),
    }


def labelled_stacks(sources: Sequence[StudySource], view: str) -> list[Labelled]:
    """Every labelled stack of `view`.

    Raises
    ------
    RVQCError
        There is none.
    """
    pairs = [pair for source in sources for pair in _labelled(source, view)]
    if not pairs:
        raise RVQCError(f"No labelled {view} stack is left to calibrate on; give studies that training never saw.")
    return pairs


def observe(
    pairs: Sequence[Labelled],
    pool: Pool,
    *,
    jobs: int = 1,
    report: Callable[[dict[str, Any]], None] = lambda event: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> tuple[list[Clean], dict[str, Any], Rows]:
    """What fences need of the stacks as they are, the stacks' fences, and the rows of all their versions."""
    ask = cancelled if jobs <= 1 else None
    clean = []
    for one in in_order(partial(_see, pool=pool, cancelled=ask), [image for _, image, _ in pairs], jobs):
        _go_on(cancelled)
        clean.append(one)
    tables, rows = stack_fences(clean), Rows()
    numbered = list(enumerate(pairs, start=1))
    work = partial(_grade, pool=pool, tables=tables, cancelled=ask)
    for (done, (study, image, _)), more in zip(numbered, in_order(work, numbered, jobs), strict=True):
        _go_on(cancelled)
        rows.extend(more)
        report({"event": "calibrate", "study": study, "stack": image.name, "done": done, "total": len(pairs)})
    return clean, tables, rows


def _go_on(cancelled: Callable[[], bool] | None) -> None:
    if cancelled is not None and cancelled():
        raise Cancelled


def _see(image: Stack, *, pool: Pool, cancelled: Callable[[], bool] | None) -> Clean:
    """What fences need of a stack."""
    _go_on(cancelled)
    return Clean.of(propose_stack(image, pool.models))


def _grade(
    numbered: tuple[int, Labelled],
    *,
    pool: Pool,
    tables: dict[str, Any],
    cancelled: Callable[[], bool] | None,
) -> Rows:
    """The rows of one labelled stack: as it is, shifted, with errors in its mask, and at ES without the most basal slice of the
    RV."""
    rows, models, (number, (study, image, truth)) = Rows(), pool.models, numbered
    fence = Fences.from_json(tables[image.phase]["RV"])
    for version in (image, *_versions(study, image, number)):
        _go_on(cancelled)
        proposal = propose_stack(version, models)
        chosen = choose(proposal, fence, models)
        rows.add(study, proposal, chosen, truth)
        if (image.view, image.phase) == ("SA", "ES"):  # as `pipeline.look` may shorten it
            first = most_basal(chosen.measures.slice_mm2[0])
            if first is not None:
                rows.add(study, proposal, without_rv(chosen, first, proposal, models), truth, damaged=True)
        for spoilt in _damaged(study, proposal, chosen, models) if version is image else ():
            rows.add(study, proposal, spoilt, truth, damaged=True)
    return rows


def _labelled(source: StudySource, view: str) -> Iterator[Labelled]:
    study = source.load(labels=True)
    for image in study.stacks:
        truth = study.label(image.view, image.phase)
        if image.view == view and truth is not None:
            yield study.name, image, truth


def _versions(study: str, image: Stack, number: int) -> Iterator[Stack]:
    """The stack under every shift; the severities take turns, so that all are seen as often."""
    for draw in range(DRAWS):
        own = seed_of(draw, study, image)
        for k, name in enumerate(SHIFTS):
            yield shift_stack(image, name, SEVERITIES[(number + k + 2 * draw) % len(SEVERITIES)], seed=own)


def _damaged(study: str, proposal: Proposal, chosen: Chosen, models: ViewModels) -> Iterator[Chosen]:
    for draw in range(DRAWS):
        rng = np.random.default_rng(seed_of(draw, study, proposal.stack))
        for strength in STRENGTHS:
            yield damage(proposal, chosen, models, strength, rng)


def damage(proposal: Proposal, chosen: Chosen, models: ViewModels, strength: float, rng: np.random.Generator) -> Chosen:
    """The chosen mask with injected errors, reconstructed and measured anew; strength 0 leaves it as it is."""
    mask = corrupt_mask(chosen.mask, rng=rng, strength=strength)
    return with_mask(chosen, mask, one_hot(mask), proposal, models)


def _fit(rows: Rows) -> dict[str, Any]:
    """The models of slices and of stacks by structure, and from where on a stack's prediction is trusted."""
    owner = np.repeat(np.arange(len(rows.dice)), [len(one) for one in rows.slice_dice])
    patients = [rows.patients[row] for row in owner]
    features, real = np.concatenate([one.slices for one in rows.features]), np.concatenate(rows.slice_dice)
    slices = [fit(features[:, k], real[:, k], patients) for k in range(len(STRUCTURES))]
    # The stacks' models are taught with slices that were predicted as those of a new patient will be.
    outside = np.stack([one.outside for one in slices], axis=1)
    columns = np.stack([one.with_slices(outside[owner == row]) for row, one in enumerate(rows.features)])
    dice_of = np.stack(rows.dice)
    stacks = [fit(columns[:, k], dice_of[:, k], rows.patients) for k in range(len(STRUCTURES))]
    found = ~np.array(rows.damaged)
    limits = [trust(one.outside[found], dice_of[found, k]) for k, one in enumerate(stacks)]
    return {
        "features": _feature_names(),
        "prediction": {"stack": _by_structure(stacks), "slice": _by_structure(slices)},
        "trust": {s: limit.to_json() for s, limit in zip(STRUCTURES, limits, strict=True)},
    }


def _by_structure(fits: Sequence[Fit]) -> dict[str, dict[str, Any]]:
    return {s: one.model.to_json() for s, one in zip(STRUCTURES, fits, strict=True)}
