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

    @property
    def missing(self) -> str:
        """What it needs, for where `amount` is None."""
        return f"needs {' and '.join(self.phases)}"


def quantities(volumes: Mapping[str, Mapping[str, float | None]]) -> tuple[Quantity, ...]:
    """End-diastolic, end-systolic and stroke volume (ml) and ejection fraction (%) of RV and LV, and myocardial mass (g).

    Parameters
    ----------
    volumes
        By phase and structure, in ml; what is not known is left out or None.
    """
    found = []
    for structure in ("RV", "LV"):
        ed, es = (volumes.get(phase, {}).get(structure) for phase in ("ED", "ES"))
        stroke = None if ed is None or es is None else ed - es
        fraction = None if stroke is None or not ed else 100 * stroke / ed
        found += [
            Quantity(structure, "End-diastolic volume", "ml", ed, ("ED",)),
            Quantity(structure, "End-systolic volume", "ml", es, ("ES",)),
            Quantity(structure, "Stroke volume", "ml", stroke, ("ED", "ES")),
            Quantity(structure, "Ejection fraction", "%", fraction, ("ED", "ES")),
        ]
    wall = volumes.get("ED", {}).get("MYO")
    mass = None if wall is None else MYOCARDIUM_G_PER_ML * wall
    return (*found, Quantity("MYO", "Myocardial mass at end-diastole", "g", mass, ("ED",)))
