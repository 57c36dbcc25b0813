"""What a user may choose about the judgement, and from where on a measure is evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from RVQCLib.stack import STRUCTURES


@dataclass(frozen=True)
class Limits:
    """From where on a measure is evidence. A measure beyond its fence counts only when it is also worse than this.

    Fences of 1.5 quartile ranges leave out some per cent of good values; with 10 slices, 3 structures and 3 measures
    nearly every good stack would have one. So a slice whose structure still reaches these values is not flagged. The values
    were chosen on the calibration part of the shipped bundle, each patient predicted without itself.

    Parameters
    ----------
    slice_dice
        pDC or agreement of a slice.
    slice_mm
        pHD of a slice.
    slice_mm2
        Area that a structure must have, in the mask or in the reconstruction, for an opinion to flag its slice: 1 ml
        of a 10 mm slice.
    stack_dice
        Agreement over a stack.
    predicted
        Predicted Dice of a slice, of any area: below, it is flagged.
    sure
        Predicted Dice of a slice: from here on, neither opinion flags it.
    lower_bound
        90 % lower bound of a stack's predicted Dice, of any structure. A structure that is not the primary one and reaches
        it may have an unusual shape.
    share
        Part of a structure, by area, that must lie in flagged slices before they ask for a look at the stack. Less stays a
        matter of these slices. 0: every flagged slice asks.
    """

    slice_dice: float = 0.75
    slice_mm: float = 8.0
    slice_mm2: float = 100.0
    stack_dice: float = 0.9
    predicted: float = 0.75
    sure: float = 0.85
    lower_bound: float = 0.65
    share: float = 0.3


@dataclass(frozen=True)
class QCOptions:
    """Which fences judge (``reference`` of the bundle or ``cohort``), which OoD rule, and by which structure."""

    fences: str = "reference"
    quantifier: str = "paper"
    primary: str = "RV"
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for name, known in (
            ("fences", ("reference", "cohort")),
            ("quantifier", ("paper", "authors")),
            ("primary", STRUCTURES),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"QCOptions: {name} must be one of {', '.join(known)}, not {getattr(self, name)!r}.")

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> QCOptions:
        """The inverse of `to_json`."""
        return QCOptions(**{**values, "limits": Limits(**values.get("limits", {}))})
