"""What refinement wins and what it costs, on real patients: one row a run, a JSON and a table in Markdown.

A labelled data set is given the look of another scanner (`RVQCLib.shifts`); patients that the bundle's training never saw
are refined on without their labels, which are read only to judge. Every run is compared with the bundle as it was, on the
patients it was refined on (flagged, not flagged) and on other untouched patients without a shift.

Sizes: the defaults are 6 shifts, 3 seeds, 6 patients of one shift, 6 untouched, 3 epochs of 50 steps of 8 slices a candidate,
the light shipped bundle. A run takes about seven minutes of an idle core that computes in bfloat16, a seed with all shifts and modes about two hours.
Rows are appended as they come, so ordered that a part of them is a table already; the same call goes on.

    python Testing/refinement_benchmark.py ACDC/training --out refinement_benchmark.json --table Docs/refinement_table.md
    python Testing/refinement_benchmark.py ACDC/training --leave-out RV --epochs 8 --steps 20 --seeds 0 1 2

With ``--rejudge`` nothing is refined: the bundles that an earlier call left in ``--work`` are judged by the code of today, which
tells what a new rule of accepting masks is worth with the very same networks.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from RVQCLib.adaptation import PLACED
from RVQCLib.augmentation import augment
from RVQCLib.bundle import Bundle, ViewModels, load_bundle, shipped_bundle
from RVQCLib.dataset import load_examples, training_crop
from RVQCLib.evaluation import interval, stack_rows
from RVQCLib.files import RVQCError, read_json, write_json
from RVQCLib.learner import Batch, Learner
from RVQCLib.material import source_size
from RVQCLib.pipeline import segment_study
from RVQCLib.refinement import RefinementConfig, refine_bundle
from RVQCLib.shifts import shift_stack
from RVQCLib.stack import Study
from RVQCLib.study import StudySource, find_studies, write_mask
from RVQCLib.successor import write_successor
from RVQCLib.training import TrainingConfig, train_bundle
from trials import write_image

SHIFTS = ("blur:5", "noise:5", "ghosting:5", "motion:5", "resolution:5", "noise:4")
VARIANTS: dict[str, dict[str, Any]] = {
    "none": {"mode": "none"},
    "guarded": {},
    "paper": {"mode": "paper", "learning_rate": 5e-4, "recalibrate": False},
    "entropy": {"mode": "entropy", "recalibrate": False},
    "ceiling": {},
    "guarded, no look of the new domain": {"style": 0.0, "recalibrate": False},
    "guarded, lessons too": {"alpha": 0.5, "recalibrate": False},
}
DEFAULT = ("none", "guarded", "paper", "entropy", "ceiling")
CEILING = "ceiling"
"""The same networks fine-tuned, for as many steps, with the labels of other patients of the new domain (the same shift, the group
that was left out), and put in the place of the old ones: no refinement has such labels."""
KEPT = (
    "study",
    "phase",
    "verdict",
    "RV_dice",
    "RV_hd_mm",
    "RV_predicted_dice",
    "RV_lower_bound_90",
    "LV_dice",
    "MYO_dice",
)
"""What is written down of a stack."""
MORE = ("modes", "shifts", "seeds", "threads", "rejudge")
"""Arguments that may differ between calls whose rows come to one file: a row names what it is of, or it does not matter."""
HARM = 0.01
"""Fall of a stack's RV Dice that counts as harm."""


def write_shifted(source: StudySource, name: str, severity: int, seed: int, folder: Path) -> None:
    """A labelled study under a shift, in M&Ms-2's layout and convention; severity 0 leaves it as it is."""
    study = source.load(labels=True)
    home = folder / study.name
    if home.is_dir():
        return
    part = folder / f".{home.name}"
    part.mkdir(parents=True, exist_ok=True)
    for stack in study.stacks:
        shifted = shift_stack(stack, name, severity, seed=seed) if severity else stack
        write_image(shifted, part / f"{home.name}_{stack.name}.nii.gz")
        truth = study.label(stack.view, stack.phase)
        if truth is not None:
            write_mask(truth, part / f"{home.name}_{stack.name}_gt.nii.gz")
    part.rename(home)


