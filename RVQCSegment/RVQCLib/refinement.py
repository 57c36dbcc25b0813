"""The semi-supervised phase (Sec. 2.2, eq. 2) from a bundle and unlabelled studies to a new bundle.

The old bundle is only read. What is done lies in a work folder, so that a run that was killed goes on where it was.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from RVQCLib.adaptation import Refined, Refinement
from RVQCLib.bundle import Bundle, ViewModels, check_target, load_bundle, replace_calibration, same_networks
from RVQCLib.calibration import FEW, Pool, calibrate_view, labelled_stacks
from RVQCLib.distributed import Crew, crew
from RVQCLib.domain import Domain
from RVQCLib.files import Cancelled, RVQCError, read_json, same_settings, whole_folder, write_json
from RVQCLib.fitting import Report
from RVQCLib.heap import give_back
from RVQCLib.inference import choose_device
from RVQCLib.labelled import has_labels, labelled_parts, names_of, tell_doubles
from RVQCLib.locks import LOCK, sole_run
from RVQCLib.material import gather, source_size
from RVQCLib.newdomain import NewDomain, drawn
from RVQCLib.recipes import RECIPES, Recipe, RefinementConfig
from RVQCLib.stack import STRUCTURES
from RVQCLib.study import StudySource, find_studies
from RVQCLib.successor import write_successor
from RVQCLib.teachers import Flagged
from RVQCLib.verdict import judge, judge_by_agreement, too_few_learnt, with_refined

__all__ = ["RECIPES", "Recipe", "RefinementConfig", "refine_bundle"]

log = logging.getLogger(__name__)

CLAIMED = {
    "config": "of another configuration",
    "bundle": "of another bundle",
    "studies": "of other unlabelled studies",
    "labelled": "with other labelled studies",
}
"""What makes a refinement the same one as that of its work folder, and what is said where it is another."""


@dataclass
class _Job:
    """One call of `refine_bundle`: its arguments, checked, and what its steps found."""

    bundle: Bundle
    out: Path
    work: Path
    config: RefinementConfig
    device: str
    report: Report
    cancelled: Callable[[], bool]
    crew: Crew
    parts: dict[str, list[StudySource]]
    weights: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    records: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    domains: dict[str, Domain] = field(default_factory=dict)
    views: dict[str, dict[str, Any]] = field(default_factory=dict)

    def check(self) -> None:
        if self.cancelled():
            raise Cancelled


def refine_bundle(
    unlabelled: str | Path,
    bundle_path: str | Path,
    out: str | Path,
    config: RefinementConfig = RefinementConfig(),
    *,
    labelled: str | Path | None = None,
    device: str = "auto",
    allow: Sequence[str] = (),
    work: str | Path | None = None,
    names: Sequence[str] | None = None,
    name: str = "",
    resume: bool = True,
    report: Report = lambda event: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Refine every candidate of a bundle on the flagged ones of unlabelled studies and write the new bundle to `out`.

    Parameters
    ----------
    unlabelled
        A folder of studies; true masks in it are not read. `names`: only these of them.
    labelled
        Labelled studies for L_SUP and for the guard. Of those that the bundle's split records, the train part is learnt
        from and the validation part guards; who is kept from the training of one view is not learnt from in any, and the test
        part is never read. Of other data a fifth guards. Without labels L_SUP is missing, and only the candidates' agreement
        guards. A view of which other labelled studies have no labels stays as it is.
    work
        Folder of checkpoints and of every study's masks before and after; by default ``OUT.refinement``. With `resume`
        what an earlier call with the same arguments left there is continued.
    name
        Of the new bundle; by default that of its folder.

    Returns
    -------
    The content of ``refinement.json`` in the new bundle.

    Raises
    ------
    RVQCError
        `work` belongs to another refinement or is being worked on, the bundle is not calibrated, no study can be read, `out` is the bundle
        itself or something else than a bundle, or the processes of the crew cannot share a batch.
    Cancelled
        `cancelled` returned True; the work folder keeps the last whole epoch, `out` is as it was.
    """
    check_target(out)
    bundle = load_bundle(bundle_path, allow=allow)
    if Path(out).resolve() == bundle.path.resolve():
        raise RVQCError(f"{out} is the bundle that is refined; name another folder for the new one.")
    sources = _sources(unlabelled, names)
    members = crew()
    device = choose_device(device)
    home = Path(work) if work else Path(f"{out}.refinement")
    if members.size > 1 and config.recipe.live:
        raise RVQCError(
            f"The mode {config.mode} normalizes by the batch, which processes do not share; start one alone."
        )
    members.share(config.batch)  # or refuse a batch that cannot be shared
    parts = labelled_parts(labelled, bundle, config, report if members.leads else lambda event: None)
    claim = {"config": config.to_json(), "bundle": bundle.hash, "studies": [source.name for source in sources]}
    claim["labelled"] = names_of(parts)
    job = _Job(bundle, Path(out), home, config, device, report, cancelled, members, parts)
    for view in sorted({view for source in sources for view, _ in source.images} & set(bundle.views)):
        if not _without_lessons(job, view):
            bundle.check_calibrated(view)
    domain = NewDomain(sources, home / "studies", device, members, report, cancelled)
    with sole_run(home / LOCK, str(home)) if members.leads else nullcontext():
        if members.leads:
            _claim(home, claim, resume)
        finished = _calibrated_since(job)
        members.wait()
        if finished and members.leads:
            said = f"{out} is finished and was calibrated since; nothing was done. To refine anew, remove {home}."
            report({"event": "warning", "message": said})
        elif not finished:
            _refine(job, domain, name or Path(out).name)
        members.wait()
    return read_json(Path(out) / "refinement.json")


