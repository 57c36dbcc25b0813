"""Cardiac function from the volumes of a short-axis stack: the numbers that a report names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MYOCARDIUM_G_PER_ML = 1.05


@dataclass(frozen=True)
class Quantity:
    """One number: of which structure, in which unit, and from which phases' masks. `amount` is None where one is missing."""

    structure: str
    name: str
    unit: str
    amount: float | None
    phases: tuple[str, ...]
    impossible: str = ""

    @property
    def missing(self) -> str:
        """Why `amount` is None: what it needs, or what is wrong with what there is."""
        return self.impossible or f"needs {' and '.join(self.phases)}"


def quantities(volumes: Mapping[str, Mapping[str, float | None]]) -> tuple[Quantity, ...]:
    """End-diastolic, end-systolic and stroke volume (ml) and ejection fraction (%) of RV and LV, and myocardial mass (g).

    Parameters
    ----------
    volumes
        By phase and structure, in ml; what is not known is left out or None. Of a ventricle that is larger at ES than at ED
        there is neither stroke volume nor ejection fraction.
    """
    found = []
    for structure in ("RV", "LV"):
        ed, es = (volumes.get(phase, {}).get(structure) for phase in ("ED", "ES"))
        known = ed is not None and es is not None
        odd = "impossible: larger at end-systole" if known and es > ed else ""
        stroke = ed - es if known and not odd else None
        fraction = None if stroke is None or not ed else 100 * stroke / ed
        empty = "impossible: nothing at end-diastole" if known and not ed else ""
        found += [
            Quantity(structure, "End-diastolic volume", "ml", ed, ("ED",)),
            Quantity(structure, "End-systolic volume", "ml", es, ("ES",)),
            Quantity(structure, "Stroke volume", "ml", stroke, ("ED", "ES"), odd),
            Quantity(structure, "Ejection fraction", "%", fraction, ("ED", "ES"), odd or empty),
        ]
    wall = volumes.get("ED", {}).get("MYO")
    mass = None if wall is None else MYOCARDIUM_G_PER_ML * wall
    return (*found, Quantity("MYO", "Myocardial mass at end-diastole", "g", mass, ("ED",)))
