"""The judgement of a stack: who speaks, what the verdict is, and that it is always defined."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from RVQCLib.measures import measure
from RVQCLib.quality import Judgement, Limits, QCOptions, Reference, _flagged_share, judge, rejudge
from RVQCLib.selection import Fences, select
from RVQCLib.stack import STRUCTURES

SPACING = (10.0, 2.0, 2.0)
STACK = {structure: Fences(0.80, 12.0, 60) for structure in STRUCTURES}
SLICES = {position: {s: Fences(0.60, 10.0, 60) for s in STRUCTURES} for position in ("basal", "mid", "apical")}
AGREED = dict.fromkeys(STRUCTURES, 0.85)
REFERENCE = Reference(STACK, SLICES, AGREED, dict.fromkeys(("basal", "mid", "apical", "outside"), AGREED))


@dataclass
class Grades:
    stack: np.ndarray
    stack_bound: np.ndarray
    slices: np.ndarray
    slices_bound: np.ndarray
    trusted_from: np.ndarray


def heart(slices: int = 6) -> np.ndarray:
    """RV of 10 x 8 pixels (320 mm2), MYO of 10 x 10 around an LV of 6 x 6 (144 mm2), all slices alike."""
    mask = np.zeros((slices, 24, 30), np.uint8)
    mask[:, 6:16, 4:12] = 3
    mask[:, 6:16, 12:22] = 2
    mask[:, 8:14, 14:20] = 1
    return mask


def without_rv(mask: np.ndarray, slices: slice = slice(None)) -> np.ndarray:
    changed = mask.copy()
    changed[slices][changed[slices] == 3] = 0
    return changed


def judged(candidates, reconstructions=None, *, view: str = "SA", reference=REFERENCE, **options) -> Judgement:
    """Measure, select by RV and judge, as the pipeline does with a selection of one."""
    own = np.stack(candidates)
    again = own if reconstructions is None else np.stack(reconstructions)
    found = measure(own, again, SPACING)
    selection = select(found.stack_pDC[:, 0], found.stack_pHD[:, 0], reference.stack["RV"] if reference else None)
    i = selection.indices[0]
    chosen = measure(own[i : i + 1], again[i : i + 1], SPACING)
    return judge(found, chosen, selection, mask=own[i], spacing_zyx=SPACING, view=view, reference=reference, **options)


def test_a_good_stack_is_trusted():
    found = judged([heart()] * 3)
    assert (found.ood, found.verdict, found.reasons) == (False, "trusted", ())
    assert not any(entry["flag"] for entry in found.slices)


def test_every_key_of_quality_json():
    found = judged([heart()] * 2, networks=("BN1", "BN2"), volumes_ml={"RV": 1.0, "LV": 2.0, "MYO": 3.0}).to_json()
    assert found["selected"] == [0]
    assert found["selection_rule"] == "top"
    assert found["fences"]["used"] == "reference"
    assert found["fences"]["reference"]["RV"] == {"th_low": 0.80, "th_up": 12.0, "n": 60}
    assert found["fences"]["cohort"] is None
    assert found["structures"]["RV"] == {
        "pDC": 1.0,
        "pHD_mm": 0.0,
        "pHD95_mm": 0.0,
        "agreement": 1.0,
        "predicted_dice": None,
        "lower_bound_90": None,
        "volume_ml": 1.0,
    }
    perfect = {"pDC": dict.fromkeys(STRUCTURES, 1.0), "pHD_mm": dict.fromkeys(STRUCTURES, 0.0)}
    assert found["candidates"] == [{"network": "BN1", **perfect}, {"network": "BN2", **perfect}]
    assert [entry["index"] for entry in found["slices"]] == list(range(6))
    assert set(found["slices"][0]) == {"index", "position", "flag", "reasons", "structures"}
    assert found["slices"][0]["structures"]["MYO"]["reason"] == ""
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_volumes_are_those_of_the_mask_unless_given():
    # 80, 36 and 64 pixels of 4 mm2 in 6 slices of 10 mm
    volumes = {s: values["volume_ml"] for s, values in judged([heart()]).structures.items()}
    assert volumes == {"RV": pytest.approx(19.2), "LV": pytest.approx(8.64), "MYO": pytest.approx(15.36)}


def moved_rv(columns: int) -> np.ndarray:
    """What R makes of a heart whose RV it puts `columns` farther left: pDC (8 - columns) / 8 of the RV alone."""
    again = without_rv(heart())
    again[:, 6:16, 4 - columns : 12 - columns] = 3
    return again


def test_rv_out_of_distribution():
    # pDC 2 * 6 / 16 = 0.75 < 0.80 for both candidates; the slices have 0.75 too, not below 0.60
    found = judged([heart()] * 2, [moved_rv(2)] * 2)
    assert (found.ood, found.verdict) == (True, "ood")
    assert found.reasons == (
        "unusual shape: RV of every candidate (best pDC 0.75, usual from 0.80; best pHD 4.0 mm, usual up to 12.0 mm)",
    )
    assert not any(entry["flag"] for entry in found.slices)


def test_one_candidate_inside_is_enough():
    found = judged([heart()] * 3, [moved_rv(2), heart(), moved_rv(2)])
    assert (found.verdict, found.selection.indices) == ("trusted", (1,))


def test_the_quantifier_is_an_option():
    # Candidate 1 has pDC 0.75 and pHD 4 mm, candidate 2 pDC 7/8 and, by a pixel far below in every slice, pHD > 12 mm.
    far = moved_rv(1)
    far[:, 23, 3] = 3
    pair = [heart()] * 2, [moved_rv(2), far]
    assert judged(*pair).ood
    assert not judged(*pair, options=QCOptions(quantifier="authors")).ood


def test_another_structure_out_of_distribution_asks_for_a_look():
    again = heart()
    again[:, 8:14, 14:16] = 2  # LV 6 x 4 of 6 x 6: 2 * 24 / 60 = 0.8, just inside; MYO inside
    again[:, 8, 16:20] = 2  # 20 pixels: 2 * 20 / 56 = 0.71
    found = judged([heart()], [again])
    assert (found.ood, found.verdict) == (False, "look")
    assert found.reasons[0].startswith("unusual shape: LV of every candidate (best pDC 0.71")
    assert judged([heart()], [again], options=QCOptions(primary="LV")).verdict == "ood"


def test_disagreement_is_the_other_opinion():
    # Candidate 2 has no RV in 3 of 6 slices: Dice 2 * 3 / 9 = 2/3 over the stack, 0 in these slices. R repeats both.
    # (An RV in half of the slices is not yet a failure, and the selected candidate 1 has all of it.)
    found = judged([heart(), without_rv(heart(), slice(3, 6))])
    assert (found.ood, found.verdict) == (False, "look")
    assert found.reasons == (
        "candidates disagree: RV agreement 0.67, usual from 0.85",
        "candidates disagree: slices 4, 5, 6",
    )
    assert [entry["flag"] for entry in found.slices] == [False] * 3 + [True] * 3
    assert found.slices[3]["reasons"] == ["candidates disagree: RV agreement 0.00, usual from 0.85"]
    assert found.slices[3]["structures"]["RV"]["flag"] and not found.slices[3]["structures"]["LV"]["flag"]


def test_a_structure_that_only_the_reconstruction_has_is_lost():
    # One of 6 slices: pDC of the stack 2 * 5 / 11 = 0.91
    every = QCOptions(limits=Limits(share=0.0))
    found = judged([without_rv(heart(), slice(0, 1))] * 2, [heart()] * 2, options=every)
    assert found.verdict == "look"
    assert found.reasons == ("unusual shape: slice 1",)
    assert found.slices[0]["reasons"] == ["unusual shape: RV lost"]
    assert (
        found.slices[0]["structures"]["RV"] | {"pDC": 0.0, "reason": "lost", "flag": True}
        == (found.slices[0]["structures"]["RV"])
    )


def test_a_few_flagged_slices_stay_a_matter_of_these_slices():
    # 1 of 10 equal slices is 10 % of the RV and 3 are 30 %, not more than 30; 4 are 40 %. Fences that let the stack pass.
    wide = Reference({s: Fences(0.1, 99.0, 60) for s in STRUCTURES}, SLICES, AGREED)
    one, three, four = ([without_rv(heart(10), slice(0, k))] for k in (1, 3, 4))
    for few, flagged in ((one, [0]), (three, [0, 1, 2])):
        found = judged(few, [heart(10)], reference=wide)
        assert (found.verdict, found.reasons) == ("trusted", ())
        assert [entry["index"] for entry in found.slices if entry["flag"]] == flagged
    assert judged(four, [heart(10)], reference=wide).reasons == ("unusual shape: slices 1, 2, 3, 4",)
    one, heart18 = [without_rv(heart(18), slice(0, 1))], [heart(18)]
    assert judged(one, heart18).verdict == "trusted"
    assert judged(one, heart18, options=QCOptions(limits=Limits(share=0.0))).verdict == "look"


def test_small_structures_flag_no_slice():
    # 5 x 4 pixels of RV are 80 mm2, less than 100; R sees none, and the other candidate has none
    tip = without_rv(heart(), slice(5, 6))
    tip[5, 6:11, 4:8] = 3
    found = judged([tip, without_rv(tip, slice(5, 6))], [without_rv(tip, slice(5, 6))] * 2)
    assert found.slices[5]["structures"]["RV"]["reason"] in ("invented", "")
    assert not found.slices[5]["flag"]
    strict = QCOptions(limits=Limits(slice_mm2=50.0))
    assert judged([tip], [without_rv(tip, slice(5, 6))], options=strict).slices[5]["reasons"] == [
        "unusual shape: RV invented"
    ]


@pytest.mark.parametrize(
    ("columns", "fence", "said"),
    [
        (4, Fences(0.60, 30.0, 9), ["unusual shape: RV pDC 0.50, usual from 0.60"]),
        # 0.625 is above its fence; below a fence of 0.7, and below 0.75
        (3, Fences(0.60, 30.0, 9), []),
        (3, Fences(0.70, 30.0, 9), ["unusual shape: RV pDC 0.62, usual from 0.70"]),
        # 0.875 is below an even stricter fence, but good enough
        (1, Fences(0.95, 30.0, 9), []),
        # pHD is 8 mm (4 columns) above a fence of 5 mm, but no more than 8
        (4, Fences(0.40, 5.0, 9), []),
    ],
)
def test_slices_break_fences_of_their_position(columns, fence, said):
    again = heart()
    again[2] = moved_rv(columns)[2]
    slices = {"mid": {"RV": fence}}
    found = judged([heart()], [again], reference=Reference(STACK, slices))
    assert found.slices[2]["position"] == "mid"
    assert found.slices[2]["reasons"] == said
    # The same in a slice whose position has no fences is not spoken against.
    assert not judged([heart()], [again[::-1]], reference=Reference(STACK, {"basal": {"RV": fence}})).slices[3]["flag"]


def test_a_distance_beyond_the_fence_of_a_slice():
    again = heart()
    again[2, 22, 4:6] = 3  # 7 rows of 2 mm below the RV's last row, 15: 14 mm
    found = judged([heart()], [again])
    assert found.slices[2]["reasons"] == ["unusual shape: RV pHD 14.0 mm, usual up to 10.0 mm"]


def test_all_candidates_empty_is_never_trusted():
    # pDC 1, pHD 0, agreement 1: both opinions are content.
    nothing = np.zeros_like(heart())
    found = judged([nothing] * 3)
    assert (found.structures["RV"]["pDC"], found.structures["RV"]["agreement"]) == (1.0, 1.0)
    assert (found.ood, found.verdict, found.reasons) == (True, "ood", ("failed: the mask has no RV",))
    assert {entry["position"] for entry in found.slices} == {"outside"}


def test_failures_that_all_candidates_share_are_out_of_distribution():
    tiny = without_rv(heart())
    tiny[:, 6:9, 4:12] = 3
    assert judged([tiny] * 3).verdict == "ood"
    no_lv = heart()
    no_lv[1:][no_lv[1:] == 1] = 2
    found = judged([no_lv] * 3)
    assert found.verdict == "ood"
    assert found.reasons == ("failed: LV in only 1 of 6 slices",)


def test_anatomy_is_a_reason_of_the_slice_and_of_the_stack():
    leaking = heart()
    leaking[3, 8:14, 12:14] = 3
    found = judged([leaking] * 3, options=QCOptions(limits=Limits(share=0.0)))
    assert (found.verdict, found.reasons) == ("look", ("anatomy: slice 4",))
    assert found.slices[3]["reasons"] == ["anatomy: RV touches the LV cavity over 12 mm"]
    assert found.slices[3]["flag"] and found.slices[3]["structures"]["RV"]["flag"]


def grades(dice: float = 0.9, *, bound: float = 0.8, slice_dice: float = 0.9, other: float = 0.8) -> Grades:
    """RV: `dice` with `bound`, trusted from 0.88; the bound of LV and MYO; `slice_dice` of the RV in slice 2, else 0.9."""
    slices = np.full((6, 3), 0.9)
    slices[1, 0] = slice_dice
    stack, bounds = np.array([dice, 0.9, 0.9]), np.array([bound, other, other])
    return Grades(stack, bounds, slices, slices - 0.2, np.array([0.88, 0.95, 0.95]))


def test_predicted_dice():
    found = judged([heart()], predicted=grades())
    assert found.verdict == "trusted"
    assert found.structures["RV"]["predicted_dice"] == 0.9
    assert found.structures["RV"]["lower_bound_90"] == 0.8
    assert found.slices[0]["structures"]["LV"]["lower_bound_90"] == pytest.approx(0.7)
    assert judged([heart()], predicted=grades(0.88)).verdict == "trusted"
    low = judged([heart()], predicted=grades(0.8799))
    assert (low.verdict, low.reasons) == ("look", ("low predicted Dice: RV 0.879900, trusted from 0.880000",))
    unsure = judged([heart()], predicted=grades(bound=0.64))
    assert unsure.reasons == ("low predicted Dice: RV 0.90, with 90 % confidence at least 0.64",)
    other = judged([heart()], predicted=grades(other=0.64)).reasons
    assert other[0] == "low predicted Dice: LV 0.90, with 90 % confidence at least 0.64" and len(other) == 2


def test_a_low_predicted_dice_of_a_slice():
    piece = judged([heart()], predicted=grades(slice_dice=0.74))
    assert (piece.verdict, piece.slices[1]["reasons"]) == ("trusted", ["low predicted Dice: RV 0.74"])
    assert not judged([heart()], predicted=grades(slice_dice=0.75)).slices[1]["flag"]
    strict = QCOptions(limits=Limits(share=0.0))
    assert judged([heart()], predicted=grades(slice_dice=0.4), options=strict).reasons == (
        "low predicted Dice: slice 2",
    )
    # where there is no RV in the mask, there is none to doubt
    gone = judged([without_rv(heart(), slice(1, 2))], predicted=grades(slice_dice=0.4)).slices[1]["reasons"]
    assert [reason.split(":")[0] for reason in gone] == ["anatomy"]


def test_the_opinions_explain_a_low_prediction_and_are_silent_beside_a_high_one():
    pair = [heart(), without_rv(heart(), slice(3, 6))]
    said = judged(pair, predicted=grades(0.8)).reasons
    assert said == (
        "candidates disagree: RV agreement 0.67, usual from 0.85",
        "low predicted Dice: RV 0.800, trusted from 0.880",
    )
    found = judged(pair, predicted=grades())
    assert found.verdict == "trusted" and not any(entry["flag"] for entry in found.slices)
    doubtful = grades()
    doubtful.slices[:, 0] = 0.84
    assert [entry["flag"] for entry in judged(pair, predicted=doubtful).slices] == [False] * 3 + [True] * 3


def test_the_shape_of_another_structure_counts_where_it_may_be_bad():
    again = heart()
    again[:, 8:14, 14:16] = 2
    again[:, 8, 16:20] = 2  # the LV's pDC is 0.71, as above
    assert judged([heart()], [again], predicted=grades()).verdict == "trusted"
    assert judged([heart()], [again], predicted=grades(other=0.6)).reasons[0].startswith("unusual shape: LV of every")
    assert judged([heart()], [again], predicted=grades(), options=QCOptions(primary="LV")).verdict == "ood"
    # and a high prediction never excuses the primary structure, nor a failure
    assert judged([heart()] * 2, [moved_rv(2)] * 2, predicted=grades(0.99, bound=0.98)).verdict == "ood"
    assert judged([np.zeros_like(heart())] * 3, predicted=grades(0.99, bound=0.98)).verdict == "ood"


def test_candidates_that_agree_well_enough_disagree_nowhere_however_alike_they_usually_are():
    # 16 of 17 columns in common, 0.94
    wider, alike = heart(), dict.fromkeys(STRUCTURES, 0.99)
    wider[:, 6:16, 3] = 3
    strict = Reference(STACK, SLICES, alike, dict.fromkeys(("basal", "mid", "apical"), alike))
    found = judged([heart(), wider], reference=strict)
    assert (found.verdict, [entry["flag"] for entry in found.slices]) == ("trusted", [False] * 6)


def test_the_flagged_share_is_of_the_largest_area_that_anyone_gives():
    # of the RV, 320 mm2 in five slices, and in the flagged one 640 mm2 by the candidate that was not chosen
    wider = heart()
    wider[1, 6:16, 4:20] = 3
    both = np.stack([heart(), wider])
    chosen, everyone = (measure(masks, masks, SPACING) for masks in (both[:1], both))
    flags = [{"structures": {s: {"flag": s == "RV" and index == 1} for s in STRUCTURES}} for index in range(6)]
    assert _flagged_share(flags, everyone, chosen) == pytest.approx(2 / 7)


def test_without_calibration_nothing_is_trusted():
    found = judged([heart()] * 2, reference=None)
    assert (found.ood, found.verdict) == (False, "look")
    assert found.reasons == ("not calibrated: no fences are known for this view",)
    assert found.to_json()["fences"]["reference"] is None


def test_cohort_fences_judge_when_asked():
    strict = {s: Fences(0.9, 3.0, 60) for s in STRUCTURES}
    pair = [heart()] * 2, [moved_rv(1)] * 2  # pDC 7/8, pHD 2 mm
    asked = QCOptions(fences="cohort")
    assert judged(*pair, cohort=strict).verdict == "trusted"
    assert judged(*pair, cohort=strict, options=asked).verdict == "ood"
    found = judged(*pair, cohort=strict, options=asked).to_json()["fences"]
    assert (found["used"], found["note"], found["cohort"]["RV"]["th_low"]) == ("cohort", "", 0.9)
    # too few stacks for a cohort: the reference judges, and it is said
    found = judged(*pair, options=asked).to_json()["fences"]
    assert found["used"] == "reference"
    assert found["note"] == "cohort fences were asked for, but none are known here"


def test_one_slice():
    found = judged([heart(1)] * 2, view="LA")
    assert (found.verdict, found.slices[0]["position"]) == ("trusted", "mid")
    assert judged([heart(1)] * 2, view="SA").verdict == "trusted"


def test_options_to_json_and_back():
    options = QCOptions(quantifier="authors", limits=Limits(predicted=0.4))
    assert QCOptions.from_json(json.loads(json.dumps(options.to_json()))) == options
    assert QCOptions.from_json({}) == QCOptions()


@pytest.mark.parametrize("wrong", [{"fences": "own"}, {"quantifier": "any"}, {"primary": "LA"}])
def test_unknown_options_are_refused(wrong):
    with pytest.raises(ValueError, match=f"QCOptions: {next(iter(wrong))} must be one of"):
        QCOptions(**wrong)


def test_reference_from_a_calibration():
    fence = {s: Fences(0.8, 10.0, 5).to_json() for s in STRUCTURES}
    other = {s: Fences(0.7, 12.0, 9).to_json() for s in STRUCTURES}
    calibration = {
        "fences": {"ED": fence, "all": other},
        "slice_fences": {"mid": fence},
        "agreement_fences": {"stack": {"RV": 0.8}, "slice": {"mid": {"RV": 0.7}}},
    }
    found = Reference.from_calibration(calibration, "ED")
    assert found.stack["RV"] == found.slices["mid"]["RV"] == Fences(0.8, 10.0, 5)
    assert (found.agreement["RV"], found.slice_agreement["mid"]["RV"]) == (0.8, 0.7)
    assert Reference.from_calibration(calibration, "ES").stack["LV"] == Fences(0.7, 12.0, 9)


labels = arrays(np.uint8, (2, 5, 8, 9), elements=st.integers(0, 3))


@settings(max_examples=40, deadline=None)
@given(own=labels, again=labels)
def test_any_masks_get_a_defined_judgement(own, again):
    found = judged(list(own), list(again))
    json.dumps(found.to_json(), allow_nan=False)
    assert found.verdict in ("trusted", "look", "ood")
    assert found.ood == (found.verdict == "ood")
    assert (found.verdict == "trusted") == (not found.reasons)
    for entry in found.slices:
        assert entry["flag"] == bool(entry["reasons"])


def test_rejudging_a_file_by_the_cohort_is_judging_by_the_cohort():
    # The paths by which reasons come and go: a shape fenced out, one let in, slices that speak only with others.
    strict = {s: Fences(0.9, 3.0, 60) for s in STRUCTURES}
    loose = {s: Fences(0.1, 99.0, 60) for s in STRUCTURES}
    asked = QCOptions(fences="cohort")
    one_slice = heart()
    one_slice[2] = moved_rv(3)[2]
    cases = [
        (moved_rv(1), strict, "ood"),
        (moved_rv(2), loose, "trusted"),
        (one_slice, strict, "ood"),
        (one_slice, loose, "trusted"),
        (heart(), strict, "trusted"),
    ]
    for again, cohort, verdict in cases:
        pair = [heart()] * 2, [again] * 2
        entry = json.loads(json.dumps(judged(*pair).to_json()))
        expected = json.loads(json.dumps(judged(*pair, cohort=cohort, options=asked).to_json()))
        found = rejudge(entry, cohort, "of 30 stacks", asked)
        assert found["verdict"] == verdict and rejudge(found, cohort, "of 30 stacks", asked) == found
        assert found["fences"].pop("cohort_note") == "of 30 stacks"
        assert "selection was made by the reference" in found["fences"].pop("note")
        expected["fences"].pop("note")
        assert found == expected


def test_rejudging_by_the_reference_only_adds_the_cohort():
    entry = judged([heart()] * 2, [moved_rv(2)] * 2).to_json()
    loose = {s: Fences(0.1, 99.0, 60) for s in STRUCTURES}
    found = rejudge(entry, loose, "of 30 stacks", QCOptions())
    assert found["fences"]["cohort"]["RV"] == {"th_low": 0.1, "th_up": 99.0, "n": 60}
    assert {**found, "fences": entry["fences"]} == entry
    few = rejudge(entry, None, "too few", QCOptions(fences="cohort"))
    assert (few["verdict"], few["fences"]["used"], few["fences"]["note"]) == ("ood", "reference", "too few")