def _calibrated_since(job: _Job) -> bool:
    """Whether `out` holds the outcome of this refinement with a calibration that it got later, which is not to be lost."""
    draft, out = job.work / "bundle", job.out
    if not (out / "refinement.json").is_file() or not same_networks(draft, out, job.bundle.views):
        return False
    return read_json(draft / "bundle.json")["views"] != read_json(out / "bundle.json")["views"]


def _refine(job: _Job, domain: NewDomain, name: str) -> None:
    """All steps of a refinement whose work folder is claimed."""
    domain.segment_before(job.bundle)
    if len(domain.failed) == len(domain.sources):
        raise RVQCError(next(iter(domain.failed.values())))
    if job.crew.leads:
        tell_doubles(job.parts, domain.images(), job.report)
    for view in job.bundle.views:
        _refine_view(job, domain, view)
    if job.crew.leads:
        _finish(job, domain, name)


def _sources(unlabelled: str | Path, names: Sequence[str] | None) -> list[StudySource]:
    sources = find_studies(unlabelled)
    if names is None:
        return sources
    missing = sorted(set(names) - {source.name for source in sources})
    if missing:
        raise RVQCError(f"{unlabelled} has no study {missing[0]!r}; give names of studies in that folder.")
    return [source for source in sources if source.name in set(names)]


def _claim(work: Path, content: dict[str, Any], resume: bool) -> None:
    """Make `work` the folder of this refinement, or refuse it; leftovers of a killed run are swept."""
    mark = work / "claim.json"
    if mark.exists() and not resume:
        raise RVQCError(
            f"{work} holds a refinement that began earlier; go on with it (--resume), or choose another --work."
        )
    stored, defaults = read_json(mark) if mark.exists() else content, {"config": RefinementConfig().to_json()}
    for key, what in CLAIMED.items():
        if not same_settings(stored.get(key), content[key], defaults.get(key, {})):
            raise RVQCError(f"{work} holds a refinement {what}; remove it or choose another --work.")
    for part in work.rglob(".part-*") if work.exists() else ():
        shutil.rmtree(part, ignore_errors=True)
    write_json(mark, content)


