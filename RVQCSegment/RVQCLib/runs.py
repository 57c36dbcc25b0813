"""The runs of a training, each of one network: what each learns from, one after the other or side by side."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from RVQCLib.dataset import Example, load_examples, training_crop
from RVQCLib.fitting import Report, RunConfig, Snapshot, read_snapshots, train_network
from RVQCLib.parallel import end_with_parent
from RVQCLib.slices import locator_crop
from RVQCLib.stack import VIEWS
from RVQCLib.study import StudySource
from RVQCLib.training_config import TrainingConfig


def examples_for(
    run: RunConfig, sources: Sequence[StudySource], config: TrainingConfig, *, train: bool, view: str = ""
) -> list[Example]:
    """The labelled stacks of `sources` as one run wants them: the whole field for the locator, else the heart.

    Training examples of the heart come with a margin (``source_size``) so that augmentation can move the crop. They are
    stacks of `view`, by default the one that is trained.
    """
    sampling, view = config.sampling, view or config.view
    if run.task == "locator":
        return load_examples(sources, view, lambda image, mask: locator_crop(image, sampling), sampling)
    size = config.source_size if train else sampling.size
    return load_examples(sources, view, lambda image, mask: training_crop(image, mask, sampling, size), sampling)


def more_examples(run: RunConfig, sources: Sequence[StudySource], config: TrainingConfig) -> list[Example]:
    """The labelled stacks of `sources`, which are only learnt from, of any view: blood, muscle and fat look alike in all.

    R learns from those of its own view alone, because a mask that is right in another would be wrong in this one.
    """
    views = (config.view,) if run.task == "qc" else VIEWS
    found = {view: [s for s in sources if any(labelled == view for labelled, _ in s.labels)] for view in views}
    return [
        example
        for view, some in found.items()
        if some
        for example in examples_for(run, some, config, train=True, view=view)
    ]


@dataclass(frozen=True)
class Job:
    """One run as a worker process gets it."""

    name: str
    run: RunConfig
    config: TrainingConfig
    train: tuple[StudySource, ...]
    more: tuple[StudySource, ...]
    validation: tuple[StudySource, ...]
    work: Path
    device: str
    allow: tuple[str, ...]
    threads: int
    start: Path | None = None

    @property
    def checkpoint(self) -> Path:
        """Where the run's state is kept, from which it goes on."""
        return self.work / f"{self.name}.safetensors"

    @property
    def log(self) -> Path:
        """Where the run writes a line of JSON an epoch."""
        return self.work / f"{self.name}.jsonl"


def _do(job: Job, report: Report = lambda event: None) -> None:
    """Train, or continue, one run, which ends in its checkpoint; every epoch leaves a line in its log."""
    torch.set_num_threads(job.threads)
    train = examples_for(job.run, job.train, job.config, train=True)
    train += more_examples(job.run, job.more, job.config)
    validation = examples_for(job.run, job.validation, job.config, train=False)

    def tell(event: dict[str, Any]) -> None:
        event = {"run": job.name, **event}
        with open(job.log, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(event) + "\n")
        report(event)

    train_network(
        job.run,
        train,
        validation,
        checkpoint=job.checkpoint,
        start=load_file(job.start) if job.start else None,
        device=job.device,
        allow=job.allow,
        report=tell,
    )


def do_all(jobs: Sequence[Job], workers: int, report: Report) -> dict[str, list[Snapshot]]:
    """The snapshots of every run, made in this process or in `workers` side by side whose logs are followed."""
    if workers == 1:
        for job in jobs:
            _do(job, report)
    else:
        _do_apart(jobs, workers, report)
    # From the checkpoints, because tensors cannot outlive the process of a worker.
    return {job.name: read_snapshots(job.checkpoint) for job in jobs}


def _do_apart(jobs: Sequence[Job], workers: int, report: Report) -> None:
    seen = {job.name: len(lines_of(job.log)) for job in jobs}
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), end_with_parent) as pool:
        futures = [pool.submit(_do, job) for job in jobs]
        pending = set(futures)
        while pending:
            _, pending = wait(pending, timeout=1.0)
            for job in jobs:
                lines = lines_of(job.log)
                for line in lines[seen[job.name] :]:
                    report(json.loads(line))
                seen[job.name] = len(lines)
    for future in futures:
        future.result()


def lines_of(path: Path) -> list[str]:
    """The whole lines of a log that may not exist yet and may be growing."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return text[: text.rfind("\n") + 1].splitlines()
