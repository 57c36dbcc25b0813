"""A folder of studies, long or short: each segmented as one study alone is, kept on a resume, never stopped by a bad one."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from RVQCLib import __version__
from RVQCLib.bundle import load_bundle
from RVQCLib.cohort_files import Cohort, CohortFiles, fences_of, study_verdict
from RVQCLib.cohort_table import append_rows, edited_words, read_table, table_rows
from RVQCLib.edits import EDITED
from RVQCLib.files import Cancelled, RVQCError, check_apart, check_folder
from RVQCLib.inference import choose_device
from RVQCLib.layouts import StudySource
from RVQCLib.locks import sole_part
from RVQCLib.manifest import JOURNALS, Journal, discard_parts, read_run, settings_hash
from RVQCLib.overall import against
from RVQCLib.processes import Outcome, Task, Work, run_here, run_processes
from RVQCLib.quality import QCOptions
from RVQCLib.reviews import utc_now
from RVQCLib.study import find_studies
from RVQCLib.study_task import FencesTask, Setup, StudyTask, add_cohort_fences, failure, run_study

__all__ = ["read_run", "read_table", "segment_cohort"]

log = logging.getLogger(__name__)

REFRESH_S = 60.0
"""How often the tables and the page are made anew while a batch runs, at most."""


def segment_cohort(
    folder: str | Path,
    bundle_path: str | Path,
    out: str | Path,
    *,
    options: QCOptions = QCOptions(),
    device: str = "auto",
    jobs: int = 1,
    resume: bool = True,
    part: Sequence[int] = (1, 1),
    scheduler: str | None = None,
    candidates: bool = False,
    names: Sequence[str] | None = None,
    allow: Sequence[str] = (),
    progress: Callable[[dict[str, Any]], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Segment and judge every study in `folder` by `pipeline.segment_study`; write ``OUT/<study>/`` the moment it is done.

    ``cohort.csv`` grows with it; with ``cohort.html`` and ``run.json`` it is made anew every minute and at the end. A
    study that fails is named there with the reason, has no masks, and is tried again on a resume.

    Parameters
    ----------
    jobs
        Processes on this machine, each with one processor thread; 1 is this process with all its threads.
    resume
        Keep studies whose images, bundle and options are those of an earlier run and whose results are whole, with what
        people edited in them.
    part
        (i, n): every n-th study from the i-th, for array jobs that share `out`. From 1.
    scheduler
        Address of a Dask scheduler whose workers see the same paths; instead of `jobs`.
    names
        Only these studies of the folder.
    progress
        Is called after every study with ``{"event": "study", "study", "state": "done"|"failed"|"kept"|"edited", "verdict", "reason",
        "done", "total", "seconds_left"}``, and at the end with ``{"event": "fences", "study", "done", "total",
        "seconds_left"}`` where the fences of the cohort are put into the results; of an array job by the part that ends last.
    cancelled
        Is asked several times a second, and by workers after every forward pass.

    Returns
    -------
    dict
        What ``run.json`` holds without its ``studies``. ``chosen`` counts what this run was to do, ``result_versions`` are
        those of RVQC that made the results; ``gone`` names those that earlier runs found in `folder` and this one did not: they
        are in no table and no fences, and their results stay.

    What a person edited in a study's results is never lost (`run_study`): it is kept in place where the study need not be
    done anew, and is in ``OUT/edited/`` where it has to be.

    Raises
    ------
    RVQCError
        A wrong argument, a device that does not work (`RunError`), no study, results that would come in the place of
        images, a bundle that cannot be trusted, no scheduler at that address, or another run that works on the same part of `out`.
    Cancelled
        `cancelled` returned True; what is done stays, is in the tables, and is kept by a resume.
    OSError
        Not even the tables can be written: the disk is full or gone.
    """
    folder, out = Path(folder).resolve(), Path(out).resolve()
    part = (int(part[0]), int(part[1]))
    _check(folder, out, jobs, part)
    if not scheduler and device not in ("auto", "cpu"):  # which work anywhere; to try them would load torch here
        choose_device(device)
    found = find_studies(folder)
    _check_places(folder, out, found)
    bundle = load_bundle(bundle_path, allow=allow)
    stop = out / JOURNALS / f"stop-{uuid.uuid4().hex}"
    setup = Setup(
        bundle=Path(bundle_path).resolve(),
        bundle_hash=bundle.hash,
        allow=tuple(allow),
        out=out,
        options=options,
        candidates=candidates,
        device=device,
        settings=settings_hash(bundle.hash, options, candidates),
        stop=stop,
        threads=None if jobs == 1 and not scheduler else 1,
    )
    views = {view for source in found for view, _ in source.images}
    names_found = {source.name for source in found}
    header = {
        "schema": 1,
        "state": "running",
        "folder": str(folder),
        "bundle": {"name": bundle.name, "hash": bundle.hash, "path": str(setup.bundle)},
        "options": options.to_json(),
        "candidates": candidates,
        "settings": setup.settings,
        "device": device,
        "jobs": jobs,
        "part": list(part),
        "scheduler": scheduler,
        "versions": _versions(),
        "cautions": [f"{view}: {text}" for view, text in bundle.cautions.items() if view in views],
        "started": utc_now(),
        "finished": None,
        "n_found": len(names_found),
        "gone": [],
    }
    chosen = _chosen(found, names, part)
    runner = _Runner(jobs, scheduler, stop, cancelled or (lambda: False))
    with sole_part(out / JOURNALS, part, str(out) if part == (1, 1) else f"Part {part[0]} of {part[1]} of {out}"):
        journal = Journal(out, part, setup.settings, names_found)
        if gone := journal.gone:
            header["gone"] = gone
            log.warning("Left out, as %s has them no more: %s%s.", folder, ", ".join(gone[:4]), " …" * (len(gone) > 4))
        batch = _Batch(setup, journal, header, progress or (lambda event: None))
        return batch.run(found, chosen, runner, resume)


