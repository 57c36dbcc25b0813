"""The comparison with nnU-Net: what it is given, what is asked of it, what is made of its masks. Another program takes its place."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1]))

from conftest import write_tiny_bundle

import nnunet_comparison
from nnunet_comparison import export, judged
from RVQCLib.files import RVQCError, read_json
from RVQCLib.study import find_studies, read_image, read_mask

pytestmark = pytest.mark.usefixtures("one_core")

STAND_IN = '''#!{python}
"""Stands in for nnU-Net: notes how it was called, and where it is to predict, calls all of an image MYO, and after
postprocessing RV."""
import json, os, sys
from pathlib import Path
import SimpleITK as sitk

name, arguments = Path(sys.argv[0]).name, sys.argv[1:]
with open({log!r}, "a") as log:
    log.write(json.dumps([name, arguments]) + "\\n")
home = Path(os.environ["nnUNet_raw"]).parent
if name == "nnUNetv2_plan_and_preprocess":
    (home / "preprocessed" / "Dataset001_RVQC").mkdir(parents=True)
if name == "nnUNetv2_train":
    fold = home / "results" / "Dataset001_RVQC" / f"{{arguments[4]}}__nnUNetPlans__2d" / "fold_0"
    fold.mkdir(parents=True, exist_ok=True)
    cut = "--c" not in arguments and "--val" not in arguments
    (fold / ("checkpoint_latest.pth" if cut else "checkpoint_final.pth")).touch()
    if "--val" not in arguments:
        sys.exit(9)
    (fold / "validation").mkdir()
    (fold / "validation" / "summary.json").touch()
if name == "nnUNetv2_predict":
    out = Path(arguments[3])
    out.mkdir(exist_ok=True)
    for file in Path(arguments[1]).iterdir():
        mask = sitk.ReadImage(str(file)) * 0 + 2
        sitk.WriteImage(sitk.Cast(mask, sitk.sitkUInt8), str(out / file.name.replace("_0000", "")))
if name == "nnUNetv2_apply_postprocessing":
    out = Path(arguments[3])
    out.mkdir(exist_ok=True)
    for file in Path(arguments[1]).iterdir():
        sitk.WriteImage(sitk.ReadImage(str(file)) + 1, str(out / file.name))
'''


SPLIT = {"train": [f"patient{n:03d}" for n in range(1, 6)], "validation": ["patient006"]}
SPLIT |= {"test": ["patient007", "patient008"]}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A tiny bundle that was trained by `SPLIT`."""
    return write_tiny_bundle(tmp_path / "bundle", views=("SA",), split=SPLIT)


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands that stand in for nnU-Net's on the PATH, and the file in which they note how they were called."""
    log, place = tmp_path / "calls", tmp_path / "bin"
    place.mkdir()
    for name in ("plan_and_preprocess", "train", "predict", "find_best_configuration", "apply_postprocessing"):
        command = place / f"nnUNetv2_{name}"
        command.write_text(STAND_IN.format(python=sys.executable, log=str(log)), encoding="utf-8")
        command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(place))
    return log


def called(log: Path) -> list[str]:
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [f"{name.removeprefix('nnUNetv2_')} {' '.join(arguments)}" for name, arguments in lines]


def test_the_data_set_is_the_bundles_split_and_keeps_the_test_labels(tiny_acdc: Path, tmp_path: Path) -> None:
    cases = export(str(tiny_acdc), SPLIT, "SA", tmp_path / "raw")
    for part, names in SPLIT.items():
        assert cases[part] == [f"{name}_SA_{phase}" for name in sorted(names) for phase in ("ED", "ES")]
    assert read_json(tmp_path / "raw" / "dataset.json") == {
        "channel_names": {"0": "cine MRI"},
        "labels": {"background": 0, "LV": 1, "MYO": 2, "RV": 3},
        "numTraining": len(cases["train"]) + len(cases["validation"]),
        "file_ending": ".nii.gz",
    }
    learnt = sorted(cases["train"] + cases["validation"])
    found = {place: sorted(f.name for f in (tmp_path / "raw" / place).iterdir()) for place in ("imagesTr", "labelsTr")}
    assert found == {
        "imagesTr": [f"{case}_0000.nii.gz" for case in learnt],
        "labelsTr": [f"{case}.nii.gz" for case in learnt],
    }
    assert not (tmp_path / "raw" / "labelsTs").exists() and len(list((tmp_path / "raw" / "imagesTs").iterdir())) == 4
    source = next(source for source in find_studies(tiny_acdc) if source.name == SPLIT["train"][0])
    study = source.load(labels=True)
    for image in study.stacks:
        name = f"{study.name}_{image.name}"
        written = read_image(tmp_path / "raw" / "imagesTr" / f"{name}_0000.nii.gz", view="SA", phase=image.phase)
        assert np.array_equal(written.pixels, image.pixels)
        truth, label = study.label("SA", image.phase), tmp_path / "raw" / "labelsTr" / f"{name}.nii.gz"
        mask = read_mask(label, view="SA", phase=image.phase, convention="mnms2")
        assert truth is not None and np.array_equal(mask.pixels, truth.pixels)