def _refine_view(job: _Job, domain: NewDomain, view: str) -> None:
    """Refine all candidates of one view; what comes of it is noted in the job."""
    config = job.config
    found = domain.flagged(view, config)
    idle = {"flagged_stacks": len(found), "candidates": []}
    if reason := _without_lessons(job, view) if found else "no stack is flagged":
        job.views[view] = {**idle, "stopped_because": reason}
        return
    parent = job.bundle.models(view, job.device)
    models = replace(parent.latest, refined=None)
    source = source_size(job.bundle.description["views"][view], config)
    flagged = domain.load(drawn(found, config), view, models, source)
    if not flagged:
        job.views[view] = {**idle, "stopped_because": "no flagged stack can be read any more"}
        return
    material = gather(job.parts, view, flagged, models, config, source, job.check)
    give_back()
    teacher = _may_teach(job, view, flagged)
    voters = [stack.voters for stack in flagged]
    count, refined = len(models.segmenters), []

    def told(event: dict[str, Any]) -> None:
        job.report({"view": view, **event})

    for number in range(count):
        checkpoint = job.work / view / f"candidate{number + 1}.safetensors"
        weight = config.reconstruction if teacher["teaches"] else 0.0
        one = Refinement(
            config, number, models, material, voters, checkpoint, weight, report=told, cancelled=job.cancelled
        ).run()
        refined.append(one)
        voters = [_replaced(all_, number, own) for all_, own in zip(voters, one.probabilities, strict=True)]
        _tell_candidate(job, view, number, count, one)
    _judge_pool(job, view, parent, refined, material.domain)
    job.views[view] |= {"flagged_stacks": len(found), "reconstruction": teacher}


def _without_lessons(job: _Job, view: str) -> str:
    """Why a view stays as it is, whatever its stacks are like, or an empty string."""
    if job.config.recipe.teacher == "none":
        return "the mode is none"
    if job.config.epochs == 0:
        return "no epoch was asked for"
    if job.parts["train"] and not has_labels(job.parts, view):
        return f"no labelled {view} stack teaches, or fewer than two guard"
    return ""


def _may_teach(job: _Job, view: str, flagged: Sequence[Flagged]) -> dict[str, Any]:
    """Whether R may correct lessons: not when its ceiling on true masks is below the quality of what it would correct."""
    ceiling = job.bundle.description["views"][view]["qc"].get("ceiling", {}).get("RV", 0.0)
    quality = float(np.mean([stack.quality[STRUCTURES.index("RV")] for stack in flagged]))
    guarded = job.config.recipe.guarded
    return {"ceiling": ceiling, "predicted_quality": quality, "teaches": ceiling > quality or not guarded}


def _replaced(voters: np.ndarray, number: int, own: np.ndarray) -> np.ndarray:
    new = voters.copy()
    new[number] = own
    return new


def _tell_candidate(job: _Job, view: str, number: int, count: int, one: Refined) -> None:
    event = {"event": "candidate", "view": view, "candidate": number + 1, "candidates": count}
    event |= {"kept_epoch": one.kept, "stopped_because": one.stopped_because, "rolled_back": one.rolled_back}
    if job.crew.leads:
        job.report(event)


def _judge_pool(job: _Job, view: str, parent: ViewModels, refined: Sequence[Refined], domain: Domain | None) -> None:
    """The last word, and what is noted of it."""
    guarded = job.config.recipe.guarded
    guards = labelled_stacks(job.parts["guard"], view) if has_labels(job.parts, view) else []
    verdict = too_few_learnt(refined) if guarded else None
    if verdict is None and guards:
        new = with_refined(parent, refined, domain, second=guarded)
        verdict = judge(parent, new, guards, job.config, job.check)
    elif verdict is None:
        verdict = judge_by_agreement(refined, job.config)
    if not verdict.rolled_back:
        mode = job.config.mode
        job.weights[view] = [{name: value.cpu() for name, value in one.weights.items()} for one in refined]
        job.domains |= {view: domain} if domain else {}
        job.records[view] = [{"mode": mode, "epoch": one.kept} if one.kept or not guarded else {} for one in refined]
    reasons = [one.stopped_because for one in refined]
    if verdict.rolled_back:
        reasons.append(f"{verdict.why}: rolled back")
    job.views[view] = {
        "guard": {**verdict.guard, "stacks": len(guards)},
        "rolled_back": verdict.rolled_back,
        "stopped_because": "; ".join(dict.fromkeys(reasons)),
        "candidates": [one.to_json() for one in refined],
    }


