"""The log of decisions: whole lines, two writers, agreement by hand."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from RVQCLib.cli import main
from RVQCLib.files import RVQCError
from RVQCLib.reviews import Review, append_review, cohens_kappa, damaged_lines, read_reviews, summarize


def review(study: str = "001", decision: str = "accepted", reviewer: str = "anna", **more: str) -> Review:
    return Review(study, "SA", "ED", decision, reviewer, **more)


def write_many(path: str, reviewer: str, count: int) -> None:
    for number in range(count):
        append_review(path, review(str(number), reviewer=reviewer, note="ü" * 3000))


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "reviews.jsonl"
    first = review(note='RV leaks\ninto "LV" – see slice 3', image_sha256="a" * 64, mask_sha256="b" * 64)
    second = review("Müller", "needs edit", bundle_hash="c" * 64)
    append_review(path, first)
    append_review(path, second)
    assert read_reviews(path) == (first, second)
    assert [json.loads(line) for line in path.read_text("utf-8").splitlines()] == [asdict(first), asdict(second)]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", first.time)


def test_no_log_is_no_reviews(tmp_path: Path) -> None:
    assert read_reviews(tmp_path / "reviews.jsonl") == ()


@pytest.mark.parametrize(
    "wrong", [{"decision": "ok"}, {"reviewer": ""}, {"reviewer": "  "}, {"study": ""}, {"note": None}]
)
def test_a_review_cannot_be_built_wrong(wrong: dict) -> None:
    with pytest.raises(RVQCError):
        review(**wrong)


def test_two_writers_lose_no_line_and_mix_none(tmp_path: Path) -> None:
    path, context = tmp_path / "reviews.jsonl", multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(str(path), name, 60)) for name in ("anna", "bela")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert damaged_lines(path) == ()
    by_name = {name: [r.study for r in read_reviews(path) if r.reviewer == name] for name in ("anna", "bela")}
    assert by_name == {name: [str(n) for n in range(60)] for name in ("anna", "bela")}


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "reviews.jsonl"
    append_review(path, review())
    before, write = path.read_bytes(), os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:10]))
    with pytest.raises(OSError, match="only 10 of"):
        append_review(path, review("002"))
    assert path.read_bytes() == before

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        append_review(path, review("002"))
    assert path.read_bytes() == before


def test_a_torn_line_costs_only_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "reviews.jsonl"
    append_review(path, review("001"))
    with path.open("ab") as stream:
        stream.write(b'{"study": "00')
    append_review(path, review("003"))
    assert [r.study for r in read_reviews(path)] == ["001", "003"]
    assert damaged_lines(path) == (2,)
    assert caplog.messages == [f"{path}: 1 of its lines are no reviews and are left out, line 2 first."]


def test_keys_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "reviews.jsonl"
    path.write_text(json.dumps({**asdict(review()), "room": "3"}) + "\n")
    assert len(read_reviews(path)) == 1


def test_kappa_by_hand() -> None:
    # 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no: p_o = 0.7, p_e = 0.5 · 0.6 + 0.5 · 0.4 = 0.5
    pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    assert cohens_kappa(pairs) == pytest.approx(0.4)
    assert cohens_kappa([("y", "y"), ("n", "n")]) == 1
    assert cohens_kappa([("y", "n"), ("n", "y")]) == -1
    assert cohens_kappa([("y", "y")] * 5) is None
    assert cohens_kappa([]) is None


def test_the_summary_compares_the_last_word_on_the_same_mask() -> None:
    said = [
        *(review("1", mask_sha256="m"), review("2", mask_sha256="m"), review("3", mask_sha256="m")),
        review("1", "rejected", "bela", mask_sha256="m"),
        review("1", "accepted", "bela", mask_sha256="m"),
        review("2", "rejected", "bela", mask_sha256="m"),
        review("3", "rejected", "bela", mask_sha256="another mask of the same stack"),
    ]
    summary = summarize(said)
    assert (summary["n_reviews"], summary["n_masks"]) == (7, 4)
    assert summary["reviewers"]["bela"] == {"accepted": 1, "rejected": 2, "needs edit": 0, "kept old": 0}
    assert summary["agreement"] == [{"reviewers": ["anna", "bela"], "n": 2, "agree": 0.5, "kappa": 0.0}]
    assert summary["disputed"] == [
        {"study": "2", "view": "SA", "phase": "ED", "decisions": {"anna": "accepted", "bela": "rejected"}}
    ]


def test_one_person_is_one_reviewer_however_the_name_is_typed() -> None:
    for names in (("Ada", "ada", " Ada "), ("Ada  Müller", "ada mu\u0308ller", "ADA\tMÜLLER"), ("Weiß", "WEISS")):
        said = [review(str(n), reviewer=name, mask_sha256="m") for n, name in enumerate(names)]
        said.append(review("0", "rejected", names[-1], mask_sha256="M"))
        summary, shown = summarize(said), names[0].replace("  ", " ")
        assert list(summary["reviewers"]) == [shown] and summary["agreement"] == summary["disputed"] == []
        assert summary["reviewers"][shown]["rejected"] == 1
    assert len(summarize([review(), review(reviewer="Anna B.")])["reviewers"]) == 2


def test_the_command_says_it_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("anna", "bela"):
        append_review(tmp_path / "reviews.jsonl", review(reviewer=name))
    append_review(tmp_path / "reviews.jsonl", review("002", "rejected", "bela"))
    assert main(["reviews", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "3 reviews of 2 masks" in text
    assert "anna and bela: same decision on 1 of 1" in text
    assert main(["reviews", str(tmp_path / "reviews.jsonl"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["damaged_lines"] == []


def test_the_command_needs_a_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reviews", str(tmp_path)]) == 2
    assert "reviews.jsonl" in capsys.readouterr().err
