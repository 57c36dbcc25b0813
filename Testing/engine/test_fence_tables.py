"""Reference fences: of stacks by phase, of slices by position, each against NumPy's quartiles worked beside them."""

from __future__ import annotations

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
    tables = agreement_fences([*STACKS, clean("ED", (0, 0), empty=True)])
    assert tables["stack"] == dict.fromkeys(STRUCTURES, 1.0)  # the two candidates are equal everywhere
    assert set(tables["slice"]) == {"basal", "mid", "apical", "outside"}
