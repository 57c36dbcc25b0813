"""A refinement read from the disk: request, log, progress, rows, decisions, adoption. Neither Slicer nor torch is needed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from RVQCLib.bundle import load_bundle
from RVQCLib.files import BundleError, RVQCError, read_json, sha256, write_json
from RVQCLib.jobs import Opened, scan
from RVQCLib.pipeline import segment_study
from RVQCLib.result import write_result
from RVQCLib.reviews import read_reviews
from RVQCLib.study import find_studies
from RVQCRefineLib.adoption import adopt, compare, give_back
from RVQCRefineLib.decisions import ACCEPT, KEEP_OLD, REJECT, decide, image_of
from RVQCRefineLib.progress import Point, Progress, duration, log_line, progress_of
from RVQCRefineLib.rows import batch_rows, rows_of
from RVQCRefineLib.run_folder import Request, RunFolder, free_name

REPOSITORY = Path(__file__).resolve().parents[2]
EPOCH = {"event": "epoch", "view": "SA", "candidates": 2, "epochs": 2, "alpha": 0.5, "loss": 2.0, "score": 0.5}
EPOCH |= {"flagged_before": 9, "agreement": None, "seconds_left": 90.0}


def nothing(event: dict[str, Any]) -> None:
    pass


@pytest.fixture(scope="module")
def scanned(tiny_acdc: Path) -> dict[str, Any]:
    return scan(Opened(), nothing, lambda: False, folder=str(tiny_acdc))


@pytest.fixture
def request_(scanned: dict[str, Any], tiny_acdc: Path, tmp_path: Path) -> Request:
    return Request(str(tiny_acdc), tuple(scanned["studies"]), str(tmp_path / "new"), left_out=("patient003",))


@pytest.fixture(scope="module")
def segmented(tiny_acdc: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``before`` and ``after`` of three studies as the engine writes them, with verdicts and numbers put in."""
    home, bundle = tmp_path_factory.mktemp("segmented"), load_bundle(tiny_bundle)
    for source in find_studies(tiny_acdc)[:3]:
        result = segment_study(source.load(), bundle, device="cpu")
        for moment in ("before", "after"):
            write_result(result, home / source.name, report=False, folder_name=moment)
        for k, (moment, dice) in enumerate(
            (("before", 0.3), ("after", {"patient001": 0.9, "patient002": 0.5}.get(source.name)))
        ):
            file = home / source.name / moment / "quality.json"
            content = read_json(file)
            for stack in content["stacks"]:
                stack["verdict"] = "ood" if dice is None else "look" if dice < 0.8 else "trusted"
                stack["structures"]["RV"]["predicted_dice"] = dice
                stack["slices"] = [{**s, "flag": s["index"] <= 1 - k, "reasons": ["why"]} for s in stack["slices"]]
            write_json(file, content)
        stacks = [{"view": "SA", "phase": p, "accepted": p == "ED", "reason": f"because {p}"} for p in ("ED", "ES")]
        write_json(home / source.name / "decision.json", {"study": source.name, "stacks": stacks})
    return home


@pytest.fixture
def run(request_: Request, segmented: Path) -> RunFolder:
    run = RunFolder.create(request_)
    shutil.copytree(segmented, run.path / "studies")
    return run


def test_a_scan_names_what_it_found_and_what_is_wrong(tmp_path: Path, tiny_acdc: Path) -> None:
    shutil.copytree(tiny_acdc / "patient001", tmp_path / "patient001")
    (tmp_path / "empty").mkdir()
    answer = scan(Opened(), nothing, lambda: False, folder=str(tmp_path))
    empty, good = answer["studies"]
    assert (empty["study"], empty["images"]) == ("empty", []) and "holds no image" in empty["problems"][0]
    assert [(e["view"], e["phase"], e["frame"]) for e in good["images"]] == [("SA", "ED", None), ("SA", "ES", None)]
    assert good["problems"] == [] and Path(good["images"][0]["file"]).name == "patient001_frame01.nii.gz"
    json.dumps(answer)


