"""M&Ms-1 as it is distributed: a cine a patient, with one mask of all its frames that holds labels at ED and ES only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import schematic_study

from RVQCLib.bundle import load_bundle
from RVQCLib.evaluation import evaluate
from RVQCLib.files import RVQCError
from RVQCLib.images import image_sha256, read_mask
from RVQCLib.labelled import has_labels
from RVQCLib.pipeline import segment_study
from RVQCLib.stack import Study
from RVQCLib.study import find_studies, read_study

EXCHANGED = np.array([0, 3, 2, 1], np.uint8)
TABLE = "211230_M&Ms_Dataset_information_diagnosis_opendataset.csv"


def write_patient(home: Path, number: int, *, ed: int = 3, es: int = 1, frames: int = 4) -> Study:
    """A patient whose frames between ED and ES are noise; what was written."""
    name = f"A0S00{number}"
    study = schematic_study(name, number, views=("SA",))
    shape = (frames, *study.stacks[0].pixels.shape)
    images = np.random.default_rng(number).uniform(0, 300, shape).astype(np.float32)
    labels = np.zeros(shape, np.uint8)
    for phase, frame in (("ED", ed), ("ES", es)):
        images[frame], labels[frame] = study.stack("SA", phase).pixels, study.label("SA", phase).pixels
    write(home / name / f"{name}_sa.nii.gz", images)
    write(home / name / f"{name}_sa_gt.nii.gz", labels)
    return study


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(pixels, isVector=False)
    image.SetSpacing((4.0, 4.0, 9.0, 1.0)[: pixels.ndim])
    sitk.WriteImage(image, str(path))


def mask_of(home: Path) -> tuple[Path, np.ndarray]:
    path = home / "A0S001" / "A0S001_sa_gt.nii.gz"
    return path, sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def refused(home: Path, words: str) -> None:
    with pytest.raises(RVQCError, match=rf"A0S001_sa_gt\.nii\.gz {words}"):
        read_study(home / "A0S001", labels=True)


@pytest.mark.parametrize("ed, es", [(0, 2), (3, 1)])
def test_the_two_labelled_frames_are_ed_and_es(tmp_path, ed, es):
    written = write_patient(tmp_path, 1, ed=ed, es=es)
    loaded = read_study(tmp_path / "A0S001", labels=True)
    assert (loaded.name, loaded.cines, len(loaded.stacks), len(loaded.labels)) == ("A0S001", (), 2, 2)
    for phase, frame in (("ED", ed), ("ES", es)):
        image, mask = loaded.stack("SA", phase), loaded.label("SA", phase)
        assert image.frame == mask.frame == frame
        assert np.array_equal(image.pixels, written.stack("SA", phase).pixels)
        assert np.array_equal(mask.pixels, written.label("SA", phase).pixels)
        assert mask.geometry == image.geometry


def test_without_the_masks_it_is_a_cine_whose_frames_are_still_to_be_found(tmp_path):
    write_patient(tmp_path, 1)
    (source,) = find_studies(tmp_path)
    assert (source.layout, source.problems, list(source.images)) == ("cine", (), [("SA", "")])
    loaded = source.load()
    assert loaded.stacks == loaded.labels == () and len(loaded.cines[0]) == 4
    assert source.load(labels=True).stacks, "and reading it so leaves the source as it was"
    assert list(source.labels) == [("SA", "")]


def test_a_mask_of_other_than_two_frames_is_refused(tmp_path):
    write_patient(tmp_path, 1)
    path, labels = mask_of(tmp_path)
    for chosen, count in (([], 0), ([1], 1), ([0, 1, 3], 3)):
        other = np.zeros_like(labels)
        other[chosen] = labels[3]
        write(path, other)
        refused(tmp_path, f"has labels in {count} of its 4 frames, and which are of ED and ES is not clear; leave")


def test_a_mask_that_is_not_of_the_cine_is_refused(tmp_path):
    write_patient(tmp_path, 1)
    path, labels = mask_of(tmp_path)
    write(path, labels[1:])
    refused(tmp_path, r"has not the shape of its image .* \(3 x 3 x 48 x 52 and 4 x 3 x 48 x 52\)")
    write(path, EXCHANGED[labels])
    refused(tmp_path, "has the myocardium around the RV; its labels should be 1 LV and 3 RV")
    write(path, labels[3])
    refused(tmp_path, "is a true mask, but the SA images are a cine")


def test_a_frame_of_a_mask(tmp_path):
    written = write_patient(tmp_path, 1)
    path, _ = mask_of(tmp_path)
    mask = read_mask(path, view="SA", phase="ES", frame=1)
    assert np.array_equal(mask.pixels, written.label("SA", "ES").pixels) and mask.frame == 1
    with pytest.raises(RVQCError, match=r"has no frame 4 \(its 4 count from 0\)"):
        read_mask(path, view="SA", phase="ES", frame=4)


def test_one_guard_with_a_mask_of_its_cine_has_both_phases(tmp_path):
    write_patient(tmp_path, 1)
    write_patient(tmp_path, 2)
    one, other = find_studies(tmp_path)
    assert has_labels({"train": [one], "guard": [other]}, "SA")
    assert not has_labels({"train": [one], "guard": [other]}, "LA")


def test_a_tree_of_it_is_evaluated_from_its_root(tmp_path, tiny_bundle):
    root = tmp_path / "MnM" / "OpenDataset"
    for number in (1, 2, 3):
        write_patient(root / "Training" / "Labeled", number)
    lines = ["Unnamed: 0,External code,VendorName,Vendor,Centre,ED,ES,Age,Pathology,Sex,Height,Weight"]
    lines += [f"{k},A0S00{k},{who},X,1,3,1,50,{what},M,1,1" for k, who, what in
              ((1, "Siemens", "NOR"), (2, "GE", "HCM"), (3, "Canon", "NOR"))]  # fmt: skip
    (root / TABLE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    summary = evaluate(tmp_path / "MnM", tiny_bundle, tmp_path / "out", part="all", device="cpu")
    assert (summary["n_studies"], summary["n_stacks"]) == (3, 6)
    assert {key: value["n_stacks"] for key, value in summary["groups"].items()} == {
        "group HCM": 2, "group NOR": 4, "phase ED": 3, "phase ES": 3, "view SA": 6,
        "vendor Canon": 2, "vendor GE": 2, "vendor Siemens": 2,
    }  # fmt: skip


def test_a_result_names_the_frames_that_the_masks_are_of(tmp_path, tiny_bundle):
    write_patient(tmp_path, 1)
    result = segment_study(read_study(tmp_path / "A0S001", labels=True), load_bundle(tiny_bundle), device="cpu")
    cine = tmp_path / "A0S001" / "A0S001_sa.nii.gz"
    assert [stack["image"] for stack in result.to_json()["stacks"]] == [
        {"file": str(cine), "frame": frame, "sha256": image_sha256(cine)} for frame in (3, 1)
    ]
    assert result.provenance["cine"] == []
