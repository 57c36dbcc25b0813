"""The pages: whole in one file, nothing left out, nothing unescaped, and drawings that say what the masks say."""

from __future__ import annotations

import copy
import re
import time
from collections import Counter
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from RVQCLib import charts, drawing, report
from RVQCLib.study import LABELS, STRUCTURES, Geometry, Stack

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
VOID = {"meta", "link", "input", "br", "img", "hr"}


# ---- material


def heart(slices: int = 3, size: int = 60) -> np.ndarray:
    """A ring of myocardium around an LV disc with an RV box at its side, in every slice but the first."""
    labels = np.zeros((slices, size, size), np.uint8)
    y, x = np.mgrid[:size, :size]
    radius = np.hypot(y - size / 2, x - size / 2)
    labels[:, (abs(y - size / 2) < 8) & (x > 8) & (x < 22)] = LABELS["RV"]
    labels[:, radius < 12] = LABELS["MYO"]
    labels[:, radius < 7] = LABELS["LV"]
    if slices > 1:
        labels[0] = 0
    return labels


def triple(view: str = "SA", phase: str = "ED", mask: np.ndarray | None = None, again: np.ndarray | None = None):
    mask = heart() if mask is None else mask
    geometry = Geometry((0.0, 0.0, 0.0), (1.5, 1.5, 8.0), IDENTITY)
    image = np.random.default_rng(0).normal(100, 20, mask.shape).astype(np.float32)
    return tuple(Stack(p, geometry, view, phase) for p in (image, mask, mask if again is None else again))


def measures(**changes) -> dict:
    usual = {"pDC": 0.95, "pHD_mm": 4.5, "agreement": 0.93, "predicted_dice": 0.912, "lower_bound_90": 0.843}
    return usual | changes


def judgement(view: str = "SA", phase: str = "ED", *, slices: int = 3, verdict: str = "trusted", **changes) -> dict:
    fences = {name: {"th_low": 0.9, "th_up": 12.0, "n": 40} for name in STRUCTURES}
    return {
        "view": view,
        "phase": phase,
        "mask": f"case_{view}_{phase}.nii.gz",
        "selected": [1],
        "selection_rule": "top",
        "selection_reason": "Candidate 2 has pDC 0.95.",
        "ood": verdict == "ood",
        "verdict": verdict,
        "reasons": [],
        "fences": {"used": "reference", "reference": fences, "cohort": None},
        "structures": {name: measures(volume_ml=120.0) for name in STRUCTURES},
        "candidates": [
            {"network": f"BN{k}", "pDC": dict.fromkeys(STRUCTURES, 0.9), "pHD_mm": dict.fromkeys(STRUCTURES, 5.0 * k)}
            for k in (1, 2, 3)
        ],
        "slices": [
            {
                "index": index,
                "position": "mid",
                "flag": False,
                "reasons": [],
                "structures": {name: measures(reason="", flag=False) for name in STRUCTURES},
            }
            for index in range(slices)
        ],
    } | changes


def result(*judgements: dict, **changes) -> dict:
    return {
        "study": "case",
        "bundle": {"name": "rvqc-test", "hash": "abc123"},
        "device": "cpu",
        "stacks": list(judgements),
    } | changes


def page(*judgements: dict, **changes) -> str:
    return report.study_page(result(*judgements, **changes), [triple(j["view"], j["phase"]) for j in judgements])


class Outline(HTMLParser):
    """Counts elements, collects addresses and text, and checks that elements nest."""

    def __init__(self, text: str):
        super().__init__()
        self.stack, self.addresses, self.classes, self.words = [], [], Counter(), []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.addresses += [v for k, v in attrs if k in ("src", "href", "xlink:href", "action", "data", "srcset")]
        self.classes.update((dict(attrs).get("class") or "").split())
        assert tag != "script"
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if "style" not in self.stack:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def assert_self_contained(text: str) -> Outline:
    parsed = Outline(text)
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in parsed.addresses)
    assert "http://" not in text and "https://" not in text and "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    return parsed


# ---- drawing


