"""The statistics of QC against hand-worked values and oracles, and `evaluate(..., qc=True)` from end to end."""

from __future__ import annotations

import csv
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import links, write_tiny_bundle
from hypothesis import given
from hypothesis import strategies as st

from RVQCLib import qc_evaluation as qc
from RVQCLib import qc_statistics as qs
from RVQCLib.bundle import load_bundle
from RVQCLib.calibration import calibrate_bundle
from RVQCLib.charts import risk_coverage, roc
from RVQCLib.cli import main
from RVQCLib.evaluation import evaluate
from RVQCLib.files import RVQCError, read_json
from RVQCLib.inference import choose, propose_stack, reconstruct
from RVQCLib.metrics import dice
from RVQCLib.shifts import SHIFTS
from RVQCLib.slices import labels_to_network

stats = pytest.importorskip("scipy.stats")

TABLES = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=25
)  # score, real Dice and weight in coarse steps, so that there are ties
MEASURES = {"auroc_below_0.8", "auroc_below_0.7", "auprc_below_0.8", "auprc_below_0.7", "spearman", "aurc"}


def columns(table: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scores, real, weights = (np.array(column) for column in zip(*table, strict=True))
    return scores / 4, real / 6, weights


# ---- statistics


def test_auroc_by_hand() -> None:
    scores, bad = np.array([0.1, 0.4, 0.4, 0.8]), np.array([True, False, True, False])
    assert qs.auroc(scores, bad) == pytest.approx((1 + 1 + 0.5 + 1) / 4)  # the pairs (bad, good); one is a tie
    assert qs.auroc(scores, np.zeros(4, bool)) is None and qs.auroc(scores, np.ones(4, bool)) is None
    assert qs.auroc(np.array([]), np.array([], bool)) is None


@given(TABLES)
def test_auroc_is_mann_whitney(table: list[tuple[int, int, int]]) -> None:
    scores, real, _ = columns(table)
    bad = real < 0.5
    found = qs.auroc(scores, bad)
    if bad.all() or not bad.any():
        assert found is None
    else:
        u = stats.mannwhitneyu(scores[~bad], scores[bad]).statistic
        assert found == pytest.approx(u / (bad.sum() * (~bad).sum()))
        curve = roc(scores, bad)
        assert curve is not None and found == pytest.approx(curve[2])  # the page's


def test_auprc_by_hand() -> None:
    # From the lowest score: bad (precision 1), then one bad and one good at a tie (2/3), then good.
    scores, bad = np.array([0.1, 0.4, 0.4, 0.8]), np.array([True, False, True, False])
    assert qs.auprc(scores, bad) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    # scikit-learn's example of average_precision_score: y = 0 0 1 1, scores 0.1 0.4 0.35 0.8, high is positive.
    assert qs.auprc(-np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1], bool)) == pytest.approx(0.8333333333)
    assert qs.auprc(scores, np.zeros(4, bool)) is None and qs.auprc(scores, np.ones(4, bool)) is None


@given(TABLES)
def test_spearman_is_that_of_scipy(table: list[tuple[int, int, int]]) -> None:
    scores, real, _ = columns(table)
    found = qs.spearman(scores, real)
    if len(set(scores)) < 2 or len(set(real)) < 2:
        assert found is None
    else:
        assert found == pytest.approx(stats.spearmanr(scores, real).statistic)


def test_aurc_by_hand() -> None:
    scores, error = np.array([0.9, 0.5, 0.7]), np.array([0.0, 0.6, 0.3])
    assert qs.aurc(scores, error) == pytest.approx((0 + 0.15 + 0.3) / 3)
    assert qs.aurc(scores, error) == pytest.approx(risk_coverage(scores, error)[2])  # the page's, without ties
    assert qs.aurc(np.array([]), np.array([])) is None


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6)), min_size=1, max_size=6))
def test_aurc_with_ties_is_the_mean_over_their_orders(table: list[tuple[int, int]]) -> None:
    scores, error = (np.array(column) / 6 for column in zip(*table, strict=True))
    risks = []
    for order in itertools.permutations(range(len(scores))):
        ranked = error[sorted(order, key=lambda i: -scores[i])]  # stable: ties in the order of the permutation
        risks.append(np.mean(np.cumsum(ranked) / np.arange(1, len(ranked) + 1)))
    found = qs.aurc(scores, error)
    assert found == pytest.approx(np.mean(risks)) == risk_coverage(scores, error)[2]