def judged(sources: Iterable[StudySource], bundle: Bundle, device: str) -> dict[str, dict[str, Any]]:
    """By study and phase the `KEPT` of what `evaluation.stack_rows` says, of studies with true masks."""
    rows: dict[str, dict[str, Any]] = {}
    for source in sources:
        study: Study = source.load(labels=True)
        for row in stack_rows(segment_study(study, bundle, device=device)):
            rows[f"{row['study']} {row['phase']}"] = {key: row[key] for key in KEPT}
    return rows


def fine_tuned(
    models: ViewModels, labelled: Sequence[StudySource], config: RefinementConfig, source: int
) -> list[dict[str, torch.Tensor]]:
    """The weights of all segmenters after `epochs` times `steps` steps on labelled slices, only moved and turned: the slow-moving
    copies of `learner.Learner`. `source` is the size of the window from which the slices are cropped."""
    sampling = models.sampling
    examples = load_examples(labelled, "SA", lambda i, t: training_crop(i, t, sampling, source), sampling)
    images, labels = (np.concatenate([getattr(e, name) for e in examples]) for name in ("images", "labels"))
    placed = PLACED.for_upright() if sampling.upright else PLACED
    result = []
    for number, segmenter in enumerate(models.segmenters):
        learner = Learner(config, segmenter, models.device, _progress)
        generator = torch.Generator().manual_seed(config.seed * 1009 + number)
        for step in range(config.epochs * config.steps):
            drawn = torch.randint(0, len(images), (config.batch,), generator=generator).numpy()
            batch = torch.from_numpy(images[drawn]).float()[:, None], torch.from_numpy(labels[drawn])
            moved = augment(*batch, sampling.size, config=placed, generator=generator)
            learner.set_learning_rate(step / config.steps)
            learner.step(Batch(*moved, config.batch), 0.0, models)
        result.append(learner.average)
    return result