def test_a_request_comes_back_from_the_disk_and_asks_the_engine_for_what_was_ticked(request_: Request) -> None:
    run = RunFolder.create(request_)
    assert RunFolder.open(request_.out) == RunFolder.open(run.path) == run
    assert run.request() == request_ and RunFolder.create(request_) == run
    asked = request_.arguments()
    assert asked["names"] == [f"patient{n:03d}" for n in range(1, 11) if n != 3]
    assert asked["work"] == f"{request_.out}.refinement" and asked["bundle"] is None and asked["labelled"] is None
    with pytest.raises(RVQCError, match="holds another run"):
        RunFolder.create(replace(request_, left_out=()))
    write_json(run.path / "request.json", {"schema": 99})
    with pytest.raises(RVQCError, match=r"request.json is not a request that this RVQC reads"):
        run.request()


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RVQCError, match="holds no refinement"):
        RunFolder.open(tmp_path)


def test_a_new_bundle_gets_a_free_name_beside_the_studies(tmp_path: Path) -> None:
    (tmp_path / "b-refined.refinement").mkdir()
    (tmp_path / "b-refined-2").mkdir()
    assert free_name(tmp_path / "studies", "b") == tmp_path / "b-refined-3"


def test_the_log_keeps_its_lines_whole_beside_a_torn_one(request_: Request) -> None:
    run = RunFolder.create(request_)
    run.log({"event": "started", "id": 3})
    with (run.path / "events.jsonl").open("a") as stream:
        stream.write('{"event": "epo')
    run.log({"event": "paused"})
    events = run.events()
    assert [event["event"] for event in events] == ["started", "paused"] and "id" not in events[0]


def test_the_progress_follows_the_steps_and_the_life_of_a_run() -> None:
    def said(progress: Progress, seconds: int, **event: Any) -> Progress:
        return progress.after({"time": f"2026-01-01T10:00:{seconds:02d}.000+00:00", **event})

    one = said(Progress(), 0, event="started")
    assert (one.state, one.step) == ("running", None)
    one = said(one, 1, event="segment", study="a", moment="before", done=1, total=4)
    two = said(one, 4, event="segment", study="b", moment="before", done=2, total=4)
    assert (two.step, two.done, two.total, two.seconds_left, two.said) == (0, 2, 4, 6.0, "b: 2 of 4 studies")
    three = said(two, 5, **EPOCH, candidate=1, epoch=1, flagged=7, guard_dice=0.8)
    assert (three.step, three.done, three.total, three.seconds_left) == (1, 1, 4, 90.0)
    assert three.points == (Point(1, "SA", 0, 9, None), Point(1, "SA", 1, 7, 0.8, 2.0))
    ended = said(
        three, 6, event="candidate", view="SA", candidate=1, candidates=2, kept_epoch=1, stopped_because="plateau"
    )
    paused = said(ended, 7, event="paused")
    assert paused.state == "paused" and paused.points == three.points
    # After a resume the candidates that are done are told again, and nothing is counted twice.
    again = said(said(paused, 8, event="started"), 9, event="candidate", view="SA", candidate=1, candidates=2,
                 kept_epoch=1, stopped_because="plateau")  # fmt: skip
    last = said(again, 10, **EPOCH, candidate=2, epoch=1, flagged=5, guard_dice=0.7)
    assert [(p.candidate, p.epoch) for p in last.points] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    failed = said(last, 11, event="failed", message="The disk is full.")
    assert (failed.state, failed.message, failed.seconds_left) == ("failed", "The disk is full.", None)


def test_a_run_that_nobody_ended_is_interrupted_and_one_with_a_result_is_done(run: RunFolder) -> None:
    assert progress_of(run).state == "interrupted"  # begun by the command: studies, no log
    run.log({"event": "started"})
    run.log({**EPOCH, "candidate": 1, "epoch": 1, "flagged": 7, "guard_dice": 0.8})
    assert progress_of(run).state == "interrupted"
    looks = [{"epoch": k, "guard": {"RV": 0.8 + k / 100}, "score": 0, "flagged": 9 - k} for k in range(3)]
    write_json(run.out / "refinement.json", {"views": {"SA": {"candidates": [{"epochs": looks}]}}})
    done = progress_of(run)
    assert done.state == "done"
    assert done.points == tuple(Point(1, "SA", k, 9 - k, 0.8 + k / 100) for k in range(3))


