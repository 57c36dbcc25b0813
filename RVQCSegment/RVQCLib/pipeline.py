"""Segment one study and judge it: the one function behind the panel, the console, the command and the batch."""

from __future__ import annotations

import datetime
import logging
import platform
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from RVQCLib import __version__
from RVQCLib.acceptance import GRADED, Acceptance, accept
from RVQCLib.basal import cleared, slice_above_base, without_rv
from RVQCLib.bundle import Bundle, ViewModels
from RVQCLib.calibration import opinion
from RVQCLib.files import BundleError, Cancelled, RVQCError
from RVQCLib.inference import Chosen, Proposal, Tick, choose, choose_device, one_hot, propose_stack
from RVQCLib.orientation import AS_STORED, TURNS, Turn, says_nothing
from RVQCLib.parallel import side_by_side
from RVQCLib.phases import find_phases
from RVQCLib.quality import QCOptions, Reference, judge, study_checks
from RVQCLib.result import StackResult, StudyResult, named_image
from RVQCLib.slices import from_network
from RVQCLib.stack import STRUCTURES, Stack, Study, structure_volumes_ml

log = logging.getLogger(__name__)

Progress = Callable[[dict[str, Any]], None]


def segment_study(
    study: Study,
    bundle: Bundle,
    *,
    options: QCOptions = QCOptions(),
    frames: Mapping[str, tuple[int, int]] = MappingProxyType({}),
    device: str = "auto",
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> StudyResult:
    """Candidates, reconstructions, judgement and selection (Sec. 2.3) of every stack of `study`; no file is written.

    A view that the bundle has no networks for is left out and named in the result's `checks`.

    Parameters
    ----------
    frames
        By view which frames of its cine are ED and ES, from 0; of other cines they are those of `Study.with_phases`, or else
        are found (`find_phases`), whatever else the study has of the view.
    device
        ``auto``, ``cuda``, ``mps`` or ``cpu``.
    progress
        Is called with ``{"event": "segment", "study", "stack", "done", "total"}`` after every stack, and between with
        ``{"event": "slices", "study", "stack", "done", "total", "seconds_left"}``: slices times networks.
    cancelled
        Is asked after every forward pass.

    Raises
    ------
    BundleError
        The bundle has networks for no view of the study.
    RVQCError
        `frames` names a view without a cine, or a frame that its cine has not; or `device` does not work here.
    Cancelled
        `cancelled` returned True.
    """
    device = choose_device(device)
    _check_frames(study, frames)
    study, left_out = _with_views_of(study, bundle)
    models = {view: bundle.models(view, device) for view in study.views}
    chosen = study.chosen
    frames = {**chosen, **frames}
    steps = _Steps(study, models, frames, progress, cancelled)
    taken = []
    for cine in study.cines:
        view = cine[0].view
        ed, es = frames.get(view) or find_phases(cine, models[view], tick=steps.of(view))
        if (ed, es) != chosen.get(view):
            study = study.with_phases(view, ed=ed, es=es)
        taken.append({"view": view, "ed": ed, "es": es, **({"given": True} if view in frames else {})})

    def judged(stack: Stack) -> StackResult:
        one = segment_stack(study.name, stack, models[stack.view], options=options, tick=steps.of(stack.name))
        steps.finish(stack.name, len(study.stacks))
        return replace(one, judgement={**one.judgement, "image": named_image(stack)})

    results = side_by_side(judged, study.stacks) if device == "cpu" else [judged(stack) for stack in study.stacks]
    volumes = {(r.image.view, r.image.phase): structure_volumes_ml(r.mask) for r in results}
    cautions = tuple(f"{view}: {text}" for view, text in bundle.cautions.items() if view in study.views)
    shortened = tuple(_shortened(r.judgement) for r in results if "above_base" in r.judgement)
    tried = tuple(_tried(r.judgement) for r in results if "ways_tried" in r.judgement)
    checks = (*study.notes, *left_out, *cautions, *tried, *shortened, *study_checks(volumes))
    return StudyResult(study, tuple(results), checks, {**provenance(bundle, device, options), "cine": taken})


def _tried(entry: Mapping[str, Any]) -> str:
    return (
        f"{entry['view']} {entry['phase']}: the image's header does not say how the patient lies in it; all eight orientations were "
        "tried, and the one with the best predicted RV was kept"
    )


def _shortened(entry: Mapping[str, Any]) -> str:
    above = entry["above_base"]
    return (
        f"{entry['view']} {entry['phase']}: slice {above['slice'] + 1} probably shows the atrium (predicted Dice of the RV "
        f"{above['predicted_dice']:.2f}), so the RV was left out of it"
    )


def _check_frames(study: Study, frames: Mapping[str, tuple[int, int]]) -> None:
    """Raise `RVQCError` where `frames` (as in `segment_study`) does not fit the cines of `study`."""
    cines = {cine[0].view: len(cine) for cine in study.cines}
    for view, chosen in frames.items():
        if view not in cines:
            raise RVQCError(f"{study.name} has no {view} cine to take frames from; leave the frames out.")
        if not all(0 <= frame < cines[view] for frame in chosen) or chosen[0] == chosen[1]:
            raise RVQCError(
                f"The {view} cine of {study.name} has the frames 1 to {cines[view]}; name two of them, that of ED first."
            )


def _with_views_of(study: Study, bundle: Bundle) -> tuple[Study, tuple[str, ...]]:
    """The part of a study that the bundle has networks for, and a sentence for every view that is left out."""
    missing = [view for view in study.views if view not in bundle.views]
    if missing and len(missing) == len(study.views):
        has = ", ".join(bundle.views)
        raise BundleError(f"The bundle {bundle.path} has no {missing[0]} networks, only {has}; choose another bundle.")
    part = replace(
        study,
        stacks=tuple(stack for stack in study.stacks if stack.view not in missing),
        cines=tuple(cine for cine in study.cines if cine[0].view not in missing),
    )
    why = f"was left out, because the bundle {bundle.name} has no networks for it; choose a bundle that has"
    return part, tuple(f"{view} {why}" for view in missing)


class _Steps:
    """The ticks of one study: count slices times networks, tell how long it will take, and ask whether to go on.

    Stacks may tick at once, from threads of their own; `progress` and `cancelled` are called from one of them at a time.
    """

    def __init__(
        self,
        study: Study,
        models: dict[str, ViewModels],
        frames: Mapping[str, tuple[int, int]],
        progress: Progress | None,
        cancelled: Callable[[], bool] | None,
    ) -> None:
        passes = {
            view: _passes(first) + (_passes(first.refined) if first.refined else 0) for view, first in models.items()
        }
        from_cines = [
            (cine[0], (0 if cine[0].view in frames else len(cine)) + 2 * passes[cine[0].view]) for cine in study.cines
        ]
        moving = {cine[0].view for cine in study.cines}
        steps = [(stack, passes[stack.view]) for stack in study.stacks if stack.view not in moving] + from_cines
        self._total = sum(len(stack.pixels) * times for stack, times in steps)
        self._done, self._started = 0, time.monotonic()
        self._study, self._progress, self._cancelled = study.name, progress, cancelled
        self._finished, self._alone = 0, threading.Lock()
        self._advance("", 0)

    def of(self, stack: str) -> Tick:
        """The tick of one stack or cine, by its name."""
        return lambda slices: self._advance(stack, slices)

    def finish(self, stack: str, total: int) -> None:
        """One more stack of `total` is judged."""
        with self._alone:
            self._finished += 1
            self._tell({"event": "segment", "stack": stack, "done": self._finished, "total": total})

    def _advance(self, stack: str, slices: int) -> None:
        with self._alone:
            if self._cancelled is not None and self._cancelled():
                raise Cancelled
            self._done += slices
            if slices:
                left = (time.monotonic() - self._started) / self._done * (self._total - self._done)
                counts = {"done": self._done, "total": self._total, "seconds_left": round(left, 1)}
                self._tell({"event": "slices", "stack": stack, **counts})

    def _tell(self, event: dict[str, Any]) -> None:
        if self._progress is not None:
            self._progress({**event, "study": self._study})


def segment_stack(
    study: str, stack: Stack, models: ViewModels, *, options: QCOptions = QCOptions(), tick: Tick | None = None
) -> StackResult:
    """All of Sec. 2.3 for one stack. `study` only names the mask's file; `tick` is that of `propose_stack`.

    The refined pool of a bundle looks again (`look_again`) at what the first cannot be trusted with.
    """
    first = look(study, stack, models, options=options, tick=tick)
    return look_again(first, models, options=options, tick=tick)


@dataclass(frozen=True, eq=False)
class Look:
    """What one pool says of a stack of `study`, and its candidates on the networks' grid."""

    study: str
    result: StackResult
    proposal: Proposal


def look_again(
    first: Look, models: ViewModels, *, options: QCOptions = QCOptions(), tick: Tick | None = None
) -> StackResult:
    """The result of the first look of `models` where there is no refined pool, or none that is asked, else of both.

    The refined pool looks at what the first cannot be trusted with and what is like the stacks that it was refined on
    (`domain.Domain`); its mask is taken where `acceptance.accept` says so. A trusted mask is never touched. Both masks are
    graded by the first pool's calibration, as two maps to Dice need not agree; what is told of a mask that is taken is by
    the refined pool's own.
    """
    old, proposal, later = first.result, first.proposal, models.refined
    if later is None:
        return old
    familiar = later.domain is None or later.domain.holds(proposal.images, old.mask.pixels)
    if old.judgement["verdict"] == "trusted" or not familiar:
        if tick is not None:
            tick(len(proposal.stack.pixels) * _passes(later))
        return old
    again = propose_stack(proposal.stack, later, tick, crop=proposal.crop)
    pick = _picked(again, later, options)
    graded = _judgement(first.study, again, pick, replace(later, calibration=models.calibration), options)
    found = accept(old.judgement, graded)
    if not found.accepted:
        return replace(old, judgement=_second_look(old.judgement, found, {"other": graded["structures"]}))
    numbers = {"other": old.judgement["structures"], "graded": {key: graded[key] for key in GRADED}}
    own = _judgement(first.study, again, pick, later, options)
    return _result(again, pick, _second_look(own, found, numbers))


def _second_look(taken: dict[str, Any], found: Acceptance, numbers: dict[str, Any]) -> dict[str, Any]:
    """The entry of quality.json of the mask that was taken, with what was found, and the `numbers` of the other mask."""
    said = "The refined networks' mask was taken" if found.accepted else "The refined networks' mask was not taken"
    return {
        **taken,
        "second_look": {"taken": found.accepted, "reason": found.reason, **numbers},
        "selection_reason": f"{taken['selection_reason']} {said}: {found.reason}.",
    }


def _passes(models: ViewModels) -> int:
    """Forward passes of one pool over a stack, R's among them."""
    return len(models.segmenters) + 1


def look(
    study: str,
    stack: Stack,
    models: ViewModels,
    *,
    options: QCOptions = QCOptions(),
    tick: Tick | None = None,
) -> Look:
    """What one pool says of a stack. `models.refined` is not asked.

    Where the header of a single slice says nothing of how it lies, and the networks learnt from upright ones, all eight ways are
    tried, and that is taken of which the best Dice is predicted.
    """

    def seen(turn: Turn | None, tick: Tick | None) -> Look:
        proposal = propose_stack(stack, models, tick, turn=turn)
        pick = _picked(proposal, models, options)
        return Look(study, _result(proposal, pick, _judgement(study, proposal, pick, models, options)), proposal)

    def promise(one: Look) -> tuple[bool, float]:
        found = one.result.judgement["structures"][options.primary]
        return found["volume_ml"] > 0, found["predicted_dice"]

    first = seen(None, tick)
    alone = len(stack.pixels) == 1 and says_nothing(stack.geometry)
    if not (alone and models.sampling.upright and models.calibration):
        return first
    others = [seen(turn, None if tick is None else lambda slices: tick(0)) for turn in TURNS if turn != AS_STORED]
    best = max([first, *others], key=promise)
    return replace(best, result=replace(best.result, judgement={**best.result.judgement, "ways_tried": len(TURNS)}))


@dataclass(frozen=True, eq=False)
class _Pick:
    """The mask that a pool selects, on the networks' grid and on the image's, all candidates there, and which slice was left
    out of its RV."""

    chosen: Chosen
    mask: Stack
    candidates: tuple[Stack, ...]
    above_base: dict[str, Any] = field(default_factory=dict)


def _picked(proposal: Proposal, models: ViewModels, options: QCOptions) -> _Pick:
    """What the calibration of `models` selects among the candidates, at ES without the slice above the base."""
    stack, calibration = proposal.stack, models.calibration
    reference = Reference.from_calibration(calibration, stack.phase) if calibration else None
    fence = reference.stack[options.primary] if reference else None
    chosen = choose(proposal, fence, models, primary=options.primary)
    candidates = tuple(stack.with_pixels(from_network(p, proposal.crop, stack)) for p in proposal.probabilities)
    one, *more = chosen.selection.indices
    mask = stack.with_pixels(from_network(chosen.probabilities, proposal.crop, stack)) if more else candidates[one]
    above = above_base(proposal, chosen, models)
    if not above:
        return _Pick(chosen, mask, candidates)
    less = mask.with_pixels(cleared(mask.pixels, above["slice"]))
    return _Pick(without_rv(chosen, above["slice"], proposal, models), less, candidates, above)


def above_base(proposal: Proposal, chosen: Chosen, models: ViewModels) -> dict[str, Any]:
    """``slice``, from 0, in which the RV of a chosen mask is rather the atrium, and its ``predicted_dice``; empty where there is
    none, as at ED, in LA, and without a calibration."""
    stack, calibration = proposal.stack, models.calibration
    if calibration is None or (stack.view, stack.phase) != ("SA", "ES"):
        return {}
    predicted = opinion(calibration, proposal, chosen).slices
    found = slice_above_base(chosen.measures.slice_mm2[0], predicted)
    return {} if found is None else {"slice": found, "predicted_dice": float(predicted[found, STRUCTURES.index("RV")])}


def _judgement(study: str, proposal: Proposal, pick: _Pick, models: ViewModels, options: QCOptions) -> dict[str, Any]:
    """What is said of the selected mask of a stack by the calibration of `models`: its entry of quality.json."""
    stack, calibration, chosen = proposal.stack, models.calibration, pick.chosen
    judgement = judge(
        proposal.measures,
        chosen.measures,
        chosen.selection,
        mask=chosen.mask,
        spacing_zyx=proposal.spacing_zyx,
        view=stack.view,
        reference=Reference.from_calibration(calibration, stack.phase) if calibration else None,
        predicted=opinion(calibration, proposal, chosen) if calibration else None,
        volumes_ml=structure_volumes_ml(pick.mask),
        networks=models.names,
        options=options,
    )
    head = {"view": stack.view, "phase": stack.phase, "mask": f"{study}_{stack.name}.nii.gz"}
    return {**head, **judgement.to_json(), **({"above_base": pick.above_base} if pick.above_base else {})}


def _result(proposal: Proposal, pick: _Pick, judgement: dict[str, Any]) -> StackResult:
    """The selected mask of a stack with its reconstruction, the candidates, and what is said of it."""
    reconstruction = from_network(one_hot(pick.chosen.reconstruction), proposal.crop, proposal.stack)
    return StackResult(
        image=proposal.stack,
        mask=pick.mask,
        reconstruction=proposal.stack.with_pixels(reconstruction),
        candidates=pick.candidates,
        judgement=judgement,
    )


def provenance(bundle: Bundle, device: str, options: QCOptions) -> dict[str, Any]:
    """What every result names: the bundle and its calibrations, the device, the versions, the rules, the day."""
    import SimpleITK as sitk
    import torch

    calibrations = {
        view: {key: part["calibration"][key] for key in ("n_stacks", "n_studies", "date", "data_fingerprint")}
        for view, part in bundle.description["views"].items()
        if part.get("calibration")
    }
    return {
        "bundle": {"name": bundle.name, "hash": bundle.hash},
        "calibration": calibrations,
        "device": device,
        "options": options.to_json(),
        "versions": {
            "rvqc": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "SimpleITK": sitk.Version.VersionString(),
            "python": platform.python_version(),
        },
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
