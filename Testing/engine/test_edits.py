"""What people edit in the results: whatever a later run does, it is still there, and the table says where."""

from __future__ import annotations

import errno
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import NAMES, states, write_studies

from RVQCLib import cli, edits
from RVQCLib.cohort import read_run, read_table, segment_cohort
from RVQCLib.edits import asides, edited_files, output_hashes, set_aside
from RVQCLib.files import RVQCError, sha256, write_json
from RVQCLib.images import read_mask, write_mask
from RVQCLib.manifest import discard
from RVQCLib.quality import Fences, QCOptions
from RVQCLib.stack import STRUCTURES, Stack
from RVQCLib.study import source_of
from RVQCLib.study_task import FencesTask, Setup, add_cohort_fences

STUDY = NAMES[2]


def edit(out: Path) -> bytes:
    """Take the RV out of the ED mask of `STUDY`, as somebody would in Segment Editor; returns the file as it is then."""
    path = out / STUDY / f"{STUDY}_SA_ED.nii.gz"
    mask = read_mask(path, view="SA", phase="ED")
    pixels = mask.pixels.copy()
    pixels[1, 5:9, 5:9] = 3
    write_mask(Stack(pixels, mask.geometry, "SA", "ED"), path)
    return path.read_bytes()


def everywhere(out: Path, content: bytes) -> list[str]:
    """Where a file of this content lies."""
    return sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file() and p.read_bytes() == content)


def said_of(out: Path, study: str = STUDY) -> set[str]:
    return {row["edited"] or "" for row in read_table(out) if row["study"] == study}