@pytest.mark.parametrize("shape", [(7, 5), (1, 1), (6, 9, 3)])
def test_png_is_read_back_by_simpleitk(tmp_path, shape):
    pixels = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    path = tmp_path / "picture.png"
    path.write_bytes(drawing.png(pixels))
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), pixels)


@pytest.mark.parametrize("pixels", [np.zeros((3, 3)), np.zeros((3, 3, 4), np.uint8), np.zeros((0, 3), np.uint8)])
def test_png_refuses_what_it_cannot_hold(pixels):
    with pytest.raises(ValueError, match="PNG"):
        drawing.png(pixels)


def test_grey_window_is_linear_and_survives_bad_pixels():
    assert drawing.to_grey(np.array([0.0, 50.0, 100.0]), percentiles=(0, 100)).tolist() == [0, 128, 255]
    assert drawing.to_grey(np.array([np.nan, 0.0, 10.0, np.inf]), percentiles=(0, 100)).tolist() == [0, 0, 255, 0]
    assert drawing.to_grey(np.full((2, 2), np.nan)).tolist() == [[0, 0], [0, 0]]
    assert drawing.to_grey(np.full((2, 2), 7.0)).tolist() == [[0, 0], [0, 0]]


def polygons(path: str) -> list[np.ndarray]:
    """The vertices, in half pixels, of a path of `M x y l dx dy … z` loops."""
    loops = []
    for loop in path.split("z")[:-1]:
        start, steps = loop.removeprefix("M").split("l")
        loops.append(np.cumsum([[int(n) for n in start.split()], *np.reshape(steps.split(), (-1, 2)).astype(int)], 0))
    return loops


def filled(path: str, shape: tuple[int, int]) -> np.ndarray:
    """Pixels whose centre the path covers by the even-odd rule (a ray to the right, worked out by hand)."""
    inside = np.zeros(shape, bool)
    y, x = np.indices(shape) * 2 + 1
    for loop in polygons(path):
        for (x0, y0), (x1, y1) in zip(loop, np.roll(loop, -1, axis=0), strict=True):
            if y0 != y1:
                height = y + 1e-6
                inside ^= ((y0 > height) != (y1 > height)) & (x < x0 + (height - y0) * (x1 - x0) / (y1 - y0))
    return inside


def test_outline_of_one_pixel_is_a_diamond_through_its_edges():
    mask = np.zeros((3, 4), bool)
    mask[1, 2] = True
    (loop,) = polygons(drawing.outline(mask))
    assert {tuple(p) for p in loop.tolist()} == {(5, 2), (6, 3), (5, 4), (4, 3)}  # half pixels: x 4..6, y 2..4


def test_outline_of_nothing_is_empty_and_of_a_bar_has_no_needless_points():
    assert drawing.outline(np.zeros((4, 4), bool)) == ""
    (loop,) = polygons(drawing.outline(np.ones((1, 9), bool)))
    assert len(loop) == 6  # two long sides, two points a rounded end and its tip


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=7)))
def test_outline_encloses_exactly_the_mask(mask):
    assert np.array_equal(filled(drawing.outline(mask), mask.shape), mask)


# ---- charts


@settings(deadline=None)
@given(st.floats(-1000, 1000), st.floats(1e-3, 1000))
def test_axis_covers_its_values_with_few_round_ticks(low, span):
    axis = charts.axis(low, low + span, 10, 200)
    assert axis.low <= low + 1e-6 * span and axis.high >= low + span - 1e-6 * span
    assert 2 <= len(axis.ticks) <= 8
    assert axis.at(axis.low) == 10 and axis.at(axis.high) == 200


def test_axis_labels_carry_the_decimals_of_the_step():
    axis = charts.axis(0.7, 1, 0, 100)
    assert [axis.label(tick) for tick in axis.ticks] == ["0.7", "0.8", "0.9", "1.0"]


def test_box_by_hand():
    box = charts.box([1, 2, 3, 4, 100], ["a", "b", "c", "d", "e"])
    assert (box["q1"], box["median"], box["q3"]) == (2, 3, 4)  # fences at -1 and 7
    assert (box["low"], box["high"], box["outliers"]) == (1, 4, [(100.0, "e")])
    with pytest.raises(ValueError):
        charts.box([], [])


