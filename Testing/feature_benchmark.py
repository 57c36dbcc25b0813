"""What every part of the predicted Dice adds: the calibration's own stacks, each graded without its patient -> a table.

    python Testing/feature_benchmark.py ACDC/training --jobs 2 --out Docs/qc_features.md

For every group of features: the model without it, and the model of it alone. Chosen on these stacks, so not a measure of how
good the shipped prediction is; that is `rvqc evaluate --qc` on patients that were never used.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from RVQCLib.bundle import load_bundle, shipped_bundle
from RVQCLib.calibration import Pool, Rows, labelled_stacks, observe
from RVQCLib.dataset import select_part
from RVQCLib.features import STACK_FEATURES
from RVQCLib.files import whole_file
from RVQCLib.prediction import fit
from RVQCLib.qc_statistics import auroc, mae, spearman
from RVQCLib.stack import STRUCTURES
from RVQCLib.study import find_studies

BAD = 0.8
GROUPS = {
    "shape: pDC, pHD": ("pDC", "pHD"),
    "agreement": ("agreement", "others' agreement", "agreement with the chosen"),
    "confidence": ("confidence", "unsure volume"),
    "image": ("texture", "spread of blood", "spread of muscle"),
    "size, phase": ("size", "end-systole"),
    "slices": ("slices",),
}
RV = STRUCTURES.index("RV")


def columns_of(rows: Rows) -> np.ndarray:
    """The stacks' features (rows, len(STACK_FEATURES)) of the RV, the last from slices predicted without their patient."""
    owner = np.repeat(np.arange(len(rows.dice)), [len(one) for one in rows.slice_dice])
    features, real = np.concatenate([one.slices for one in rows.features]), np.concatenate(rows.slice_dice)
    patients = [rows.patients[row] for row in owner]
    outside = np.stack([fit(features[:, k], real[:, k], patients).outside for k in range(len(STRUCTURES))], axis=1)
    return np.stack([one.with_slices(outside[owner == row])[RV] for row, one in enumerate(rows.features)])


def line(name: str, predicted: np.ndarray, real: np.ndarray, patients: Sequence[str], seed: int) -> str:
    """A row of the table: the numbers with their 95 % bootstrap intervals over patients."""
    names, patient = np.unique(patients, return_inverse=True)
    draws = np.random.default_rng(seed).integers(0, len(names), (1000, len(names)))
    times = np.stack([np.bincount(draw, minlength=len(names)) for draw in draws])[:, patient]
    cells = []
    for measure, digits in (
        (lambda w=None: auroc(predicted, real < BAD, w), 3),
        (lambda w=None: mae(predicted, real, w), 4),
        (lambda w=None: spearman(predicted, real, w), 3),
    ):
        low, high = np.percentile([value for w in times if (value := measure(w)) is not None], (2.5, 97.5))
        cells.append(f"{measure():.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]")
    return f"| {name} | {' | '.join(cells)} |"


def table(rows: Rows, seed: int) -> list[str]:
    """All features, every group left out, every group alone."""
    columns, real = columns_of(rows), np.array([one[RV] for one in rows.dice])
    shown = ~np.array(rows.damaged)  # masks with injected errors teach, but are not what networks do
    patients = [name for name, show in zip(rows.patients, shown, strict=True) if show]

    def row(name: str, use: Sequence[str]) -> str:
        kept = columns[:, [0, *(STACK_FEATURES.index(feature) for feature in use)]]
        return line(name, fit(kept, real, rows.patients).outside[shown], real[shown], patients, seed)

    every = STACK_FEATURES[1:]
    lines = [row("all", every)]
    lines += [row(f"without {name}", [f for f in every if f not in group]) for name, group in GROUPS.items()]
    lines += [row(f"{name} alone", group) for name, group in GROUPS.items()]
    head = [
        f"| RV, by stack (n {shown.sum()}, {(real[shown] < BAD).sum()} bad) | AUROC (Dice < {BAD}) | MAE | Spearman |"
    ]
    return [*head, "|---|---|---|---|", *lines]


def main() -> None:
    """Grade, fit, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="the labelled studies that the bundle was trained on")
    parser.add_argument("--bundle", type=Path, default=None, help="without it, the shipped one")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the intervals")
    parser.add_argument("--out", type=Path, required=True, help="the table, as Markdown")
    args = parser.parse_args()
    bundle = load_bundle(args.bundle or shipped_bundle())
    sources = select_part(find_studies(args.data), {"SA": bundle.description["views"]["SA"]}, "validation")
    _, _, rows = observe(labelled_stacks(sources, "SA"), Pool(bundle, "SA", "cpu"), jobs=args.jobs)
    with whole_file(args.out) as part:
        part.write_text("\n".join(table(rows, args.seed)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
