"""The supervised phase (Sec. 2.2) from a folder of labelled studies to a bundle."""

from __future__ import annotations

import datetime
import json
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from RVQCLib import __version__
from RVQCLib.bundle import SCHEMA, Bundle, check_target, join_bundles, load_bundle, same_networks, write_bundle
from RVQCLib.calibration import calibrate_bundle
from RVQCLib.dataset import split
from RVQCLib.files import RVQCError, read_json, same_settings, sha256, whole_folder, write_json
from RVQCLib.fitting import Report, RunConfig, Snapshot, native_precision
from RVQCLib.inference import choose_device
from RVQCLib.locks import LOCK, sole_run
from RVQCLib.networks import build, check_shapes
from RVQCLib.runs import Job, do_all, lines_of
from RVQCLib.study import StudySource, find_studies
from RVQCLib.training_config import TrainingConfig

log = logging.getLogger(__name__)


def choose_candidates(kept: dict[str, list[Snapshot]], m_best: int) -> list[tuple[str, Snapshot]]:
    """The m_best snapshots of all runs by validation, the best of every run before a second of any."""
    first = [(name, snapshots[0]) for name, snapshots in kept.items() if snapshots]
    rest = [(name, snapshot) for name, snapshots in kept.items() for snapshot in snapshots[1:]]
    ranked = sorted(first, key=lambda pair: -pair[1].score) + sorted(rest, key=lambda pair: -pair[1].score)
    return ranked[:m_best]


LICENSE = "Research use, non-commercial; see the licence of the training data."
"""Of a bundle for which none was given."""


@dataclass(frozen=True)
class Terms:
    """What the training data ask of whoever uses a network that was trained on them, and what he must be warned of.

    An empty licence or citation is that of the bundle that the training begins from.
    """

    license: str = ""
    citation: str = ""
    caution: str = ""