def test_roc_by_hand_and_by_counting_pairs():
    scores, bad = np.array([0.1, 0.4, 0.35, 0.8]), np.array([True, True, False, False])
    alarms, found, area = charts.roc(scores, bad)
    assert alarms.tolist() == [0, 0, 0.5, 0.5, 1] and found.tolist() == [0, 0.5, 0.5, 1, 1] and area == 0.75
    random = np.random.default_rng(3)
    scores, bad = random.integers(0, 6, 40).astype(float), random.random(40) < 0.3
    pairs = [(b < g) + 0.5 * (b == g) for b in scores[bad] for g in scores[~bad]]
    assert charts.roc(scores, bad)[2] == pytest.approx(np.mean(pairs))
    assert charts.roc(scores, np.zeros(40, bool)) is None and charts.roc(scores, np.ones(40, bool)) is None


def test_risk_coverage_by_hand():
    coverage, risk, area = charts.risk_coverage(np.array([0.9, 0.2, 0.5]), np.array([0.1, 0.7, 0.1]))
    assert coverage == pytest.approx([1 / 3, 2 / 3, 1]) and risk == pytest.approx([0.1, 0.1, 0.3])
    assert area == pytest.approx(0.5 / 3)


# ---- the page of a study


def test_page_is_one_whole_file_with_a_tile_for_every_slice():
    parsed = assert_self_contained(page(judgement(phase="ED"), judgement(phase="ES")))
    assert parsed.classes["tile"] == 6
    assert sum(address.startswith("data:") for address in parsed.addresses) == 6
    assert "Research use only, not a medical device." in parsed.text
    assert "rvqc-test" in parsed.text and "abc123" in parsed.text


def test_page_is_deterministic():
    assert page(judgement()) == page(copy.deepcopy(judgement()))


@pytest.mark.parametrize(
    ("verdict", "words"), [("trusted", "Trusted"), ("look", "Look at it"), ("ood", "Out of distribution")]
)
def test_the_verdict_is_a_word_and_a_shape_and_the_worst_leads(verdict, words):
    text = page(judgement(phase="ED"), judgement(phase="ES", verdict=verdict))
    assert f"<strong>{words}</strong>" in text
    assert f'<div class="banner {verdict}">' in text and f'<svg class="icon {verdict}"' in text
    assert words in Outline(text).text


def test_flags_and_reasons_appear_as_words():
    judged = judgement(verdict="look", reasons=["candidates disagree: RV agreement 0.71"])
    judged["slices"][2] |= {"flag": True, "reasons": ["unusual shape: RV pDC 0.40"]}
    parsed = Outline(page(judged))
    assert parsed.classes["flag"] == 1
    assert "candidates disagree: RV agreement 0.71" in parsed.text
    assert "unusual shape: RV pDC 0.40" in parsed.text
    assert "Slice to look at: 3 of 3." in parsed.text


def test_a_trusted_stack_with_flagged_slices_is_not_called_usual():
    usual, judged = judgement(), judgement(phase="ES")
    assert "The checks found nothing unusual in this mask." in page(usual)
    judged["slices"][2] |= {"flag": True, "reasons": ["unusual shape: RV pDC 0.40"]}
    said = page(usual, judged)
    assert (
        "As a whole the checks found nothing unusual in these 2 masks; look at the slices that are named here." in said
    )


def test_no_slice_of_a_stack_out_of_distribution_is_called_ok():
    tiles = page(judgement(verdict="ood")).split('<div class="strip')[1].split("<h3>")[0]
    assert "not flagged" in tiles and " OK<" not in tiles


