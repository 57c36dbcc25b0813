"""The M&Ms-2 recipe: from the challenge's folder to the paper's tables and an entry, by the engine's own steps.

Both views are trained on the training part (a share of it chooses and calibrates), the networks are refined on the
unlabelled rest, every other study is segmented, and its masks are compared with the true ones where there are any. A step
whose result lies there whole is not done again; a training, a refinement or a batch that was killed goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from RVQCLib.ablation import ablation
from RVQCLib.bundle import load_bundle
from RVQCLib.challenge import TRAINING, VALIDATION, Challenge, read_challenge, write_submission
from RVQCLib.challenge_tables import as_markdown, mask_rows, tables, without_masks
from RVQCLib.cohort import segment_cohort
from RVQCLib.evaluation import write_csv
from RVQCLib.files import RVQCError, check_apart, check_folder, read_json, same_settings, whole_folder, write_json
from RVQCLib.manifest import read_run
from RVQCLib.recipes import RefinementConfig
from RVQCLib.refinement import refine_bundle
from RVQCLib.stack import VIEWS
from RVQCLib.training import Terms, TrainingConfig, check_networks, train_bundle

log = logging.getLogger(__name__)

Report = Callable[[dict[str, Any]], None]
TERMS = Terms(
    license="Research use; the M&Ms-2 challenge's terms of use hold.",
    citation="Martín-Isla et al., Deep learning segmentation of the right ventricle in cardiac MRI: the M&Ms challenge, "
    "IEEE J Biomed Health Inform 2023, doi 10.1109/JBHI.2023.3267857",
)


@dataclass(frozen=True)
class ChallengeConfig:
    """Everything that decides what the recipe yields, apart from the data.

    Parameters
    ----------
    networks
        The training of either view; `view`, `leave_out` and `test` are set by the recipe.
    training, validation
        How many of the numbered studies train and validate; the rest tests.
    refinement
        Of both views; mode ``none`` leaves it out.
    rv_label
        What the RV's pixels hold in the entry.
    """

    networks: TrainingConfig = field(default_factory=TrainingConfig)
    training: int = TRAINING
    validation: int = VALIDATION
    refinement: RefinementConfig = field(default_factory=RefinementConfig)
    rv_label: int = 3

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return {**asdict(self), "networks": self.networks.to_json(), "refinement": self.refinement.to_json()}


@dataclass(frozen=True)
class _Job:
    """One call: its arguments, and where the steps' results lie."""

    folder: Path
    out: Path
    config: ChallengeConfig
    challenge: Challenge
    device: str
    jobs: int
    report: Report

    @property
    def trained(self) -> Path:
        return self.out / "bundle"

    @property
    def final(self) -> Path:
        return self.trained if self.config.refinement.mode == "none" else self.out / "refined"

    @property
    def judged(self) -> list[str]:
        return [source.name for source in self.challenge.judged]


def run_mms2(
    folder: str | Path,
    out: str | Path,
    config: ChallengeConfig,
    *,
    device: str = "auto",
    jobs: int = 1,
    report: Report = lambda event: None,
) -> dict[str, Any]:
    """Do what is missing in `out` of: ``bundle``, ``refined``, ``studies`` (masks, QC, cohort.html), ``tables``,
    ``submission.zip``.

    Returns
    -------
    The content of ``tables/tables.json``; ``{"tables": None, "note"}`` where no judged study has a true mask. With
    ``submission``: how many masks it has and which stacks it lacks.

    Raises
    ------
    RVQCError
        The folder is not the challenge's (`challenge.read_challenge`), or `out` lies in it, cannot be written to or holds another
        configuration's results.
        A network cannot be built (`training.check_networks`), or somebody edited a mask in ``studies``.
    """
    check_apart(out, folder)
    check_folder(out)
    challenge = read_challenge(folder, training=config.training, validation=config.validation)
    check_networks(config.networks)
    out = Path(out)
    job = _Job(Path(folder), out, config, challenge, device, jobs, report)
    _claim(job)
    steps = list(_steps(job))
    for number, (name, step) in enumerate(steps):
        report({"event": "step", "step": name, "done": number, "total": len(steps)})
        step()
    report({"event": "step", "step": "done", "done": len(steps), "total": len(steps)})
    return read_json(out / "tables" / "tables.json") | {"submission": read_json(out / "submission.json")}


def _claim(job: _Job) -> None:
    """Make `out` the folder of this configuration and these studies, or refuse it."""
    mark, parts = job.out / "mms2.json", ("training", "validation", "test")
    content = {"config": job.config.to_json()}
    content["studies"] = {part: [source.name for source in getattr(job.challenge, part)] for part in parts}
    if mark.exists() and not same_settings(read_json(mark), content, {"config": ChallengeConfig().to_json()}):
        raise RVQCError(
            f"{job.out} holds the results of other options or of other studies; give the same again, or another folder."
        )
    if not mark.exists() and job.out.is_dir() and any(job.out.iterdir()):
        raise RVQCError(f"{job.out} holds something else than this recipe's results; give an empty or a new folder.")
    write_json(mark, content)


