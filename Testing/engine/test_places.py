"""Where results may go: never in the place of images, of other results, or of anything that a command did not write."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from RVQCLib.cli import BAD_INPUT, CANCELLED, DONE, main
from RVQCLib.files import RVQCError, check_output
from RVQCLib.phantom import write_phantom
from RVQCLib.result import in_words
from RVQCLib.study import find_studies, read_study

pytestmark = pytest.mark.usefixtures("one_core")


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one small M&Ms-2 study, 001, with labels."""
    folder = tmp_path_factory.mktemp("phantom")
    write_phantom(folder, 1, seed=2, spacing=(2.0, 2.0, 10.0), size=(128, 128))
    return folder


@pytest.fixture
def data(phantom: Path, tmp_path: Path) -> Path:
    """A copy of it that may be spoilt."""
    return Path(shutil.copytree(phantom, tmp_path / "data"))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_only_what_a_command_wrote_is_replaced(tmp_path: Path) -> None:
    check_output(tmp_path / "new", ["a"], "an a")
    check_output(tmp_path, ["a"], "an a")
    (tmp_path / "a").touch()
    check_output(tmp_path, ["a"], "an a")
    (tmp_path / "mine.txt").touch()
    with pytest.raises(RVQCError, match=r"holds other things than an a \(mine.txt\), so it is not replaced"):
        check_output(tmp_path, ["a"], "an a")
    with pytest.raises(RVQCError, match="is a file; name a folder"):
        check_output(tmp_path / "mine.txt", ["a"], "an a")


