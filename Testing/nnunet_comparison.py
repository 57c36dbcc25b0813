"""A bundle of RVQC against nnU-Net's 2-D configuration: the same patients to learn from, the same to choose by, the same to judge.

The split is the bundle's: nnU-Net's one fold trains on its train part and validates on its validation part; both segment the test
part, which neither saw. nnU-Net is as its authors run it: its own plan, resampling, 1000 epochs, mirroring at inference, and the
postprocessing that it finds best on the validation part. It draws its randomness as it likes, so another training gives other
numbers. RVQC is as the command runs it: locator, candidates, QC, choice.
Differences are paired stack by stack; intervals resample patients.

nnU-Net is no dependency of RVQC: `pip install nnunetv2`, where you like; its commands must be on the PATH. A training takes about a
day of a GPU; what is finished is not done again, a training that was killed goes on.

    python Testing/nnunet_comparison.py ACDC/training --out nnunet_comparison
    python Testing/nnunet_comparison.py ACDC/training --trainer nnUNetTrainer_50epochs --out short
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from RVQCLib.bundle import load_bundle, shipped_bundle
from RVQCLib.calibration import labelled_stacks
from RVQCLib.evaluation import compare
from RVQCLib.files import RVQCError, whole_folder, write_json
from RVQCLib.stack import LABELS
from RVQCLib.study import find_studies, read_mask, write_mask
from trials import Rows, claim, judged_rows, paired, paired_table, tell, write_found, write_image

DATASET, NUMBER, CONFIGURATION, FOLD, SUFFIX = "Dataset001_RVQC", "1", "2d", "0", ".nii.gz"


class NNUNet:
    """nnU-Net's commands in folders of their own under `home`."""

    def __init__(self, home: Path, trainer: str, device: str) -> None:
        self.home, self.trainer, self.device = home.resolve(), trainer, device
        self.raw, self.preprocessed = self.home / "raw" / DATASET, self.home / "preprocessed" / DATASET
        self.trained = self.home / "results" / DATASET / f"{trainer}__nnUNetPlans__{CONFIGURATION}"
        self.predicted, self.final = self.home / "predicted", self.home / "postprocessed"

    def run(self, command: str, *arguments: str) -> None:
        """One of its commands; what it prints goes to stderr.

        Raises
        ------
        RVQCError
            It is not installed, or it failed.
        """
        found = shutil.which(f"nnUNetv2_{command}")
        if found is None:
            raise RVQCError(f"nnUNetv2_{command} is not on the PATH; pip install nnunetv2.")
        places = {f"nnUNet_{name}": str(self.home / name) for name in ("raw", "preprocessed", "results")}
        ended = subprocess.run([found, *arguments], env={**os.environ, **places}, stdout=sys.stderr, check=False)
        if ended.returncode:
            raise RVQCError(f"nnUNetv2_{command} failed ({ended.returncode}); what it printed says why.")

    def learn(self, cases: dict[str, list[str]]) -> None:
        """Plan, preprocess, and train on the cases ``train``, validating on ``validation``."""
        if not (self.preprocessed / "splits_final.json").is_file():
            self.run("plan_and_preprocess", "-d", NUMBER, "-c", CONFIGURATION, "--verify_dataset_integrity")
            write_json(self.preprocessed / "splits_final.json", [{"train": cases["train"], "val": cases["validation"]}])
        fold = self.trained / f"fold_{FOLD}"
        made = [file.name for file in fold.glob("*.pth")]
        if (fold / "validation" / "summary.json").is_file() and "checkpoint_final.pth" in made:
            return
        again = ["--val"] if "checkpoint_final.pth" in made else ["--c"] if made else []
        self.run("train", NUMBER, CONFIGURATION, FOLD, "-tr", self.trainer, "-device", self.device, *again)

    def predict(self, cases: Sequence[str]) -> None:
        """Segment the cases of the test part."""
        if _there(self.predicted, cases):
            return
        places = ["-i", str(self.raw / "imagesTs"), "-o", str(self.predicted)]
        which = ["-d", NUMBER, "-c", CONFIGURATION, "-f", FOLD, "-tr", self.trainer, "-device", self.device]
        self.run("predict", *places, *which)

    def postprocess(self, cases: Sequence[str]) -> None:
        """Do with the masks of the test part what nnU-Net finds best on the validation part, which may be nothing."""
        if _there(self.final, cases):
            return
        which = ["-c", CONFIGURATION, "-f", FOLD, "-tr", self.trainer, "--disable_ensembling"]
        self.run("find_best_configuration", NUMBER, *which)
        found = self.trained / f"crossval_results_folds_{FOLD}"
        how = ["-pp_pkl_file", str(found / "postprocessing.pkl"), "-plans_json", str(found / "plans.json")]
        how += ["-dataset_json", str(found / "dataset.json")]
        self.run("apply_postprocessing", "-i", str(self.predicted), "-o", str(self.final), *how)