def _steps(job: _Job) -> Iterator[tuple[str, Callable[[], None]]]:
    for view in VIEWS:
        yield f"train {view}", lambda view=view: _train(job, view)
    if job.final != job.trained:
        yield "refine", lambda: _refine(job)
    yield "segment", lambda: _segment(job)
    yield "submission", lambda: _submission(job)
    yield "ablation", lambda: _ablation(job)
    yield "tables", lambda: _tables(job)


def _is_bundle(path: Path) -> bool:
    return (path / "bundle.json").is_file()


def _train(job: _Job, view: str) -> None:
    if _is_bundle(job.trained) and view in load_bundle(job.trained).views:
        return
    networks = job.config.networks
    sampling = replace(networks.sampling, upright=view == "LA")
    config = replace(networks, view=view, sampling=sampling, test=0.0, leave_out=tuple(job.judged))
    train_bundle(
        job.folder,
        job.trained,
        config,
        name="RVQC-MMs2",
        device=job.device,
        jobs=job.jobs,
        work=job.out / f"training-{view}",
        terms=TERMS,
        report=lambda event: job.report({"view": view, **event}),
    )


def _refine(job: _Job) -> None:
    """The semi-supervised phase on the studies that are judged, whose true masks are not read."""
    if _is_bundle(job.final):
        return
    refine_bundle(
        job.folder,
        job.trained,
        job.final,
        job.config.refinement,
        labelled=job.folder,
        device=job.device,
        names=job.judged,
        name="RVQC-MMs2-refined",
        work=job.out / "refinement",
        resume=True,
        report=job.report,
    )


def _segment(job: _Job) -> None:
    """The masks that are judged and sent, which must be as the networks made them."""
    segment_cohort(
        job.folder,
        job.final,
        job.out / "studies",
        names=job.judged,
        device=job.device,
        jobs=job.jobs,
        progress=job.report,
    )
    home = job.out / "studies"
    edited = [one["study"] for one in read_run(home)["studies"] if set(one.get("edited", ())) & set(one["outputs"])]
    if edited:
        raise RVQCError(
            f"Masks of {', '.join(edited)} in {home} were edited by hand, so they are no result of the networks; move these "
            "folders elsewhere and give the same command again."
        )


def _judged_bundles(job: _Job) -> list[str]:
    return [load_bundle(path).hash for path in dict.fromkeys((job.trained, job.final))]


def _ablation(job: _Job) -> None:
    """Fig. 3 on the judged studies that have true masks."""
    made, hashes = job.out / "ablation" / "ablation.json", _judged_bundles(job)
    if made.is_file():
        said = read_json(made)
        if [said[key]["hash"] for key in ("bundle", "refined") if said[key]] == hashes:
            return
    if not any(source.labels for source in job.challenge.judged):
        return
    ablation(
        job.folder,
        job.trained,
        job.out / "ablation",
        refined=job.final if job.final != job.trained else None,
        part="test",
        device=job.device,
        seed=job.config.networks.seed,
        jobs=job.jobs,
        report=job.report,
    )


def _tables(job: _Job) -> None:
    """``tables/``: tables.json, tables.md and the rows that they are made from, stacks.csv."""
    rows = mask_rows(job.out / "studies", job.challenge, jobs=job.jobs)
    figure = job.out / "ablation" / "ablation.json"
    third = read_json(figure) if figure.is_file() and rows else None
    found: dict[str, Any] = {"bundles": _judged_bundles(job), "unseen": job.challenge.unseen}
    if rows:
        found |= {"note": "", "tables": tables(rows, job.challenge.unseen, seed=job.config.networks.seed)}
        found["tables"]["without_masks"] = without_masks(job.out / "studies", job.challenge)
        found["tables"]["fig3"] = third["views"] if third else None
    else:
        found |= {"note": "the judged studies have no true masks here, so there are no tables", "tables": None}
    with whole_folder(job.out / "tables") as folder:
        write_json(folder / "tables.json", found)
        if rows:
            write_csv(folder / "stacks.csv", rows)
            (folder / "tables.md").write_text(as_markdown(found["tables"], third) + "\n", encoding="utf-8")


def _submission(job: _Job) -> None:
    missing = write_submission(
        job.out / "studies", job.challenge.judged, job.out / "submission.zip", rv_label=job.config.rv_label
    )
    write_json(job.out / "submission.json", {"file": "submission.zip", "missing": missing})