def _check(folder: Path, out: Path, jobs: int, part: tuple[int, int]) -> None:
    check_apart(out, folder)
    check_folder(out)
    if jobs < 1:
        raise RVQCError(f"{jobs} processes cannot do a batch; give 1 or more.")
    if not 1 <= part[0] <= part[1]:
        raise RVQCError(f"There is no part {part[0]} of {part[1]}; give i/n with i from 1 to n.")


def _check_places(folder: Path, out: Path, found: Sequence[StudySource]) -> None:
    """Refuse a folder for the results where one of them would come in the place of images, by links as well."""
    taken = {EDITED, *(source.name for source in found)}
    for source in found:
        files = [file for _, (file, _) in (*source.image_files, *source.label_files)]
        for path in (folder, folder / source.name, *files):
            place = path.resolve()
            if place != out and place.is_relative_to(out) and (name := place.relative_to(out).parts[0]) in taken:
                raise RVQCError(
                    f"{out / name}, where results would come, holds the images of {source.name}; "
                    "name another folder for the results."
                )


def _chosen(found: Sequence[StudySource], names: Sequence[str] | None, part: tuple[int, int]) -> list[StudySource]:
    if names is not None:
        missing = sorted(set(names) - {source.name for source in found})
        if missing:
            raise RVQCError(f"The folder has no study {', '.join(missing[:4])}; choose among those that it has.")
        found = [source for source in found if source.name in set(names)]
    return list(found[part[0] - 1 :: part[1]])


def _versions() -> dict[str, str]:
    packages = {name: importlib.metadata.version(name) for name in ("torch", "numpy", "SimpleITK")}
    return {"rvqc": __version__, "python": platform.python_version(), **packages}


