"""The manifest of a batch: what a study's identity is, and a journal that survives what befalls it."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from test_images import write_dicom

from RVQCLib import manifest
from RVQCLib.files import RVQCError, write_json
from RVQCLib.layouts import StudySource
from RVQCLib.manifest import (
    Journal,
    discard,
    discard_parts,
    edited_since,
    input_hashes,
    read_run,
    same_inputs,
    settings_hash,
    write_run,
)
from RVQCLib.quality import QCOptions
from RVQCLib.study import source_of


def record(study: str, finished: str = "2024-01-01T00:00:00+00:00", settings: str = "s", **more: object) -> dict:
    return {"study": study, "settings": settings, "finished": finished, "state": "done", "stacks": [], **more}


def test_a_study_is_its_images_and_its_frames(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"abc")
    source = StudySource("1", {("SA", "ED"): (tmp_path / "a.nii.gz", 0), ("SA", "ES"): (tmp_path / "a.nii.gz", 7)})
    found = input_hashes(source)
    # of the three bytes "abc", FIPS 180-2, example B.1
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert [(entry["phase"], entry["frame"], entry["sha256"]) for entry in found] == [("ED", 0, abc), ("ES", 7, abc)]
    moved = [{**entry, "file": "elsewhere"} for entry in found]
    assert same_inputs(found, moved) and not same_inputs(found, found[:1])
    assert not same_inputs(found, [{**found[0], "frame": 1}, found[1]])
    (tmp_path / "a.nii.gz").unlink()
    with pytest.raises(RVQCError, match=r"a\.nii\.gz was found but cannot be read now"):
        input_hashes(source)


def test_a_dicom_series_is_all_its_files(tmp_path: Path) -> None:
    write_dicom(tmp_path / "series")
    source = source_of(tmp_path / "series")
    before = input_hashes(source)
    files = sorted((tmp_path / "series").iterdir())
    last = next(file for file in files[::-1] if str(file) != before[0]["file"])
    last.write_bytes(last.read_bytes() + b"\0\0")
    assert not same_inputs(before, input_hashes(source))


def test_settings_are_bundle_options_and_what_is_written() -> None:
    hashes = {
        settings_hash("a", QCOptions(), False),
        settings_hash("b", QCOptions(), False),
        settings_hash("a", QCOptions(fences="cohort"), False),
        settings_hash("a", QCOptions(), True),
    }
    assert len(hashes) == 4 and settings_hash("a", QCOptions(), False) in hashes


def test_the_last_line_of_a_study_counts_in_whatever_journal(tmp_path: Path) -> None:
    first, second = Journal(tmp_path, (1, 2)), Journal(tmp_path, (2, 2))
    second.append(record("1", "2024-01-02", mark="late"))
    first.append(record("1", "2024-01-01", mark="early"))
    first.append(record("2", mark="once"))
    first.append(record("2", mark="again"))
    second.append(record("3", settings="other"))
    journal = Journal(tmp_path, settings="s")
    assert [(r["study"], r["mark"]) for r in journal.records()] == [("1", "late"), ("2", "again")]
    assert Journal(tmp_path).studies == ["1", "2", "3"]


def test_a_torn_line_costs_only_its_study(tmp_path: Path) -> None:
    Journal(tmp_path).append(record("1"))
    path = tmp_path / ".run" / "part-1-of-1.jsonl"
    with path.open("a") as stream:
        stream.write('{"study": "2", "sett')
    journal = Journal(tmp_path)
    journal.append(record("3"))
    assert journal.find("3") == record("3") and Journal(tmp_path).studies == ["1", "3"]


def test_records_wait_for_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(manifest, "append_line", full)
        journal.append(record("1"))
        assert journal.studies == ["1"] and journal.find("1") == record("1")
        with pytest.raises(OSError, match="No space left"):
            journal.flush()
    journal.append(record("2"))
    assert Journal(tmp_path).studies == ["1", "2"]


def test_only_a_studys_own_leftovers_are_removed(tmp_path: Path) -> None:
    names = (".part-a-abcd1234", ".old-.part-a-abcd1234", ".part-a-b-abcd1234", ".part-ab-abcd1234", "a", "a-b")
    for name in names:
        (tmp_path / name).mkdir()
    discard_parts(tmp_path, "a", "none")
    assert {path.name for path in tmp_path.iterdir()} == set(names[2:])
    discard(tmp_path, "a")
    assert {path.name for path in tmp_path.iterdir()} == {*names[2:4], "a-b"}


def test_a_run_is_read_from_its_journal_until_it_has_ended(tmp_path: Path) -> None:
    stack = {"view": "SA", "thumbnail": "long"}
    journal = Journal(tmp_path)
    journal.append(record("1", stacks=[stack]))
    write_run(tmp_path, {"state": "running", "settings": "s"}, ())
    assert read_run(tmp_path)["studies"] == [record("1", stacks=[{"view": "SA"}])]
    write_run(tmp_path, {"state": "done", "settings": "s"}, journal.records())
    content = json.loads((tmp_path / "run.json").read_text())
    assert content == read_run(tmp_path) and content["studies"] == [record("1", stacks=[{"view": "SA"}])]


def test_a_result_of_another_bundle_is_not_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "quality.json", {"bundle": {"hash": "a"}, "options": QCOptions().to_json()})
    (tmp_path / "report.html").touch()
    found = [edited_since(tmp_path, {"bundle": {"hash": name}, "outputs": {}}, QCOptions()) for name in "ab"]
    assert found == [(), None]
