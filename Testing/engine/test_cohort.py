"""A batch: every study as it is alone, resumed exactly, and never stopped by what is wrong with one."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import NAMES, REPOSITORY, states, write_studies

from RVQCLib import __version__, bundle, cli, manifest, pipeline, result, study_task
from RVQCLib.bundle import load_bundle
from RVQCLib.cohort import read_run, read_table, segment_cohort
from RVQCLib.files import Cancelled, RunError, RVQCError, sha256
from RVQCLib.jobs import JOBS, Opened
from RVQCLib.overall import stack_verdict
from RVQCLib.pipeline import segment_study
from RVQCLib.processes import run_processes
from RVQCLib.quality import Fences, QCOptions, Scores, fences
from RVQCLib.result import write_result
from RVQCLib.stack import STRUCTURES
from RVQCLib.study import read_study

ENGINE = REPOSITORY / "RVQCSegment"


def masks(out: Path) -> dict[str, str]:
    return {str(path.relative_to(out)): sha256(path) for path in out.rglob("*.nii.gz")}


def damage(study: Path) -> bytes:
    """Cut an image in half; returns what it was."""
    image = study / f"{study.name}_frame01.nii.gz"
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2])
    return content


def test_every_study_is_as_it_is_alone(batch: Callable, studies: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    answer = batch()
    assert answer["state"] == "done" and answer["summary"]["n_stacks"] == 10
    alone = segment_study(read_study(studies / "patient003"), load_bundle(tiny_bundle), device="cpu")
    folder = write_result(alone, tmp_path / "alone")
    for mask in folder.glob("*.nii.gz"):
        assert mask.read_bytes() == (tmp_path / "out" / "patient003" / mask.name).read_bytes()
    ours = json.loads((tmp_path / "out" / "patient003" / "quality.json").read_text())
    theirs = json.loads((folder / "quality.json").read_text())
    for content in (ours, theirs):
        content.pop("date")
        for stack in content["stacks"]:
            stack["fences"].pop("cohort_note", None)
    assert ours == theirs


def test_the_table_says_what_the_files_say(batch: Callable, studies: Path, tmp_path: Path) -> None:
    batch()
    out, table = tmp_path / "out", read_table(tmp_path / "out")
    assert sorted((row["study"], row["phase"]) for row in table) == [(n, p) for n in NAMES for p in ("ED", "ES")]
    for row in table:
        quality = json.loads((out / row["study"] / "quality.json").read_text())
        stack = next(s for s in quality["stacks"] if s["phase"] == row["phase"])
        assert row["RV_pDC"] == stack["structures"]["RV"]["pDC"] and row["MYO_volume_ml"] == pytest.approx(
            stack["structures"]["MYO"]["volume_ml"]
        )
        assert row["verdict"] == stack_verdict(stack, quality["checks"]) and row["ood"] is stack["ood"]
        assert row["mask_sha256"] == sha256(out / row["study"] / row["mask"])
        frame = {"ED": "01", "ES": "12"}[row["phase"]]
        assert row["image_sha256"] == sha256(studies / row["study"] / f"{row['study']}_frame{frame}.nii.gz")
    verdicts = [row["verdict"] for row in table]
    assert verdicts == sorted(verdicts, key=("failed", "ood", "look", "trusted").index)
    run = read_run(out)
    assert [record["study"] for record in run["studies"]] == NAMES and run["bundle"]["name"] == "tiny"


def test_events_count_and_name_the_studies(batch: Callable) -> None:
    batch()
    told = [event for event in batch.events if event["event"] == "study"]
    assert [(event["done"], event["total"]) for event in told] == [(n, 5) for n in range(1, 6)]
    assert all(event["seconds_left"] >= 0 for event in told) and told[-1]["seconds_left"] == 0
    assert {event["state"] for event in told} == {"done"}


def test_a_resume_keeps_what_is_unchanged(batch: Callable, studies: Path, tmp_path: Path) -> None:
    batch()
    before = masks(tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("patient*/*")}
    batch()
    assert set(states(batch.events).values()) == {"kept"}
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("patient*/*")} == times
    image = studies / "patient002" / "patient002_frame01.nii.gz"
    image.write_bytes((studies / "patient001" / "patient001_frame01.nii.gz").read_bytes())
    mask = tmp_path / "out" / "patient004" / "patient004_SA_ED.nii.gz"
    mask.write_bytes(mask.read_bytes()[:-1])
    batch()
    changed = {"patient002": "done", "patient004": "done"}
    assert states(batch.events) == {name: changed.get(name, "kept") for name in NAMES}
    after = masks(tmp_path / "out")
    assert {key for key in before if before[key] != after[key]} <= {k for k in before if k.startswith("patient002")}
    batch(resume=False)
    assert set(states(batch.events).values()) == {"done"}


def test_a_resume_names_the_versions_of_what_it_keeps(
    batch: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = batch(names=NAMES[:2])["result_versions"]
    assert now == [__version__] and "Results were kept" not in caplog.text
    for room in ("cohort", "pipeline"):
        monkeypatch.setattr(f"RVQCLib.{room}.__version__", "999.0")
    answer = batch(names=NAMES[:3])
    assert states(batch.events) == {**dict.fromkeys(NAMES[:2], "kept"), NAMES[2]: "done"}
    assert answer["result_versions"] == read_run(tmp_path / "out")["result_versions"] == [*now, "999.0"]
    page = (tmp_path / "out" / "cohort.html").read_text(encoding="utf-8")
    assert f"<dt>result versions</dt><dd>{now[0]}, 999.0</dd>" in page
    said = [r.getMessage() for r in caplog.records if "Results were kept" in r.getMessage()]
    assert said == [f"Results were kept as they are: 2 of RVQC {now[0]}; this is 999.0. --no-resume makes them anew."]
    assert batch(names=NAMES[:3], resume=False)["result_versions"] == ["999.0"]


def test_images_that_moved_are_named_where_they_are(batch: Callable, studies: Path, tmp_path: Path) -> None:
    batch(names=NAMES[:1])
    studies.rename(tmp_path / "elsewhere")
    studies.symlink_to(tmp_path / "elsewhere")
    for _ in range(2):
        batch(names=NAMES[:1])
        assert states(batch.events) == {NAMES[0]: "kept"}
        (record,) = read_run(tmp_path / "out")["studies"]
        assert {Path(entry["file"]).parent for entry in record["inputs"]} == {tmp_path / "elsewhere" / NAMES[0]}
    assert len((tmp_path / "out" / ".run" / "part-1-of-1.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("change", [{"options": QCOptions(quantifier="authors")}, {"candidates": True}])
def test_other_options_are_another_run(batch: Callable, change: dict[str, Any], tmp_path: Path) -> None:
    batch()
    batch(**change, names=NAMES[:2])
    assert states(batch.events) == dict.fromkeys(NAMES[:2], "done")
    assert {row["study"] for row in read_table(tmp_path / "out")} == set(NAMES[:2])


def test_a_result_that_another_run_judged_since_is_made_anew(batch: Callable, tmp_path: Path) -> None:
    batch(names=NAMES[:2])
    batch(names=NAMES[:1], options=QCOptions(fences="cohort"))  # the same masks
    batch(names=NAMES[:2])
    assert states(batch.events) == {NAMES[0]: "done", NAMES[1]: "kept"}
    quality = json.loads((tmp_path / "out" / NAMES[0] / "quality.json").read_text())
    assert quality["options"] == QCOptions().to_json()


def test_a_study_that_is_done_again_has_its_rows_once(batch: Callable, studies: Path, tmp_path: Path) -> None:
    out, told = tmp_path / "out", []

    def look(event: dict[str, Any]) -> None:
        lines = (out / "cohort.csv").read_text(encoding="utf-8").splitlines()[1:]
        told.append((len(lines), len(read_table(out))))

    whole = damage(studies / NAMES[1])
    batch(names=NAMES[:2])
    (studies / NAMES[1] / f"{NAMES[1]}_frame01.nii.gz").write_bytes(whole)
    batch(names=NAMES[:2], progress=look)  # a failure that is tried again
    assert told[0] == (2, 2) and told[-1] == (4, 4)
    told.clear()
    batch(names=NAMES[:2], resume=False, progress=look)
    assert told[0] == (2, 2) and told[-1] == (4, 4)
    told.clear()
    damage(studies / NAMES[0])
    batch(names=NAMES[:2], progress=look)  # images that changed are known only when they are read
    assert told[0] == (5, 3)
    look({})
    assert told[-1] == (3, 3)


def test_two_corrupt_studies_are_named_and_a_resume_finishes(batch: Callable, studies: Path, tmp_path: Path) -> None:
    whole = {name: damage(studies / name) for name in NAMES[1:3]}
    answer = batch()
    assert answer["summary"]["studies"]["failed"] == 2
    failed = {row["study"]: row["error"] for row in read_table(tmp_path / "out") if row["verdict"] == "failed"}
    assert set(failed) == set(NAMES[1:3]) and all(name in failed[name] for name in failed)
    assert [row["verdict"] for row in read_table(tmp_path / "out")][:2] == ["failed", "failed"]
    assert not (tmp_path / "out" / NAMES[1]).exists()
    for name, content in whole.items():
        (studies / name / f"{name}_frame01.nii.gz").write_bytes(content)
    assert batch()["summary"]["studies"]["failed"] == 0
    assert states(batch.events) == {name: "done" if name in whole else "kept" for name in NAMES}


def test_two_studies_of_one_name_are_named_and_the_rest_is_done(
    studies: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    for place in ("a/same", "b/same", "other"):
        shutil.copytree(studies / NAMES[0], tmp_path / "in" / place)
    answer = segment_cohort(tmp_path / "in", tiny_bundle, tmp_path / "out", device="cpu")
    assert (answer["state"], answer["summary"]["studies"]["failed"]) == ("done", 1)
    rows = {row["study"]: row["error"] for row in read_table(tmp_path / "out")}
    assert set(rows) == {"same", "other"} and "is the name of 2 studies" in rows["same"]


def test_a_study_that_fails_later_loses_its_old_masks(batch: Callable, studies: Path, tmp_path: Path) -> None:
    batch()
    damage(studies / "patient003")
    batch()
    assert not (tmp_path / "out" / "patient003").exists()
    assert [r["study"] for r in read_table(tmp_path / "out") if r["verdict"] == "failed"] == ["patient003"]


def test_old_masks_that_cannot_be_removed_are_named(
    batch: Callable, studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch(names=NAMES[:1])
    damage(studies / NAMES[0])
    monkeypatch.setattr(manifest.shutil, "rmtree", lambda path, **_: None)  # a colleague's, whose rights we lack
    batch(names=NAMES[:1])
    (row,) = read_table(tmp_path / "out")
    assert row["error"].endswith(f"{tmp_path / 'out' / NAMES[0]} could not be removed; it is of an earlier run.")


def test_parts_share_a_folder(batch: Callable, tmp_path: Path) -> None:
    assert batch(part=(1, 2))["state"] == "incomplete"
    assert list(states(batch.events)) == NAMES[::2]
    assert batch(part=(2, 2))["state"] == "done"
    assert list(states(batch.events)) == NAMES[1::2]
    assert len(read_table(tmp_path / "out")) == 10 and len(read_run(tmp_path / "out")["studies"]) == 5


def test_the_part_that_ends_last_adds_the_cohorts_fences(batch: Callable, tmp_path: Path) -> None:
    def told() -> set[str]:
        return {event["study"] for event in batch.events if event["event"] == "fences"}

    batch(part=(1, 3))
    assert not told()
    batch(part=(3, 3))
    assert not told()
    batch(part=(2, 3))
    assert told() == set(NAMES)
    batch(part=(1, 3), resume=False)  # alone, later: what it makes anew is told as well
    assert told() == set(NAMES)
    for name in NAMES:
        quality = json.loads((tmp_path / "out" / name / "quality.json").read_text())
        assert {stack["fences"]["cohort_note"][-6:] for stack in quality["stacks"]} == {"are 5."}
    batch(names=NAMES[:1])
    assert told() == set(NAMES)


def test_fences_are_those_of_all_parts_although_one_ends_meanwhile(
    batch: Callable, studies: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    batch()
    other: list[dict[str, Any]] = []

    def again(event: dict[str, Any]) -> None:
        if event["event"] == "fences" and not other:
            damage(studies / NAMES[1])
            other.append(segment_cohort(studies, tiny_bundle, tmp_path / "out", device="cpu", part=(2, 5)))

    answer = batch(part=(1, 5), resume=False, progress=again)
    assert other and answer["fences"]["SA_ED"]["note"].endswith("here are 4.")
    for name in set(NAMES) - {NAMES[1]}:
        quality = json.loads((tmp_path / "out" / name / "quality.json").read_text())
        assert {stack["fences"]["cohort_note"] for stack in quality["stacks"]} == {answer["fences"]["SA_ED"]["note"]}


def test_renamed_and_removed_studies_count_no_more(
    batch: Callable, studies: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in NAMES[3:]:
        shutil.rmtree(studies / name)
    batch()
    (studies / NAMES[0]).rename(studies / "renamed")
    shutil.rmtree(studies / NAMES[1])
    reads: list[dict[str, Any]] = []
    answer = batch(names=["renamed"], progress=lambda event: reads.append(read_run(tmp_path / "out")))
    there = {NAMES[2], "renamed"}
    assert (answer["state"], answer["summary"]["n_studies"], answer["gone"]) == ("done", 2, NAMES[:2])
    assert {row["study"] for row in read_table(tmp_path / "out")} == there
    for run in (*reads, read_run(tmp_path / "out")):
        assert {record["study"] for record in run["studies"]} == there
    assert f"has them no more: {NAMES[0]}, {NAMES[1]}." in caplog.text
    assert NAMES[0] not in (tmp_path / "out" / "cohort.html").read_text(encoding="utf-8")
    assert batch(part=(2, 2))["state"] == "done" and (tmp_path / "out" / NAMES[0] / "quality.json").is_file()


def test_processes_make_the_same_masks(batch: Callable, tmp_path: Path) -> None:
    batch()
    alone = masks(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    answer = batch(jobs=2)
    assert masks(tmp_path / "out") == alone and answer["summary"]["n_stacks"] == 10
    workers = {record["worker"] for record in read_run(tmp_path / "out")["studies"]}
    assert not any(worker.endswith(f":{os.getpid()}") for worker in workers)


# What goes wrong ------------------------------------------------------------------------------------------------------


class Named:
    """A task that kills its worker: once, always, or never."""

    def __init__(self, name: str, mark: Path) -> None:
        self.name, self.mark = name, mark


def kill_worker(task: Named, cancelled: Callable[[], bool]) -> str:
    if task.name == "always" or (task.name == "once" and not task.mark.exists()):
        task.mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return f"{task.name} is done"


def never() -> bool:
    return False


def no_device(name: str) -> str:
    raise RunError(f"The device {name!r} does not work here (there is none); use --device auto or cpu.")


def no_device_here(task: Named, cancelled: Callable[[], bool]) -> str:
    return no_device(task.name)


def test_a_wrong_device_costs_no_result(batch: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch(names=NAMES[:2])
    before, journal = masks(tmp_path / "out"), (tmp_path / "out" / ".run" / "part-1-of-1.jsonl").read_bytes()
    with pytest.raises(RunError, match="The device 'nodevice' does not work here"):
        batch(resume=False, device="nodevice")  # found before any work
    monkeypatch.setattr(pipeline, "choose_device", no_device)
    with pytest.raises(RunError):
        batch(resume=False, names=NAMES[:2])  # found by a worker
    assert masks(tmp_path / "out") == before and not states(batch.events)
    assert (tmp_path / "out" / ".run" / "part-1-of-1.jsonl").read_bytes() == journal
    with pytest.raises(RunError, match="'a' does not work here"):
        list(run_processes(no_device_here, [Named("a", tmp_path)], 1, never, never))


def test_a_bundle_that_is_changed_meanwhile_costs_no_result(
    batch: Callable, own_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch(names=NAMES[:2])
    before, another = masks(tmp_path / "out"), bundle.load_bundle(own_bundle)
    monkeypatch.setattr(bundle, "load_bundle", lambda *_, **__: another)  # what a worker opens
    study_task._open_bundle.cache_clear()
    with pytest.raises(RunError, match="is not the bundle that this batch began with"):
        batch(resume=False, names=NAMES[:2])
    assert masks(tmp_path / "out") == before and not states(batch.events)


def test_a_killed_worker_is_named_and_its_task_tried_again(tmp_path: Path) -> None:
    tasks = [Named(name, tmp_path / "mark") for name in ("a", "once", "b", "always", "c")]
    outcomes = {task.name: (done, died) for task, done, died in run_processes(kill_worker, tasks, 2, never, never)}
    assert {name for name, (done, _) in outcomes.items() if done} == {"a", "once", "b", "c"}
    assert outcomes["always"][0] is None and "signal 9 (SIGKILL)" in outcomes["always"][1]
    assert multiprocessing.active_children() == []


def test_kill_9_in_a_batch_loses_no_study(batch: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def kill_one(event: dict[str, Any]) -> None:
        if event.get("done") == 1 and event["event"] == "study":
            victim = multiprocessing.active_children()[0]
            os.kill(victim.pid, signal.SIGKILL)
            kill_one.victim = victim.pid

    answer = batch(jobs=2, progress=kill_one)
    assert answer["summary"]["studies"]["failed"] == 0 and answer["summary"]["n_stacks"] == 10
    assert not list((tmp_path / "out").glob(".*part-*"))
    assert f"Worker process {kill_one.victim} was killed by signal 9 (SIGKILL)" in caplog.text


@pytest.mark.parametrize("jobs", [1, 2])
def test_cancel_stops_in_two_seconds_and_a_resume_finishes(batch: Callable, jobs: int, tmp_path: Path) -> None:
    asked: list[float] = []

    def cancelled() -> bool:
        if len(states(batch.events)) >= 2:
            asked.append(time.monotonic())
        return bool(asked)

    with pytest.raises(Cancelled):
        batch(jobs=jobs, cancelled=cancelled)
    assert time.monotonic() - asked[0] < 2.0
    kept = list(states(batch.events))
    run = read_run(tmp_path / "out")
    assert run["state"] == "cancelled" and [record["study"] for record in run["studies"]] == sorted(kept)
    assert {row["study"] for row in read_table(tmp_path / "out")} == set(kept)
    assert multiprocessing.active_children() == []
    assert batch(jobs=jobs)["state"] == "done"
    assert states(batch.events) == {name: "kept" if name in kept else "done" for name in NAMES}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["keyboard", "scheduler"])
def test_a_signal_is_exit_code_3(studies: Path, tiny_bundle: Path, tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "RVQCLib.cli", "batch", studies, "-o", tmp_path / "out", "--bundle", tiny_bundle]
    process = subprocess.Popen(
        [*map(str, command), "--jobs", "2"],
        cwd=ENGINE,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    for line in process.stderr:
        if '"state": "done"' in line:
            process.send_signal(number)
            break
    _, said = process.communicate(timeout=30)
    assert process.returncode == cli.CANCELLED and "Cancelled" in said
    assert read_run(tmp_path / "out")["state"] == "cancelled" and read_table(tmp_path / "out")
    assert not list((tmp_path / "out").glob(".*part-*"))


@pytest.fixture
def heard() -> Iterator[None]:
    """Ctrl+C is heard, which a shell's background jobs ignore."""
    was = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, was)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["keyboard", "scheduler"])