def test_everything_that_is_text_is_escaped():
    evil = '<script>alert("x")</script> & Müller'
    judged = judgement(verdict="look", reasons=[evil], selection_reason=evil, selection_rule=evil)
    judged["slices"][1] |= {"flag": True, "reasons": [evil], "position": evil}
    judged["candidates"][0]["network"] = evil
    judged["slices"][1]["structures"]["RV"]["reason"] = evil
    text = page(judged, study=evil, device=evil, checks=[evil], bundle={evil: evil})
    assert "<script" not in text and "&lt;script&gt;" in text
    assert Outline(text).text.count("Müller") >= 8


def test_a_bundle_without_calibration_has_dashes_and_says_so():
    judged = judgement(reasons=None, candidates=None, fences=None, selection_reason=None, selection_rule=None)
    for entry in (judged, *judged["slices"]):
        for values in entry["structures"].values():
            values |= {"predicted_dice": None, "lower_bound_90": None, "pHD_mm": None, "volume_ml": None}
    text = Outline(page(judged)).text
    assert "no calibration" in text and "None" not in text and "nan" not in text


def test_the_least_that_a_judgement_may_hold_makes_a_page():
    parsed = assert_self_contained(page({"view": "SA", "phase": "ED", "ood": True}))
    assert parsed.classes["tile"] == 3 and "Out of distribution" in parsed.text


def test_an_empty_mask_is_said():
    nothing = np.zeros((3, 60, 60), np.uint8)
    text = report.study_page(result(judgement()), [triple(mask=nothing)])
    assert "The mask is empty" in text and Outline(text).classes["outside"] == 3
    no_rv = np.where(heart() == LABELS["RV"], 0, heart())
    assert (
        "The mask has no right ventricle." in Outline(report.study_page(result(judgement()), [triple(mask=no_rv)])).text
    )


def test_one_slice_of_a_long_axis_has_no_volume():
    stack = triple("LA", "ED", mask=heart(1))
    parsed = Outline(report.study_page(result(judgement("LA", slices=1)), [stack]))
    assert "Long axis, end-diastole" in parsed.text and parsed.classes["tile"] == 1
    assert "Volume" not in parsed.text and "120 ml" not in parsed.text


def test_volumes_and_ejection_fraction_stand_beside_the_worst_verdict():
    ed, es = judgement(phase="ED"), judgement(phase="ES", verdict="look")
    for name in STRUCTURES:
        ed["structures"][name]["volume_ml"], es["structures"][name]["volume_ml"] = 200.0, 90.0
    row = re.search(r"<tr><th>Right ventricle</th>(.*?)</tr>", page(ed, es), re.DOTALL).group(1)
    words = re.findall(r"\d+|Trusted|Look at it", Outline(f"<tr>{row}</tr>").text)
    assert words == ["200", "Trusted", "90", "Look at it", "110", "Look at it", "55", "Look at it"]
    assert "Myocardial mass at end-diastole: 210 g Trusted" in Outline(page(ed, es)).text  # 1.05 g/ml
    assert "needs ED and ES" in page(ed)
    ed["structures"]["RV"]["volume_ml"] = 50.0
    assert "impossible: larger at end-systole" in page(ed, es) and "-80" not in page(ed, es)


def test_a_view_with_a_caution_of_the_bundle_is_to_be_looked_at_as_in_the_panel():
    said = "SA: never measured; check every mask"
    text = page(judgement(), checks=[said])
    assert '<div class="banner look">' in text and text.count(f"<li>{said}</li>") == 2  # above, and of its stack
    assert '<div class="banner trusted">' in page(
        judgement(), checks=["SA ED: its name does not say which phase it is"]
    )


def test_a_study_whose_ed_and_es_are_exchanged_is_not_trusted():
    """Each of its stacks is."""
    said = "anatomy: SA RV is larger at end-systole than at end-diastole"
    judged = [judgement(phase=phase) for phase in ("ED", "ES")]
    text = page(*judged, checks=[said])
    assert '<div class="banner look">' in text and said in text
    assert "Look at short axis, end-diastole; short axis, end-systole before you use the numbers" in text
    row = re.search(r"<tr><th>Right ventricle</th>(.*?)</tr>", text, re.DOTALL).group(1)
    assert "Look at it" in row and "Trusted" not in row


