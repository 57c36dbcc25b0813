"""Reference fences: of stacks by phase, of slices by position, each against NumPy's quartiles worked beside them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from RVQCLib.fence_tables import Clean, agreement_fences, slice_fences, stack_fences
from RVQCLib.measures import measure
from RVQCLib.stack import LABELS, STRUCTURES

SPACING = (8.0, 1.0, 1.0)


def clean(phase: str, shifts: tuple[int, int], *, empty: bool = False) -> Clean:
    """A stack of three slices with two candidates, each reconstructed so many columns beside itself."""
    masks = np.zeros((2, 3, 24, 24), np.uint8)
    if not empty:
        for k, size in enumerate((10, 8, 4)):  # from base to apex
            masks[:, k, 4 : 4 + size, 4 : 4 + size] = LABELS["RV"]
    again = np.stack([np.roll(mask, shift, axis=-1) for mask, shift in zip(masks, shifts, strict=True)])
    shown = np.stack([(masks == LABELS[s]).any(axis=(2, 3)) for s in STRUCTURES], axis=-1)
    return Clean(phase, measure(masks, again, SPACING), shown, (masks > 0).sum(axis=(2, 3)))


STACKS = [clean("ED", (0, 1)), clean("ED", (1, 2)), clean("ES", (2, 3))]


def low(values: list[float]) -> float:
    q1, q3 = np.quantile(values, (0.25, 0.75))
    return q1 - 1.5 * (q3 - q1)


def test_fences_of_stacks_by_phase_and_pooled() -> None:
    tables, rv = stack_fences(STACKS), STRUCTURES.index("RV")
    assert set(tables) == {"ED", "ES", "all"} and [tables[k]["RV"]["n"] for k in ("ED", "ES", "all")] == [2, 1, 3]
    for key, some in (("ED", STACKS[:2]), ("ES", STACKS[2:]), ("all", STACKS)):
        values = [float(v) for one in some for v in one.measures.stack_pDC[:, rv]]
        assert tables[key]["RV"]["th_low"] == pytest.approx(low(values))
    assert tables["all"]["LV"] == {"th_low": 1.0, "th_up": 0.0, "n": 3}  # no LV anywhere: reconstructed as nothing


def test_fences_of_slices_by_position() -> None:
    tables = slice_fences(STACKS)
    assert set(tables) == {"basal", "mid", "apical"} and set(tables["mid"]) == {"RV"}  # only where it is seen
    # The apical square has 4 columns; moved by s of them it keeps (4 - s) / 4.
    assert tables["apical"]["RV"]["th_low"] == pytest.approx(low([1.0, 0.75, 0.75, 0.5, 0.5, 0.25]))
    assert tables["apical"]["RV"]["n"] == 3


def test_fences_of_agreement() -> None:
    stacks, seen = [], [0.9, 0.8, 0.6, 0.5]
    for rv in seen:
        measures = replace(
            STACKS[0].measures,
            stack_agreement=np.array([rv, 1.0, 0.95]),
            slice_agreement=np.tile([rv, 0.9, 0.8], (3, 1)),
        )
        stacks.append(replace(STACKS[0], measures=measures))
    tables = agreement_fences(stacks)
    assert tables["stack"] == pytest.approx({"RV": low(seen), "LV": 1.0, "MYO": 0.95})
    assert tables["slice"].keys() == {"basal", "mid", "apical"}
    assert tables["slice"]["mid"] == pytest.approx({"RV": low(seen), "LV": 0.9, "MYO": 0.8})
    assert set(agreement_fences([clean("ED", (0, 0), empty=True)])["slice"]) == {"outside"}


def test_the_upper_fence_is_of_the_farthest_point() -> None:
    near = STACKS[0]
    measures = replace(near.measures, stack_pHD=near.measures.stack_pHD + 5, slice_pHD=near.measures.slice_pHD + 5)
    pairs = [
        (stack_fences([one])["ED"]["RV"], slice_fences([one])["mid"]["RV"])
        for one in (near, replace(near, measures=measures))
    ]
    for was, now in zip(*pairs, strict=True):
        assert now["th_up"] == pytest.approx(was["th_up"] + 5) and now["th_low"] == was["th_low"]
