"""The page of a batch: whole in one file, quick with a thousand studies, and its filter works under a real click."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser, find_chromium
from conftest import schematic_study
from test_report import filled

from RVQCLib.cohort import _reason
from RVQCLib.cohort_files import CohortFiles, study_verdict
from RVQCLib.cohort_table import COLUMNS, append_rows, read_table, write_table
from RVQCLib.files import append_line
from RVQCLib.manifest import Journal
from RVQCLib.quality import QCOptions
from RVQCLib.stack import STRUCTURES, Geometry, Stack
from RVQCLib.thumbnail import PIXELS, thumbnail

STUDIES = 1000
HEADER = {
    "folder": "/data/hearts",
    "bundle": {"name": "test", "hash": "0" * 64},
    "options": QCOptions().to_json(),
    **dict.fromkeys(("device", "versions", "part", "started", "finished"), "known"),
    "n_found": STUDIES,
    "cautions": ["LA: only for tests"],
}
FENCES = {structure: {"th_low": 0.8, "th_up": 20.0, "n": 80} for structure in STRUCTURES}


def stack_record(study: str, phase: str, generator: np.random.Generator, picture: dict[str, Any]) -> dict[str, Any]:
    """A stack whose single candidate has random scores; OoD where its RV is beyond FENCES."""
    pDC, pHD = float(generator.uniform(0.6, 1)), float(generator.uniform(0, 25))
    ood = pDC < 0.8 or pHD > 20
    look = not ood and pHD > 15
    measures = {"pDC": pDC, "pHD_mm": pHD, "agreement": 0.9, "predicted_dice": pDC, "lower_bound_90": pDC - 0.1}
    reasons = ["unusual shape: RV of every candidate"] if ood else ["anatomy: slice 2"] if look else []
    return {
        **{"view": "SA", "phase": phase, "mask": f"{study}_SA_{phase}.nii.gz", "selected": [0], "ood": ood},
        "verdict": "ood" if ood else "look" if look else "trusted",
        "reasons": reasons,
        "structures": {structure: {**measures, "volume_ml": 100.0} for structure in STRUCTURES},
        "candidates": [{"pDC": dict.fromkeys(STRUCTURES, pDC), "pHD_mm": dict.fromkeys(STRUCTURES, pHD)}],
        "fences": {"used": "reference", "note": "", "reference": FENCES, "cohort": None},
        "evidence": {"failed": [], "doubts": [], "flagged_share": 0.0},
        "n_slices": 3,
        "slices": [],
        "thumbnail": picture,
    }


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a batch of a thousand studies, of which study 0007 failed, written from a journal of records."""
    out = tmp_path_factory.mktemp("pages")
    generator = np.random.default_rng(3)
    study = schematic_study("one", 1, views=("SA",))
    picture = thumbnail(study.stacks[0], study.labels[0], {"slices": []})
    lines = []
    for number in range(STUDIES):
        name = f"{number:04d}"
        record = {"study": name, "state": "done", "settings": "s", "finished": "2024-01-01", "seconds": 1.0}
        record |= {
            "error": "",
            "checks": ["LA: only for tests", "ES is larger than ED"],
            "inputs": [],
            "outputs": {},
            "bundle": HEADER["bundle"],
        }
        if number == 7:
            failed = {"state": "failed", "error": "</script><b>0007</b> is & was not an image; restore it."}
            lines.append({**record, **failed, "stacks": []})
        else:
            lines.append({**record, "stacks": [stack_record(name, p, generator, picture) for p in ("ED", "ES")]})
    append_line(out / ".run" / "part-1-of-1.jsonl", "\n".join(map(json.dumps, lines)))
    CohortFiles(out, Journal(out, settings="s"), QCOptions()).write(HEADER)
    return out


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if find_chromium() is None:
        pytest.skip("there is no chromium here; install it to test the page as a user sees it")
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


READY = "document.documentElement.dataset.ready"
COUNT = "document.getElementById('count').textContent"
FIRST = "[...document.querySelectorAll('#body tr')].map((row) => row.dataset.study)"


def test_a_study_of_odd_anatomy_is_to_be_looked_at() -> None:
    stacks = [{"verdict": "trusted", "reasons": []}, {"verdict": "trusted", "reasons": []}]
    record = {"state": "done", "stacks": stacks, "checks": ["SA ED: its name does not say which phase it is"]}
    assert (study_verdict(record), _reason(record)) == ("trusted", "")
    for check in ("LA: only for tests", "anatomy: SA RV is larger at end-systole than at end-diastole"):
        record["checks"][1:] = [check]
        assert (study_verdict(record), _reason(record)) == ("look", check)
    stacks[1] |= {"verdict": "ood", "reasons": ["unusual shape"]}
    assert (study_verdict(record), _reason(record)) == ("ood", "unusual shape")


