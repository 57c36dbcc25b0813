"""One study of a batch, wherever it runs: kept, or segmented, written and recorded; and its cohort's fences put in after."""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from RVQCLib.edits import asides, check_name, edited_files, output_hashes
from RVQCLib.files import BundleError, Cancelled, RunError, RVQCError, read_json, whole_file, write_json
from RVQCLib.layouts import StudySource
from RVQCLib.manifest import discard, discard_parts, edited_since, input_hashes, same_inputs
from RVQCLib.pipeline import segment_study
from RVQCLib.quality import Fences, QCOptions, rejudge
from RVQCLib.report import study_page
from RVQCLib.result import StudyResult, write_result
from RVQCLib.reviews import utc_now
from RVQCLib.study import Stack, Study, read_mask
from RVQCLib.thumbnail import thumbnail

if TYPE_CHECKING:
    from RVQCLib.bundle import Bundle

log = logging.getLogger(__name__)

ENTRY = (
    "view",
    "phase",
    "mask",
    "selected",
    "verdict",
    "ood",
    "reasons",
    "structures",
    "candidates",
    "fences",
    "evidence",
)
"""What a record keeps of a stack's entry of quality.json, with its flagged slices."""


@dataclass(frozen=True)
class Setup:
    """What all studies of a batch have in common.

    `settings` is their `manifest.settings_hash`; `stop` is a file whose presence tells workers anywhere to stop;
    `threads` limits the processor threads of torch, None leaves them.
    """

    bundle: Path
    bundle_hash: str
    allow: tuple[str, ...]
    out: Path
    options: QCOptions
    candidates: bool
    device: str
    settings: str
    stop: Path
    threads: int | None = None


@dataclass(frozen=True)
class StudyTask:
    """One study to do, with its record of an earlier run."""

    source: StudySource
    setup: Setup
    previous: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """The study's name."""
        return self.source.name


def run_study(task: StudyTask, cancelled: Callable[[], bool]) -> dict[str, Any]:
    """Do one study and say what became of it; a study that fails loses what an earlier run made of it.

    What a person edited is never lost: where the earlier result stands but for edits, it is kept as it is; where it has
    to go, because images, bundle or options changed, the study fails, or everything is to be made anew, the edited
    folder is moved to ``OUT/edited/<study>-<time>`` (`edits`), and the record says so.

    Returns
    -------
    dict
        The record for the journal; its ``state`` is ``done``, ``failed``, ``kept``, or ``edited`` for one that is kept
        with what a person changed in it.

    Raises
    ------
    Cancelled
        `cancelled` returned True; an earlier result stays.
    RunError
        The device does not work here, or the bundle is another one now; an earlier result stays.
    """
    started, setup, inputs = time.perf_counter(), task.setup, []
    discard_parts(setup.out, task.name)
    try:
        check_name(task.name)
        if task.source.problems:
            raise RVQCError(task.source.problems[0])
        inputs = input_hashes(task.source)
        if (kept := standing(task, inputs)) is not None:
            return kept
        bundle = _open_bundle(setup.bundle, setup.bundle_hash, setup.allow, setup.threads)
        result = segment_study(
            task.source.load(), bundle, options=setup.options, device=setup.device, cancelled=cancelled
        )
        folder = write_result(result, setup.out, candidates=setup.candidates)
        made = {**_made(result), "outputs": output_hashes(folder)}
    except (Cancelled, RunError):
        raise
    except Exception as error:
        return failure(task, reason(error), seconds=time.perf_counter() - started, inputs=inputs)
    return {**_head(task, "done", time.perf_counter() - started), "error": "", "inputs": inputs, **made}


def failure(task: StudyTask, why: str, *, seconds: float = 0.0, inputs: list[dict[str, Any]] | None = None) -> dict:
    """The record of a study that failed, whose old masks are removed with it; where they cannot be, its error says so."""
    why = " ".join(filter(None, (why, discard(task.setup.out, task.name))))
    log.warning("%s failed: %s", task.name, why)
    return {**_head(task, "failed", seconds), "error": why, "inputs": inputs or [], "outputs": {}, "stacks": []}


