"""The M&Ms-2 recipe on a phantom cohort in the challenge's layout: its parts, its tables, its archive, and a second call."""

from __future__ import annotations

import csv
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from RVQCLib import mms2
from RVQCLib.ablation import REFINED, SELECTED, SINGLE
from RVQCLib.bundle import load_bundle
from RVQCLib.challenge import read_challenge, write_submission
from RVQCLib.challenge_tables import as_markdown, tables
from RVQCLib.cli import BAD_INPUT, main
from RVQCLib.files import RVQCError, read_json
from RVQCLib.metrics import dice
from RVQCLib.mms2 import ChallengeConfig, run_mms2
from RVQCLib.phantom import challenge_diseases, write_phantom
from RVQCLib.recipes import RefinementConfig
from RVQCLib.slices import Sampling
from RVQCLib.stack import PHASES, VIEWS
from RVQCLib.study import read_image, read_mask
from RVQCLib.training import TrainingConfig

pytestmark = pytest.mark.usefixtures("one_core")

STAGES = {"width": 4, "stages": 3}
TINY = ChallengeConfig(
    TrainingConfig(
        parameters={"BN1": STAGES, "BN2": STAGES, "AE": {"width": 4, "latent": 8}},
        epochs=1,
        qc_epochs=1,
        locator_epochs=1,
        batch=8,
        source_size=40,
        sampling=Sampling(spacing_mm=6.0, size=32, locator_spacing_mm=8.0, locator_size=32),
    ),
    training=6,
    validation=2,
    refinement=RefinementConfig(epochs=1, steps=1, batch=4, guard_slices=4, recalibrate=False),
)
DISEASES = ("NOR", "HCM") * 3 + ("NOR", "DRV") + ("NOR", "TRI")
"""Two of three training studies a disease learn, the third chooses and calibrates; DRV and TRI are judged alone."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten small studies as the challenge gives them: MnM2/dataset/001 …, the table beside the folder of the studies."""
    home = tmp_path_factory.mktemp("challenge") / "MnM2"
    write_phantom(home / "dataset", 10, 4, diseases=DISEASES, size=(48, 48), spacing=(5.5, 5.5, 22.0))
    (home / "dataset" / "dataset_information.csv").rename(home / "dataset_information.csv")
    return home


@pytest.fixture(scope="module")
def done(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, list[dict]]:
    """The whole recipe once: its folder, what it returned, what it reported."""
    out, events = tmp_path_factory.mktemp("mms2") / "out", []
    return out, run_mms2(folder, out, TINY, device="cpu", report=events.append), events


def test_the_parts_of_the_phantom_of_the_challenge() -> None:
    whole = challenge_diseases(360, unseen_from=161)
    assert len(whole) == 360 and not {"DRV", "TRI"} & set(whole[:160])
    assert {whole[160:].count(disease) for disease in set(whole)} == {25}


def test_the_plan_of_a_phantom_must_fit_its_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["phantom", str(tmp_path / "p"), "-n", "4", "--unseen-from", "5"]) == BAD_INPUT
    assert "give a number from 2 to -n, which is 4" in capsys.readouterr().err and not (tmp_path / "p").exists()
    assert main(["phantom", str(tmp_path / "p"), "-n", "2", "--unseen-from", "2", "--views", "LA"]) == 0
    assert len((tmp_path / "p" / "dataset_information.csv").read_text().splitlines()) == 3


def test_studies_are_dealt_by_their_numbers(folder: Path) -> None:
    challenge = read_challenge(folder, training=6, validation=2)
    names = [[source.name for source in part] for part in (challenge.training, challenge.validation, challenge.test)]
    assert names == [["001", "002", "003", "004", "005", "006"], ["007", "008"], ["009", "010"]]
    assert challenge.unseen == ["DRV", "TRI"]


def _no_table(home: Path) -> str:
    (home / "dataset_information.csv").unlink()
    return "No disease of study 001 is known; put dataset_information.csv"


def _not_in_the_table(home: Path) -> str:
    table = home / "dataset_information.csv"
    table.write_text("".join(line for line in table.read_text().splitlines(True) if not line.startswith("009")))
    return r"dataset_information\.csv has no line of study 009, so its disease is not known; add it\.$"


def _no_column(home: Path) -> str:
    table = home / "dataset_information.csv"
    table.write_text(table.read_text().replace("DISEASE", "GROUP"))
    return r"dataset_information\.csv has no column DISEASE in its first line"


def _no_disease(home: Path) -> str:
    (home / "dataset_information.csv").write_text("SUBJECT_CODE,DISEASE\n1,\n")
    return r"dataset_information\.csv names no disease of study 001; add it\.$"


