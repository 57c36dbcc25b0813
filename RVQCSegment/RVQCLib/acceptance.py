"""Whether the mask of refined networks may replace the one of before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from RVQCLib.selection import from_base
from RVQCLib.stack import STRUCTURES

LEAST_VOLUME, MOST_VOLUME = 1 / 1.5, 3.0
"""By which factor a structure's volume may change. What a network does not recognise it leaves out, so more may come than go."""
CLEAR = 0.05
"""A difference of predicted Dice that says something; its mean error is 0.04."""
PLAIN = 0.1
"""A difference that outweighs a volume: most of the structure had been left out."""
SAME, ALIKE = 0.02, 0.1
"""By how much predicted Dice and pDC, and the candidates' agreement, may be lower and still say the same: candidates do not
adapt all alike."""
TRACE, PART = 0.05, 0.3
"""Of a structure's largest slice: at most so much is nothing in a slice, and more than so much is something."""


GRADED = ("structures", "ood")
"""What an entry of quality.json says by the first pool's calibration too (``second_look``: ``graded``), where its mask is the
refined pool's."""


@dataclass(frozen=True)
class Acceptance:
    """Whether a stack's new mask may replace the old one, and why not."""

    accepted: bool
    reason: str


def accept(before: Mapping[str, Any], after: Mapping[str, Any]) -> Acceptance:
    """Judge the new mask of one stack by the entries of quality.json before and after, graded by one calibration (`comparable`).

    That the networks are better on such images is known from labelled ones with the look of the new domain. What is asked here is
    whether this stack speaks against it. Where the predicted Dice of the RV, the calibrated sum of both opinions, clearly rises
    or falls (by `CLEAR`), that decides. Else a mask is refused that becomes out of distribution, or in which an RV at ES comes to
    a slice above its base: most that does harm is the atrium in a slice that the base has left. Where the predicted Dice rises, the
    mask is taken; where it does not, only if neither it nor pDC nor the candidates' agreement is worse (`SAME`, `ALIKE`). Every structure's
    volume may change between `LEAST_VOLUME` and `MOST_VOLUME`, and grow more where its own predicted Dice rises by `PLAIN`. One
    that was missing may appear, none may vanish.
    """
    old, new = before["structures"], after["structures"]
    if old == new:
        return Acceptance(False, "the mask is the same")
    for structure in STRUCTURES:
        was, volume = old[structure]["volume_ml"], new[structure]["volume_ml"]
        grown = volume > was * MOST_VOLUME and not _rises(old[structure], new[structure], PLAIN)
        if was > 0 and (volume < was * LEAST_VOLUME or grown):
            return Acceptance(False, f"the volume of the {structure} changes from {was:.0f} to {volume:.0f} ml")
    rv, now = old["RV"], new["RV"]
    if now["volume_ml"] <= 0:
        return Acceptance(False, "the RV is still missing")
    if rv["volume_ml"] <= 0:
        return Acceptance(True, "the RV was missing")
    dice, new_dice = rv["predicted_dice"], now["predicted_dice"]
    if dice is None or new_dice is None:
        return Acceptance(False, "no Dice is predicted without a calibration")
    if new_dice < dice - CLEAR:
        return Acceptance(False, f"the predicted Dice of the RV falls from {dice:.2f} to {new_dice:.2f}")
    if _rises(rv, now, CLEAR):
        return Acceptance(True, f"the predicted Dice of the RV rises from {dice:.2f} to {new_dice:.2f}")
    if after["ood"] and not before["ood"]:
        return Acceptance(False, "the new mask is out of distribution, the old one was not")
    if before["phase"] == "ES" and (above := _above_base(before, after)):
        said = (
            f"at ES the RV comes to slice {above[0] + 1} above its base, and its predicted Dice does not clearly rise"
        )
        return Acceptance(False, said)
    if new_dice > dice:
        return Acceptance(True, f"the predicted Dice of the RV rises from {dice:.3f} to {new_dice:.3f}")
    worse = [
        f"the {name} of the RV is worse ({rv[key]:.3f}, now {now[key]:.3f})"
        for name, key, slack in (
            ("predicted Dice", "predicted_dice", SAME),
            ("shape", "pDC", SAME),
            ("agreement", "agreement", ALIKE),
        )
        if now[key] < rv[key] - slack
    ]
    if worse:
        return Acceptance(False, f"nothing speaks for it, and {worse[0]}")
    if now["agreement"] > rv["agreement"]:
        return Acceptance(True, f"the agreement of the RV rises from {rv['agreement']:.3f} to {now['agreement']:.3f}")
    return Acceptance(True, "neither opinion speaks against it")


def comparable(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A stack's entry of quality.json by the first pool's calibration, whichever pool its mask is of: two maps to Dice need not
    agree."""
    return {**entry, **entry.get("second_look", {}).get("graded", {})}


def _above_base(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[int]:
    """The slices, from 0, beyond the base of the RV as it was that it is in now; none where areas are not known (older results)
    or where it was nowhere."""
    old, new = _areas(before, "RV"), _areas(after, "RV")
    largest = max(new, default=0.0)
    there = [k for k, area in enumerate(old) if area > TRACE * largest]
    if not there:
        return []
    whole = np.sum([_areas(before, one) for one in STRUCTURES], axis=0)
    beyond = range(there[0]) if from_base(whole) else range(there[-1] + 1, len(new))
    return [k for k in beyond if new[k] > PART * largest]


def _areas(stack: Mapping[str, Any], structure: str) -> list[float]:
    return [one["structures"].get(structure, {}).get("area_mm2", 0.0) for one in stack["slices"]]


def _rises(old: Mapping[str, Any], new: Mapping[str, Any], by: float) -> bool:
    """Whether the predicted Dice of a structure rises by more than `by`; False without a calibration."""
    was, now = old["predicted_dice"], new["predicted_dice"]
    return was is not None and now is not None and now > was + by