@given(TABLES)
def test_a_weight_is_so_many_rows(table: list[tuple[int, int, int]]) -> None:
    scores, real, weights = columns(table)
    many, bad = np.repeat(np.arange(len(scores)), weights), real < 0.5
    pairs = ((qs.auroc, bad), (qs.auprc, bad), (qs.spearman, real), (qs.aurc, 1 - real), (qs.mae, real))
    for function, second in pairs:
        expected = function(scores[many], second[many])
        assert function(scores, second, weights) == (None if expected is None else pytest.approx(expected))
        if function is not qs.mae:
            assert function(np.unique(scores, return_inverse=True)[1], second) == function(scores, second)


def test_mae_and_coverage_by_hand() -> None:
    assert qs.mae(np.array([0.9, 0.5]), np.array([0.8, 0.7])) == pytest.approx(0.15)
    assert qs.coverage(np.array([0.8, 0.5, 0.7]), np.array([0.8, 0.6, 0.6])) == pytest.approx(2 / 3)
    assert qs.mae(np.array([]), np.array([])) is None and qs.coverage(np.array([]), np.array([])) is None


# ---- the summary


def stack_row(study: str, dice: float, **said: Any) -> dict[str, Any]:
    row = {"study": study, "shift": "clean", "severity": 0, "verdict": "trusted", "RV_dice": dice}
    values = {"predicted_dice": dice, "lower_bound_90": dice - 0.1, "pDC": 0.9, "pHD_mm": 5.0, "agreement": 1 - dice}
    return row | {f"RV_{key}": values[key] for key in values} | said


@pytest.fixture
def stack_rows() -> list[dict[str, Any]]:
    """Four patients, two stacks each: half of them bad, predicted exactly."""
    real = (0.95, 0.6, 0.9, 0.75, 0.85, 0.5, 0.88, 0.1)
    return [stack_row(f"p{k // 2}", dice, RV_pHD_mm=100 * dice) for k, dice in enumerate(real)]


def test_detectors_of_known_rows(stack_rows: list[dict[str, Any]]) -> None:
    found = qc.detectors(stack_rows, "RV_", seed=0, resamples=50)
    assert set(found) == {"combined", "pDC", "pHD", "agreement"}
    combined = found["combined"]
    assert set(combined) == MEASURES | {"mae", "coverage_90", "intervals"}
    assert combined["auroc_below_0.8"] == combined["auprc_below_0.7"] == 1.0
    assert combined["spearman"] == pytest.approx(1) and combined["mae"] == 0 and combined["coverage_90"] == 1
    assert combined["intervals"]["auroc_below_0.8"] == [1.0, 1.0]
    low, high = combined["intervals"]["aurc"]
    assert low < combined["aurc"] < high
    for name in ("pDC", "pHD", "agreement"):
        assert set(found[name]) == MEASURES | {"intervals"}
    assert found["pDC"]["auroc_below_0.8"] == 0.5 and found["pDC"]["spearman"] is None  # constant
    assert found["pDC"]["intervals"]["spearman"] is None
    assert found["pHD"]["auroc_below_0.8"] == 0 and found["pHD"]["spearman"] == pytest.approx(-1)  # far is bad
    assert found["agreement"]["auroc_below_0.8"] == 0
    assert found == qc.detectors(stack_rows, "RV_", seed=0, resamples=50)
    assert (
        found["combined"]["intervals"] != qc.detectors(stack_rows, "RV_", seed=1, resamples=50)["combined"]["intervals"]
    )


def test_the_bootstrap_draws_patients(stack_rows: list[dict[str, Any]]) -> None:
    draws = qc._draws(stack_rows, 0, 20)
    assert draws.shape == (20, 8) and (draws[:, 0::2] == draws[:, 1::2]).all()
    assert (draws.sum(axis=1) == 8).all() and len(np.unique(draws, axis=0)) > 1