def standing(task: StudyTask, inputs: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The record of an earlier result that stands: same images, bundle and options, its files whole, edited or not."""
    previous = task.previous
    if (
        previous is None
        or previous["state"] != "done"
        or previous["settings"] != task.setup.settings
        or not same_inputs(inputs, previous["inputs"])
        or (edited := edited_since(task.setup.out / task.name, previous, task.setup.options)) is None
    ):
        return None
    return {**previous, "state": "edited" if edited else "kept", "edited": list(edited), "inputs": inputs}


def reason(error: Exception) -> str:
    """One sentence for what stopped a study."""
    if isinstance(error, RVQCError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename or 'A file'} could not be read or written ({error.strerror or error})."
    log.debug("Unexpected", exc_info=error)
    first = (str(error).splitlines() or ["no reason given"])[0]
    return f"Something went wrong inside RVQC ({type(error).__name__}: {first})."


def _head(task: StudyTask, state: str, seconds: float) -> dict[str, Any]:
    worker = f"{platform.node()}:{os.getpid()}"
    head = {"study": task.name, "state": state, "settings": task.setup.settings, "finished": utc_now()}
    people = {"edited": [], "set_aside": asides(task.setup.out, task.name)}
    return {**head, "seconds": round(seconds, 3), "worker": worker, **people}


def _made(result: StudyResult) -> dict[str, Any]:
    return {
        "bundle": result.provenance["bundle"],
        "device": result.provenance["device"],
        "version": result.provenance["versions"]["rvqc"],
        "checks": list(result.checks),
        "stacks": [_entry(s.judgement, thumbnail(s.image, s.mask, s.judgement)) for s in result.stacks],
    }


def _entry(judgement: Mapping[str, Any], picture: dict[str, Any]) -> dict[str, Any]:
    """A stack's entry without the slices that were not flagged."""
    flagged = [{"index": s["index"], "reasons": s["reasons"]} for s in judgement["slices"] if s["flag"]]
    kept = {key: judgement[key] for key in ENTRY}
    return {**kept, "n_slices": len(judgement["slices"]), "slices": flagged, "thumbnail": picture}


@lru_cache(maxsize=1)
def _open_bundle(path: Path, expected: str, allow: tuple[str, ...], threads: int | None) -> Bundle:
    """The bundle of a worker, opened once. Raises RunError where it is not the one that the batch began with."""
    from RVQCLib.bundle import load_bundle

    if threads is not None:
        import SimpleITK as sitk
        import torch

        torch.set_num_threads(threads)
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    try:
        bundle = load_bundle(path, allow=allow)
    except BundleError as error:
        raise RunError(str(error)) from error
    if bundle.hash != expected:
        raise RunError(f"{path} is not the bundle that this batch began with; run the batch again.")
    return bundle


@dataclass(frozen=True)
class FencesTask:
    """A finished study that is to name the fences of its cohort: by stack (``SA_ED``) the table and its sentence."""

    source: StudySource
    setup: Setup
    cohort: Mapping[str, tuple[Mapping[str, Fences] | None, str]]

    @property
    def name(self) -> str:
        """The study's name."""
        return self.source.name


def add_cohort_fences(task: FencesTask, cancelled: Callable[[], bool]) -> dict[str, Any]:
    """Put the cohort's fences into a study's quality.json and page; with the option ``cohort`` they judge its stacks.

    Where nothing changes, or a person edited the study, no file is touched.

    Returns
    -------
    dict
        ``study`` and ``error``, which is empty when it went well.
    """
    folder = task.setup.out / task.name
    try:
        quality = read_json(folder / "quality.json")
        stacks = [_with_cohort(entry, task) for entry in quality["stacks"]]
        if stacks != quality["stacks"] and not edited_files(folder):
            quality = {**quality, "stacks": stacks}
            page = study_page(quality, _pictures(task.source.load(), quality, folder))
            with whole_file(folder / "report.html") as part:  # first, so that a crash between is made good by a resume
                part.write_text(page, encoding="utf-8")
            write_json(folder / "quality.json", quality)
    except Exception as error:
        return {"study": task.name, "error": reason(error)}
    return {"study": task.name, "error": ""}


def _with_cohort(entry: Mapping[str, Any], task: FencesTask) -> dict[str, Any]:
    table, note = task.cohort[f"{entry['view']}_{entry['phase']}"]
    return rejudge(entry, table, note, task.setup.options)


def _pictures(study: Study, quality: Mapping[str, Any], folder: Path) -> list[tuple[Stack, Stack, Stack]]:
    """Image, mask and reconstruction of every stack in `quality`, as `report.study_page` wants them."""
    for frames in quality["cine"]:
        study = study.with_phases(frames["view"], ed=frames["ed"], es=frames["es"])
    triples = []
    for entry in quality["stacks"]:
        view, phase = entry["view"], entry["phase"]
        names = (entry["mask"], entry["mask"].replace(".nii.gz", "_reconstruction.nii.gz"))
        mask, again = (read_mask(folder / name, view=view, phase=phase) for name in names)
        triples.append((study.stack(view, phase), mask, again))
    return triples