def test_a_row_has_the_verdict_of_its_studys_checks(tmp_path: Path) -> None:
    odd = "anatomy: SA RV is larger at end-systole than at end-diastole"
    study = schematic_study("one", 1, views=("SA",))
    picture = thumbnail(study.stacks[0], study.labels[0], {"slices": []})
    one = {
        **stack_record("one", "ED", np.random.default_rng(3), picture),
        "ood": False,
        "verdict": "trusted",
        "reasons": [],
    }
    stacks = [one, {**one, "phase": "ES", "ood": True, "verdict": "ood", "reasons": ["unusual shape"]}]
    stacks += [{**one, "view": "LA"}]
    common = {"state": "done", "settings": "s", "finished": "2024-01-01", "seconds": 1.0, "error": ""}
    common |= {"inputs": [], "outputs": {}, "stacks": stacks}
    caution = "SA: only for tests"
    for name, checks in (("sound", []), ("odd", [odd]), ("cautioned", [caution])):
        append_line(tmp_path / ".run" / "part-1-of-1.jsonl", json.dumps({"study": name, "checks": checks, **common}))
    content = CohortFiles(tmp_path, Journal(tmp_path), QCOptions()).write(
        {**HEADER, "n_found": 3, "cautions": [caution]}
    )
    table = {(row["study"], row["view"], row["phase"]): row for row in read_table(tmp_path)}
    told = {key: (row["verdict"], row["reasons"], row["ood"]) for key, row in table.items()}
    assert told["odd", "SA", "ED"] == ("look", odd, False) and told["cautioned", "SA", "ED"] == ("look", caution, False)
    assert told["odd", "SA", "ES"] == ("ood", "unusual shape", True)
    assert (
        told["sound", "SA", "ED"]
        == told["odd", "LA", "ED"]
        == told["cautioned", "LA", "ED"]
        == ("trusted", None, False)
    )
    assert content["summary"]["stacks"] == {"ood": 3, "look": 2, "trusted": 4}
    assert [row["verdict"] for row in read_table(tmp_path)] == ["ood"] * 3 + ["look"] * 2 + ["trusted"] * 4
    text = (tmp_path / "cohort.html").read_text(encoding="utf-8")
    rows = json.loads(re.search(r'id="rows">(.*?)</script>', text, re.S)[1])
    shown = {(row["study"], row["stack"]): (row["verdict"], row["reasons"], row["checks"]) for row in rows}
    assert shown["odd", "SA_ED"] == ("look", [odd], []) and shown["odd", "LA_ED"] == ("trusted", [], [odd])
    assert shown["cautioned", "SA_ED"] == ("look", [], []) and text.count(caution) == 1
    assert text.count(": look at it</title>") == 2 * 3  # one bar a measure and structure


def test_the_page_loads_nothing_and_runs_one_script(pages: Path) -> None:
    text = (pages / "cohort.html").read_text(encoding="utf-8")
    script = re.findall(r"<script>(.*?)</script>", text, re.S)
    assert len(script) == 1
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in text
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:|#)""", text.split('id="rows"')[0])
    assert "not a medical device" in text.lower() and "</script><b>" not in text
    rows = json.loads(re.search(r'id="rows">(.*?)</script>', text, re.S)[1])
    assert len(rows) == 2 * STUDIES - 1 and rows[-1]["checks"] == ["ES is larger than ED"]
    assert text.count("LA: only for tests") == 1


def test_rows_are_worst_first_in_table_and_page(pages: Path) -> None:
    table = read_table(pages)
    assert tuple(table[0]) == COLUMNS and table[0]["study"] == "0007" and table[0]["verdict"] == "failed"
    keys = [(("ood", "look", "trusted").index(row["verdict"]), row["RV_predicted_dice"]) for row in table[1:]]
    assert keys == sorted(keys) and len({key[0] for key in keys}) == 3
    text = (pages / "cohort.html").read_text(encoding="utf-8")
    rows = json.loads(re.search(r'id="rows">(.*?)</script>', text, re.S)[1])
    assert [row["study"] for row in rows] == [row["study"] for row in table]


def test_a_single_slice_has_no_volume(tmp_path: Path) -> None:
    study = schematic_study("one", 1, views=("SA",))
    picture = thumbnail(study.stacks[0], study.labels[0], {"slices": []})
    stacks = [stack_record("one", phase, np.random.default_rng(3), picture) for phase in ("ED", "ES")]
    record = {"study": "one", "state": "done", "settings": "s", "finished": "2024-01-01", "seconds": 1.0, "error": ""}
    record |= {"checks": [], "inputs": [], "outputs": {}, "stacks": [{**stacks[0], "n_slices": 1}, stacks[1]]}
    append_line(tmp_path / ".run" / "part-1-of-1.jsonl", json.dumps(record))
    CohortFiles(tmp_path, Journal(tmp_path), QCOptions()).write({**HEADER, "n_found": 1})
    assert {(row["phase"], row["LV_volume_ml"]) for row in read_table(tmp_path)} == {("ED", None), ("ES", 100.0)}
    text = (tmp_path / "cohort.html").read_text(encoding="utf-8")
    rows = json.loads(re.search(r'id="rows">(.*?)</script>', text, re.S)[1])
    assert {(row["stack"], row["numbers"]["LV"][-1]) for row in rows} == {("SA_ED", None), ("SA_ES", 100.0)}