def test_operating_point_by_hand(stack_rows: list[dict[str, Any]]) -> None:
    verdicts = ("trusted", "look", "trusted", "trusted", "look", "ood", "trusted", "ood")
    rows = [row | {"verdict": verdict} for row, verdict in zip(stack_rows, verdicts, strict=True)]
    point = qc.operating_point(rows, seed=0, resamples=100)
    assert (point["n"], point["n_bad"], point["n_trusted"]) == (8, 4, 4)
    assert (point["missed_bad"], point["good_not_trusted"], point["bad_among_trusted"]) == (0.25, 0.25, 0.25)
    assert 0 <= point["intervals"]["missed_bad"][0] <= 0.25 <= point["intervals"]["missed_bad"][1] <= 1
    slices = [{"study": "a", "dice": dice, "flag": flag} for dice, flag in ((0.9, False), (0.9, True), (0.3, True))]
    point = qc.operating_point(slices, seed=0, resamples=0)
    assert (point["missed_bad"], point["good_not_trusted"], point["bad_among_trusted"]) == (0.0, 0.5, 0.0)
    assert qc.operating_point([], seed=0, resamples=10)["missed_bad"] is None


def test_the_order_of_rows_does_not_matter(stack_rows: list[dict[str, Any]]) -> None:
    a, b = (qc.QCRows(stacks=rows) for rows in (stack_rows, stack_rows[::-1]))
    first, second = (qc.summarize_qc(rows, shifts=(("noise", 1),), seed=0, resamples=20) for rows in (a, b))
    assert first["n_stacks"] == 8 and first["n_bad"] == 4
    assert first["stack"]["agreement"]["aurc"] == pytest.approx(second["stack"]["agreement"]["aurc"])
    assert first["by_shift"]["clean"]["n_bad"] == 4
    assert first["slice"]["combined"]["auroc_below_0.8"] is None and first["n_slices"] == 0


def test_two_views_are_not_mixed() -> None:
    """In neither view does the prediction know the bad masks; that one view has more of them and lower predictions is no merit."""
    rows = [
        stack_row(f"p{k}", 0.6 if k % 10 < bad else 0.9, view=view, RV_predicted_dice=said)
        for view, bad, said in (("SA", 1, 0.9), ("LA", 6, 0.7))
        for k in range(20)
    ]
    whole = qc.QCRows(stacks=rows, injected=rows)
    found = qc.summarize_qc(whole, shifts=(("noise", 1),), seed=0, resamples=10)
    assert found["stack"]["combined"]["auroc_below_0.8"] > 0.7 and list(found["by_view"]) == ["SA", "LA"]
    for view, one in found["by_view"].items():
        alone = qc.QCRows(**{name: [row for row in rows if row["view"] == view] for name in ("stacks", "injected")})
        assert one == qc.summarize_qc(alone, shifts=(("noise", 1),), seed=0, resamples=10) and "by_view" not in one
        assert one["stack"]["combined"]["auroc_below_0.8"] == 0.5 == one["injected"]["combined"]["auroc_below_0.8"]


def test_shifts_and_severities_are_checked() -> None:
    assert qc.graded(["vendor+noise", "blur", "blur"], [5, 1, 5]) == (
        ("vendor+noise", 1),
        ("vendor+noise", 5),
        ("blur", 1),
        ("blur", 5),
    )
    for wrong in ([], [0], [6, 2]):
        with pytest.raises(RVQCError, match="severities"):
            qc.graded(["blur"], wrong)
    for unknown in ([], ["fog"], ["blur", "noise+"]):
        with pytest.raises(RVQCError, match="shifts"):
            qc.graded(unknown, [1])


# ---- from end to end


@pytest.mark.usefixtures("few_open_files")
def test_processes_calibrate_alike(calibrated_bundle: Path, few_acdc: Path, tmp_path: Path) -> None:
    path = write_tiny_bundle(tmp_path / "own", views=("SA",))
    calibrate_bundle(path, few_acdc, part="all", device="cpu", jobs=2)
    here, there = (load_bundle(one).description["views"]["SA"]["calibration"] for one in (path, calibrated_bundle))
    assert {**here, "date": ""} == {**there, "date": ""}  # they may be of two days
    assert here["studies"] == ["patient001", "patient002"], "who is not new to the bundle now"