@pytest.mark.parametrize("command", ["evaluate", "ablation"])
def test_an_evaluation_replaces_no_study(data: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    before = content(data)
    for out in (data, data / "001", data / "001" / "001_SA_ED.nii.gz"):
        assert main([command, str(data), "-o", str(out)]) == BAD_INPUT
        assert "name a" in capsys.readouterr().err
    assert content(data) == before


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "data", "-o", "data/ev"],
        ["ablation", "data", "-o", "data/ev"],
        ["batch", "data", "-o", "data/ev"],
        ["train", "data", "--view", "SA", "--out", "data/ev"],
        ["train", "data", "--view", "SA", "--out", "ev", "--work", "data/work"],
        ["refine", "data", "--out", "data/ev"],
        ["mms2", "data", "-o", "data/ev"],
    ],
    ids=" ".join,
)
def test_no_result_among_the_studies(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.chdir(data.parent)
    before = content(data.parent)
    assert main(words) == BAD_INPUT
    assert "lies in the folder of the studies" in capsys.readouterr().err
    assert content(data.parent) == before


def test_a_result_never_comes_in_the_place_of_its_images(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(data)
    monkeypatch.chdir(data)
    assert main(["segment", "001", "-o", "."]) == BAD_INPUT
    assert "holds the images; name another --output" in capsys.readouterr().err
    assert main(["segment", "001/001_SA_ED.nii.gz", "-o", "001/001_SA_ED.nii.gz"]) == BAD_INPUT
    assert "is a file; name a folder" in capsys.readouterr().err
    other = data.with_name("other")
    (other / "001").mkdir(parents=True)
    (other / "001" / "notes.txt").write_text("mine")
    assert main(["segment", "001", "-o", str(other)]) == BAD_INPUT
    assert "is no result of RVQC" in capsys.readouterr().err
    assert main(["batch", str(data), "-o", str(other / "001" / "notes.txt")]) == BAD_INPUT
    assert "is a file; name a folder" in capsys.readouterr().err
    assert content(data) == before and content(other) == {"001/notes.txt": b"mine"}


def test_synthetic_images_replace_no_study(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = content(data)
    assert main(["phantom", str(data), "-n", "1"]) == BAD_INPUT
    assert "would replace" in capsys.readouterr().err
    for out in (data, data / "001" / "new"):
        assert main(["reformat", str(data), str(out)]) == BAD_INPUT
        assert "lies in the folder of the studies" in capsys.readouterr().err
    assert content(data) == before


def test_four_chamber_views_come_into_a_new_folder_only(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = data.with_name("out")
    (out / "001").mkdir(parents=True)
    (out / "001" / "001_LA_ED.nii.gz").write_bytes(b"mine")
    assert main(["reformat", str(data), str(out)]) == BAD_INPUT
    assert f"{out} is not empty, and four-chamber views would replace" in capsys.readouterr().err
    assert content(out) == {"001/001_LA_ED.nii.gz": b"mine"}


def test_a_plot_or_a_card_replaces_no_file_of_another_kind(
    data: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, image = content(data), str(data / "001" / "001_SA_ED.nii.gz")
    for option, suffix in (("--plot", ".svg"), ("--card", ".md")):
        assert main(["info", str(tiny_bundle), option, image]) == BAD_INPUT
        assert f"{image} is no file that ends in {suffix}, so it is not written" in capsys.readouterr().err
    assert content(data) == before
    card = data.with_name("card.md")
    card.write_text("of before")
    assert main(["info", str(tiny_bundle), "--card", str(card)]) == DONE
    assert card.read_text(encoding="utf-8").startswith("# tiny")
    capsys.readouterr()
    assert main(["info", str(tiny_bundle), "--card", str(card), "--evaluation", str(data)]) == BAD_INPUT
    assert f"{data} holds no summary.json; name a folder that 'rvqc evaluate' wrote." in capsys.readouterr().err


def test_a_link_to_nothing_is_a_problem_of_its_study(data: Path) -> None:
    (data / "001" / "001_SA_ES.nii.gz").unlink()
    (data / "001" / "001_SA_ES.nii.gz").symlink_to("/nowhere/x.nii.gz")
    (data / "002").symlink_to("/nowhere")
    (data / "003.nii.gz").symlink_to("/nowhere.nii.gz")
    found = {source.name: source.problems for source in find_studies(data)}
    assert sorted(found) == ["001", "002", "003"]
    for name, link in (("001", "001/001_SA_ES.nii.gz"), ("002", "002"), ("003", "003.nii.gz")):
        said = f"{data / link} is a link to something that is gone; fetch or restore it, or remove the link."
        assert found[name][0] == said
    with pytest.raises(RVQCError, match=r"001_SA_ES.nii.gz is a link to something that is gone"):
        read_study(data / "001")


def test_a_place_that_nobody_may_write_to_is_said_before_the_work(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    for command in (["segment", data / "001"], ["batch", data], ["evaluate", data]):
        assert main([*map(str, command), "-o", str(tmp_path / "new" / "results")]) == BAD_INPUT
        assert f"Nothing can be written to {tmp_path}; name another folder" in capsys.readouterr().err
    for command in (
        ["demo", "-o", "new"],
        ["train", "data", "-o", "new"],
        ["refine", "data", "-o", "new"],
        ["refine", "data", "-o", "data.new/b", "--work", "new"],
        ["mms2", "data", "-o", "new"],
        ["phantom", "new"],
        ["reformat", "data", "new"],
        ["info", "data", "--card", "new.md"],
        ["info", "data", "--plot", "new.svg"],
    ):
        monkeypatch.chdir(tmp_path)
        assert main(command) == BAD_INPUT, command
        assert f"Nothing can be written to {tmp_path}; name another folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_bundle_that_nobody_may_write_to_is_not_calibrated(
    data: Path, own_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != own_bundle)
    assert main(["calibrate", str(own_bundle), "--data", str(data), "--split", "all"]) == BAD_INPUT
    assert f"Nothing can be written to {own_bundle}" in capsys.readouterr().err.splitlines()[0]


@pytest.mark.parametrize("command", ["evaluate", "ablation"])
def test_studies_without_true_masks_are_met_before_the_work(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    for mask in data.rglob("*_gt.nii.gz"):
        mask.unlink()
    assert main([command, str(data), "-o", str(tmp_path / "e")]) == BAD_INPUT
    assert capsys.readouterr().err == f"rvqc: No stack in {data} has a true mask; give labelled studies.\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--seed -1", "argument --seed: -1 is no seed; give a whole number from 0 to 4294967295"),
        ("--seed 4294967296", "4294967296 is no seed"),
        ("--jobs 0", "argument --jobs: 0 processes cannot work; give 1 or more"),
        ("--jobs -3", "-3 processes cannot work"),
        ("--allow nonsense", "argument --allow: nonsense names no network; give module:factory"),
    ],
)
def test_what_no_command_can_work_with_is_said_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, said: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", str(tmp_path), "-o", str(tmp_path / "b"), *options.split()])
    assert stop.value.code == BAD_INPUT and said in capsys.readouterr().err


def test_a_bad_mask_is_met_before_the_evaluation_and_costs_no_other_study(
    data: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoilt = data / "001" / "001_SA_ES_gt.nii.gz"
    whole = spoilt.read_bytes()
    spoilt.write_bytes(whole[:200])
    command = ["evaluate", str(data), "--bundle", str(tiny_bundle), "--device", "cpu", "-o", str(tmp_path / "e")]
    assert main(command) == BAD_INPUT
    said = capsys.readouterr().err
    assert f"Not one study in {data} can be read with its true masks. {spoilt}" in said
    assert '"done"' not in said and not (tmp_path / "e").exists()
    shutil.copytree(data / "001", data / "000")
    (data / "000" / spoilt.name).write_bytes(whole)
    (data / "empty").mkdir()
    assert main(command) == DONE
    shown = capsys.readouterr()
    assert "001 is left out: " in shown.err.splitlines()[0] and "\n001 was left out: " in shown.out
    summary = json.loads((tmp_path / "e" / "summary.json").read_text(encoding="utf-8"))
    assert summary["n_studies"] == 1 and list(summary["failed"]) == ["001"]
    assert str(spoilt) in summary["failed"]["001"]


def test_what_holds_no_review_is_no_log_of_reviews(
    data: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    table = data / "table.csv"
    table.write_text("study,dice\n001,0.9\n")
    assert main(["reviews", str(table)]) == BAD_INPUT
    assert caplog.messages == []
    assert f"{table} holds no review; name the folder" in capsys.readouterr().err


def test_info_reads_results_and_batches(
    data: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["batch", str(data), "--bundle", str(tiny_bundle), "-o", str(tmp_path / "r"), "--device", "cpu"]) == DONE
    )
    capsys.readouterr()
    assert main(["info", str(tmp_path / "r")]) == DONE
    said = capsys.readouterr().out
    assert said.startswith(f"batch of {data}") and "1 study (4 stacks): " in said and "cohort" not in said
    assert main(["info", str(tmp_path / "r" / "001")]) == DONE
    alone = capsys.readouterr().out
    assert "001 SA ED: " in alone
    (tmp_path / "r" / "run.json").unlink()  # what 'rvqc segment -o r' leaves
    assert main(["info", str(tmp_path / "r")]) == DONE
    assert capsys.readouterr().out == alone


def test_an_address_is_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    address = "https://example.org/z.nii.gz"
    assert main(["segment", address, "-o", str(tmp_path / "o")]) == BAD_INPUT
    said = f"rvqc: {address} is an address and no file; download it first, and give the file.\n"
    assert capsys.readouterr().err == said


def test_who_reads_may_stop_reading(data: Path) -> None:
    command = f"'{sys.executable}' -m RVQCLib.cli info '{data}' --json | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (DONE, "")


def test_a_terminal_that_cannot_show_a_letter_is_no_error() -> None:
    command = [sys.executable, "-m", "RVQCLib.cli", "evaluate", "--help"]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=ascii_only)
    assert (done.returncode, done.stderr) == (DONE, "") and r"\u2026_gt" in done.stdout


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to be caught")
def test_a_scheduler_ends_a_command_like_the_keyboard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from RVQCLib.commands import reviews

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(reviews, "run", lambda args: signal.raise_signal(signal.SIGTERM))
    assert main(["reviews", str(tmp_path)]) == CANCELLED
    assert signal.getsignal(signal.SIGTERM) is before


def test_progress_that_nobody_reads_stops_nothing(data: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    out = str(tmp_path / "o")
    command = ["segment", str(data / "001"), "--bundle", str(tiny_bundle), "-o", out, "--device", "cpu"]
    ended = subprocess.run([sys.executable, "-m", "RVQCLib.cli", *command], stderr=write, stdout=subprocess.PIPE)
    os.close(write)
    assert ended.returncode == DONE and (tmp_path / "o" / "001" / "quality.json").is_file()


def test_the_frames_of_a_cine_can_be_named(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_phantom(tmp_path, 1, seed=2, spacing=(2.0, 2.0, 10.0), size=(128, 128), views=("SA",), cine_frames=5)
    cine = tmp_path / "001" / "001_SA_CINE.nii.gz"
    command = ["segment", str(cine), "--bundle", str(tiny_bundle), "-o", str(tmp_path / "r"), "--device", "cpu"]
    assert main([*command, "--frames", "2", "4"]) == DONE
    said, told = capsys.readouterr()
    steps = [event for event in map(json.loads, told.splitlines()) if event["event"] == "slices"]
    assert steps[-1]["done"] == steps[-1]["total"]
    assert "SA: frame 2 of the cine is ED, frame 4 is ES, as given" in said
    quality = json.loads(next((tmp_path / "r").glob("*/quality.json")).read_text())
    assert quality["cine"] == [{"view": "SA", "ed": 1, "es": 3, "given": True}]
    assert [stack["image"]["frame"] for stack in quality["stacks"]] == [1, 3]
    for wrong in (("0", "4"), ("2", "6"), ("3", "3")):
        assert main([*command, "--frames", *wrong]) == BAD_INPUT
        assert "has the frames 1 to 5; name two of them" in capsys.readouterr().err
    still = str(tmp_path / "001" / "001_SA_ED.nii.gz")
    assert main(["segment", still, *command[2:], "-o", str(tmp_path / "s"), "--frames", "1", "2"]) == BAD_INPUT
    assert "has 0 cines, and --frames is of one" in capsys.readouterr().err


def test_a_result_in_words_has_the_frames_and_the_checks() -> None:
    slices = [{"index": index, "flag": index in (0, 2)} for index in range(4)]
    stacks = [
        {"view": "SA", "phase": "ED", "verdict": "trusted", "reasons": [], "slices": []},
        {"view": "SA", "phase": "ES", "verdict": "look", "reasons": ["one", "two"], "slices": slices},
        {"view": "LA", "phase": "ED", "verdict": "trusted", "reasons": [], "slices": slices},
    ]
    answer = {"study": "a", "stacks": stacks, "cine": [{"view": "SA", "ed": 0, "es": 9}], "checks": ["anatomy: odd"]}
    assert in_words(answer) == [
        "a SA ED: trusted (nothing unusual)",
        "a SA ES: look (one; two)",
        "a LA ED: trusted (nothing unusual as a whole; slices to look at: 1, 3)",
        "a: SA: frame 1 of the cine is ED, frame 10 is ES",
        "a: anatomy: odd",
    ]
