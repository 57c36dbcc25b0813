"""Cardiac function: numbers worked out by hand."""

from __future__ import annotations

from RVQCLib.function import quantities


def amounts(volumes: dict) -> dict[tuple[str, str], float | None]:
    return {(q.structure, q.name): q.amount for q in quantities(volumes)}


def test_volumes_stroke_fraction_and_mass() -> None:
    found = amounts({"ED": {"RV": 150.0, "LV": 160.0, "MYO": 100.0}, "ES": {"RV": 60.0, "LV": 40.0, "MYO": 110.0}})
    assert found == {
        ("RV", "End-diastolic volume"): 150.0,
        ("RV", "End-systolic volume"): 60.0,
        ("RV", "Stroke volume"): 90.0,
        ("RV", "Ejection fraction"): 60.0,
        ("LV", "End-diastolic volume"): 160.0,
        ("LV", "End-systolic volume"): 40.0,
        ("LV", "Stroke volume"): 120.0,
        ("LV", "Ejection fraction"): 75.0,
        ("MYO", "Myocardial mass at end-diastole"): 105.0,
    }


def test_what_is_missing_is_said_and_never_divided_by() -> None:
    found = {(q.structure, q.name): q for q in quantities({"ED": {"RV": 0.0, "LV": 100.0}, "ES": {"RV": 0.0}})}
    assert found["RV", "Ejection fraction"].amount is None and found["RV", "Stroke volume"].amount == 0.0
    assert found["RV", "Ejection fraction"].missing == "impossible: nothing at end-diastole"
    assert found["LV", "Stroke volume"].amount is None
    assert found["LV", "Ejection fraction"].missing == "needs ED and ES"
    assert found["MYO", "Myocardial mass at end-diastole"].amount is None
    assert all(quantity.amount is None for quantity in quantities({}))


def test_a_heart_that_is_larger_at_end_systole_has_no_ejection_fraction() -> None:
    found = {
        (q.structure, q.name): q for q in quantities({"ED": {"RV": 60.0, "LV": 90.0}, "ES": {"RV": 123.0, "LV": 40.0}})
    }
    for name in ("Stroke volume", "Ejection fraction"):
        assert found["RV", name].amount is None and found["RV", name].missing == "impossible: larger at end-systole"
        assert found["LV", name].amount > 0
    assert found["RV", "End-systolic volume"].amount == 123.0