def _finish(job: _Job, domain: NewDomain, name: str) -> None:
    """Write the new bundle, calibrate it, segment with it, and put it in its place."""
    draft = job.work / "bundle"
    second = job.config.recipe.guarded
    names = names_of(job.parts)
    labelled = {"train": names["train"], "validation": names["guard"]}
    write_successor(
        draft, job.bundle, job.weights, job.records, name, second=second, domains=job.domains, labelled=labelled
    )
    recalibrated = [view for view in job.weights if job.config.recalibrate and _recalibrate(job, draft, view)]
    new = load_bundle(draft, allow=job.bundle.allow)
    studies = domain.segment_after(new if job.weights else None, job.config)
    job.check()
    with whole_folder(job.out) as folder:
        shutil.copytree(draft, folder, dirs_exist_ok=True)
        write_json(folder / "refinement.json", _summary(job, domain, studies, recalibrated))


def _recalibrate(job: _Job, draft: Path, view: str) -> bool:
    """Calibrate the refined networks of a view of the bundle `draft` anew; returns whether.

    Not where the guard set is too small to say something of other patients, nor where the masks that the new calibration
    selects are worse there (it has fences of its own). A calibration that is done lies in the work folder.
    """
    guards = [source for source in job.parts["guard"] if any(view == key[0] for key in source.labels)]
    if len(guards) < FEW:
        return _kept(job, f"{view}: {len(guards)} labelled studies guard, fewer than {FEW}") if guards else False
    bundle, file = load_bundle(draft, allow=job.bundle.allow), job.work / f"calibration-{view}.json"
    if not file.exists():
        pool = Pool(bundle, view, job.device, latest=True)
        write_json(file, calibrate_view(guards, pool, report=job.report, cancelled=job.cancelled))
    found, models = read_json(file), bundle.models(view, job.device)
    learnt = replace(models.latest, calibration=found)
    new = replace(models, refined=learnt) if models.refined else learnt
    parent = job.bundle.models(view, job.device)
    if judge(parent, new, labelled_stacks(guards, view), job.config, job.check).rolled_back:
        return _kept(job, f"{view}: by the new calibration the guard of the whole bundle fell")
    replace_calibration(draft, {} if models.refined else {view: found}, refined={view: found} if models.refined else {})
    return True


def _kept(job: _Job, why: str) -> bool:
    said = f"{why}; the refined networks keep the parent's calibration, its lower bounds twice as far away."
    job.report({"event": "warning", "message": said})
    return False


def _summary(job: _Job, domain: NewDomain, studies: list[dict[str, Any]], recalibrated: list[str]) -> dict[str, Any]:
    guards = [view["guard"] for view in job.views.values() if "guard" in view]
    key = "RV" if job.parts["guard"] else "agreement"
    measured = {m: float(np.mean([g[m][key] for g in guards])) if guards else None for m in ("before", "after")}
    kept = (
        "the parent's, nothing has changed" if not job.weights else "the parent's, its lower bounds twice as far away"
    )
    return {
        "mode": job.config.mode,
        "epochs": max([len(c["epochs"]) - 1 for v in job.views.values() for c in v["candidates"]], default=0),
        "stopped_because": "; ".join(dict.fromkeys(view["stopped_because"] for view in job.views.values())),
        "guard": {**measured, "of": "Dice of the RV on labelled stacks" if key == "RV" else "agreement, no labels"},
        "supervised": bool(job.parts["train"]) and job.config.recipe.supervised,
        "changed": sorted(f"{view} {k}" for view, all_ in job.records.items() for k, one in enumerate(all_, 1) if one),
        "calibration": "made anew on the guard set" if recalibrated else kept,
        "studies": studies,
        "failed": [{"study": study, "reason": reason} for study, reason in sorted(domain.failed.items())],
        "views": job.views,
        "labelled": names_of(job.parts),
        "config": job.config.to_json(),
        "parent": {"name": job.bundle.name, "hash": job.bundle.hash},
        "device": job.device,
    }
