"""The command as a user meets it: results whole, one sentence for what is wrong, nothing half-written."""

from __future__ import annotations

import argparse
import errno
import inspect
import io
import json
import logging
import re
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from RVQCLib import cli, result
from RVQCLib.bundle import load_bundle
from RVQCLib.commands.common import Progress
from RVQCLib.files import Cancelled, RVQCError
from RVQCLib.phantom import phantom_cine, phantom_study, write_phantom
from RVQCLib.pipeline import segment_study
from RVQCLib.recipes import RECIPES
from RVQCLib.study import Study, read_study

KEYS = {"view", "phase", "mask", "selected", "ood", "reasons", "structures", "slices"}
SAID = {"pDC", "pHD_mm", "agreement", "predicted_dice", "lower_bound_90"}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One phantom study, SA and LA, oblique, in the M&Ms-2 layout."""
    return write_phantom(tmp_path_factory.mktemp("phantom"), 1, seed=2, spacing=(2.0, 2.0, 10.0), size=(128, 128))[0]


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def test_segment_writes_a_whole_study_on_the_inputs_grid(phantom: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "RVQCLib.cli", "segment", phantom, "--bundle", tiny_bundle, "-o", tmp_path / "out"]
    done = subprocess.run(
        [str(c) for c in [*command, "--json", "--candidates", "--device", "cpu"]],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(cli.__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert all("done" in json.loads(line) for line in done.stderr.splitlines())
    folder = tmp_path / "out" / answer["study"]
    assert json.loads((folder / "quality.json").read_text()) == answer
    assert {"name", "hash"} <= set(answer["bundle"]) and answer["device"] == "cpu"
    assert {(s["view"], s["phase"]) for s in answer["stacks"]} == {(v, p) for v in ("SA", "LA") for p in ("ED", "ES")}
    for stack in answer["stacks"]:
        assert set(stack) >= KEYS and set(stack["structures"]["RV"]) >= SAID
        assert all(set(s) >= {"index", "flag", "structures"} for s in stack["slices"])
        image = sitk.ReadImage(str(phantom / f"{phantom.name}_{stack['view']}_{stack['phase']}.nii.gz"))
        mask = sitk.ReadImage(str(folder / stack["mask"]))
        assert mask.GetSize() == image.GetSize() and mask.GetPixelID() == sitk.sitkUInt8
        assert np.allclose(mask.GetDirection(), image.GetDirection(), atol=1e-6)
        assert np.allclose(mask.GetOrigin(), image.GetOrigin(), atol=1e-4)
        assert (folder / stack["mask"].replace(".nii", "_candidate3.nii")).exists()
        assert (folder / stack["mask"].replace(".nii", "_reconstruction.nii")).exists()
    assert "not a medical device" in (folder / "report.html").read_text(encoding="utf-8").lower()
    assert not list(tmp_path.rglob(".part-*"))


def _truncated(image: Path, folder: Path) -> Path:
    (folder / "cut.nii.gz").write_bytes(image.read_bytes()[:5000])
    return folder / "cut.nii.gz"


def _colour(image: Path, folder: Path) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((3, 8, 8, 3), np.uint8), isVector=True), str(folder / "rgb.nii.gz"))
    return folder / "rgb.nii.gz"


def _zero_spacing(image: Path, folder: Path) -> Path:
    sitk.WriteImage(sitk.ReadImage(str(image)), str(folder / "zero.nii"))
    content = bytearray((folder / "zero.nii").read_bytes())
    content[80:84] = struct.pack("<f", 0.0)  # pixdim[1]
    content[254:256] = struct.pack("<h", 0)  # sform_code, which could tell the spacing
    (folder / "zero.nii").write_bytes(content)
    return folder / "zero.nii"


def _nan(image: Path, folder: Path) -> Path:
    pixels = sitk.GetArrayFromImage(sitk.Cast(sitk.ReadImage(str(image)), sitk.sitkFloat32))
    pixels[0, 0, 0] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(pixels), str(folder / "nan.nii.gz"))
    return folder / "nan.nii.gz"


def _empty(image: Path, folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def _mixed(image: Path, folder: Path) -> Path:
    (folder / "mixed").mkdir()
    for name in ("001_SA_ED.nii.gz", "002_SA_ED.nii.gz"):
        (folder / "mixed" / name).write_bytes(image.read_bytes())
    return folder / "mixed"


def _label(image: Path, folder: Path) -> Path:
    target = folder / "label.nii.gz"
    target.write_bytes((image.parent / image.name.replace(".nii.gz", "_gt.nii.gz")).read_bytes())
    return target


def _text(image: Path, folder: Path) -> Path:
    (folder / "text.nii.gz").write_text("not an image")
    return folder / "text.nii.gz"


BAD = [_truncated, _colour, _zero_spacing, _nan, _empty, _mixed, _label, _text]


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_bad_input_gets_one_sentence_and_leaves_nothing(
    make: Callable[[Path, Path], Path],
    phantom: Path,
    tiny_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    study = make(phantom / f"{phantom.name}_SA_ED.nii.gz", tmp_path)
    assert run("segment", study, "--bundle", tiny_bundle, "-o", tmp_path / "out") == cli.BAD_INPUT
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("rvqc: ") and said.err.count("\n") == 1
    assert study.name in said.err and said.err.rstrip().endswith(".")
    assert not (tmp_path / "out").exists()


def test_a_damaged_bundle_is_refused(
    phantom: Path, own_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = own_bundle / "SA" / "qc.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    assert run("segment", phantom, "--bundle", own_bundle, "-o", tmp_path / "out") == cli.BAD_INPUT
    assert "qc.safetensors" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_view_that_the_bundle_lacks_is_left_out_and_said(phantom: Path, own_bundle: Path, tmp_path: Path) -> None:
    assert run("segment", phantom, "--bundle", own_bundle, "-o", tmp_path, "--device", "cpu") == cli.DONE
    said = json.loads((tmp_path / phantom.name / "quality.json").read_text(encoding="utf-8"))
    assert [stack["view"] for stack in said["stacks"]] == ["SA", "SA"]
    assert said["checks"][0].startswith("LA was left out, because the bundle tiny has no networks for it")
    assert "LA was left out" in (tmp_path / phantom.name / "report.html").read_text(encoding="utf-8")


def test_a_study_of_other_views_alone_is_refused(
    phantom: Path, own_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = phantom / f"{phantom.name}_LA_ED.nii.gz"
    assert run("segment", alone, "--bundle", own_bundle, "-o", tmp_path / "out") == cli.BAD_INPUT
    assert "no LA networks" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_segment_replaces_no_result_of_another_image(
    tiny_study: Study, own_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two patients whose files have one name."""
    for stack, patient in zip([s for s in tiny_study.stacks if s.view == "SA"], ("anna", "ben"), strict=True):
        image = sitk.GetImageFromArray(stack.pixels)
        (tmp_path / patient).mkdir()
        sitk.WriteImage(image, str(tmp_path / patient / "sax_ED.nii.gz"))
    arguments = ("--bundle", own_bundle, "-o", tmp_path / "out", "--device", "cpu")
    assert run("segment", tmp_path / "anna" / "sax_ED.nii.gz", *arguments) == cli.DONE
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert run("segment", tmp_path / "ben" / "sax_ED.nii.gz", *arguments) == cli.BAD_INPUT
    assert "holds the results of another image of SA ED; give this study another name or its" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    (tmp_path / "anna").rename(tmp_path / "moved")
    assert run("segment", tmp_path / "moved" / "sax_ED.nii.gz", *arguments) == cli.DONE