def test_a_measure_beyond_its_fence_is_named():
    judged = judgement()
    judged["structures"]["RV"] |= {"pDC": 0.42, "pHD_mm": 31.0}
    text = Outline(page(judged)).text
    assert "0.42 below 0.90" in text and "31.0 mm above 12.0 mm" in text
    assert "15.0 ↑" in text  # candidate 3


@pytest.mark.parametrize(
    ("rule", "selected", "words"),
    [
        ("top", [0], "highest pDC was taken"),
        ("next", [1], "passed over"),
        ("average", [0, 2], "average of the best by pDC and the best by pHD"),
    ],
)
def test_the_choice_is_explained(rule, selected, words):
    text = Outline(page(judgement(selection_rule=rule, selected=selected))).text
    assert words in text
    assert text.count(" averaged") == (2 if rule == "average" else 0) and text.count("chosen") == (rule != "average")


def test_the_drawn_masks_are_the_masks():
    mask = heart()
    again = np.roll(mask, 2, axis=2)
    side, tiles = report._tiles(triple(mask=mask)[0], mask, again, ())
    assert [tile["state"] for tile in tiles] == ["outside", "ok", "ok"]
    rows, columns, _ = report.window((mask > 0) | (again > 0), 1.5, 1.5)
    cut = mask[1, rows, columns]
    assert np.array_equal(filled(tiles[1]["mask"]["RV"], cut.shape), cut == LABELS["RV"])
    assert np.array_equal(filled(tiles[1]["mask"]["MYO"], cut.shape), np.isin(cut, (LABELS["MYO"], LABELS["LV"])))
    assert np.array_equal(filled(tiles[1]["difference"], cut.shape), (mask != again)[1, rows, columns])
    assert side >= report.LEAST_SIDE_MM and tiles[1]["again"] and not tiles[0]["difference"]


def test_tiles_keep_the_shape_of_pixels_that_are_not_square():
    # 20 rows of 1 mm, 10 columns of 2 mm
    geometry, pixels = Geometry(spacing=(2.0, 1.0, 8.0)), np.zeros((1, 200, 200), np.uint8)
    pixels[0, 90:110, 95:105] = LABELS["RV"]
    _, (tile,) = report._tiles(Stack(pixels.astype(np.float32), geometry, "SA", "ED"), pixels, pixels, ())
    assert tile["scale"] == "1 0.5" and abs(tile["width"] - tile["height"]) <= 2


def test_slices_are_turned_upright_by_the_geometry():
    assert report.upright(IDENTITY) == ()
    assert report.upright((-1, 0, 0, 0, -1, 0, 0, 0, 1)) == (1, 2)
    assert report.upright((1, 0, 0, 0, 0, 1, 0, 1, 0)) == (1,)  # rows run to the head: coronal upside down
    assert report.upright((1, 0, 0, 0, 0, 1, 0, -1, 0)) == ()  # rows run to the feet


def test_large_slices_are_averaged_in_blocks():
    pixels = np.arange(2 * 400 * 390, dtype=np.float32).reshape(2, 400, 390)
    small, block = report._shrink(pixels)
    assert block == 3 and small.shape == (2, 134, 130)
    assert small[0, 0, 0] == pixels[0, :3, :3].mean()


def test_a_stack_without_pictures_is_refused_with_its_name():
    with pytest.raises(ValueError, match="SA ES"):
        report.study_page(result(judgement(), judgement(phase="ES")), [triple()])
    image, mask, again = triple()
    with pytest.raises(ValueError, match="shape"):
        report.study_page(result(judgement()), [(image, mask, SimpleNamespace(pixels=again.pixels[1:]))])


def test_two_stacks_of_ten_slices_are_small_and_fast():
    stacks = [triple(phase=phase, mask=heart(10, 200), again=np.roll(heart(10, 200), 2, 1)) for phase in ("ED", "ES")]
    judged = result(*(judgement(phase=phase, slices=10) for phase in ("ED", "ES")))
    report.study_page(judged, stacks)
    start = time.process_time()
    text = report.study_page(judged, stacks)
    assert time.process_time() - start < 0.8  # about 0.1 s on a free core
    assert len(text.encode()) < 1.5e6


