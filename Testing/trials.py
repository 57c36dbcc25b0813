"""What the comparisons share: their options, the configuration these make, a folder that remembers them, paired differences."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from RVQCLib.evaluation import MEASURES, evaluate, interval
from RVQCLib.files import RVQCError, read_json, whole_file, write_json
from RVQCLib.slices import Sampling
from RVQCLib.stack import STRUCTURES, Stack
from RVQCLib.training import TrainingConfig

Rows = Mapping[tuple[str, ...], Mapping[str, Any]]
"""What a method reached, a row a stack, by whatever tells stacks apart, the study second: (seed, study, view, phase)."""
_NAMES = {"dice": ("Dice", 3), "hd_mm": ("HD, mm", 1), "hd95_mm": ("HD95, mm", 1)}
FREE = ("data", "out", "seeds", "groups", "jobs")
"""Options that may change between two calls which fill one folder."""


def trial_options(parser: argparse.ArgumentParser, out: str, *, qc_epochs: int = 1) -> None:
    """Data, folder, seeds, and everything that decides the size of a training; one epoch of R is enough where single networks
    are compared."""
    parser.add_argument("data", help="a folder of labelled studies")
    parser.add_argument("--out", default=out, help="folder of trainings, tables and what was judged; resumes")
    parser.add_argument("--view", default="SA", choices=("SA", "LA"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--width", type=int, default=16, help="32 (BN1) and 48 (BN2) are full")
    parser.add_argument("--stages", type=int, default=6, help="of BN1")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--qc-epochs", type=int, default=qc_epochs, help="of R, which chooses among several candidates")
    parser.add_argument("--locator-epochs", type=int, default=12)
    parser.add_argument("--size", type=int, default=128, help="pixels of the networks' field")
    parser.add_argument("--spacing", type=float, default=1.5, help="mm of such a pixel")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=1)


def config_of(args: argparse.Namespace, seed: int, **more: Any) -> TrainingConfig:
    """The configuration that the options make; `more` are further fields of it."""
    return TrainingConfig(
        view=args.view,
        width=args.width,
        epochs=args.epochs,
        qc_epochs=args.qc_epochs,
        locator_epochs=args.locator_epochs,
        seed=seed,
        source_size=args.size * 3 // 2,
        precision="auto",
        sampling=Sampling(size=args.size, spacing_mm=args.spacing),
        **more,
    )


def claim(args: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """Make ``--out`` the folder of these options, and return those that decide the result; `more` decide it too.

    Raises
    ------
    RVQCError
        It was filled with other ones.
    """
    settings = {key: value for key, value in vars(args).items() if key not in FREE} | more
    mark = Path(args.out) / "settings.json"
    if mark.exists() and read_json(mark) != settings:
        raise RVQCError(f"{args.out} holds a comparison with other options; name another --out.")
    write_json(mark, settings)
    return settings


def read_rows(table: Path) -> list[dict[str, str]]:
    """The rows of a table that `rvqc` wrote."""
    with open(table, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def tell(event: dict[str, Any]) -> None:
    """Progress: a line of JSON on stderr."""
    sys.stderr.write(json.dumps(event) + "\n")


def cell(value: dict[str, float], digits: int, sign: str = "") -> str:
    """Mean and interval for a table."""
    mean, low, high = (f"{value[key]:{sign}.{digits}f}" for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def judged_rows(data: str, bundle: Path, home: Path, seed: int, **how: Any) -> dict[tuple[str, ...], dict[str, str]]:
    """The stacks of the test part by (seed, study, view, phase), judged by a bundle; `how` is for `evaluate`. What lies at `home`
    already is read."""
    if not (home / "stacks.csv").is_file():
        evaluate(data, bundle, home, part="test", **how)
    return {(str(seed), row["study"], row["view"], row["phase"]): row for row in read_rows(home / "stacks.csv")}


def write_found(out: str, name: str, found: Mapping[str, Any], text: str) -> None:
    """What was found so far as NAME.json and, for people, NAME.md."""
    write_json(Path(out) / f"{name}.json", found)
    with whole_file(Path(out) / f"{name}.md") as part:
        part.write_text(text, encoding="utf-8")


def write_image(image: Stack, path: Path) -> None:
    """An image with its geometry, in the format that the suffix says."""
    written = sitk.GetImageFromArray(image.pixels)
    written.SetOrigin(image.geometry.origin)
    written.SetSpacing(image.geometry.spacing)
    written.SetDirection(image.geometry.direction)
    sitk.WriteImage(written, str(path))


def paired(ours: Rows, theirs: Rows, *, resamples: int = 1000) -> dict[str, Any]:
    """By structure and measure: the means of both methods over the same stacks and the difference, ours minus theirs.

    Intervals resample patients, over all seeds. Both must have judged the same stacks.
    """
    if set(ours) != set(theirs):
        raise ValueError("The two methods judged different stacks.")
    keys = sorted(ours)
    patients = [study for _, study, *_ in keys]
    found: dict[str, Any] = {"n_stacks": len(keys), "n_patients": len(set(patients)), "structures": {}}
    for structure in STRUCTURES:
        found["structures"][structure] = {}
        for measure in MEASURES:
            own, other = ([float(rows[key][f"{structure}_{measure}"]) for key in keys] for rows in (ours, theirs))
            values = {"ours": own, "theirs": other, "difference": [a - b for a, b in zip(own, other, strict=True)]}
            found["structures"][structure][measure] = {
                name: interval(numbers, patients, seed=0, resamples=resamples) for name, numbers in values.items()
            }
    return found


def paired_table(found: Mapping[str, Any], ours: str, theirs: str) -> str:
    """What `paired` found, as Markdown."""
    text = [f"| | {ours} | {theirs} | difference, paired |", "|---|---|---|---|"]
    for structure, measures in found["structures"].items():
        for measure, row in measures.items():
            name, digits = _NAMES[measure]
            cells = [
                cell(row[key], digits, "+" if key == "difference" else "") for key in ("ours", "theirs", "difference")
            ]
            text.append(f"| {structure} {name} | " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"