@pytest.fixture(scope="module")
def whole(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a batch of such studies, made once."""
    home = tmp_path_factory.mktemp("whole")
    segment_cohort(write_studies(home / "studies", len(NAMES)), tiny_bundle, home / "out", device="cpu")
    return home / "out"


@pytest.fixture
def ended(studies: Path, whole: Path, tmp_path: Path) -> Path:
    """``tmp_path/out`` as a batch of `studies` leaves it."""
    return shutil.copytree(whole, tmp_path / "out")


@pytest.fixture
def edited(ended: Path) -> bytes:
    """The mask that was edited in a batch that has ended."""
    return edit(ended)


def test_an_edited_mask_is_kept_as_it_is_by_a_resume(batch: Callable, edited: bytes, tmp_path: Path) -> None:
    out = tmp_path / "out"
    times = {path: path.stat().st_mtime_ns for path in (out / STUDY).iterdir()}
    answer = batch()
    assert states(batch.events) == {name: "edited" if name == STUDY else "kept" for name in NAMES}
    assert {path: path.stat().st_mtime_ns for path in (out / STUDY).iterdir()} == times
    assert everywhere(out, edited) == [f"{STUDY}/{STUDY}_SA_ED.nii.gz"]
    (said,) = said_of(out)
    assert said.startswith(f"Edited by hand, so kept as it is ({STUDY}_SA_ED.nii.gz)") and said_of(out, NAMES[0]) == {
        ""
    }
    row = next(row for row in read_table(out) if (row["study"], row["phase"]) == (STUDY, "ED"))
    quality = json.loads((out / STUDY / "quality.json").read_text())
    assert row["mask_sha256"] == quality["outputs"][row["mask"]] != sha256(out / STUDY / row["mask"])
    assert answer["summary"]["edited"] == 1 and f'"checks":["{said}"' in (out / "cohort.html").read_text("utf-8")
    batch()  # and by every resume after it
    assert states(batch.events)[STUDY] == "edited" and said_of(out) == {said}


def test_an_edit_that_is_taken_back_is_no_edit(batch: Callable, edited: bytes, tmp_path: Path) -> None:
    out = tmp_path / "out"
    batch()
    batch(resume=False)
    path = out / STUDY / f"{STUDY}_SA_ED.nii.gz"
    whole = path.read_bytes()
    edit(out)
    batch()
    path.write_bytes(whole)
    assert batch()["summary"]["edited"] == 0
    assert states(batch.events)[STUDY] == "kept" and "Edited by hand" not in "".join(said_of(out))


def spoil(studies: Path) -> None:
    image = studies / STUDY / f"{STUDY}_frame01.nii.gz"
    image.write_bytes(image.read_bytes()[:100])


def exchange(studies: Path) -> None:
    shutil.copyfile(studies / NAMES[0] / f"{NAMES[0]}_frame01.nii.gz", studies / STUDY / f"{STUDY}_frame01.nii.gz")


@pytest.mark.parametrize(
    ("before", "more", "state"),
    [
        (None, {"resume": False}, "done"),
        (None, {"options": QCOptions(quantifier="authors")}, "done"),
        (exchange, {}, "done"),
        (spoil, {}, "failed"),
        (spoil, {"resume": False, "jobs": 2}, "failed"),
    ],
)
def test_an_edited_study_that_has_to_go_is_moved_aside(
    batch: Callable, edited: bytes, studies: Path, tmp_path: Path, before: Any, more: dict[str, Any], state: str
) -> None:
    out = tmp_path / "out"
    if before:
        before(studies)
    batch(**more)
    assert states(batch.events)[STUDY] == state and (out / STUDY).exists() is (state == "done")
    (place,) = asides(out, STUDY)
    assert everywhere(out, edited) == [f"{place}/{STUDY}_SA_ED.nii.gz"]
    assert said_of(out) == {f"What was edited by hand before is in {place}."}
    assert [path.name for path in (out / "edited").iterdir()] == [Path(place).name]  # nobody else's
    for _ in range(2):
        batch(resume=False, names=[STUDY])
    assert everywhere(out, edited) == [f"{place}/{STUDY}_SA_ED.nii.gz"]


def test_a_result_removed_while_it_runs_leaves_the_edit(batch: Callable, edited: bytes, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def remove(event: dict[str, Any]) -> None:
        if event.get("study") == NAMES[4] and event["event"] == "study":
            (out / STUDY / "quality.json").unlink()

    batch(progress=remove)
    (place,) = asides(out, STUDY)
    assert everywhere(out, edited) == [f"{place}/{STUDY}_SA_ED.nii.gz"]
    assert next(r for r in read_run(out)["studies"] if r["study"] == STUDY)["error"].startswith(
        "Its result was removed"
    )


def test_a_file_that_somebody_added_is_an_edit(batch: Callable, ended: Path) -> None:
    (ended / STUDY / "mine.seg.nrrd").write_bytes(b"NRRD0004 mine")
    (ended / STUDY / ".DS_Store").write_bytes(b"nobody's")
    batch()
    assert states(batch.events)[STUDY] == "edited" and "mine.seg.nrrd" in said_of(ended).pop()
    batch(resume=False)
    assert len(everywhere(ended, b"NRRD0004 mine")) == 1


def test_a_foreign_folder_with_a_studys_name_survives(batch: Callable, tmp_path: Path) -> None:
    (tmp_path / "out" / STUDY).mkdir(parents=True)
    (tmp_path / "out" / STUDY / "letter.txt").write_bytes(b"dear")
    batch(names=[STUDY])
    assert everywhere(tmp_path / "out", b"dear")[0].startswith(f"edited/{STUDY}-")
    assert (tmp_path / "out" / STUDY / "report.html").is_file()


def test_images_in_the_place_of_a_result_stay(studies: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(studies / STUDY, tmp_path / "q" / STUDY / "more" / STUDY)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / STUDY).symlink_to(tmp_path / "q" / STUDY / "more" / STUDY)
    shutil.copytree(studies / NAMES[0], tmp_path / "q" / "edited" / NAMES[0])
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "q").rglob("*")}
    for folder in (f"q/{STUDY}", f"q/{STUDY}/more", "links", "q/edited"):
        with pytest.raises(RVQCError, match="where results would come, holds the images of patient"):
            segment_cohort(tmp_path / folder, tiny_bundle, tmp_path / "q", device="cpu")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "q").rglob("*")} == before


def test_one_study_segmented_again_leaves_the_edit(
    studies: Path, tiny_bundle: Path, tmp_path: Path, batch: Callable
) -> None:
    batch(names=[STUDY])
    content = edit(tmp_path / "out")
    arguments = ["segment", studies / STUDY, "-o", tmp_path / "out", "--bundle", tiny_bundle, "--device", "cpu"]
    for _ in range(2):
        assert cli.main([*map(str, arguments)]) == cli.DONE
    assert len(everywhere(tmp_path / "out", content)) == 1 and len(asides(tmp_path / "out", STUDY)) == 1


def test_a_killed_run_leaves_no_edits_behind(batch: Callable, ended: Path) -> None:
    """A result whose record was not written yet is RVQC's own: quality.json says what was written with it."""
    shutil.rmtree(ended / ".run")
    batch()
    assert set(states(batch.events).values()) == {"done"} and not (ended / "edited").exists()


def test_the_cohorts_fences_touch_no_edited_study(batch: Callable, edited: bytes, tmp_path: Path) -> None:
    out = tmp_path / "out"
    setup = Setup(out, "", (), out, QCOptions(), False, "cpu", "", out / "stop")
    fences = dict.fromkeys(STRUCTURES, Fences(0.5, 9.0, 20))
    cohort = dict.fromkeys(("SA_ED", "SA_ES"), (fences, "twenty"))
    before = {path: path.read_bytes() for path in out.glob("patient*/*")}
    for study in (STUDY, NAMES[0]):
        task = FencesTask(source_of(tmp_path / "studies" / study), setup, cohort)
        assert add_cohort_fences(task, lambda: False) == {"study": study, "error": ""}
    changed = [path for path, content in before.items() if path.read_bytes() != content]
    assert {path.parent.name for path in changed} == {NAMES[0]}


@pytest.mark.parametrize("name", ["edited", "accepted"])
def test_no_study_takes_the_folder_of_peoples_work(batch: Callable, studies: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "out" / name).mkdir(parents=True)
    (tmp_path / "out" / name / "mine.nii.gz").write_bytes(b"mine")
    shutil.copytree(studies / NAMES[0], studies / name)
    for path in list((studies / name).glob("*.nii.gz")):
        path.rename(path.with_name(path.name.replace(NAMES[0], name)))
    batch(names=[name])
    (record,) = read_run(tmp_path / "out")["studies"]
    assert record["state"] == "failed" and "is for people's work" in record["error"]
    assert everywhere(tmp_path / "out", b"mine") == [f"{name}/mine.nii.gz"]


# The rule itself ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A result folder with two masks, as it was written."""
    home = tmp_path / "a"
    home.mkdir()
    for name in ("one", "two"):
        (home / f"{name}.nii.gz").write_bytes(gzip.compress(name.encode()))
    write_json(home / "quality.json", {"outputs": output_hashes(home)})
    (home / "report.html").touch()
    return home


def test_what_is_as_it_was_written_is_not_moved(folder: Path) -> None:
    assert edited_files(folder) == () and set_aside(folder) is None and folder.is_dir()
    (folder / "empty.nii.gz").touch()
    (folder / "two.nii.gz").unlink()
    assert edited_files(folder) == ()


def test_two_edits_of_one_second_have_two_places(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datetime

    class Still(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime.datetime:
            return datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=tz)

    monkeypatch.setattr(edits.datetime, "datetime", Still)
    for text in (b"1", b"2"):
        folder.mkdir(exist_ok=True)
        (folder / "mine").write_bytes(text)
        set_aside(folder)
    assert asides(folder.parent, "a") == ["edited/a-20260102T030405Z", "edited/a-20260102T030405Z-2"]
    assert asides(folder.parent, "b") == [] and everywhere(folder.parent, b"2") == ["edited/a-20260102T030405Z-2/mine"]


def test_what_cannot_be_moved_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "mine").write_bytes(b"mine")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    discard(folder.parent, "a")
    assert (folder / "mine").read_bytes() == b"mine"


def test_a_reserved_name_is_one_sentence() -> None:
    with pytest.raises(RVQCError, match=r"No study can be called Edited: .*\.$"):
        edits.check_name("Edited")
    with pytest.raises(RVQCError, match=r"No study can be called cohort\.csv"):
        edits.check_name("cohort.csv")