def test_events_and_times_in_words() -> None:
    event = {
        "time": "2026-01-01T10:00:05.000+00:00",
        **EPOCH,
        "candidate": 2,
        "epoch": 1,
        "flagged": 7,
        "guard_dice": 0.8,
    }
    india = timezone(timedelta(hours=5, minutes=30))
    assert log_line(event, india) == (
        "15:30:05  SA candidate 2 of 2, epoch 1 of 2; 7 flagged stacks (9 before), loss 2.000, guard Dice 0.800"
    )
    assert log_line(event).startswith(f"{datetime.fromisoformat(event['time']).astimezone():%H:%M:%S}  SA")
    assert [duration(s) for s in (None, 20, 200, 7500)] == ["", "under a minute", "3 min", "2 h 5 min"]


def test_the_rows_are_worst_first_before_beside_after(run: RunFolder) -> None:
    rows = rows_of(run)
    assert [row.key[0] for row in rows] == ["patient003"] * 2 + ["patient002"] * 2 + ["patient001"] * 2
    row = next(row for row in rows if row.key == ("patient002", "SA", "ED"))
    assert row.before is not None and row.after is not None
    assert (row.before.predicted, row.after.predicted, row.after.verdict) == (0.3, 0.5, "look")
    assert (row.before.flags, row.after.flags) == ({0: "why", 1: "why"}, {0: "why"})
    assert (row.proposed, row.proposal, row.decision, row.n_slices) == (True, "because ED", "", 3)


def test_a_row_counts_the_checks_of_its_study(run: RunFolder) -> None:
    file = run.path / "studies" / "patient001" / "after" / "quality.json"
    odd = "anatomy: SA RV is larger at end-systole than at end-diastole"
    write_json(file, {**read_json(file), "checks": []})
    found = [row.after.verdict for row in rows_of(run) if row.after and row.study == "patient001"]
    assert found == ["trusted", "trusted"]
    write_json(file, {**read_json(file), "checks": [odd]})
    rows = [row.after for row in rows_of(run) if row.after and row.study == "patient001"]
    assert [judged.verdict for judged in rows] == ["look", "look"]
    assert all(judged.reasons[-1] == odd and odd not in judged.stack["reasons"] for judged in rows)


def test_decisions_are_lines_with_hashes_and_only_accepted_masks_are_files(run: RunFolder) -> None:
    first, second, *_ = rows_of(run)
    image = image_of(run.request().studies, first)
    assert image is not None
    accepted = decide(run.path, first, ACCEPT, reviewer=" Ada ", note="fine", image=image)
    decide(run.path, second, REJECT, reviewer="Ada")
    (file,) = (run.path / "accepted").iterdir()
    assert accepted.after is not None and sha256(file) == sha256(accepted.after.mask)
    one, two = read_reviews(run.path / "reviews.jsonl")
    assert (one.study, one.phase, one.decision, one.reviewer, one.note) == (*first.key[::2], "accepted", "Ada", "fine")
    assert one.image_sha256 == sha256(image["file"]) and one.mask_sha256 == sha256(file)
    assert one.bundle_hash == accepted.after.bundle_hash and two.decision == "rejected"
    other = image_of(run.request().studies, second)
    assert other is not None and two.image_sha256 == sha256(other["file"])  # as the QC wrote it down
    assert [row.decision for row in rows_of(run)[:3]] == ["accepted", "rejected", ""]
    decide(run.path, first, KEEP_OLD, reviewer="Ada")
    assert list((run.path / "accepted").iterdir()) == [] and rows_of(run)[0].decision == "kept old"


def test_an_image_that_changed_since_the_qc_is_not_decided_on(run: RunFolder, tmp_path: Path) -> None:
    row = rows_of(run)[0]
    image = image_of(run.request().studies, row)
    assert image is not None
    other = shutil.copyfile(image["file"], tmp_path / "image.nii.gz")
    moved = {**image, "file": str(other)}
    decide(run.path, row, REJECT, reviewer="Ada", image=moved)
    other.write_bytes(b"of another study")
    with pytest.raises(RVQCError, match=r"image.nii.gz has changed since the QC ran; bring the old file back"):
        decide(run.path, row, ACCEPT, reviewer="Ada", image=moved)
    other.unlink()
    for one, mend in ((row, "bring the folder of studies back"), (replace(row, before=None), "resume the batch from")):
        with pytest.raises(RVQCError, match=rf"image.nii.gz cannot be read now .*; {mend}"):
            decide(run.path, one, ACCEPT, reviewer="Ada", image=moved)
    (review,) = read_reviews(run.path / "reviews.jsonl")
    assert review.image_sha256 == sha256(image["file"]) and not (run.path / "accepted").exists()