def test_the_first_signal_tells_the_workers(
    studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    asked = []

    def work(*_: Any, cancelled: Callable[[], bool], **__: Any) -> None:
        if len(asked) == 1:  # again, before the work ever asks
            signal.raise_signal(number)
        asked.append(cancelled())
        signal.raise_signal(number)
        asked.append(cancelled())
        raise Cancelled

    monkeypatch.setattr("RVQCLib.cohort.segment_cohort", work)
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    for expected in ([False, True], [False]):
        assert cli.main(["batch", str(studies), "-o", str(tmp_path / "out")]) == cli.CANCELLED
        assert asked == expected and "Cancelled" in capsys.readouterr().err
        asked[:] = [False]
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_cancelled_run_leaves_no_part_of_its_studies(batch: Callable, tmp_path: Path) -> None:
    parts = [tmp_path / "out" / f".part-{name}-ab12cd34" for name in (*NAMES[2:3], "of-another-run")]

    def cancelled() -> bool:
        for part in parts if batch.events else ():  # as a worker leaves it that had to be killed
            part.mkdir(exist_ok=True)
        return bool(batch.events)

    with pytest.raises(Cancelled):
        batch(cancelled=cancelled)
    assert [part.is_dir() for part in parts] == [False, True]


def test_a_full_disk_costs_the_studies_that_did_not_fit(
    batch: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = result.write_json

    def full(path: Path, content: Any) -> None:
        if content["study"] in NAMES[1:3]:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        whole(path, content)

    monkeypatch.setattr(result, "write_json", full)
    assert batch()["summary"]["studies"]["failed"] == 2
    failed = {row["study"]: row["error"] for row in read_table(tmp_path / "out") if row["verdict"] == "failed"}
    assert set(failed) == set(NAMES[1:3]) and all("No space left" in error for error in failed.values())
    assert not list((tmp_path / "out").glob(".*part-*")) and not (tmp_path / "out" / NAMES[1]).exists()
    monkeypatch.undo()
    assert batch()["summary"]["studies"]["failed"] == 0
    assert list(states(batch.events).values()) == ["kept", "done", "done", "kept", "kept"]


def test_a_disk_that_is_really_full(studies: Path, tiny_bundle: Path, batch: Callable, tmp_path: Path) -> None:
    batch(names=NAMES[:1])
    blocks = [path.stat().st_blocks for path in (tmp_path / "out" / NAMES[0]).iterdir()]
    one_study = sum(blocks) // 2
    disk = tmp_path / "disk"
    disk.mkdir()
    size = f"size={4 * one_study}k"  # five studies and the tables do not fit
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        try:
            segment_cohort(studies, tiny_bundle, disk / "out", device="cpu")
        except OSError as error:
            assert error.errno == errno.ENOSPC
        table = {row["study"]: row for row in read_table(disk / "out")}
        failed = [name for name, row in table.items() if row["verdict"] == "failed"]
        assert failed and len(failed) < len(NAMES)
        assert all("No space left" in table[name]["error"] for name in failed)
        assert not any((disk / "out" / name).exists() for name in failed)
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        events: list[dict[str, Any]] = []
        answer = segment_cohort(studies, tiny_bundle, disk / "out", device="cpu", progress=events.append)
        assert answer["state"] == "done" and answer["summary"]["studies"]["failed"] == 0
        assert "kept" in states(events).values()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_studies_removed_while_it_runs_are_named(batch: Callable, studies: Path, tmp_path: Path) -> None:
    def remove(event: dict[str, Any]) -> None:
        if event.get("done") == 2 and event["event"] == "study":
            shutil.move(studies, tmp_path / "moved")

    answer = batch(progress=remove)
    assert answer["summary"]["studies"]["failed"] == 3
    errors = [row["error"] for row in read_table(tmp_path / "out") if row["verdict"] == "failed"]
    assert len(errors) == 3 and all("cannot be read now" in error for error in errors)
    shutil.move(tmp_path / "moved", studies)
    assert batch()["summary"]["studies"]["failed"] == 0
    assert list(states(batch.events).values()) == ["kept", "kept", "done", "done", "done"]


def test_results_removed_while_it_runs_are_named(batch: Callable, tmp_path: Path) -> None:
    def remove(event: dict[str, Any]) -> None:
        if event.get("done") == 2 and event["event"] == "study":
            shutil.rmtree(tmp_path / "out")

    answer = batch(progress=remove)
    assert answer["summary"]["studies"]["failed"] == 2 and answer["summary"]["n_studies"] == 5
    errors = {row["study"]: row["error"] for row in read_table(tmp_path / "out") if row["verdict"] == "failed"}
    assert set(errors) == set(NAMES[:2]) and all("was removed" in error for error in errors.values())
    assert batch()["summary"]["studies"]["failed"] == 0
    assert list(states(batch.events).values()) == ["done", "done", "kept", "kept", "kept"]


def test_a_run_that_was_killed_is_read_and_resumed(
    studies: Path, tiny_bundle: Path, batch: Callable, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "RVQCLib.cli", "batch", studies, "-o", tmp_path / "out", "--bundle", tiny_bundle]
    process = subprocess.Popen([*map(str, command), "--device", "cpu"], cwd=ENGINE, stderr=subprocess.PIPE, text=True)
    next(line for line in process.stderr if '"state": "done"' in line)
    process.kill()
    process.communicate()
    run = read_run(tmp_path / "out")
    assert run["state"] == "running" and 1 <= len(run["studies"]) < 5
    assert {row["study"] for row in read_table(tmp_path / "out")} >= {r["study"] for r in run["studies"][:-1]}
    assert batch()["state"] == "done"
    assert list(states(batch.events).values()).count("kept") == len(run["studies"])
    assert not list((tmp_path / "out").glob(".*part-*"))


@pytest.mark.skipif(sys.platform != "linux", reason="the file system takes no name that is not UTF-8")
def test_a_name_that_is_not_utf8_fails_alone(batch: Callable, studies: Path, tmp_path: Path) -> None:
    for name in NAMES[2:]:
        shutil.rmtree(studies / name)
    os.rename(studies / NAMES[0], os.fsencode(studies) + b"/M\xfcller")
    batch()
    assert states(batch.events) == {"M\ufffdller": "failed", NAMES[1]: "done"}
    run = read_run(tmp_path / "out")
    wrong = next(record for record in run["studies"] if record["state"] == "failed")
    assert run["state"] == "done" and wrong["study"] == "M\ufffdller"
    assert wrong["error"] == f"{studies}/M\ufffdller has a name that is not UTF-8; rename it."
    assert {row["study"] for row in read_table(tmp_path / "out")} == {"M\ufffdller", NAMES[1]}
    assert "M\ufffdller" in (tmp_path / "out" / "cohort.html").read_text(encoding="utf-8")
    batch()
    assert states(batch.events) == {"M\ufffdller": "failed", NAMES[1]: "kept"}


def test_wrong_arguments_are_one_sentence(batch: Callable, studies: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    for more in ({"part": (3, 2)}, {"part": (0, 2)}, {"jobs": 0}, {"names": ["nobody"]}, {"scheduler": "nowhere"}):
        with pytest.raises(RVQCError, match=r"\.$"):
            batch(**more)
    with pytest.raises(RVQCError, match="lies in the folder"):
        segment_cohort(studies, tiny_bundle, studies / "results")
    with pytest.raises(RVQCError, match="holds no run"):
        read_run(studies)
    with pytest.raises(RVQCError, match=r"cohort\.csv"):
        read_table(studies)


def test_the_command_says_what_was_found(
    studies: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(studies / "patient005")
    arguments = ["batch", studies, "-o", tmp_path / "out", "--bundle", tiny_bundle, "--device", "cpu"]
    assert cli.main([*map(str, arguments), "--part", "1/1"]) == cli.DONE
    said = capsys.readouterr()
    assert said.out.startswith("5 studies (8 stacks): 1 failed, ") and "cohort.html" in said.out
    assert cli.main([*map(str, arguments), "--only", "patient005", "--json"]) == cli.BAD_INPUT
    said = capsys.readouterr()
    assert json.loads(said.out)["chosen"] == {"studies": 1, "failed": 1}  # of all five in OUT, what this call did
    assert "No study could be segmented, 1 failed" in said.err
    assert cli.main([*map(str, arguments), "--only", "patient004", "patient005"]) == cli.DONE
    capsys.readouterr()
    other = [*map(str, arguments[:3]), str(tmp_path / "other"), *map(str, arguments[4:]), "--only", "patient005"]
    assert cli.main(other) == cli.BAD_INPUT
    assert "No study could be segmented, 1 failed; cohort.csv" in capsys.readouterr().err
    assert cli.main([*other, "--json"]) == cli.BAD_INPUT
    assert json.loads(capsys.readouterr().out)["summary"]["studies"]["failed"] == 1


def test_a_worker_is_asked_for_a_batch_in_json(studies: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    arguments = {
        **{"folder": str(studies), "bundle": str(tiny_bundle), "out": str(tmp_path / "out"), "device": "cpu"},
        **{"options": {"quantifier": "authors"}, "part": [1, 5], "names": NAMES},
    }
    answer = JOBS["batch"](Opened(), lambda event: None, never, **json.loads(json.dumps(arguments)))
    assert answer["summary"]["n_studies"] == 1 and answer["options"]["quantifier"] == "authors"
    assert read_run(tmp_path / "out")["part"] == [1, 5]


def test_a_saved_batch_is_read_without_torch(batch: Callable, tmp_path: Path) -> None:
    batch(names=NAMES[:1])
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['safetensors'] = None\n"
        "from RVQCLib.cohort import read_run, read_table\n"
        "print(len(read_run(sys.argv[1])['studies']), len(read_table(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out")], cwd=ENGINE, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "2"]


# The cohort's fences --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """A batch of 21 studies, judged by the fences of the cohort."""
    folder = tmp_path_factory.mktemp("cohort")
    write_studies(folder / "studies", 21)
    segment_cohort(
        folder / "studies", tiny_bundle, folder / "out", device="cpu", options=QCOptions(fences="cohort"), jobs=2
    )
    return folder / "out"


def test_fences_of_the_cohort_are_those_of_its_candidates(cohort: Path) -> None:
    scores = []
    for record in read_run(cohort)["studies"]:
        scores += [Scores.of(stack) for stack in record["stacks"] if stack["phase"] == "ES"]
    assert len(scores) == 21
    pDC, pHD = ([v for s in scores for v in getattr(s, name)[:, 0]] for name in ("stack_pDC", "stack_pHD"))
    expected = fences(pDC, pHD, n=len(scores))
    assert Fences.from_json(read_run(cohort)["fences"]["SA_ES"]["cohort"][STRUCTURES[0]]) == expected
    quality = json.loads((cohort / "patient004" / "quality.json").read_text())
    entry = next(stack for stack in quality["stacks"] if stack["phase"] == "ES")["fences"]
    assert Fences.from_json(entry["cohort"][STRUCTURES[0]]) == expected and entry["used"] == "cohort"
    page = (cohort / "patient004" / "report.html").read_text(encoding="utf-8")
    assert "Cohort (used)" in page and f"{expected.th_low:.2f}" in page


def test_the_cohort_judges_alike_in_every_file(cohort: Path) -> None:
    table = {(row["study"], row["phase"]): row for row in read_table(cohort)}
    for study in {name for name, _ in table}:
        quality = json.loads((cohort / study / "quality.json").read_text())
        for stack in quality["stacks"]:
            row = table[study, stack["phase"]]
            assert (row["verdict"], row["ood"]) == (stack_verdict(stack, quality["checks"]), stack["ood"])
            assert ("RV" in row["outside_cohort"].split()) <= stack["ood"] and row["outside_reference"] is None
            assert not any("not calibrated" in reason for reason in stack["reasons"])


def test_a_resume_of_a_cohort_changes_no_file(cohort: Path, tiny_bundle: Path) -> None:
    times = {path: path.stat().st_mtime_ns for path in cohort.glob("patient*/*")}
    segment_cohort(cohort.parent / "studies", tiny_bundle, cohort, device="cpu", options=QCOptions(fences="cohort"))
    assert {path: path.stat().st_mtime_ns for path in cohort.glob("patient*/*")} == times


def test_few_stacks_have_no_fences_of_their_own(batch: Callable, tmp_path: Path) -> None:
    answer = batch(options=QCOptions(fences="cohort"))
    note = "Cohort fences need 20 stacks of a view and phase, here are 5."
    assert answer["fences"]["SA_ED"] == {"reference": None, "references": [], "cohort": None, "note": note}
    quality = json.loads((tmp_path / "out" / "patient001" / "quality.json").read_text())
    assert quality["stacks"][0]["fences"]["used"] == "reference" and quality["stacks"][0]["fences"]["note"] == note