def _there(folder: Path, cases: Sequence[str]) -> bool:
    return all((folder / f"{case}{SUFFIX}").is_file() for case in cases)


def export(data: str, split: dict[str, list[str]], view: str, folder: Path) -> dict[str, list[str]]:
    """Write the labelled stacks of `view` as nnU-Net wants a data set; the cases by part of the `split`.

    Of the test part images alone.
    """
    cases: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    sources = {source.name: source for source in find_studies(data)}
    with whole_folder(folder) as home:
        for part, found in cases.items():
            images, labels = ("imagesTs", None) if part == "test" else ("imagesTr", "labelsTr")
            for place in filter(None, (images, labels)):
                (home / place).mkdir(exist_ok=True)
            for name in sorted(set(split[part]) & set(sources)):
                study = sources[name].load(labels=True)
                for image in study.stacks:
                    truth = study.label(image.view, image.phase)
                    if image.view != view or truth is None:
                        continue
                    found.append(f"{name}_{image.name}")
                    write_image(image, home / images / f"{found[-1]}_0000{SUFFIX}")
                    if labels:
                        write_mask(truth, home / labels / f"{found[-1]}{SUFFIX}")
        content = {"channel_names": {"0": "cine MRI"}, "labels": {"background": 0, **LABELS}, "file_ending": SUFFIX}
        write_json(home / "dataset.json", {**content, "numTraining": len(cases["train"]) + len(cases["validation"])})
    return cases


def judged(data: str, names: Sequence[str], view: str, predicted: Path) -> dict[tuple[str, ...], dict[str, float]]:
    """nnU-Net's masks against the true ones, by ("0", study, view, phase)."""
    rows = {}
    for study, image, truth in labelled_stacks([s for s in find_studies(data) if s.name in names], view):
        file = predicted / f"{study}_{image.name}{SUFFIX}"
        mask = read_mask(file, view=view, phase=image.phase, convention="mnms2")
        rows["0", study, view, image.phase] = compare(mask, truth)
    return rows


def ours(args: argparse.Namespace, bundle: Path) -> Rows:
    """What the bundle reaches on the test part, by the same keys."""
    how = {"device": args.rvqc_device, "jobs": args.jobs, "report": tell}
    rows = judged_rows(args.data, bundle, Path(args.out) / "evaluation", 0, **how)
    return {key: row for key, row in rows.items() if row["view"] == args.view}


def as_markdown(found: dict[str, Any]) -> str:
    """The table for people."""
    said = f"Bundle {found['settings']['bundle'][:12]}; nnU-Net 2d, {found['settings']['trainer']}, one training, with its own postprocessing; "
    said += f"{found['n_stacks']} stacks of {found['n_patients']} patients."
    return f"{said}\n\n{paired_table(found, 'RVQC', 'nnU-Net, 2d')}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what is missing; write ``comparison.json`` and ``comparison.md``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="labelled studies, those of the bundle's split")
    parser.add_argument("--out", default="nnunet_comparison", help="folder of everything; resumes")
    parser.add_argument("--bundle", help="without it, the shipped one")
    parser.add_argument("--view", default="SA", choices=("SA", "LA"))
    parser.add_argument("--trainer", default="nnUNetTrainer", help="of nnU-Net: how many epochs, and more")
    parser.add_argument("--device", default="cuda", help="of nnU-Net")
    parser.add_argument("--rvqc-device", default="auto")
    parser.add_argument("--jobs", type=int, default=1, help="processes that judge RVQC's masks")
    args = parser.parse_args(arguments)
    bundle = load_bundle(args.bundle or shipped_bundle())
    settings = claim(args, bundle=bundle.hash)  # which holds the split
    split = bundle.description["views"][args.view]["training"]["split"]
    nnunet = NNUNet(Path(args.out), args.trainer, args.device)
    cases = export(args.data, split, args.view, nnunet.raw)
    nnunet.learn(cases)
    nnunet.predict(cases["test"])
    nnunet.postprocess(cases["test"])
    theirs = judged(args.data, split["test"], args.view, nnunet.final)
    found = {"settings": settings, **paired(ours(args, bundle.path), theirs)}
    write_found(args.out, "comparison", found, as_markdown(found))
    sys.stdout.write(as_markdown(found))


if __name__ == "__main__":
    main()