def test_a_full_disk_is_a_failure_that_leaves_nothing(
    phantom: Path,
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(result, "write_json", full)
    assert run("segment", phantom, "--bundle", tiny_bundle, "-o", tmp_path / "out", "--device", "cpu") == cli.FAILED
    assert "No space left on device" in capsys.readouterr().err.splitlines()[-1]
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_a_view_that_the_bundle_lacks_cannot_be_calibrated(
    phantom: Path, own_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("calibrate", own_bundle, "--data", phantom.parent, "--split", "all", "--view", "LA", "--device", "cpu")
    assert run(*arguments) == cli.BAD_INPUT
    assert f"{own_bundle} has no LA networks, only SA" in capsys.readouterr().err


def test_a_calibration_on_few_studies_says_so(
    phantom: Path, own_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fitted(*_: object, **__: object) -> None:
        raise RVQCError("so far")

    monkeypatch.setattr("RVQCLib.calibration.calibrate_view", fitted)
    assert run("calibrate", own_bundle, "--data", phantom.parent, "--split", "all", "--device", "cpu") == cli.BAD_INPUT
    said = "SA: 1 labelled studies to calibrate on say little of other patients; give 10 or more."
    assert json.loads(capsys.readouterr().err.splitlines()[0]) == {"event": "warning", "message": said}


def test_verbose_shows_where_something_went_wrong_inside(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("RVQCLib.reviews.summarize", lambda *_: 1 / 0)
    (tmp_path / "reviews.jsonl").touch()
    with caplog.at_level(logging.INFO):  # what --verbose sets
        assert run("reviews", tmp_path, "--verbose") == cli.FAILED
    assert "ZeroDivisionError: division by zero" in caplog.text and "reviews.py" in caplog.text
    assert capsys.readouterr().err.endswith("inside RVQC (ZeroDivisionError: division by zero); run with --verbose.\n")
    monkeypatch.setattr("RVQCLib.reviews.summarize", lambda *_: (tmp_path / "gone").stat())
    with caplog.at_level(logging.INFO):
        assert run("reviews", tmp_path, "--verbose") == cli.FAILED
    assert "FileNotFoundError: " in caplog.text


def test_an_older_result_survives_a_failure(
    phantom: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("segment", phantom, "--bundle", tiny_bundle, "-o", tmp_path, "--device", "cpu")
    assert run(*arguments) == cli.DONE
    before = (tmp_path / phantom.name / "quality.json").read_bytes()
    monkeypatch.setattr(result, "study_page", lambda *_: 1 / 0)
    assert run(*arguments) == cli.FAILED
    assert (tmp_path / phantom.name / "quality.json").read_bytes() == before


def test_one_study_is_the_same_twice_and_in_any_order(phantom: Path, tiny_bundle: Path) -> None:
    study, bundle = read_study(phantom), load_bundle(tiny_bundle)
    first = segment_study(study, bundle, device="cpu").to_json()
    again = segment_study(replace(study, stacks=study.stacks[::-1]), bundle, device="cpu").to_json()
    assert sorted(first["stacks"], key=lambda s: s["mask"]) == sorted(again["stacks"], key=lambda s: s["mask"])
    assert any("not calibrated" in reason for stack in first["stacks"] for reason in stack["reasons"])


def test_progress_counts_slices_times_networks(tiny_bundle: Path) -> None:
    seen: list[dict] = []
    study = phantom_study(1, spacing=(3.0, 3.0, 10.0), size=(96, 96))
    segment_study(study, load_bundle(tiny_bundle), device="cpu", progress=seen.append)
    slices = [event for event in seen if event["event"] == "slices"]
    # Three candidates, and the reconstruction with its measures.
    assert slices[-1]["total"] == slices[-1]["done"] == 4 * sum(len(stack.pixels) for stack in study.stacks)
    assert [event["done"] for event in slices] == sorted(event["done"] for event in slices)
    assert slices[-1]["seconds_left"] == 0 and {event["stack"] for event in slices} == {s.name for s in study.stacks}
    judged = [event for event in seen if event["event"] == "segment"]  # side by side: in the order in which they end
    assert sorted(event["stack"] for event in judged) == sorted(s.name for s in study.stacks)
    assert [(event["done"], event["total"]) for event in judged] == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_frames_that_a_study_was_given_are_not_sought_again(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those alone: stacks that lie beside a cine in files of their own are none of its frames."""
    seen: list[dict] = []
    cine = tuple(replace(frame, phase="") for frame in phantom_cine(1, "LA", 6, spacing=(3.0, 3.0), size=(96, 96)))
    monkeypatch.setattr("RVQCLib.pipeline.find_phases", lambda *_, **__: (0, 2))
    apart = Study("a", tuple(replace(cine[0], phase=phase) for phase in ("ED", "ES")), cines=(cine,))
    for study, taken in (
        (apart, {"view": "LA", "ed": 0, "es": 2}),
        (apart.with_phases("LA", ed=5, es=3), {"view": "LA", "ed": 5, "es": 3, "given": True}),
    ):
        found = segment_study(study, load_bundle(tiny_bundle), device="cpu", progress=seen.append)
        assert found.to_json()["cine"] == [taken]
        assert [stack.image.frame for stack in found.stacks] == [taken["ed"], taken["es"]]
    steps = [event for event in seen if event["event"] == "slices"]
    assert steps[-1]["done"] == steps[-1]["total"] == 8


def test_the_time_left_is_that_of_the_kind_of_work_that_is_done_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half an hour of something else says nothing of it, nor does the first of many."""
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    progress = Progress(terminal)

    def left(minute: float, **event: Any) -> str:
        monkeypatch.setattr(time, "monotonic", lambda: 60 * minute)
        progress(event)
        return terminal.getvalue().split("[K")[-1].partition("] ")[2].partition("  ")[0]

    before, after, calibrate = {"event": "segment", "moment": "before"}, {"event": "segment"}, {"event": "calibrate"}
    after["moment"] = "after"
    assert [left(m, **before, done=m, total=30) for m in (1, 2)] == ["1/30", "2/30 28:00 left"]
    assert left(3, event="left out", message="It is damaged.") == "0/1"
    assert left(4, **before, done=3, total=30) == "3/30 40:30 left"
    assert left(30, event="epoch", epoch=1, epochs=6, seconds_left=90.0) == "1/6 1:30 left"
    assert [left(30 + m, **calibrate, done=m, total=40) for m in (1, 2)] == ["1/40", "2/40 38:00 left"]
    assert [left(40 + m, **calibrate, done=m, total=4) for m in (1, 2)] == ["1/4", "2/4 2:00 left"]  # another view
    assert left(50, **after, done=1, total=30) == "1/30"


def test_cancel_stops_after_one_forward_pass(tiny_bundle: Path) -> None:
    seen: list[dict] = []
    with pytest.raises(Cancelled):
        segment_study(
            phantom_study(1, views=("SA",), spacing=(3.0, 3.0, 10.0), size=(96, 96)),
            load_bundle(tiny_bundle),
            device="cpu",
            progress=seen.append,
            cancelled=lambda: len(seen) == 1,
        )
    assert [event["event"] for event in seen] == ["slices"]


@pytest.mark.parametrize("command", [module.__name__.rpartition(".")[2] for module in cli.COMMANDS])
def test_help_names_the_defaults_that_there_are(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(command, "--help")
    told = " ".join(capsys.readouterr().out.split())
    for name, action in options(command).items():
        said = (action.help or "").replace(" (default: %(default)s)", "")
        assert len(said.split()) > 1 and said in told, name
        after = told[told.index(said) + len(said) :]
        if action.nargs == 0 or action.default in (None, "", []):
            assert not after.startswith(" (default: "), name
        else:
            default = " ".join(map(str, action.default)) if isinstance(action.default, list) else action.default
            assert after.startswith(f" (default: {default})"), name


def test_the_list_of_commands_is_a_line_each(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        run("--help")
    said = capsys.readouterr().out
    names = [module.__name__.rpartition(".")[2] for module in cli.COMMANDS]
    assert re.findall(r"^    (\w+) +[A-Z].*\.$", said, re.MULTILINE) == names
    assert "not a medical device" in " ".join(said.split()) and "Begin with 'rvqc demo'" in said


@pytest.mark.parametrize("command", [module.__name__.rpartition(".")[2] for module in cli.COMMANDS])
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(command, "--help")
    assert stop.value.code == 0 and f"example: rvqc {command}" in capsys.readouterr().out


def options(command: str) -> dict[str, argparse.Action]:
    """The options of a command, by their last name."""
    parsers = next(a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
    return {a.option_strings[-1]: a for a in parsers[command]._actions if a.option_strings}


@pytest.mark.parametrize(
    ("command", "other", "shared"),
    [
        ("train", "mms2", "--m-best --qc-epochs --locator-epochs --set --spacing --size --precision"),
        ("refine", "mms2", "--mode --precision"),
    ],
)
def test_commands_mean_the_same_by_the_same_option(command: str, other: str, shared: str) -> None:
    one, two = options(command), options(other)
    for name in shared.split():
        assert (one[name].help, one[name].default, one[name].choices) == (
            two[name].help,
            two[name].default,
            two[name].choices,
        )


@pytest.mark.parametrize("module", cli.COMMANDS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_the_device_is_used_or_is_said_to_be_of_no_use(module: ModuleType) -> None:
    device = options(module.__name__.rpartition(".")[2])["--device"]
    used = "args.device" in inspect.getsource(module)
    assert ("needs no device" in (device.help or "")) is not used and (device.default, device.choices) == (
        "auto",
        ("auto", "cuda", "mps", "cpu"),
    )


def test_every_mode_of_refinement_can_be_chosen_and_is_explained() -> None:
    mode = options("refine")["--mode"]
    assert tuple(mode.choices) == tuple(RECIPES) and all(f"{name}: " in mode.help for name in RECIPES)


def test_info_says_what_bundles_and_studies_are(
    phantom: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("info", tiny_bundle, "--json") == cli.DONE
    assert json.loads(capsys.readouterr().out)["kind"] == "bundle"
    assert run("info", phantom.parent) == cli.DONE
    assert "SA_ED" in capsys.readouterr().out
    assert run("info", phantom / "nothing") == cli.BAD_INPUT


def test_evaluate_writes_tables_and_page(phantom: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    assert run("evaluate", phantom.parent, "--bundle", tiny_bundle, "-o", tmp_path / "e", "--device", "cpu") == cli.DONE
    summary = json.loads((tmp_path / "e" / "summary.json").read_text())
    assert summary["n_stacks"] == 4 and set(summary["structures"]) == {"RV", "LV", "MYO"}
    assert set(summary["structures"]["RV"]["dice"]) >= {"mean", "low", "high"}
    assert len((tmp_path / "e" / "stacks.csv").read_text().splitlines()) == 5
    dice = [one["RV_dice"] for one in summary["worst"]]
    assert len(dice) == 4 and dice == sorted(dice)
    assert all((tmp_path / "e" / one["picture"]).read_bytes().startswith(b"\x89PNG") for one in summary["worst"])
    page = (tmp_path / "e" / "evaluation.html").read_text(encoding="utf-8")
    assert "<html" in page and page.count("true and found outline of the RV") == 4