def train_bundle(
    data: str | Path,
    out: str | Path,
    config: TrainingConfig,
    *,
    more: Sequence[str | Path] = (),
    name: str = "",
    start: str | Path | None = None,
    device: str = "auto",
    allow: Sequence[str] = (),
    jobs: int = 1,
    work: str | Path | None = None,
    terms: Terms = Terms(),
    report: Report = lambda event: None,
) -> dict[str, Any]:
    """Train all networks of one view on the labelled studies in `data` and write a calibrated bundle to `out`.

    Where `out` is a bundle with another view, the new view is put beside that one, which stays as it is, byte for byte.
    Studies are split by group into train, validation and test parts, which the bundle records; the test part is never
    read here. `more` are folders of labelled studies of any view that are only learnt from (`runs.more_examples`); those that
    this training, or another view of `out` or `start`, keeps to validate or test are not. With `start`, a bundle with the same
    networks, the runs begin from its weights, and the studies that taught and chose those join the recorded train and validation
    parts. Checkpoints and logs stay in `work`, where one training at a time is at work; calling again with the same arguments continues there, and leaves a
    finished bundle as it is, with a calibration that it got since.

    Returns
    -------
    The content of the new ``bundle.json``.

    Raises
    ------
    RVQCError
        `work` belongs to another configuration or is being worked on, `jobs` is below 1, the data have no labelled stack of the view, `out`
        is something else than a bundle, another view of it was trained on studies that are to validate or test here or is
        validated or tested by those that are to train, or `start` has other networks or was trained on studies that are to
        validate or test here.
    """
    if jobs < 1:
        raise RVQCError(f"{jobs} processes cannot train; give 1 or more.")
    check_target(out)
    device = choose_device(device)
    if config.precision == "auto":
        config = replace(config, precision=native_precision(device))
    work = Path(work) if work else Path(f"{out}.training")
    sources = {source.name: source for source in find_studies(data)}
    parts = split(
        tuple(sources.values()),
        seed=config.seed,
        validation=config.validation,
        test=config.test,
        leave_out=config.leave_out,
    )
    if not parts["train"] or not parts["validation"]:
        raise RVQCError(f"{data} has {len(sources)} studies, too few to train and to validate; give at least 5.")
    _check_beside(Path(out), config.view, parts)
    beside = [Path(path) for path in (out, start) if path]
    further = _only_learnt_from(more, parts, beside, config.view, report)
    if not start and min(config.epochs, config.qc_epochs, config.locator_epochs) < 1:
        raise RVQCError("Only a training that begins from a bundle can have runs of 0 epochs; give --from, or epochs.")
    weights_of, began = {}, load_bundle(start, allow=allow) if start else None
    if began:
        _check_split(began, config.view, parts)
        _check_beside(Path(out), config.view, _joined(parts, began, config.view))
        config = replace(config, start=began.hash, continuation=1 + _continuations(began, config.view))
        weights_of = {name: _start_of(began, config.view, name, run) for name, run in config.runs().items()}
    check_networks(config, allow)
    cores = os.cpu_count() or 1
    todo = [
        Job(
            name=run_name,
            run=replace(run, start=sha256(weights_of[run_name])) if start else run,
            config=config,
            start=weights_of.get(run_name),
            train=tuple(sources[n] for n in parts["train"]),
            more=further,
            validation=tuple(sources[n] for n in parts["validation"]),
            work=work,
            device=device,
            allow=tuple(allow),
            threads=max(1, cores // jobs),
        )
        for run_name, run in config.runs().items()
    ]
    parts["train"] = sorted({*parts["train"], *(source.name for source in further)})
    with sole_run(work / LOCK, str(work)):
        mark = _claim(work, {"config": config.to_json(), "split": parts})
        if same_networks(work / "bundle", Path(out), [config.view]):
            report(
                {"event": "warning", "message": f"{out} is finished; nothing was done. To train anew, remove {work}."}
            )
            return read_json(Path(out) / "bundle.json")
        try:
            kept = do_all(todo, jobs, report)
        except RVQCError:
            if not any(job.log.is_file() for job in todo):  # nothing was learnt: the corrected command may begin here
                mark.unlink()
            raise
        draft = work / "bundle"
        folders = [Path(folder) for folder in (data, *more)]
        description, weights = _describe(config, parts, kept, todo, name or Path(out).name, folders, terms)
        if began:
            _inherit(description, config.view, began, terms)
        write_bundle(draft, description, weights)
        calibrate_bundle(draft, data, part="validation", device=device, allow=allow, jobs=jobs, report=report)
        _deliver(draft, Path(out), config.view, name)
    return read_json(Path(out) / "bundle.json")


def _only_learnt_from(
    folders: Sequence[str | Path], parts: dict[str, list[str]], bundles: Sequence[Path], view: str, report: Report
) -> tuple[StudySource, ...]:
    """The labelled studies of `folders` but for those that `parts`, or another view of the `bundles`, keeps to validate or
    test."""
    splits = [parts]
    for path in bundles if folders else ():
        splits += _other_splits(path, view).values()
    kept = {name for one in splits for name in _held_out(one)}
    found = [source for folder in folders for source in find_studies(folder) if source.labels]
    further = tuple(source for source in found if source.name not in kept)
    if folders and not further:
        raise RVQCError(f"{folders[0]} has no labelled study to learn from that is not kept to validate or test.")
    if len(further) < len(found):
        said = f"{len(found) - len(further)} of {len(found)} further studies are kept to validate or test and not learnt from."
        report({"event": "warning", "message": said})
    return further


def _other_splits(path: Path, view: str) -> dict[str, dict[str, list[str]]]:
    """How the other views of the bundle at `path` were split; nothing where there is none."""
    if not (path / "bundle.json").is_file():
        return {}
    views = load_bundle(path).description["views"]
    return {other: one.get("training", {}).get("split", {}) for other, one in views.items() if other != view}


def _held_out(parts: dict[str, list[str]]) -> set[str]:
    return {name for part in ("validation", "test") for name in parts.get(part, ())}


def _check_beside(out: Path, view: str, parts: dict[str, list[str]]) -> None:
    """Refuse a split by which a study would train one view of the bundle `out` and judge another."""
    for other, theirs in _other_splits(out, view).items():
        pairs = ((view, parts, other, theirs), (other, theirs, view, parts))
        for learner, one, judged, two in pairs:
            if leaked := sorted(_held_out(two).intersection(one.get("train", ()))):
                raise RVQCError(
                    f"{leaked[0]} would be in the train part of {learner} and validate or test {judged} in {out}; use the "
                    f"--seed, --validation, --test and --leave-out that {other} was trained with, or another --out."
                )


def check_networks(config: TrainingConfig, allow: Sequence[str] = ()) -> None:
    """Say before the work, not hours after, that a run's network cannot be built or not be used for its task.

    Raises
    ------
    RVQCError
        Which network, and what is wrong with its parameters.
    """
    for run in config.runs().values():
        inputs, classes = 4 if run.task == "qc" else 1, 2 if run.task == "locator" else 4
        check_shapes(build(run.network, run.parameters, allow=allow), run.network, inputs, classes, run.size)


def _deliver(draft: Path, out: Path, view: str, name: str) -> None:
    """Put the finished bundle to `out`: beside the other view of the bundle that is there, or in place of what is."""
    if (out / "bundle.json").is_file() and set(load_bundle(out).views) - {view}:
        join_bundles(out, draft, out, name=name)
    else:
        with whole_folder(out) as folder:
            shutil.copytree(draft, folder, dirs_exist_ok=True)


def _check_split(bundle: Bundle, view: str, parts: dict[str, list[str]]) -> None:
    """Refuse to judge by studies that the starting networks were trained on."""
    if view not in bundle.views:
        raise RVQCError(f"The bundle {bundle.path} has no {view} networks to begin from; choose another --from.")
    seen = set(bundle.description["views"][view]["training"]["split"]["train"])
    if leaked := sorted(seen & _held_out(parts)):
        raise RVQCError(
            f"The networks of {bundle.path} were trained on {leaked[0]}, which is to validate or test here; "
            "use the --seed, --validation and --test that it was trained with."
        )


def _joined(parts: dict[str, list[str]], start: Bundle, view: str) -> dict[str, list[str]]:
    """`parts` with the studies that taught the starting networks, and those that chose them and are in no other part."""
    former = start.description["views"][view]["training"]["split"]
    train = {*parts["train"], *former["train"]}
    others = set(former.get("validation", ())) - train - set(parts["test"])
    return {**parts, "train": sorted(train), "validation": sorted({*parts["validation"], *others})}


def _inherit(description: dict[str, Any], view: str, start: Bundle, terms: Terms) -> None:
    """Add to a new bundle's description what it has from `start`: who taught and chose, of which data, on which terms."""
    own, former = description["views"][view]["training"], start.description["views"][view]
    own["split"] = _joined(own["split"], start, view)
    known, theirs = (own["data"], *own.get("more", ())), former["training"]
    more = [name for name in (theirs.get("data"), *theirs.get("more", ())) if name and name not in known]
    if more:
        own["more"] = [*own.get("more", ()), *more]
    description["parent"] = {"name": start.name, "hash": start.hash}
    for key in ("license", "citation"):
        if not getattr(terms, key):
            description[key] = former.get(key) or start.description.get(key, "")


def _continuations(bundle: Bundle, view: str) -> int:
    """How often the networks of `view` were trained on already; bundles before this was counted tell it by their start."""
    config = bundle.description["views"][view]["training"]["config"]
    return config.get("continuation", 1 if config.get("start") else 0)


def _start_of(bundle: Bundle, view: str, name: str, run: RunConfig) -> Path:
    """The file of the weights that a run begins from: the best of the same run of `bundle`."""
    part = bundle.description["views"][view]
    for entry in (*part["segmenters"], part["qc"], part["locator"]):
        if (entry["run"], entry["network"], entry["parameters"]) == (name, run.network, run.parameters):
            return bundle.path / entry["file"]
    raise RVQCError(
        f"The bundle {bundle.path} has no {run.network} of run {name} with the parameters {run.parameters}; "
        "give the --network, --width and --set that it was trained with."
    )


def _claim(work: Path, content: dict[str, Any]) -> Path:
    """Make `work` the folder of this configuration, or refuse it; the file that says so."""
    mark = work / "training.json"
    if mark.exists() and not same_settings(read_json(mark), content, {"config": TrainingConfig().to_json()}):
        raise RVQCError(f"{work} holds the training of another configuration; remove it or choose another --work.")
    write_json(mark, content)
    return mark


def _describe(
    config: TrainingConfig,
    parts: dict[str, list[str]],
    kept: dict[str, list[Snapshot]],
    jobs: Sequence[Job],
    name: str,
    folders: Sequence[Path],
    terms: Terms,
) -> tuple[dict[str, Any], dict[str, dict[str, torch.Tensor]]]:
    """The content of ``bundle.json`` and the weights by file."""
    runs = {job.name: job.run for job in jobs}
    weights = {}

    def entry(file: str, run: str, snapshot: Snapshot) -> dict[str, Any]:
        weights[f"{config.view}/{file}.safetensors"] = snapshot.weights
        return {
            "file": f"{config.view}/{file}.safetensors",
            "network": runs[run].network,
            "parameters": runs[run].parameters,
            "run": run,
            "epoch": snapshot.epoch,
            "validation_dice": snapshot.dice,
        }

    pool = {run: snapshots for run, snapshots in kept.items() if runs[run].task == "segmenter"}
    chosen = choose_candidates(pool, config.m_best)
    part = {
        "sampling": config.sampling.to_json(),
        "segmenters": [entry(f"segmenter{k + 1}", run, snapshot) for k, (run, snapshot) in enumerate(chosen)],
        "consensus": config.consensus,
        "qc": {**entry("qc", "qc", kept["qc"][0]), "ceiling": kept["qc"][0].dice},
        "locator": entry("locator", "locator", kept["locator"][0]),
        "training": {
            "data": folders[0].name,
            **({"more": [folder.name for folder in folders[1:]]} if folders[1:] else {}),
            "split": parts,
            "config": config.to_json(),
            "threads": jobs[0].threads,
        },
        "calibration": None,
        "caution": terms.caution,
        "training_log": [json.loads(line) for job in jobs for line in lines_of(job.log)],
    }
    description = {
        "schema": SCHEMA,
        "name": name,
        "created": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "rvqc": __version__,
        "torch": torch.__version__,
        "license": terms.license or LICENSE,
        "citation": terms.citation,
        "intended_use": "Research on cardiac cine MR. Not a medical device; every mask is to be reviewed by a clinician.",
        "parent": None,
        "views": {config.view: part},
    }
    return description, weights
