"""The refine dialog on long-axis phantoms, and when studies are torn, taken away or edited: what counts is on the disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from refine_walk import Walk

from RVQCLib.bundle import load_bundle
from RVQCLib.files import read_json, sha256, write_json
from RVQCLib.reviews import read_reviews


def test_long_axis_phantoms_go_through_all_four_steps(walk: Walk, panel: Any, data: Path, tmp_path: Path) -> None:
    import slicer

    shutil.copytree(data / "la" / "new", tmp_path / "new")
    dialog = walk.dialog
    walk.choose_folder(tmp_path / "new")
    assert [dialog.folder.table.item(0, k).text() for k in (1, 2, 3)] == ["001", "", "ED, ES"]
    walk.set(bundle=data / "la" / "parent", labelled=data / "la" / "labelled", epochs=1, steps=1, batch=4)
    walk.start()
    walk.wait_until("done")
    out = tmp_path / "tiny-refined"
    assert {e["view"] for e in walk.events() if e["event"] == "epoch"} == {"LA"} and load_bundle(out).views == ("LA",)
    assert set(dialog.run.guard.lines[0].name.split()) >= {"LA", "candidate"}

    panel.click(dialog.next)
    page = dialog.review
    assert sorted(row.key for row in page.table.rows) == [(f"00{n}", "LA", p) for n in (1, 2, 3) for p in ("ED", "ES")]
    assert {row.n_slices for row in page.table.rows} == {1} and len(page.strips.tiles["after"]) == 1
    panel.type(page.reviewer, "Ada")
    walk.select([0])
    row = page.table.rows[0]
    assert slicer.util.getNode(f"{row.study} LA {row.phase}").GetImageData().GetDimensions()[2] == 1
    walk.decide("accepted")
    walk.select([1])
    walk.decide("rejected")
    (file,) = (walk.work / "accepted").iterdir()
    assert file.name == f"{row.study}_LA_{row.phase}.nii.gz"
    accepted, rejected = read_reviews(walk.work / "reviews.jsonl")
    image = tmp_path / "new" / row.study / f"{row.study}_LA_{row.phase}.nii.gz"
    assert (accepted.decision, rejected.decision) == ("accepted", "rejected")
    assert (accepted.mask_sha256, accepted.image_sha256) == (sha256(file), sha256(image))
    panel.click(page.adopt.ask)
    panel.click(page.adopt.yes)
    assert slicer.app.userSettings().value("RVQC/Bundle") == str(out)


def test_torn_and_removed_studies_are_named_and_resume_finishes(
    walk: Walk, panel: Any, data: Path, tmp_path: Path
) -> None:
    from RVQCRefineLib.settings_page import MODES

    new, dialog = tmp_path / "new", walk.dialog
    shutil.copytree(data / "new", new)
    image = new / "patient102" / "patient102_frame01.nii.gz"
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) * 2 // 3])  # the header that the scan reads is there
    walk.choose_folder(new)
    dialog.settings.mode.currentIndex = list(MODES).index(
        "paper"
    )  # without a guard the networks change, so all is done anew
    walk.set(bundle=data / "parent", labelled=data / "labelled", epochs=1, steps=1, batch=4)
    walk.start()
    walk.wait_for("epoch")
    shutil.move(new / "patient104", tmp_path / "moved")
    walk.wait_until("done")
    out = tmp_path / "tiny-refined"
    result = read_json(out / "refinement.json")
    assert [entry["study"] for entry in result["failed"]] == ["patient102", "patient104"]
    assert [entry["study"] for entry in result["studies"]] == ["patient101", "patient103"]
    log = dialog.run.log.toPlainText()
    assert "left out: patient102, " in log and "left out: patient104, " in log
    assert dialog.run.said.text.startswith("2 studies could not be read; Resume tries them again.")
    panel.click(dialog.next)
    said = dialog.review.counts.text
    assert all(f"{entry['study']}: {entry['reason']}" in said for entry in result["failed"])
    rows = {row.key: row for row in dialog.review.table.rows}
    assert rows["patient104", "SA", "ED"].after is None and rows["patient103", "SA", "ED"].after is not None

    image.write_bytes(whole)
    shutil.move(tmp_path / "moved", new / "patient104")
    panel.click(dialog.back)
    panel.click(dialog.run.resume)
    assert dialog.session.state == "running"
    walk.wait_until("done")
    result = read_json(out / "refinement.json")
    assert result["failed"] == [] and [entry["study"] for entry in result["studies"]] == [
        f"patient10{n}" for n in range(1, 5)
    ]
    assert not dialog.run.resume.enabled
    panel.click(dialog.next)
    assert len(dialog.review.table.rows) == 8 and all(row.after for row in dialog.review.table.rows)
    assert "Without a new mask" not in dialog.review.counts.text


def test_an_edited_mask_is_named_and_every_number_is_still_that_of_the_files(
    walk: Walk, panel: Any, data: Path, tmp_path: Path
) -> None:
    for name in ("saved", "saved.refinement"):
        shutil.copytree(data / name, tmp_path / name)
    work = tmp_path / "saved.refinement"

    def shown() -> list[list[str]]:
        walk.dialog.open_run(str(tmp_path / "saved"))
        table = walk.dialog.review.table.widget
        return [[table.item(r, c).text() for c in range(table.columnCount)] for r in range(table.rowCount)]

    before = shown()
    mask = work / "studies" / "patient102" / "after" / "patient102_SA_ED.nii.gz"
    shutil.copyfile(data / "labelled" / "patient001" / "patient001_frame01_gt.nii.gz", mask)
    edited = sha256(mask)
    walk.restart()
    after = shown()
    (place,) = [k for k, row in enumerate(after) if "edited since" in row[3]]
    assert after[place][:2] == ["patient102", "SA ED"]
    assert [[c.removesuffix(", edited since") for c in row] for row in after] == before
    row = walk.dialog.review.table.rows[place]
    assert row.after.stack in read_json(mask.parent / "quality.json")["stacks"]
    panel.type(walk.dialog.review.reviewer, "Ada")
    walk.dialog.review.into_scene.checked = False
    walk.select([place])
    walk.decide("accepted")
    assert sha256(work / "accepted" / "patient102_SA_ED.nii.gz") == edited == sha256(mask)
    walk.restart()
    assert [row[-1] for row in shown()] == ["accepted by Ada" if k == place else "not decided" for k in range(8)]


def test_a_run_that_somebody_works_on_is_not_resumed(walk: Walk, panel: Any, data: Path, tmp_path: Path) -> None:
    from RVQCLib.locks import LOCK, sole_run

    shutil.copytree(data / "saved.refinement", tmp_path / "saved.refinement")
    walk.dialog.open_run(str(tmp_path / "saved.refinement"))
    events = len(walk.events())
    with sole_run(walk.work / LOCK, str(walk.work)):
        panel.click(walk.dialog.run.resume)
        assert "saved.refinement is being worked on by" in walk.dialog.message.text
    assert walk.dialog.session.state == "interrupted" and len(walk.events()) == events


@pytest.fixture
def saved(data: Path, tmp_path: Path) -> Path:
    """A copy of the saved run: the folder of its bundle."""
    for name in ("saved", "saved.refinement"):
        shutil.copytree(data / name, tmp_path / name)
    return tmp_path / "saved"


def test_a_run_that_ends_during_a_decision_changes_nothing_of_it(
    walk: Walk, panel: Any, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from RVQCRefineLib import decisions

    walk.dialog.open_run(str(saved))
    page, decide = walk.dialog.review, decisions.decide
    chosen = [row.key for row in page.table.rows[:3]]
    worst = page.table.rows[-1]

    def decide_and_sort_anew(*args: Any, **kwargs: Any) -> Any:
        quality = worst.after.mask.parent / "quality.json"
        content = read_json(quality)
        for stack in content["stacks"]:
            stack["verdict"], stack["structures"]["RV"]["predicted_dice"] = "ood", 0.0
        write_json(quality, content)
        row = decide(*args, **kwargs)
        walk.dialog.session.tell("run")
        walk.dialog.show()
        return row

    panel.type(page.reviewer, "Ada")
    walk.select([0, 1, 2])
    monkeypatch.setattr(decisions, "decide", decide_and_sort_anew)
    walk.decide("accepted")
    assert [(r.study, r.view, r.phase) for r in read_reviews(walk.work / "reviews.jsonl")] == chosen
    assert {file.name for file in (walk.work / "accepted").iterdir()} == {f"{'_'.join(key)}.nii.gz" for key in chosen}
    rows = page.table.rows
    assert rows[0].study == worst.study and {row.key for row in rows if row.decision} == set(chosen)
    (place,) = page.table.places
    assert not rows[place].decision


def copy_batch(data: Path, home: Path) -> None:
    """A copy of the batch, and of the studies that it names."""
    shutil.copytree(data / "new", home / "new")
    shutil.copytree(data / "batch", home / "batch")
    content = read_json(data / "batch" / "run.json")
    for study in content["studies"]:
        for entry in study["inputs"]:
            entry["file"] = str(home / Path(entry["file"]).relative_to(data))
    write_json(home / "batch" / "run.json", content)


def test_an_image_that_changed_since_the_qc_is_neither_shown_nor_decided_on(
    walk: Walk, panel: Any, data: Path, tmp_path: Path
) -> None:
    import slicer

    from RVQCRefineLib.decisions import image_of

    copy_batch(data, tmp_path)
    walk.dialog.open_run(str(tmp_path / "batch"))
    page = walk.dialog.review
    panel.type(page.reviewer, "Ada")
    first, second = page.table.rows[:2]
    file = Path(image_of(walk.dialog.session.studies, second)["file"])
    shutil.copyfile(data / "labelled" / "patient001" / "patient001_frame01.nii.gz", file)
    walk.select([1])
    said = f"{file} has changed since the QC ran; bring the old file back, or run the QC again."
    assert walk.dialog.message.text == said
    assert not slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    walk.select([0, 1])
    walk.decide("accepted")
    assert walk.dialog.message.text == said
    (review,) = read_reviews(tmp_path / "batch" / "reviews.jsonl")
    assert (review.study, review.phase) == (first.study, first.phase)
    assert [name.name for name in (tmp_path / "batch" / "accepted").iterdir()] == [f"{'_'.join(first.key)}.nii.gz"]


def test_a_study_of_the_same_name_in_another_run_has_its_own_image(
    walk: Walk, panel: Any, data: Path, tmp_path: Path
) -> None:
    import slicer

    from RVQCRefineLib.decisions import image_of
    from RVQCRefineLib.side_by_side import accept_into_scene

    walk.dialog.open_run(str(data / "saved"))
    page = walk.dialog.review
    row = page.table.rows[0]
    other = next(one.study for one in page.table.rows if one.study != row.study)
    accept_into_scene(walk.work, row, image_of(walk.dialog.session.studies, row), row.after.mask)
    (kept,) = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")

    copy_batch(data, tmp_path)
    quality = tmp_path / "batch" / row.study / "quality.json"
    file = tmp_path / "new" / row.study / f"{row.study}_frame{'01' if row.phase == 'ED' else '12'}.nii.gz"
    shutil.copyfile(data / "new" / other / file.name.replace(row.study, other), file)
    content = read_json(quality)
    for stack in content["stacks"]:
        if stack["phase"] == row.phase:
            stack["image"]["sha256"] = sha256(file)
    write_json(quality, content)
    walk.dialog.open_run(str(tmp_path / "batch"))
    page.follow.checked = True
    walk.select([[one.key for one in page.table.rows].index(row.key)])
    assert walk.dialog.message.text == ""
    shown = [node for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if node is not kept]
    assert len(shown) == 1 and (slicer.util.arrayFromVolume(shown[0]) != slicer.util.arrayFromVolume(kept)).any()
    walk.dialog.window.close()
    assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") == [kept]