def read_rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_evaluate_with_qc(calibrated_bundle: Path, tiny_acdc: Path, tmp_path: Path) -> None:
    data, out = links(tiny_acdc, tmp_path / "data", [9, 10]), tmp_path / "out"
    summary = evaluate(data, calibrated_bundle, out, device="cpu", qc=True, severities=(3,))
    said = summary["qc"]
    assert read_json(out / "summary.json")["qc"] == said
    assert said["n_stacks"] == 4 * (1 + len(SHIFTS)) and said["n_bad"] <= said["n_stacks"]
    assert list(said["by_shift"]) == ["clean", *(f"{name} 3" for name in SHIFTS)]
    for level in (said["stack"], said["slice"], said["injected"], said["injected"]["slice"]):
        assert set(level["combined"]) == MEASURES | {"mae", "coverage_90", "intervals"}
        assert set(level["pDC"]["intervals"]) == MEASURES
    stacks, slices = read_rows(out / "qc_stacks.csv"), read_rows(out / "qc_slices.csv")
    assert len(stacks) == said["n_stacks"] and sum(row["structure"] == "RV" for row in slices) == said["n_slices"]
    clean = [row["RV_dice"] for row in stacks if row["shift"] == "clean"]
    assert clean == [row["RV_dice"] for row in read_rows(out / "stacks.csv")]
    predicted, real = (np.array([float(r[f"RV_{key}"]) for r in stacks]) for key in ("predicted_dice", "dice"))
    assert said["stack"]["combined"]["mae"] == pytest.approx(np.abs(predicted - real).mean())
    assert len(read_rows(out / "qc_injected.csv")) == 4 * (1 + len(qc.STRENGTHS))
    page = (out / "evaluation.html").read_text(encoding="utf-8")
    assert (
        "Does the QC know?</h2>" in page
        and "by_view" not in said
        and "noise 3" in page
        and "What a user would miss" in page
    )
    assert page.count("per slice</th>") == 1 and "None" not in page.split("In numbers")[1]


def test_rows_do_not_depend_on_the_other_studies(calibrated_bundle: Path, tiny_acdc: Path, tmp_path: Path) -> None:
    for name, numbers in (("both", [9, 10]), ("one", [10])):
        data = links(tiny_acdc, tmp_path / f"{name}-data", numbers)
        evaluate(
            data, calibrated_bundle, tmp_path / name, device="cpu", qc=True, shifts=["vendor+noise"], severities=[2]
        )
    for name in ("qc_stacks.csv", "qc_slices.csv", "qc_injected.csv"):
        both = [row for row in read_rows(tmp_path / "both" / name) if row["study"] == "patient010"]
        assert both and both == read_rows(tmp_path / "one" / name)


def test_the_command_without_calibration(tiny_bundle: Path, tiny_acdc: Path, tmp_path: Path, capsys: Any) -> None:
    data, out = links(tiny_acdc, tmp_path / "data", [1]), tmp_path / "out"
    command = ["evaluate", str(data), "--bundle", str(tiny_bundle), "-o", str(out), "--device", "cpu"]
    assert main([*command, "--qc", "--shifts", "bias", "vendor+noise", "--severities", "1"]) == 0
    assert "not calibrated" in capsys.readouterr().out
    said = read_json(out / "summary.json")["qc"]
    assert said["stack"]["combined"]["mae"] is None and said["stack"]["combined"]["intervals"]["aurc"] is None
    assert said["stack"]["pDC"]["aurc"] is not None and said["severities"] == [1]
    assert list(said["by_shift"]) == ["clean", "bias 1", "vendor+noise 1"] and said["shifts"] == [
        "bias",
        "vendor+noise",
    ]


def test_injected_errors_are_judged_beside_the_same_candidates(calibrated_bundle: Path, make_study: Any) -> None:
    models, study = load_bundle(calibrated_bundle).models("SA", "cpu"), make_study("one", 3)
    found = list(qc._injected(study.stack("SA", "ED"), models, np.random.default_rng(0)))
    assert [strength for strength, _, _ in found] == [0.0, *qc.STRENGTHS]
    assert len({judgement["structures"]["RV"]["agreement"] for _, _, judgement in found}) == 1

    proposal = propose_stack(study.stack("SA", "ED"), models)
    mask = labels_to_network(study.label("SA", "ED"), proposal.crop)
    chosen = replace(choose(proposal, None, models), mask=mask)
    kept, spoilt = (qc.damage(proposal, chosen, models, s, np.random.default_rng(0)) for s in (0.0, 1.0))
    assert (kept.mask == mask).all() and (spoilt.mask != mask).any()
    again = reconstruct(spoilt.mask, models)
    assert (spoilt.reconstruction == again).all()
    assert spoilt.measures.stack_pDC[0, 0] == pytest.approx(dice(spoilt.mask == 3, again == 3))