def _no_label(home: Path) -> str:
    (home / "dataset" / "003" / "003_LA_ES_gt.nii.gz").unlink()
    return "Study 003 has no LA ES true mask, but numbers up to 6 train"


def _no_view(home: Path) -> str:
    for file in (home / "dataset" / "002").glob("002_LA_*"):
        file.unlink()
    return "Study 002 has no LA ED image"


def _no_image(home: Path) -> str:
    (home / "dataset" / "010" / "010_SA_ES.nii.gz").unlink()
    return "010_SA_ES.nii.gz is missing"


def _another_layout(home: Path) -> str:
    (home / "dataset" / "patient001").mkdir()
    shutil.copy(home / "dataset" / "001" / "001_SA_ED.nii.gz", home / "dataset" / "patient001" / "image.nii.gz")
    return "patient001 in .* is no study of M&Ms-2"


def _training_only(home: Path) -> str:
    for number in range(7, 11):
        shutil.rmtree(home / "dataset" / f"{number:03d}")
    return r"holds 6 studies up to number 6, which train, and 0 above"


@pytest.mark.parametrize(
    "spoil",
    [
        _no_table,
        _not_in_the_table,
        _no_column,
        _no_disease,
        _no_label,
        _no_view,
        _no_image,
        _another_layout,
        _training_only,
    ],
)
def test_what_is_not_the_challenge_is_refused_in_one_sentence(
    spoil, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "MnM2"
    shutil.copytree(folder, home)
    sentence = spoil(home)
    with pytest.raises(RVQCError, match=sentence):
        read_challenge(home, training=6, validation=2)
    arguments = ["mms2", str(home), "-o", str(tmp_path / "out"), "--training", "6", "--validation", "2"]
    assert main([*arguments, "--device", "cpu"]) == BAD_INPUT
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and not said.out and not (tmp_path / "out").exists()


def test_networks_that_cannot_be_are_refused_before_anything_is_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["mms2", str(folder), "-o", str(tmp_path / "out"), "--training", "6", "--validation", "2"]
    assert main([*arguments, "--device", "cpu", "--set", "BN1.stages=99"]) == BAD_INPUT
    said = capsys.readouterr()
    assert "stages is 99" in said.err and said.err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_no_network_saw_what_is_judged(done: tuple) -> None:
    out, found, _ = done
    bundle = load_bundle(out / "bundle")
    assert bundle.views == ("SA", "LA") and bundle.name == "RVQC-MMs2"
    for view in VIEWS:
        part = bundle.description["views"][view]
        parts = part["training"]["split"]
        assert parts["test"] == ["007", "008", "009", "010"]
        assert [len(parts["train"]), len(parts["validation"])] == [4, 2]
        assert part["calibration"]["n_studies"] == 2 and part["qc"]["ceiling"]
    assert found["unseen"] == ["DRV", "TRI"] and found["bundles"][0] == bundle.hash
    assert load_bundle(out / "refined").description["parent"]


def test_the_tables_are_those_of_the_masks(folder: Path, done: tuple) -> None:
    out, found, _ = done
    made = found["tables"]
    assert list(made["table1"]) == ["NOR", "TRI"] and made["table1_part"] == "test"
    assert made["table1"]["TRI"]["unseen"] and not made["table1"]["NOR"]["unseen"]
    assert made["table1"]["TRI"]["name"] == "Tricuspidal Regurgitation"
    truth, mask = (
        read_mask(path, view="SA", phase="ED").pixels == 3
        for path in (folder / "dataset/010/010_SA_ED_gt.nii.gz", out / "studies/010/010_SA_ED.nii.gz")
    )
    with open(out / "tables" / "stacks.csv", newline="", encoding="utf-8") as stream:
        rows = {(row["study"], row["view"], row["phase"]): row for row in csv.DictReader(stream)}
    assert len(rows) == 16 and float(rows["010", "SA", "ED"]["RV_dice"]) == pytest.approx(dice(mask, truth))
    own = [float(rows["010", "SA", phase]["RV_dice"]) for phase in PHASES]
    assert made["table1"]["TRI"]["SA"]["dice"]["mean"] == pytest.approx(sum(own) / 2)
    for part in ("validation", "test"):
        views = made["fig2"][part]
        expected = 0.75 * views["SA"]["dice"]["mean"] + 0.25 * views["LA"]["dice"]["mean"]
        assert views["AVG"]["dice"]["mean"] == pytest.approx(expected) and views["AVG"]["n"] == 2
    text = (out / "tables" / "tables.md").read_text(encoding="utf-8")
    for view, part in read_json(out / "refined" / "bundle.json")["views"].items():
        methods = {SINGLE, SELECTED, REFINED, f"{SINGLE}, BN1"}
        # A refined pool, which these tiny networks get on some processors, is asked as a whole, not network by network.
        methods |= set() if "refined" in part else {f"{REFINED}, BN1", f"{REFINED}, BN2"}
        assert methods <= set(made["fig3"][view]) and all(method in text for method in methods)
        assert made["fig3"][view][SELECTED]["n_stacks"] == 8
    assert "Tricuspidal Regurgitation (not in training)" in text and "| AVG |" in text
    assert "The rule of the slice above the base at ES is applied to the masks of every row." in text


@pytest.mark.parametrize("rv_label", [1, 3])
def test_the_archive_holds_the_right_ventricles_as_the_challenge_names_them(
    rv_label: int, folder: Path, done: tuple, tmp_path: Path
) -> None:
    out, found, _ = done
    assert found["submission"] == {"file": "submission.zip", "missing": []}
    judged = read_challenge(folder, training=6, validation=2).judged
    assert write_submission(out / "studies", judged, tmp_path / "own.zip", rv_label=rv_label) == []
    assert ((out / "submission.zip").read_bytes() == (tmp_path / "own.zip").read_bytes()) == (rv_label == 3)
    with zipfile.ZipFile(tmp_path / "own.zip") as archive:
        names = {f"{n:03d}/{n:03d}_{v}_{p}" for n in range(7, 11) for v in VIEWS for p in PHASES}
        assert set(archive.namelist()) == {f"submission/{name}_pred.nii.gz" for name in names}
        archive.extractall(tmp_path)
    for name in names:
        view, phase = name.split("_")[1:]
        sent = read_mask(tmp_path / "submission" / f"{name}_pred.nii.gz", view=view, phase=phase)
        mask = read_mask(out / "studies" / f"{name}.nii.gz", view=view, phase=phase)
        image = read_image(folder / "dataset" / f"{name}.nii.gz", view=view, phase=phase)
        assert np.array_equal(sent.pixels, rv_label * (mask.pixels == 3)) and sent.geometry == image.geometry


def test_masks_that_are_missing_are_named(folder: Path, done: tuple, tmp_path: Path) -> None:
    judged = read_challenge(folder, training=6, validation=2).judged
    shutil.copytree(done[0] / "studies" / "007", tmp_path / "masks" / "007")
    (tmp_path / "masks" / "007" / "007_LA_ES.nii.gz").unlink()
    missing = write_submission(tmp_path / "masks", judged, tmp_path / "some.zip")
    assert missing[0] == "007_LA_ES" and len(missing) == 13
    with pytest.raises(RVQCError, match="holds no mask of the 4 studies to send"):
        write_submission(tmp_path / "nothing", judged, tmp_path / "none.zip")
    assert not (tmp_path / "none.zip").exists()


def test_what_is_done_is_not_done_again(
    folder: Path, done: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(done[0], out)
    shutil.rmtree(out / "tables")
    (out / "submission.zip").unlink()
    content = json.loads((out / "mms2.json").read_text(encoding="utf-8"))
    del (
        content["config"]["networks"]["consensus"],
        content["config"]["rv_label"],
    )  # as if begun before they were settings
    (out / "mms2.json").write_text(json.dumps(content), encoding="utf-8")
    for name in ("train_bundle", "refine_bundle", "ablation"):
        monkeypatch.setattr(mms2, name, lambda *_, **__: pytest.fail("done twice"))
    events: list[dict] = []
    assert run_mms2(folder, out, TINY, device="cpu", report=events.append) == done[1]
    assert {event["state"] for event in events if event["event"] == "study"} == {"kept"}
    assert (out / "submission.zip").read_bytes() == (done[0] / "submission.zip").read_bytes()
    with pytest.raises(RVQCError, match="holds the results of other options or of other studies"):
        run_mms2(folder, out, replace(TINY, rv_label=1), device="cpu")
    (out / "mms2.json").unlink()
    with pytest.raises(RVQCError, match="holds something else than this recipe's results"):
        run_mms2(folder, out, TINY, device="cpu")


def test_a_mask_that_was_edited_by_hand_is_no_result(folder: Path, done: tuple, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(done[0], out)
    shutil.rmtree(out / "tables")
    (out / "studies" / "010" / "notes.txt").write_text("a remark beside the masks changes none")
    mask = out / "studies" / "009" / "009_SA_ED.nii.gz"
    shutil.copy(folder / "dataset" / "009" / "009_SA_ED_gt.nii.gz", mask)
    with pytest.raises(RVQCError, match=f"Masks of 009 in {out / 'studies'} were edited by hand"):
        run_mms2(folder, out, TINY, device="cpu")
    assert not (out / "tables").exists() and mask.is_file()
    (out / "studies" / "009").rename(tmp_path / "009")
    assert run_mms2(folder, out, TINY, device="cpu")["tables"] == done[1]["tables"]


def test_studies_without_masks_are_said(folder: Path, done: tuple, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(done[0], out)
    shutil.rmtree(out / "studies" / "009")
    challenge = read_challenge(folder, training=6, validation=2)
    mms2._tables(mms2._Job(folder, out, TINY, challenge, "cpu", 1, lambda event: None))
    found = read_json(out / "tables" / "tables.json")["tables"]
    assert found["without_masks"] == {"n_studies": 4, "studies": ["009"]} and list(found["table1"]) == ["TRI"]
    said = "1 of 4 studies have no mask, or not all of them, which these tables leave out: 009; studies/cohort.csv says why."
    assert said in (out / "tables" / "tables.md").read_text(encoding="utf-8")
    assert done[1]["tables"]["without_masks"] == {"n_studies": 4, "studies": []}
    assert "no mask" not in (done[0] / "tables" / "tables.md").read_text(encoding="utf-8")


def test_without_true_masks_there_is_an_entry_and_no_table(
    folder: Path, done: tuple, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, out = tmp_path / "MnM2", tmp_path / "out"
    shutil.copytree(folder, home)
    shutil.copytree(done[0], out)
    for number in range(7, 11):
        for file in (home / "dataset" / f"{number:03d}").glob("*_gt.nii.gz"):
            file.unlink()
    shutil.rmtree(out / "ablation")
    found = run_mms2(home, out, TINY, device="cpu")
    assert found["tables"] is None and "no true masks" in found["note"] and not found["submission"]["missing"]
    assert [path.name for path in (out / "tables").iterdir()] == ["tables.json"]
    assert not (out / "ablation").exists()


def test_table_1_is_of_the_validation_part_where_the_test_part_has_no_true_masks() -> None:
    head = {"part": "validation", "view": "SA", "phase": "ED"}
    rows = [
        {**head, "study": "161", "group": "RV", "RV_dice": 0.8, "RV_hd_mm": 10.0},
        {**head, "study": "162", "group": "RV", "RV_dice": 0.9, "RV_hd_mm": 14.0},
        {**head, "study": "163", "group": "XYZ", "RV_dice": 0.5, "RV_hd_mm": 30.0},
        {**head, "study": "164", "group": "NOR", "RV_dice": 0.7, "RV_hd_mm": 9.0},
    ]
    found = tables(rows, ["RV"], seed=0)
    assert found["table1_part"] == "validation" and list(found["fig2"]) == ["validation"]
    assert list(found["table1"]) == ["NOR", "RV", "XYZ"]  # the paper's order, then what it does not know
    dilated = found["table1"]["RV"]["SA"]
    assert dilated["n"] == 2 and dilated["dice"]["mean"] == pytest.approx(0.85)
    assert dilated["hd_mm"]["sd"] == pytest.approx(8**0.5) and "LA" not in found["table1"]["RV"]
    assert "AVG" not in found["fig2"]["validation"]  # nobody has both views
    text = as_markdown(found, None)
    line = next(line for line in text.splitlines() if line.startswith("| Dilated Right Ventricle (not in training)"))
    assert "0.850 ± 0.071 [0.800, 0.900], n 2" in line and line.endswith("| – | – |") and "Not made" in text


def test_the_command_says_where_everything_is(
    folder: Path, done: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = {}

    def whole(home: str, out: str, config: ChallengeConfig, **_) -> dict:
        seen["config"] = config
        return done[1]

    monkeypatch.setattr(mms2, "run_mms2", whole)
    light = ["--width", "16", "--epochs", "40", "--set", "BN2.stages=4", "--mode", "paper"]
    assert main(["mms2", str(folder), "-o", str(tmp_path), *light]) == 0
    said = capsys.readouterr().out
    assert "test SA: RV Dice" in said and "Not in training: DRV, TRI" in said and "submission.zip" in said
    networks = seen["config"].networks
    assert networks.parameters == {"BN1": {"width": 16}, "BN2": {"width": 16, "stages": 4}} and networks.epochs == 40
    assert seen["config"].refinement.mode == "paper" and seen["config"].training == 160
    assert main(["mms2", str(folder), "-o", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(done[1]))
    assert seen["config"].networks.parameters == {"BN1": {"width": 32}, "BN2": {"width": 48}}  # the paper's
    assert read_json(done[0] / "mms2.json")["studies"]["test"] == ["009", "010"]