def test_a_spreadsheet_reads_umlauts_and_runs_no_name(tmp_path: Path) -> None:
    names = ["Müller", "=1+1", "+1", "-1", "@x", "'=1", "'s", "a=b"]
    rows = [{"study": name, "mask": f"{name}_SA_ED.nii.gz", "seconds": -1.5} for name in names]
    write_table(tmp_path, rows[:2])
    append_rows(tmp_path, rows[2:])
    content = (tmp_path / "cohort.csv").read_bytes()
    assert content.count(b"\xef\xbb\xbf") == 1 and content.startswith(b"\xef\xbb\xbfstudy,")
    cells = [line.split(",")[0] for line in content.decode("utf-8-sig").splitlines()[1:]]
    assert cells == ["Müller", "'=1+1", "'+1", "'-1", "'@x", "''=1", "'s", "a=b"]
    assert [{key: row[key] for key in rows[0]} for row in read_table(tmp_path)] == rows
    (tmp_path / "cohort.csv").write_bytes(content[3:])  # as older versions wrote it
    assert [row["study"] for row in read_table(tmp_path)] == names


def test_charts_count_every_stack_and_draw_both_fences(pages: Path) -> None:
    text = (pages / "cohort.html").read_text(encoding="utf-8")
    charts = re.findall(r'<svg viewBox="0 0 520 186".*?</svg>', text, re.S)
    assert len(charts) == 2 * len(STRUCTURES) * 2  # phases, structures, measures
    for chart in charts:
        counts = [int(count) for count in re.findall(r"<title>(\d+) of ", chart)]
        assert sum(counts) == STUDIES - 1
        assert 'class="fence reference"' in chart and 'class="fence cohort"' in chart
    fence = json.loads((pages / "run.json").read_text())["fences"]["SA_ED"]
    assert f"reference {fence['reference']['RV']['th_low']:.2f}" in charts[0]
    assert f"cohort {fence['cohort']['RV']['th_low']:.2f}" in charts[0]


def test_a_row_names_the_fences_that_judged_it(tmp_path: Path) -> None:
    """The second networks of a refined bundle have fences of their own; the first study of the journal is judged by them."""
    study = schematic_study("one", 1, views=("SA",))
    picture = thumbnail(study.stacks[0], study.labels[0], {"slices": []})
    refined = {**FENCES, "RV": {"th_low": 0.913, "th_up": 7.4, "n": 20}}
    common = {"state": "done", "settings": "s", "finished": "2024-01-01", "seconds": 1.0, "error": "", "checks": []}
    for name, table in (("0", refined), ("1", FENCES), ("2", FENCES), ("3", None)):
        stack = stack_record(name, "ED", np.random.default_rng(3), picture)
        stack["fences"] = {**stack["fences"], "reference": table}
        line = {"study": name, "inputs": [], "outputs": {}, "stacks": [stack], **common}
        append_line(tmp_path / ".run" / "part-1-of-1.jsonl", json.dumps(line))
    told = CohortFiles(tmp_path, Journal(tmp_path), QCOptions()).write({**HEADER, "n_found": 4})["fences"]["SA_ED"]
    assert (told["reference"], told["references"]) == (FENCES, [FENCES, refined])
    text = (tmp_path / "cohort.html").read_text(encoding="utf-8")
    rows = json.loads(re.search(r'id="rows">(.*?)</script>', text, re.S)[1])
    assert {row["study"]: row["fences"] for row in rows} == {"0": 1, "1": 0, "2": 0, "3": None}
    charts = re.findall(r'<svg viewBox="0 0 520 186".*?</svg>', text, re.S)
    assert re.findall(r">(reference [\d.]+)<", charts[0]) == ["reference 0.80", "reference 0.91"]
    assert re.findall(r">(reference [\d.]+)<", charts[1]) == ["reference 20.0", "reference 7.4"]


def test_a_thousand_studies_open_in_three_seconds(pages: Path, browser: Browser) -> None:
    seconds = min(browser.open(pages / "cohort.html", READY) for _ in range(3))
    assert seconds < 3 and not browser.problems
    assert browser.value(COUNT) == f"All {2 * STUDIES - 1:,} rows, worst first"
    assert browser.value(FIRST)[0] == "0007"