def test_what_cannot_be_decided_says_why(run: RunFolder) -> None:
    row = rows_of(run)[0]
    with pytest.raises(RVQCError, match="Nobody is named"):
        decide(run.path, row, ACCEPT, reviewer=" ")
    with pytest.raises(RVQCError, match="no new mask yet"):
        decide(run.path, replace(row, after=None), ACCEPT, reviewer="Ada")
    with pytest.raises(RVQCError, match="no older mask"):
        decide(run.path, replace(row, before=None), KEEP_OLD, reviewer="Ada")
    assert not (run.path / "reviews.jsonl").exists()


def test_a_review_is_of_the_mask_that_was_seen(run: RunFolder) -> None:
    """A mask that was made anew is undecided again."""
    row = rows_of(run)[0]
    decide(run.path, row, ACCEPT, reviewer="Ada")
    assert row.after is not None and row.before is not None
    row.after.mask.write_bytes(b"another mask")
    assert next(r for r in rows_of(run) if r.key == row.key).decision == ""


def test_an_edited_mask_is_named_and_the_numbers_stay_those_of_the_file(run: RunFolder) -> None:
    first = rows_of(run)[0]
    assert first.after is not None and not first.after.edited and first.before is not None
    first.after.mask.write_bytes(b"edited by hand")
    again = next(row for row in rows_of(run) if row.key == first.key)  # as after a restart
    assert again.after.edited and not again.before.edited and again.after.stack == first.after.stack
    written = read_json(first.after.mask.parent / "quality.json")
    assert again.after.stack in written["stacks"] and again.after.written == written["outputs"][first.after.mask.name]
    decided = decide(run.path, again, ACCEPT, reviewer="Ada")
    assert decided.review.mask_sha256 == sha256(first.after.mask) != again.after.written  # the edited one is accepted
    assert next(row for row in rows_of(run) if row.key == first.key).decision == "accepted"


@pytest.mark.parametrize("decision", [ACCEPT, REJECT, KEEP_OLD])
def test_an_accepted_mask_that_was_edited_is_moved_aside(run: RunFolder, decision: str) -> None:
    row = decide(run.path, rows_of(run)[0], ACCEPT, reviewer="Ada")
    (file,) = (run.path / "accepted").iterdir()
    decide(run.path, row, ACCEPT, reviewer="Ada")
    assert not (run.path / "edited").exists()
    file.write_bytes(b"edited by hand")
    decide(run.path, row, decision, reviewer="Ada")
    (kept,) = (run.path / "edited").iterdir()
    assert kept.read_bytes() == b"edited by hand" and kept.name.startswith(f"{row.study}_SA_{row.phase}-2")
    assert file.exists() is (decision == ACCEPT) and kept.name.endswith("Z.nii.gz")


def test_a_mask_that_failed_as_a_whole_has_no_sound_slice(run: RunFolder) -> None:
    """All candidates without an RV leave no slice to compare, so that none is flagged by itself."""
    home = next(iter(sorted((run.path / "studies").iterdir())))
    content = read_json(home / "before" / "quality.json")
    stack = content["stacks"][0]
    stack["slices"] = [{**one, "flag": False} for one in stack["slices"]]
    stack["evidence"] = {**stack["evidence"], "failed": ["failed: the mask has no RV"]}
    write_json(home / "before" / "quality.json", content)
    row = next(row for row in rows_of(run) if row.key == (home.name, stack["view"], stack["phase"]))
    assert row.before.flags == {} and row.before.doubted == row.n_slices == 3
    assert [row.before.doubt(k) for k in range(3)] == ["failed: the mask has no RV"] * 3