class Benchmark:
    """The runs of one call. `home` keeps bundles that were trained, and for every bundle and number of patients a folder of
    shifted patients, new bundles and what was judged before, so that nothing is done twice."""

    def __init__(self, args: argparse.Namespace, home: Path) -> None:
        self.args, self.home = args, home
        self.sources = {source.name: source for source in find_studies(args.data)}
        self.bundle_path = Path(args.bundle) if args.bundle else shipped_bundle()
        self.patients, self.untouched = self._choose()
        self.bundle_hash = load_bundle(self.bundle_path).hash
        self.home = home / f"{self.bundle_hash[:12]}-{args.patients}-{args.untouched}"

    def _choose(self) -> tuple[list[str], list[str]]:
        """Patients to refine on, and others: of the bundle's test part, or the group that was left out.

        The ceiling learns from the labels of `teachers`: the train part, or the others of that group.
        """
        group = self.args.leave_out
        if group:
            self.bundle_path = self._train_without(group)
        split = load_bundle(self.bundle_path).description["views"]["SA"]["training"]["split"]
        test = [name for name in split["test"] if name in self.sources]
        self.teachers = split["train"]
        if group:
            left_out = sorted(name for name in test if self.sources[name].group == group)
            others = [name for name in test if name not in left_out]
            self.teachers = left_out[self.args.patients :]
            return left_out[: self.args.patients], others[: self.args.untouched]
        return test[::2][: self.args.patients], test[1::2][: self.args.untouched]

    def _train_without(self, group: str) -> Path:
        """A light bundle from all groups but one."""
        out = self.home / f"bundle-without-{group}"
        sizes = {"width": 8, "epochs": self.args.train_epochs, "qc_epochs": 30, "locator_epochs": 6}
        config = TrainingConfig(**sizes, precision="auto", leave_out=(group,))
        if not out.exists():
            train_bundle(self.args.data, out, config, device=self.args.device, jobs=2, report=_progress)
        return out

    def runs(self) -> Iterable[tuple[str, int, str]]:
        """(shift, seed, variant) of all runs, so ordered that a part of them is a table already."""
        shifts = [f"group {self.args.leave_out}:0"] if self.args.leave_out else self.args.shifts
        for seed in self.args.seeds:
            for shift in shifts:
                for variant in self.args.modes:
                    yield shift, seed, variant

    def run(self, shift: str, seed: int, variant: str) -> dict[str, Any]:
        """One refinement, judged before and after."""
        data, out = self._places(shift, seed, variant)
        config = replace(self._config(seed), **VARIANTS[variant])
        row: dict[str, Any] = {"shift": shift, "seed": seed, "variant": variant, "config": config.to_json()}
        row |= self._before(data, seed)
        started = time.monotonic()
        if variant == CEILING:
            row |= self._with_labels(shift, seed, load_bundle(self.bundle_path), out, config, row["before"])
        else:
            result = refine_bundle(
                data, self.bundle_path, out, config, labelled=self.args.data, device=self.args.device, report=_progress
            )
            row |= {key: result[key] for key in ("stopped_because", "guard", "changed", "calibration", "studies")}
        row["seconds"] = time.monotonic() - started
        row |= self._after(row, data, out)
        shutil.rmtree(out.with_name(f"{out.name}.refinement"), ignore_errors=True)
        return row

    def rejudged(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row of an earlier run, its bundle judged anew, before and after."""
        data, out = self._places(row["shift"], row["seed"], row["variant"])
        row = {**row, "rejudged": True, **self._before(data, row["seed"])}
        row |= self._after(row, data, out)
        taken = {stack["study"] for key, stack in row["before"].items() if row["after"][key] != stack}
        return {**row, "studies": _studies(row["before"], taken)}

    def _places(self, shift: str, seed: int, variant: str) -> tuple[Path, Path]:
        """The folder of a run's studies, and where its bundle lies."""
        data = self._shifted(shift, seed, self.patients)
        return data, self.home / "out" / f"{data.name}-{''.join(c for c in variant if c.isalnum())}"

    def _before(self, data: Path, seed: int) -> dict[str, dict[str, Any]]:
        """What the bundle as it was says of the studies in `data`, of the same without a shift, and of the untouched ones."""
        old = load_bundle(self.bundle_path)

        def once(name: str, sources: Sequence[StudySource]) -> dict[str, Any]:
            return self._once(name, lambda: judged(sources, old, self.args.device))

        return {
            "before": once(f"{data.name}-before", find_studies(data)),
            "clean": once(f"clean-{seed}", [self.sources[patient] for patient in self.patients]),
            "untouched_before": once("untouched", self._others()),
        }

    def _after(self, row: dict[str, Any], data: Path, out: Path) -> dict[str, dict[str, Any]]:
        """What the bundle at `out` says of them; the same where nothing in it has changed."""
        if not row["changed"]:
            return {"after": row["before"], "untouched_after": row["untouched_before"]}
        new, device = load_bundle(out), self.args.device
        return {
            "after": judged(find_studies(data), new, device),
            "untouched_after": judged(self._others(), new, device),
        }

    def _others(self) -> list[StudySource]:
        return [self.sources[name] for name in self.untouched]

    def _shifted(self, shift: str, seed: int, patients: Sequence[str], what: str = "") -> Path:
        """The folder of these patients under a shift."""
        name, severity = shift.rsplit(":", 1)
        data = self.home / "data" / f"{name}{severity}-{seed}{what}"
        for patient in patients:
            if patient in self.sources:
                write_shifted(self.sources[patient], name, int(severity), seed, data)
        return data

    def _with_labels(
        self,
        shift: str,
        seed: int,
        parent: Bundle,
        out: Path,
        config: RefinementConfig,
        before: dict[str, dict[str, Any]],
    ) -> dict[str, Any]:
        """Write the bundle of the ceiling to `out`; what a refinement would have said of itself."""
        data = self._shifted(shift, seed, self.teachers, "-labelled")
        source = source_size(parent.description["views"]["SA"], config)
        weights = fine_tuned(parent.models("SA", self.args.device), find_studies(data), config, source)
        records = [{"mode": CEILING}] * len(weights)
        write_successor(
            out,
            parent,
            {"SA": weights},
            {"SA": records},
            CEILING,
            second=False,
            domains={},
            labelled={"train": self.teachers},
        )
        return {
            "stopped_because": "all steps were made",
            "changed": [f"SA {k}" for k in range(1, len(weights) + 1)],
            "calibration": "the parent's, its lower bounds twice as far away",
            "studies": _studies(before, _doubted(before)),
        }

    def _config(self, seed: int) -> RefinementConfig:
        args = self.args
        how = {"epochs": args.epochs, "steps": args.steps, "batch": args.batch, "seed": seed}
        how["guard_slices"] = args.guard_slices
        return RefinementConfig(**how, recalibrate=not args.no_calibration)

    def _once(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        file = self.home / ("judged-anew" if self.args.rejudge else "judged") / f"{name}.json"
        if not file.exists():
            write_json(file, work())
        return read_json(file)


def _doubted(before: dict[str, dict[str, Any]]) -> set[str]:
    """The studies of which a stack is not trusted."""
    return {row["study"] for row in before.values() if row["verdict"] != "trusted"}


def _studies(before: dict[str, dict[str, Any]], accepted: set[str]) -> list[dict[str, Any]]:
    """What a refinement says of every study, where none was run."""
    names = sorted({row["study"] for row in before.values()})
    doubted = _doubted(before)
    return [{"study": n, "flagged_before": n in doubted, "accepted": n in accepted} for n in names]


def _progress(event: dict[str, Any]) -> None:
    if event.get("event") in ("epoch", "candidate", "memory") or "run" in event:
        sys.stderr.write(json.dumps(event) + "\n")
        sys.stderr.flush()


# The table -------------------------------------------------------------------------------------------------------------


def changes(rows: Sequence[dict[str, Any]], which: str, measure: str) -> tuple[np.ndarray, list[str]]:
    """Change of a measure a stack (`flagged`, `unflagged` of the patients refined on, or `untouched`), and whose it is."""
    values, patients = [], []
    for row in rows:
        before, after = ("untouched_before", "untouched_after") if which == "untouched" else ("before", "after")
        flagged = {study["study"] for study in row["studies"] if study["flagged_before"]}
        for key, old in row[before].items():
            if which == "untouched" or (old["study"] in flagged) == (which == "flagged"):
                values.append(row[after][key][measure] - old[measure])
                patients.append(old["study"])
    return np.array(values), patients


def summary(rows: Sequence[dict[str, Any]], which: str) -> dict[str, Any] | None:
    """Mean change with interval over patients, who are the same in all runs, worst case, share harmed; of RV Dice and RV HD."""
    dice, patients = changes(rows, which, "RV_dice")
    if not len(dice):
        return None
    hd, _ = changes(rows, which, "RV_hd_mm")
    found = {"n_stacks": len(dice), "dice": interval(dice, patients, seed=0), "worst": float(dice.min())}
    return {**found, "harmed": float((dice < -HARM).mean()), "hd_mm": interval(hd, patients, seed=0)}


def recovered(rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """RV Dice that the shift took from flagged studies, the part of it that came back, and the part that came back where
    only the new masks count that were accepted."""
    lost, gained, kept = [], [], []
    for row in rows:
        flagged = {study["study"]: study["accepted"] for study in row["studies"] if study["flagged_before"]}
        for key, old in row["before"].items():
            if old["study"] in flagged and key in row["clean"]:
                lost.append(row["clean"][key]["RV_dice"] - old["RV_dice"])
                gained.append(row["after"][key]["RV_dice"] - old["RV_dice"])
                kept.append(gained[-1] if flagged[old["study"]] else 0.0)
    total = float(np.mean(lost)) if lost else 0.0
    known = total > 0.005
    return {
        "lost": total,
        "recovered": float(np.mean(gained)) / total if known else None,
        "accepted": float(np.mean(kept)) / total if known else None,
    }


def honesty(rows: Sequence[dict[str, Any]], moment: str) -> dict[str, float]:
    """Predicted against real RV Dice on the patients refined on: mean absolute error, share above the 90 % bound."""
    stacks = [stack for row in rows for stack in row[moment].values()]
    error = [abs(s["RV_predicted_dice"] - s["RV_dice"]) for s in stacks]
    return {
        "mae": float(np.mean(error)),
        "coverage": float(np.mean([s["RV_dice"] >= s["RV_lower_bound_90"] for s in stacks])),
    }


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """All rows as Markdown: by variant over all shifts, then by shift."""
    head = "| what | runs | lost to the shift | recovered | by accepted masks | flagged: RV Dice | worst | harmed | RV HD, mm | not flagged: RV Dice | "
    head += "untouched: RV Dice | worst | predicted Dice: MAE | coverage |\n" + "|---" * 14 + "|\n"
    text = ["## All shifts\n\n" + head + "".join(_line(v, s) for v, s in _by(rows, "variant"))]
    for shift, some in _by(rows, "shift"):
        text.append(f"## {shift}\n\n" + head + "".join(_line(v, s) for v, s in _by(some, "variant")))
    return "\n".join(text)


def _by(rows: Sequence[dict[str, Any]], key: str) -> list[tuple[str, list[dict[str, Any]]]]:
    return [(value, [r for r in rows if r[key] == value]) for value in dict.fromkeys(row[key] for row in rows)]


def _line(variant: str, rows: Sequence[dict[str, Any]]) -> str:
    flagged, plain, other = (summary(rows, which) for which in ("flagged", "unflagged", "untouched"))
    back, said = recovered(rows), honesty(rows, "after")
    shares = ["–" if back[k] is None else f"{100 * back[k]:.0f} %" for k in ("recovered", "accepted")]  # type: ignore[operator]
    cells = [variant, str(len(rows)), f"{back['lost']:.3f}", *shares, _change(flagged)]
    cells += ["–"] * 3 if flagged is None else [_signed(flagged["worst"]), f"{100 * flagged['harmed']:.0f} %"]
    cells += [] if flagged is None else [f"{flagged['hd_mm']['mean']:+.1f}"]
    cells += [_change(plain), _change(other), "–" if other is None else _signed(other["worst"])]
    return "| " + " | ".join([*cells, f"{said['mae']:.3f}", f"{said['coverage']:.2f}"]) + " |\n"


def _signed(value: float) -> str:
    return f"{value:+.3f}"


def _change(found: dict[str, Any] | None) -> str:
    if found is None:
        return "–"
    dice = found["dice"]
    return f"{_signed(dice['mean'])} [{_signed(dice['low'])}, {_signed(dice['high'])}] (n {found['n_stacks']})"


def rows_so_far(out: Path, head: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that an earlier call left in `out`, where that call was like this one, of which the file will say `head`.

    Raises
    ------
    RVQCError
        It had other arguments, data or another bundle; what an older file does not say of it is taken to be the same.
    """
    if not out.exists():
        return []
    left = read_json(out)
    was, now = ({**one, **one["arguments"]} for one in (left, head))
    for key in sorted(now.keys() & was.keys() - {"arguments", *MORE}):
        if was[key] != now[key]:
            raise RVQCError(f"{out} holds rows with {key} {was[key]}, not {now[key]}; name another --out.")
    return left["rows"]


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing, and write the JSON and the table after every row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="labelled studies, those of the bundle's split among them")
    parser.add_argument("--out", default="refinement_benchmark.json")
    parser.add_argument("--table", default="refinement_benchmark.md")
    parser.add_argument("--work", default="refinement_benchmark")
    parser.add_argument("--bundle", help="folder of a bundle; without it, the shipped one")
    parser.add_argument("--modes", nargs="+", default=list(DEFAULT), choices=list(VARIANTS))
    parser.add_argument("--shifts", nargs="+", default=list(SHIFTS), metavar="NAME:SEVERITY")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--patients", type=int, default=6)
    parser.add_argument("--untouched", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--guard-slices", type=int, default=48)
    parser.add_argument("--no-calibration", action="store_true", help="of guarded too: much faster")
    parser.add_argument(
        "--leave-out", metavar="GROUP", help="train a light bundle without a group; refine on that group"
    )
    parser.add_argument("--train-epochs", type=int, default=20, help="of the light bundle of --leave-out")
    parser.add_argument(
        "--rejudge",
        action="store_true",
        help="refine nothing; judge the rows of --out anew, with the bundles in --work",
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    out, bench = Path(args.out), Benchmark(args, Path(args.work))
    sizes = {key: value for key, value in vars(args).items() if key not in ("data", "out", "table", "work", "bundle")}
    head = {"data": Path(args.data).name, "bundle": bench.bundle_hash, "arguments": sizes}
    rows = rows_so_far(out, head)
    done = {(row["shift"], row["seed"], row["variant"]) for row in rows}

    def write(rows: Sequence[dict[str, Any]]) -> None:
        write_json(out, {**head, "rows": rows})
        Path(args.table).write_text(tables(rows), encoding="utf-8")

    if args.rejudge:
        write([bench.rejudged(row) for row in rows])
        return
    for run in bench.runs():
        if run in done:
            continue
        rows.append(bench.run(*run))
        write(rows)
        sys.stderr.write(f"{run}: {rows[-1]['seconds']:.0f} s\n")


if __name__ == "__main__":
    main()