def test_a_click_filters_and_a_second_one_shows_all(pages: Path, browser: Browser) -> None:
    browser.open(pages / "cohort.html", READY)
    table = read_table(pages)
    look = [row["study"] for row in table if row["verdict"] == "look"]
    browser.click("button[data-verdict=look]")
    assert browser.value(COUNT) == f"{len(look):,} of {len(table):,} rows"
    assert browser.value(FIRST) == look[: len(browser.value(FIRST))]
    assert (
        browser.value("new Set([...document.querySelectorAll('#body .why .state')].map((e) => e.className)).size") == 1
    )
    browser.click("button[data-verdict=look]")
    assert browser.value(COUNT).startswith("All")


def test_typing_finds_studies_and_reasons(pages: Path, browser: Browser) -> None:
    browser.open(pages / "cohort.html", READY)
    browser.click("#text")
    browser.type("0123")
    assert browser.value(FIRST) == ["0123", "0123"]
    browser.click("#clear")
    browser.click("#text")
    browser.type("Anatomy SA_ES")
    expected = [r["study"] for r in read_table(pages) if r["phase"] == "ES" and "anatomy" in (r["reasons"] or "")]
    assert browser.value(COUNT).startswith(f"{len(expected)} of ") and expected
    assert browser.value(FIRST) == expected[: len(browser.value(FIRST))]


def test_a_column_sorts_and_a_failed_study_stays_last(pages: Path, browser: Browser) -> None:
    browser.open(pages / "cohort.html", READY)
    browser.click("button[data-sort=pHD_mm]")
    far = sorted((row["RV_pHD_mm"] for row in read_table(pages) if row["RV_pHD_mm"] is not None), reverse=True)
    shown = browser.value("[...document.querySelectorAll('#body tr')].slice(0, 5).map((r) => r.cells[5].innerText)")
    assert shown == [f"{float(f'{value:.4g}'):.1f}" for value in far[:5]]  # the page holds four digits


def test_a_row_leads_to_its_study(pages: Path, browser: Browser) -> None:
    browser.open(pages / "cohort.html", READY)
    links = browser.value(
        "[...document.querySelectorAll('#body tr')].slice(0, 2).map((r) => r.querySelector('a')?.href)"
    )
    worst = read_table(pages)[1]
    assert links[0] is None  # the failed one has no page
    assert links[1] == (pages / worst["study"] / "report.html").as_uri() + f"#SA_{worst['phase']}"
    (pages / worst["study"]).mkdir()
    (pages / worst["study"] / "report.html").write_text("<title>its page</title>")
    browser.click(f"#body tr[data-study='{worst['study']}'] .picture a")
    time.sleep(1.0)  # outside the browser: a page that is being left answers no question
    assert browser.value("document.title") == "its page"


def test_a_thumbnail_shows_the_slice_to_look_at() -> None:
    study = schematic_study("one", 1, views=("SA",))
    image, mask = study.stacks[0], study.labels[0]
    entry = {"slices": [{"index": i, "flag": i == 2, "reasons": ["a"]} for i in range(3)]}
    assert thumbnail(image, mask, entry)["slice"] == 2
    picture = thumbnail(image, mask, {"slices": []})
    area = (mask.pixels == 3).sum(axis=(1, 2))
    assert picture["slice"] == area.argmax() and set(picture["paths"]) == {"RV", "LV", "MYO"}
    png = base64.b64decode(picture["picture"].removeprefix("data:image/png;base64,"))
    assert int.from_bytes(png[16:20], "big") == int.from_bytes(png[20:24], "big") == PIXELS
    empty = thumbnail(image, mask.with_pixels(np.zeros_like(mask.pixels)), {"slices": []})
    assert empty["slice"] == 1 and empty["paths"] == {}


def test_a_thumbnail_keeps_the_shape_and_is_turned_upright_with_its_outlines() -> None:
    pixels = np.zeros((1, 100, 100), np.uint8)
    pixels[0, 30:50, 40:50] = 3  # 20 rows of 1 mm, 10 columns of 2 mm
    grey = np.random.default_rng(0).random(pixels.shape).astype(np.float32)
    upright = Geometry(spacing=(2.0, 1.0, 8.0))
    turned = replace(upright, direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1))
    one, other = (
        thumbnail(
            *(Stack(np.ascontiguousarray(p[..., ::step, ::step]), geometry, "SA", "ED") for p in (grey, pixels)),
            {"slices": []},
        )
        for step, geometry in ((1, upright), (-1, turned))
    )
    assert one == other
    extent = np.ptp(np.argwhere(filled(one["paths"]["RV"], (PIXELS, PIXELS))), axis=0)
    assert abs(extent[0] - extent[1]) <= 2