def result_of(run: RunFolder, **changes: Any) -> None:
    studies = [{"study": n, "flagged_before": True, "flagged_after": n != "c", "accepted": n == "b"} for n in "abc"]
    guard = {"before": 0.80, "after": 0.79, "of": "Dice of the RV on labelled stacks"}
    content = {"studies": studies, "guard": guard, "parent": {"name": "old"}, "failed": [], "changed": ["x"]}
    content |= {"labelled": {"guard": ["g"]}, "calibration": "made anew", "stopped_because": "plateau", "views": {}}
    write_json(run.out / "refinement.json", content | changes)


def test_the_comparison_has_flags_and_guard_and_says_what_should_make_one_hesitate(run: RunFolder) -> None:
    with pytest.raises(RVQCError, match="is not there yet"):
        compare(run)
    result_of(run)
    found = compare(run)
    assert (found.flagged_before, found.flagged_after, found.proposed) == (3, 2, 1)
    assert (found.guard_before, found.guard_after, found.name, found.parent) == (0.80, 0.79, "new", "old")
    assert found.warnings == ("The guard fell: on what the guard measures the new bundle is worse than the old one.",)
    result_of(run, changed=[], labelled={"guard": []}, guard={"before": None, "after": None, "of": "agreement"})
    assert [w.split()[0] for w in compare(run).warnings] == ["Nothing", "No"]
    write_json(run.out / "refinement.json", {"views": {}})
    with pytest.raises(RVQCError, match="lacks or garbles 'studies'"):
        compare(run)


def test_a_bundle_is_adopted_by_name_only_when_it_is_whole(run: RunFolder, tiny_bundle: Path) -> None:
    shutil.copytree(tiny_bundle, run.out)
    result_of(run)
    with pytest.raises(RVQCError, match="Nobody is named"):
        adopt(run, reviewer="", was="", rows=[])
    assert adopt(run, reviewer="Ada", was="/old", rows=rows_of(run)) == str(run.out)
    event = run.events()[-1]
    assert event["event"] == "adopted" and event["hash"] == load_bundle(run.out).hash and event["was"] == "/old"
    assert event["decisions"] == {"open": 6} and progress_of(run).adopted
    assert give_back(run, reviewer="Ada") == "/old" and not progress_of(run).adopted
    (run.out / "SA" / "qc.safetensors").write_bytes(b"")
    with pytest.raises(BundleError, match="checksum differs"):
        adopt(run, reviewer="Ada", was="", rows=[])
    assert run.events()[-1]["event"] == "returned"


def test_a_batch_is_reviewed_without_a_before(segmented: Path, tmp_path: Path) -> None:
    with pytest.raises(RVQCError, match="holds no batch"):
        batch_rows(tmp_path)
    write_json(tmp_path / "run.json", {})
    for home in segmented.iterdir():
        shutil.copytree(home / "after", tmp_path / home.name)
    rows = batch_rows(tmp_path)
    assert [row.study for row in rows[::2]] == ["patient003", "patient002", "patient001"]
    assert all(row.before is None for row in rows)
    decide(tmp_path, rows[0], ACCEPT, reviewer="Ada")
    assert batch_rows(tmp_path)[0].decision == "accepted"


def test_a_saved_run_opens_without_torch(run: RunFolder) -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['safetensors'] = None\n"
        "from pathlib import Path\nfrom RVQCRefineLib import adoption, decisions, progress, rows, run_folder\n"
        "run = run_folder.RunFolder.open(sys.argv[1]); found = rows.rows_of(run)\n"
        "decisions.decide(run.path, found[0], 'accepted', reviewer='Ada')\n"
        "sys.exit(len(rows.rows_of(run)) != 6 or progress.progress_of(run).state != 'interrupted')"
    )
    path = [str(REPOSITORY / name) for name in ("RVQCSegment", "RVQCRefine")]
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{code}", str(run.path)]
    assert subprocess.run(command, check=False).returncode == 0


@pytest.mark.parametrize("path", sorted((REPOSITORY / "RVQCRefine").rglob("*.py")), ids=lambda path: path.stem)
def test_the_dialog_has_no_numerics_no_torch_and_small_files(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 250
    lines = [line.split() for line in text.splitlines() if line.strip().startswith(("import ", "from "))]
    assert not {"torch", "safetensors", "numpy", "scipy"} & {words[1].split(".")[0] for words in lines}


def test_the_run_folder_needs_no_slicer(make_study: Callable[..., Any]) -> None:
    assert not {"slicer", "qt", "vtk"} & set(sys.modules)
