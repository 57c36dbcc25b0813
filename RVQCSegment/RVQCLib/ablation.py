"""The ablation of the paper's Fig. 3: one network alone, {M} with the QC's selection, and the whole with refinement.

Which single network is the best was known before the judged studies were seen: it has the highest RV Dice on the validation
part of its training. Every method's mask at ES is without the slice above the base (`basal`), where the prediction of the whole
bundle says so, so that no row has that to its credit. Every difference is paired, stack by stack, with a bootstrap interval over
patients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from RVQCLib.basal import cleared
from RVQCLib.bundle import Bundle, load_bundle
from RVQCLib.dataset import not_new, select_part
from RVQCLib.evaluation import MEASURES, check_labelled, compare, interval, write_csv
from RVQCLib.files import check_apart, check_output, whole_folder, write_json
from RVQCLib.inference import Proposal, choose, choose_device
from RVQCLib.layouts import StudySource
from RVQCLib.parallel import in_order
from RVQCLib.pipeline import above_base, look, segment_stack
from RVQCLib.selection import Reference
from RVQCLib.slices import from_network
from RVQCLib.stack import STRUCTURES, Stack
from RVQCLib.study import find_studies

Row = dict[str, Any]
OUTPUTS = ("ablation.json", "ablation.csv")
"""What `ablation` writes, and so may replace."""
SINGLE, MEAN, SELECTED, REFINED = "best single M", "mean of {M}", "{M} + QC", "{M} + QC + refinement"


def ablation(
    data: str | Path,
    bundle_path: str | Path,
    out: str | Path,
    *,
    refined: str | Path | None = None,
    part: str = "all",
    device: str = "auto",
    allow: Sequence[str] = (),
    seed: int = 0,
    jobs: int = 1,
    report: Callable[[dict[str, Any]], None] = lambda event: None,
) -> dict[str, Any]:
    """Segment every labelled study of `data` in every way and compare; write ``ablation.json`` and ``ablation.csv``.

    Parameters
    ----------
    refined
        The bundle that refinement made of `bundle_path`; without it that row is missing, and ``note`` says so.

    Returns
    -------
    ``{"not_new", "views": {view: {method: {"n_stacks", structure: {measure: interval}, "minus_single": {structure: {measure:
    interval}}}}}}``, ``not_new`` as in `dataset.not_new`. A method is named as in the paper; behind a comma the base network, where it is of one alone.

    Raises
    ------
    RVQCError
        No stack of `data` has a true mask, a bundle is not calibrated, or `out` lies in `data`.
    """
    check_apart(out, data)
    check_output(out, OUTPUTS, "an ablation")
    device = choose_device(device)
    bundles = [load_bundle(path, allow=allow) for path in (bundle_path, refined) if path is not None]
    for bundle in bundles:
        for view in bundle.views:
            bundle.check_calibrated(view)
    everyone = find_studies(data)
    sources = select_part(everyone, bundles[0].description["views"], part)
    check_labelled(sources, bundles[0], data)
    known = not_new(sources, everyone, [view for b in bundles for view in b.description["views"].values()])
    if known["said"]:
        report({"event": "warning", "message": known["said"]})
    work = partial(_rows_of, bundles=bundles, device=device)
    rows: list[Row] = []
    for done, (source, found) in enumerate(zip(sources, in_order(work, sources, jobs), strict=True), start=1):
        rows += found
        report({"event": "ablation", "study": source.name, "done": done, "total": len(sources)})
    summary = {
        "bundle": {"name": bundles[0].name, "hash": bundles[0].hash},
        "refined": {"name": bundles[1].name, "hash": bundles[1].hash} if refined else None,
        "note": "" if refined else "no refined bundle was given, so nothing is said of refinement",
        "part": part,
        "not_new": known,
        "seed": seed,
        "views": summarize_ablation(rows, seed=seed),
    }
    with whole_folder(out) as folder:
        write_json(folder / "ablation.json", summary)
        write_csv(folder / "ablation.csv", rows)
    return summary


def _rows_of(source: StudySource, *, bundles: Sequence[Bundle], device: str) -> list[Row]:
    """A row a labelled stack and method."""
    study, rows = source.load(labels=True), []
    for stack in study.stacks:
        truth = study.label(stack.view, stack.phase)
        if truth is None or stack.view not in bundles[0].views:
            continue
        head = {"study": study.name, "group": study.group, "view": stack.view, "phase": stack.phase}
        for method, mask in _masks(stack, bundles, device):
            rows.append(head | {"method": method} | compare(mask, truth))
    return rows


def _masks(stack: Stack, bundles: Sequence[Bundle], device: str) -> Iterator[tuple[str, Stack]]:
    """Every method's mask on the stack's own grid."""
    for number, bundle in enumerate(bundles):
        models, entries = bundle.models(stack.view, device), bundle.description["views"][stack.view]["segmenters"]
        if number and models.refined:  # a second pool beside the first, which only the whole pipeline knows how to ask
            yield REFINED, segment_stack("", stack, models).mask
            continue
        proposal = look("", stack, models).proposal  # of the orientation that the pipeline takes
        found = pools([(e["network"], e["validation_dice"]["RV"]) for e in entries], models.consensus)
        for method, pool in found.items():
            if number == 0:
                yield method, _selected(proposal, pool, bundle, device)
            elif method.startswith(SELECTED):
                yield method.replace(SELECTED, REFINED), _selected(proposal, pool, bundle, device)


def pools(networks: Sequence[tuple[str, float]], consensus: bool) -> dict[str, list[int]]:
    """The candidates among which every method selects: one, or several.

    Parameters
    ----------
    networks
        Name and validation RV Dice of every segmenter.
    consensus
        Whether the mean of all is the last candidate.
    """
    everyone = list(range(len(networks)))
    best = {SINGLE: [_best(networks, everyone)]}
    found = best | ({MEAN: [len(networks)]} if consensus else {})
    found[SELECTED] = everyone + ([len(networks)] if consensus else [])
    for name in sorted({name for name, _ in networks}):
        own = [i for i in everyone if networks[i][0] == name]
        found |= {f"{SINGLE}, {name}": [_best(networks, own)], f"{SELECTED}, {name}": own}
    return found


def _best(networks: Sequence[tuple[str, float]], among: Sequence[int]) -> int:
    return max(among, key=lambda i: (networks[i][1], -i))


def _selected(proposal: Proposal, pool: Sequence[int], bundle: Bundle, device: str) -> Stack:
    """Steps 1 to 5 of Sec. 2.3 among the candidates of `pool`, then the pipeline's rule of the slice above the base, which all
    candidates have a say in."""
    stack, picked = proposal.stack, list(pool)
    models = bundle.models(stack.view, device)
    fence = Reference.from_calibration(models.calibration, stack.phase).stack["RV"]
    some = replace(
        proposal,
        masks=proposal.masks[picked],
        probabilities=proposal.probabilities[picked],
        reconstructions=proposal.reconstructions[picked],
        measures=proposal.measures.among(picked),
    )
    chosen = choose(some, fence, models)
    mask = stack.with_pixels(from_network(chosen.probabilities, proposal.crop, stack))
    above = above_base(proposal, chosen, models)
    return mask.with_pixels(cleared(mask.pixels, above["slice"])) if above else mask


def summarize_ablation(rows: Sequence[Row], *, seed: int, resamples: int = 1000) -> dict[str, Any]:
    """By view and method: means with 95 % intervals over patients, and the paired difference to the single network of the
    same base network, or the best of all."""
    views: dict[str, Any] = {}
    for view in sorted({row["view"] for row in rows}, reverse=True):
        methods: dict[str, dict[tuple[str, str], Row]] = {}
        for row in rows:
            if row["view"] == view:
                methods.setdefault(row["method"], {})[row["study"], row["phase"]] = row
        views[view] = {
            name: _compared(stacks, methods[_single(name)], seed, resamples) for name, stacks in methods.items()
        }
    return views


def _single(method: str) -> str:
    _, comma, network = method.partition(", ")
    return f"{SINGLE}{comma}{network}"


def _compared(
    stacks: dict[tuple[str, str], Row], single: dict[tuple[str, str], Row], seed: int, resamples: int
) -> dict[str, Any]:
    patients = [study for study, _ in stacks]

    def means(values: Callable[[str], np.ndarray]) -> dict[str, dict[str, Any]]:
        return {
            s: {m: interval(values(f"{s}_{m}"), patients, seed=seed, resamples=resamples) for m in MEASURES}
            for s in STRUCTURES
        }

    def column(name: str, among: dict[tuple[str, str], Row]) -> np.ndarray:
        return np.array([among[key][name] for key in stacks], float)

    difference = means(lambda name: column(name, stacks) - column(name, single))
    return {"n_stacks": len(stacks), **means(lambda name: column(name, stacks)), "minus_single": difference}