def test_a_comparison_goes_on_where_it_was_stopped_and_is_paired(
    tiny_acdc: Path, bundle: Path, calls: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = [str(tiny_acdc), "--bundle", str(bundle), "--out", str(out), "--device", "cpu"]
    arguments += ["--rvqc-device", "cpu", "--trainer", "Short"]
    for _ in ("a training that is killed", "its validation that is killed"):
        with pytest.raises(RVQCError, match=r"nnUNetv2_train failed \(9\)"):
            nnunet_comparison.main(arguments)
    nnunet_comparison.main(arguments)
    asked = ["plan_and_preprocess -d 1 -c 2d --verify_dataset_integrity"]
    asked += [f"train 1 2d 0 -tr Short -device cpu{again}" for again in ("", " --c", " --val")]
    home = out.resolve()
    asked += [f"predict -i {home / 'raw' / 'Dataset001_RVQC' / 'imagesTs'} -o {home / 'predicted'}"]
    asked[-1] += " -d 1 -c 2d -f 0 -tr Short -device cpu"
    asked += ["find_best_configuration 1 -c 2d -f 0 -tr Short --disable_ensembling"]
    best = home / "results" / "Dataset001_RVQC" / "Short__nnUNetPlans__2d" / "crossval_results_folds_0"
    asked += [f"apply_postprocessing -i {home / 'predicted'} -o {home / 'postprocessed'}"]
    asked[-1] += f" -pp_pkl_file {best / 'postprocessing.pkl'} -plans_json {best / 'plans.json'}"
    asked[-1] += f" -dataset_json {best / 'dataset.json'}"
    assert called(calls) == asked
    (fold,) = read_json(out / "preprocessed" / "Dataset001_RVQC" / "splits_final.json")
    assert {len(fold["train"]), len(fold["val"])} == {2 * len(SPLIT["train"]), 2 * len(SPLIT["validation"])}
    found = read_json(out / "comparison.json")
    assert (found["n_stacks"], found["n_patients"]) == (2 * len(SPLIT["test"]), len(SPLIT["test"]))
    rv, myo = (found["structures"][s]["dice"]["theirs"]["mean"] for s in ("RV", "MYO"))
    assert myo == 0 < rv, "everything was called MYO, and RV after the postprocessing"
    assert capfd.readouterr().out == (out / "comparison.md").read_text(encoding="utf-8")
    nnunet_comparison.main(arguments)
    assert called(calls) == asked, "what is finished is not done again"


def test_masks_are_compared_on_the_images_own_grid(tiny_acdc: Path, tmp_path: Path) -> None:
    for source in find_studies(tiny_acdc):
        study = source.load(labels=True)
        for image in study.stacks if source.name in SPLIT["test"] else ():
            truth = study.label("SA", image.phase)
            assert truth is not None
            nnunet_comparison.write_mask(truth, tmp_path / f"{study.name}_{image.name}.nii.gz")
    rows = judged(str(tiny_acdc), SPLIT["test"], "SA", tmp_path)
    assert len(rows) == 4 and all(row["RV_dice"] == 1 and row["RV_hd_mm"] == 0 for row in rows.values())


def test_without_nnunet_it_says_what_to_do(
    tiny_acdc: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RVQCError, match="nnUNetv2_plan_and_preprocess is not on the PATH; pip install nnunetv2"):
        nnunet_comparison.main([str(tiny_acdc), "--bundle", str(bundle), "--out", str(tmp_path / "out")])