@dataclass(frozen=True)
class _Runner:
    """Does tasks here, on processes or on a cluster, and tells the workers when the user cancels."""

    jobs: int
    scheduler: str | None
    stop: Path
    asked: Callable[[], bool]

    def run(self, work: Work, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Outcomes as they come."""
        if self.scheduler:
            from RVQCLib.cluster import run_cluster

            return run_cluster(work, tasks, self.scheduler, self.cancelled, self.stop.exists)
        if self.jobs == 1:
            return run_here(work, tasks, self.cancelled)
        return run_processes(work, tasks, self.jobs, self.cancelled, self.stop.exists)

    def cancelled(self) -> bool:
        """Whether the user cancelled; a file says so to workers, on whatever machine they are."""
        if not self.asked():
            return False
        self.tell()
        return True

    def tell(self) -> None:
        """Tell the workers to stop."""
        try:
            self.stop.touch()
        except OSError as error:
            log.warning("%s cannot be written (%s); workers are ended instead.", self.stop, error)


@dataclass
class _Batch:
    """One run: its journal, its clock and what it tells."""

    setup: Setup
    journal: Journal
    header: dict[str, Any]
    progress: Callable[[dict[str, Any]], None]
    _due: set[str] = field(default_factory=set)
    _older: Counter[str] = field(default_factory=Counter)
    _done: int = 0
    _worked: int = 0
    _began: float = field(default_factory=time.monotonic)
    _refreshed: float = field(default_factory=time.monotonic)

    @property
    def files(self) -> CohortFiles:
        return CohortFiles(self.setup.out, self.journal, self.setup.options, self._due)

    def run(
        self, found: Sequence[StudySource], chosen: Sequence[StudySource], runner: _Runner, resume: bool
    ) -> dict[str, Any]:
        """All tasks, then the files of the cohort, which are written whatever happens."""
        self.setup.out.mkdir(parents=True, exist_ok=True)
        failed = {record["study"] for record in self.journal.records() if record["state"] == "failed"}
        self._due = {s.name for s in chosen if not resume or s.name in failed}
        self.files.write(self.header)
        state = "failed"
        try:
            tasks = (StudyTask(s, self.setup, self.journal.find(s.name) if resume else None) for s in chosen)
            for task, record, died in runner.run(run_study, tasks):
                self._take(task, record or failure(task, died), len(chosen))
            self._tell_older()
            self._mark_removed(chosen)
            self._add_fences(found, runner)
            self.header["chosen"] = self._count(chosen)
            state = "done"
        except (Cancelled, KeyboardInterrupt):
            state = "cancelled"
            runner.tell()
            if not runner.scheduler:  # whose workers may still be at it; they clear up themselves
                discard_parts(self.setup.out, *(source.name for source in chosen))
            raise
        finally:
            header = self._finish(state)
            self._forget(runner)
        return header

    def _take(self, task: StudyTask, record: dict[str, Any], total: int) -> None:
        """Record one study and tell of it."""
        self._done += 1
        self._due.discard(task.name)
        version = record.get("version", __version__)
        if version != __version__:
            self._older[version] += 1
        if record["state"] in ("kept", "edited"):
            self._keep(task, record)
        else:
            self._worked += 1
            self.journal.append(record)
            try:
                append_rows(self.setup.out, table_rows(record, self.setup.options))
            except OSError as error:
                log.warning("cohort.csv cannot be written now (%s).", error.strerror or error)
        pace = (time.monotonic() - self._began) / max(self._worked, 1)
        verdict = study_verdict(record)
        told = {"study": task.name, "state": record["state"], "verdict": verdict, "reason": _reason(record)}
        place = {"done": self._done, "total": total, "seconds_left": round(pace * (total - self._done), 1)}
        self.progress({"event": "study", **told, **place})
        self._refresh()

    def _keep(self, task: StudyTask, record: dict[str, Any]) -> None:
        """A result that stands needs no new record, unless its edits or the places of its images are other than known."""
        known = task.previous or {}
        if (record["edited"], record["inputs"]) != (known.get("edited", []), known.get("inputs")):
            self.journal.append({**record, "state": "done", "finished": utc_now()})

    def _tell_older(self) -> None:
        """Name the versions of RVQC whose results were kept beside those of this one."""
        if self._older:
            kept = " and ".join(f"{n} of RVQC {version}" for version, n in sorted(self._older.items()))
            log.warning(
                "Results were kept as they are: %s; this is %s. --no-resume makes them anew.", kept, __version__
            )

    def _refresh(self) -> None:
        began = time.monotonic()
        if began - self._refreshed > REFRESH_S:
            try:
                self.journal.scan()
                self.files.write(self.header)
            except OSError as error:
                log.warning("The tables cannot be written now (%s).", error.strerror or error)
            # A long cohort's tables take seconds: never more than a twentieth of the time.
            self._refreshed = time.monotonic() + 20 * (time.monotonic() - began)

    def _mark_removed(self, chosen: Sequence[StudySource]) -> None:
        """Name the studies whose results somebody removed while the batch ran."""
        self.journal.scan()
        for source in chosen:
            record = self.journal.find(source.name)
            there = (self.setup.out / source.name / "quality.json").is_file()
            if record is None or (record["state"] == "done" and not there):
                why = "Its result was removed while the batch ran; run the batch again with --resume."
                self.journal.append(failure(StudyTask(source, self.setup), why))

    def _add_fences(self, found: Sequence[StudySource], runner: _Runner) -> None:
        """Put the cohort's fences into every result that stands, those of other parts as well.

        The part that comes last does so, and once more where another part, done again, ends meanwhile: so whoever ends
        last leaves the fences of all.
        """
        told = None
        self.journal.scan()
        while (self.header["part"] == [1, 1] or not self._lacking) and (cohort := fences_of(self.journal)) != told:
            self._tell_fences(found, cohort, runner)
            told = cohort
            self.journal.scan()

    def _tell_fences(self, found: Sequence[StudySource], cohort: Cohort, runner: _Runner) -> None:
        standing = [s for s in found if (record := self.journal.find(s.name)) and record["state"] == "done"]
        tasks = (FencesTask(source, self.setup, cohort) for source in standing)
        began = time.monotonic()
        for done, (task, answer, died) in enumerate(runner.run(add_cohort_fences, tasks), start=1):
            if error := died or answer["error"]:
                log.warning("%s could not be told its cohort's fences: %s", task.name, error)
            left = (time.monotonic() - began) / done * (len(standing) - done)
            place = {"done": done, "total": len(standing), "seconds_left": round(left, 1)}
            self.progress({"event": "fences", "study": task.name, **place})

    def _count(self, chosen: Sequence[StudySource]) -> dict[str, int]:
        """How many studies this run was to do, and how many of them failed."""
        failed = sum(record["state"] == "failed" for record in self.journal.records(source.name for source in chosen))
        return {"studies": len(chosen), "failed": failed}

    @property
    def _lacking(self) -> bool:
        """Whether other parts are still to come."""
        return len(self.journal.studies) < self.header["n_found"]

    def _finish(self, state: str) -> dict[str, Any]:
        self._due.clear()
        self.journal.flush()
        self.journal.scan()
        if state == "done" and self._lacking:
            state = "incomplete"
        return self.files.write({**self.header, "state": state, "finished": utc_now()})

    def _forget(self, runner: _Runner) -> None:
        if not runner.scheduler:  # a cluster's workers may still have to see it
            runner.stop.unlink(missing_ok=True)


def _reason(record: dict[str, Any]) -> str:
    """Why the study has its verdict, in words."""
    if record["state"] == "failed":
        return record["error"]
    if record["state"] == "edited":
        return edited_words(record)
    verdict = study_verdict(record)
    reasons = [r for s in record["stacks"] if s["verdict"] == verdict for r in s["reasons"]]
    return next(iter([*reasons, *against(record["checks"])]), "")