# ---- the page of an evaluation


def rows(n: int = 12) -> list[dict]:
    random, found = np.random.default_rng(5), []
    for index in range(n):
        for phase in ("ED", "ES"):
            row = {"study": f"case{index}", "group": ("NOR", "DCM <b>")[index % 2], "view": "SA", "phase": phase}
            for name in STRUCTURES:
                dice = float(np.clip(random.normal(0.84, 0.08), 0, 1))
                row |= {f"{name}_dice": dice, f"{name}_hd_mm": 40 * (1 - dice), f"{name}_hd95_mm": 20 * (1 - dice)}
                row |= {f"{name}_{key}": dice for key in ("predicted_dice", "pDC", "agreement")}
            found.append(row | {"verdict": "trusted"})
    return found


def summary(**changes) -> dict:
    metric = {"mean": 0.84, "low": 0.81, "high": 0.87}
    structures = {name: dict.fromkeys(("dice", "hd_mm", "hd95_mm"), metric) for name in STRUCTURES}
    return {"n_stacks": 24, "structures": structures, "groups": {}, "data": "acdc", "part": "test"} | changes


def test_evaluation_page_has_tables_boxes_and_the_worst():
    text = report.evaluation_page(summary(bundle={"hash": "abc"}), rows())
    parsed = assert_self_contained(text)
    assert text.count('<figure class="chart">') == 6  # three structures, Dice and HD
    assert "24 stacks of 12 studies" in parsed.text and "0.810 to 0.870" in parsed.text
    assert "DCM <b>" in parsed.text and "<b>" not in text.split("The worst stacks")[1]
    worst = min(rows(), key=lambda row: row["RV_dice"])
    first = Outline(
        "<table>" + text.split("The worst stacks")[1].split("<tbody>")[1].split("</tr>")[0] + "</tr></table>"
    )
    assert first.text.startswith(worst["study"])
    assert "Does the QC know?" not in text and text == report.evaluation_page(summary(bundle={"hash": "abc"}), rows())


def test_group_table_by_hand():
    few = [
        {
            "study": "a",
            "group": "NOR",
            "view": "SA",
            "phase": "ED",
            "RV_dice": 0.8,
            "RV_hd_mm": 10.0,
            "RV_hd95_mm": 5.0,
        },
        {
            "study": "b",
            "group": "NOR",
            "view": "SA",
            "phase": "ED",
            "RV_dice": 0.9,
            "RV_hd_mm": 20.0,
            "RV_hd95_mm": None,
        },
    ]
    table = report._group_table(few, "SA")
    cell = table["tables"][0]["lines"][0]["cells"][0]
    assert cell["dice"] == {"n": 2, "mean": pytest.approx(0.85), "sd": pytest.approx(0.1 / 2**0.5)}
    assert cell["hd95_mm"] == {"n": 1, "mean": 5.0, "sd": None}
    assert [t["structure"] for t in table["tables"]] == ["RV"]
    assert "15.0" in report.evaluation_page({}, few)


def test_evaluation_with_qc_draws_every_curve():
    qc = {"stack": {"combined": {"auroc_below_0.8": 1.0, "mae": 0.01, "coverage_90": None}}, "slice": {}}
    text = report.evaluation_page(summary(qc=qc), rows())
    assert_self_contained(text)
    assert text.count("<polyline") == 2 * 2 * 3 * 3  # ROC and risk, curve and key, structures, channels that are there
    chart = charts.qc_charts(rows(), "RV")
    assert {line["channel"]: line["area"] for line in chart["roc"]} == {"combined": 1.0, "pDC": 1.0, "agreement": 1.0}


def test_evaluation_survives_missing_values():
    holes = [row | {"RV_dice": None, "RV_pDC": float("nan"), "group": "", "LV_predicted_dice": None} for row in rows(3)]
    text = report.evaluation_page(summary(qc={"stack": {}}, structures={}), holes)
    assert_self_contained(text)
    assert "(no group)" in text and "nan" not in text and "None" not in Outline(text).text
