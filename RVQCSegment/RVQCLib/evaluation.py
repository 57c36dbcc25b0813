"""Against true masks: how good the masks are (the paper's Table 1 and Fig. 2) and how good the QC is."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from RVQCLib.bundle import Bundle, load_bundle
from RVQCLib.dataset import not_new, select_part, unseen_groups
from RVQCLib.drawing import data_uri
from RVQCLib.failures import Failure, picture, worst, write_failures
from RVQCLib.files import RVQCError, check_apart, check_output, whole_folder, write_json
from RVQCLib.inference import choose_device
from RVQCLib.layouts import StudySource
from RVQCLib.metrics import dice, hausdorff
from RVQCLib.parallel import in_order
from RVQCLib.pipeline import StudyResult, segment_study
from RVQCLib.qc_evaluation import QCRows, add_stack, graded, summarize_qc
from RVQCLib.report import evaluation_page
from RVQCLib.shifts import SHIFTS
from RVQCLib.study import LABELS, STRUCTURES, Stack, find_studies

log = logging.getLogger(__name__)

MEASURES = ("dice", "hd_mm", "hd95_mm")


def compare(mask: Stack, truth: Stack) -> dict[str, float]:
    """Dice, HD and HD95 (3-D, mm, on the image's own grid) of every structure, keyed ``RV_dice`` and so on."""
    row: dict[str, float] = {}
    for structure in STRUCTURES:
        found, true = mask.pixels == LABELS[structure], truth.pixels == LABELS[structure]
        hd, hd95 = hausdorff(found, true, mask.geometry.spacing_zyx)
        row |= {
            f"{structure}_dice": dice(found, true),
            f"{structure}_hd_mm": hd,
            f"{structure}_hd95_mm": hd95,
        }
    return row


OUTPUTS = (
    "summary.json",
    "stacks.csv",
    "qc_stacks.csv",
    "qc_slices.csv",
    "qc_injected.csv",
    "evaluation.html",
    "worst",
)
"""What `evaluate` writes, and so may replace."""


def evaluate(
    data: str | Path,
    bundle_path: str | Path,
    out: str | Path,
    *,
    part: str = "all",
    device: str = "auto",
    allow: Sequence[str] = (),
    seed: int = 0,
    qc: bool = False,
    shifts: Sequence[str] | None = None,
    severities: Sequence[int] = (1, 3, 5),
    jobs: int = 1,
    report: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Segment every labelled study of `data` and compare; write ``summary.json``, ``stacks.csv``, ``evaluation.html``, and
    pictures of the worst stacks into ``worst``.

    Returns the summary: per structure, mean and 95 % bootstrap interval over patients of Dice, HD and HD95 of the stacks,
    with the standard deviation, for all stacks, every group and every phase; ``unseen_groups`` are those that training
    never saw, where `data` holds its studies too; ``not_new`` are the studies that taught, chose or calibrated the networks, of
    which `report` is warned; ``failed`` says of every study that cannot be read why it was left out. A
    structure that no true mask has is not measured: it is None, and ``absent`` says so. With `qc` also how good the QC itself is, on
    the images as they are and under `shifts` (None: each that there is) of the `severities` (`qc_evaluation.summarize_qc`), and its rows in
    ``qc_stacks.csv``, ``qc_slices.csv`` and ``qc_injected.csv``. With `jobs` > 1 so many processes share the studies.

    Raises
    ------
    RVQCError
        `out` lies in `data`, holds something else than an evaluation or cannot be written to; a shift or a severity is unknown; `device`
        does not work here; `part` is none that the bundle records or is empty; no stack of a view of the bundle has a true
        mask; or not one study can be read.
    BundleError
        The bundle cannot be trusted.
    """
    check_apart(out, data)
    check_output(out, OUTPUTS, "an evaluation")
    asked = graded(list(SHIFTS) if shifts is None else shifts, severities)
    device = choose_device(device)
    bundle = load_bundle(bundle_path, allow=allow)
    everyone, views = find_studies(data), bundle.description["views"]
    sources, failed, labels = _readable(select_part(everyone, views, part), data)
    check_labelled(sources, bundle, data)
    absent = _absent(labels, sources, data)
    if qc and "RV" in absent:
        raise RVQCError(f"--qc tells how well an RV is judged, but in {data} {absent['RV']}; leave --qc out.")
    known = not_new(sources, everyone, views.values())
    warnings = [known["said"], *(f"{study} is left out: {reason}" for study, reason in failed.items())]
    for said in filter(None, warnings) if report is not None else ():  # before the work, not hours after
        report({"event": "warning", "message": said})
    work = partial(_judge_study, bundle=bundle, device=device, shifts=asked if qc else None, seed=seed)
    rows: list[dict[str, Any]] = []
    judged, failures = QCRows(), list[Failure]()
    for number, (source, found) in enumerate(zip(sources, in_order(work, sources, jobs), strict=True), start=1):
        rows += found.rows
        judged.extend(found.judged)
        failures = [] if "RV" in absent else worst([*failures, *found.failures])
        if report is not None:
            report({"event": "evaluate", "study": source.name, "done": number, "total": len(sources)})
    unmeasured = {f"{structure}_{measure}" for structure in absent for measure in MEASURES}
    for row in (*rows, *judged.stacks):
        row.update(dict.fromkeys(unmeasured & row.keys()))
    summary = summarize(rows, seed=seed)
    summary |= {
        "bundle": {"name": bundle.name, "hash": bundle.hash},
        "data": Path(data).name,
        "part": part,
        "seed": seed,
        "failed": failed,
        "absent": absent,
        "not_new": known,
        "unseen_groups": [g for g in unseen_groups(everyone, views) if g in {row["group"] for row in rows}],
    }
    if qc:
        summary["qc"] = summarize_qc(judged, shifts=asked, seed=seed)
    with whole_folder(out) as folder:
        summary["worst"] = write_failures(failures, folder)
        write_json(folder / "summary.json", summary)
        write_csv(folder / "stacks.csv", rows)
        if qc:
            write_csv(folder / "qc_stacks.csv", judged.stacks)
            write_csv(folder / "qc_slices.csv", judged.slices)
            write_csv(folder / "qc_injected.csv", judged.injected)
        pictures = [(one.name.replace("_", " "), data_uri(one.picture)) for one in failures]
        page = evaluation_page(summary, rows, qc_rows=judged.stacks or None, pictures=pictures)
        (folder / "evaluation.html").write_text(page, encoding="utf-8")
    return summary


def check_labelled(sources: Sequence[StudySource], bundle: Bundle, data: str | Path) -> None:
    """Raise RVQCError where no stack of the studies, out of `data`, has a true mask and is of a view of the bundle."""
    if not any(view in bundle.views for source in sources for view, _ in source.images.keys() & source.labels.keys()):
        raise RVQCError(f"No stack in {data} has a true mask; give labelled studies.")


def _readable(sources: Sequence[StudySource], data: str | Path) -> tuple[list[StudySource], dict[str, str], set[int]]:
    """The studies that can be read, by the name of every other one the reason, and the labels that the true masks hold.

    What holds no image is passed over.
    """
    read, failed, labels = [], {}, set[int]()
    for source in sources:
        if not source.layout:
            continue
        try:
            masks = source.load(labels=True).labels
        except RVQCError as error:
            failed[source.name] = str(error)
        else:
            read.append(source)
            labels.update(*(np.unique(mask.pixels).tolist() for mask in masks))
    if not read:
        first = next(iter(failed.values()), "")
        raise RVQCError(f"Not one study in {data} can be read with its true masks. {first}".strip())
    return read, failed, labels


def _absent(labels: set[int], sources: Sequence[StudySource], data: str | Path) -> dict[str, str]:
    """What is to be said of every structure that no true mask has, whose Dice of 0 would be no fault of a found mask.

    A lone label 1 is refused where the layout does not tell what it is.
    """
    if labels - {0} == {LABELS["LV"]} and not any(source.layout == "acdc" for source in sources):
        raise RVQCError(
            f"The true masks in {data} hold no label but 1, which is the LV for M&Ms and the RV for ACDC, so say which it is: "
            "store an RV as 3, or an LV with its myocardium as 2."
        )
    return {s: f"no true mask has an {s}" for s in STRUCTURES if LABELS[s] not in labels}


@dataclass(frozen=True)
class _Found:
    """The rows of one study: its stacks against their true masks, how its masks were judged, and its stacks' pictures."""

    rows: list[dict[str, Any]]
    judged: QCRows
    failures: list[Failure]


def _judge_study(
    source: StudySource, *, bundle: Bundle, device: str, shifts: Sequence[tuple[str, int]] | None, seed: int
) -> _Found:
    """Segment and compare one study, and with `shifts` judge its QC."""
    study, judged = source.load(labels=True), QCRows()
    result = segment_study(study, bundle, device=device)
    for stack in result.stacks if shifts is not None else ():
        truth = study.label(stack.image.view, stack.image.phase)
        if truth is not None:
            head = {"study": study.name, "group": study.group, "vendor": study.vendor}
            head |= {"view": stack.image.view, "phase": stack.image.phase}
            add_stack(judged, head, stack, truth, bundle.models(stack.image.view, device), shifts, seed=seed)
    rows = stack_rows(result)
    return _Found(rows, judged, worst(_pictures(result, rows)))


def _pictures(result: StudyResult, rows: Sequence[dict[str, Any]]) -> Iterator[Failure]:
    stacks = {(stack.image.view, stack.image.phase): stack for stack in result.stacks}
    for row in rows:
        stack, truth = stacks[row["view"], row["phase"]], result.study.label(row["view"], row["phase"])
        if truth is not None:
            yield Failure(row, picture(stack.image, stack.mask, truth))


def stack_rows(result: StudyResult) -> list[dict[str, Any]]:
    """One row for every stack of `result` whose true mask is known: who, how good, and what the QC said."""
    rows = []
    for stack in result.stacks:
        truth = result.study.label(stack.image.view, stack.image.phase)
        if truth is None:
            continue
        row: dict[str, Any] = {
            "study": result.study.name,
            "group": result.study.group,
            "vendor": result.study.vendor,
            "view": stack.image.view,
            "phase": stack.image.phase,
            **compare(stack.mask, truth),
            "verdict": stack.judgement["verdict"],
            "ood": stack.judgement["ood"],
        }
        for structure, said in stack.judgement["structures"].items():
            row |= {f"{structure}_{key}": value for key, value in said.items()}
        rows.append(row)
    return rows


def summarize(rows: Sequence[dict[str, Any]], *, seed: int, resamples: int = 1000) -> dict[str, Any]:
    """Means with intervals for all rows, and for every group, phase and view among them."""
    groups = {}
    for key in ("group", "phase", "view", "vendor"):
        for value in sorted({row[key] for row in rows if row[key]}):
            some = [row for row in rows if row[key] == value]
            groups[f"{key} {value}"] = {"n_stacks": len(some), **_structures(some, seed, resamples)}
    return {
        "n_stacks": len(rows),
        "n_studies": len({row["study"] for row in rows}),
        "structures": _structures(rows, seed, resamples),
        "groups": groups,
    }


def _structures(rows: Sequence[dict[str, Any]], seed: int, resamples: int) -> dict[str, Any]:
    """Mean and interval of every measure of a structure; None for one that was not measured."""
    patients = [row["study"] for row in rows]
    return {
        structure: {
            measure: interval([row[f"{structure}_{measure}"] for row in rows], patients, seed=seed, resamples=resamples)
            for measure in MEASURES
        }
        if rows[0][f"{structure}_dice"] is not None
        else None
        for structure in STRUCTURES
    }


def interval(values: Iterable[float], patients: Sequence[str], *, seed: int, resamples: int = 1000) -> dict[str, float]:
    """Mean, standard deviation and the 95 % percentile-bootstrap interval of the mean, resampling whole patients."""
    numbers = np.asarray(list(values), float)
    names, index = np.unique(np.asarray(patients), return_inverse=True)
    sums = np.bincount(index, weights=numbers)
    counts = np.bincount(index)
    draws = np.random.default_rng(seed).integers(0, len(names), (resamples, len(names)))
    means = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return {
        "mean": float(numbers.mean()),
        "sd": float(numbers.std(ddof=1)) if len(numbers) > 1 else 0.0,
        "low": float(low),
        "high": float(high),
    }


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as a table whose columns are those of the first."""
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0] if rows else ()), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
