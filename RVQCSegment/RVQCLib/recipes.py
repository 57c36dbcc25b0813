"""What a refinement is made of: the modes, as recipes for one and the same loop, and all numbers that decide its end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from RVQCLib.files import RVQCError


@dataclass(frozen=True)
class Recipe:
    """How one mode uses the loop.

    Parameters
    ----------
    teacher
        Where the flagged slices' labels come from: ``reconstruction`` (R of the network's own mask, eq. 2), ``consensus``
        (slow-moving candidates, corrected by R), ``entropy`` (none: the network's own certainty is raised), ``none``.
    supervised
        Whether labelled slices are in every step (L_SUP).
    fading
        Whether alpha = 1/k in epoch k, else it rises to `RefinementConfig.alpha`, or is 1 where nothing is labelled.
    live
        Whether the network is in training mode: normalization by the batch, running statistics that follow, dropout.
    normalization_only
        Whether only scale and shift of the normalization layers learn.
    doubted
        Whether every stack that is not trusted is learnt from; else only those out of distribution, as in the paper.
    guarded
        Whether the guards may stop, choose and roll back, and the refined networks become a second pool for what the first
        cannot be trusted with; without, the last epoch is kept, in the place of the old networks.
    """

    teacher: str
    supervised: bool
    fading: bool = False
    live: bool = False
    normalization_only: bool = False
    doubted: bool = True
    guarded: bool = False


RECIPES = {
    "guarded": Recipe("consensus", supervised=True, guarded=True),
    "paper": Recipe("reconstruction", supervised=True, fading=True, live=True, doubted=False),
    "entropy": Recipe("entropy", supervised=False, live=True, normalization_only=True),
    "none": Recipe("none", supervised=False),
}
"""``paper`` is eq. 2 of the paper, ``entropy`` is TENT (Wang et al., ICLR 2021)."""
MOST_SEEDS = 2**32
"""Seeds are below it; what an epoch makes of one still fits torch's generators."""


@dataclass(frozen=True)
class RefinementConfig:
    """Everything that decides what a refined bundle will be, apart from the data.

    Parameters
    ----------
    epochs
        K_semi, the most epochs of a candidate.
    steps
        The steps of an epoch; without labels, and in the baselines, fewer where the flagged slices have all been seen.
    batch
        Slices of a step over all processes. Where there are labelled ones to learn from, half of them are labelled, and in
        ``guarded`` all, as long as flagged ones weigh nothing (`alpha`).
    average
        Decay of the slow-moving copy of the weights (``guarded``), once it has seen many steps.
    alpha
        Weight that the loss of flagged slices' lessons reaches beside labelled slices; 0: they only lend their look.
    style
        Part of the labelled slices that gets the look of the new domain (`styles.Looks`).
    reconstruction
        Weight of R's opinion beside the consensus' probabilities in a pixel's label; 0 leaves R out.
    margin
        By how much the guard may fall when the whole bundle segments the guard set; without labels, the agreement.
    slack
        By how much the guard of one candidate alone may fall; it goes only as far from its start as this allows. It is more
        than `margin`, because a refined candidate is asked only about stacks that the first ones cannot be trusted with.
    patience
        Epochs without a better score until a plateau is called.
    guard_slices
        Labelled slices of the guard set looked at after every epoch; the whole set decides at the end.
    most_stacks
        Flagged stacks that are learnt from at most, drawn by `seed`.
    recalibrate
        Whether the new networks are calibrated anew, on a guard set of ten studies or more; without, they keep the calibration of
        those that they come from, its lower bounds twice as far away.
    """

    mode: str = "guarded"
    epochs: int = 6
    steps: int = 40
    batch: int = 16
    learning_rate: float = 1e-3
    average: float = 0.98
    alpha: float = 0.0
    style: float = 0.75
    reconstruction: float = 0.3
    margin: float = 0.005
    slack: float = 0.02
    patience: int = 3
    guard_slices: int = 48
    most_stacks: int = 24
    source_size: int = 192
    precision: str = "auto"
    recalibrate: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in RECIPES:
            raise RVQCError(f"There is no refinement mode {self.mode!r}; choose from {', '.join(RECIPES)}.")
        if self.epochs < 0 or self.steps < 1 or self.batch < 2 or self.batch % 2 or not 0 <= self.seed < MOST_SEEDS:
            raise RVQCError(
                f"Refinement needs epochs from 0, steps from 1, an even batch and a seed from 0 to {MOST_SEEDS - 1}, not epochs "
                f"{self.epochs}, steps {self.steps}, batch {self.batch}, seed {self.seed}."
            )

    @property
    def recipe(self) -> Recipe:
        """The recipe of the mode."""
        return RECIPES[self.mode]

    def allowed(self, guard: Mapping[str, float]) -> float:
        """By how much this guard of one candidate may fall: `slack` of Dice on labelled slices, `margin` of agreement."""
        return self.margin if "agreement" in guard else self.slack

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return json.loads(json.dumps(asdict(self)))

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> RefinementConfig:
        """The inverse of `to_json`; fields that are missing have their defaults.

        Raises
        ------
        RVQCError
            A field is unknown or its value cannot be.
        """
        try:
            return RefinementConfig(**values)
        except TypeError as error:
            raise RVQCError(
                f"The refinement configuration {dict(values)} is not one that RVQC knows ({error})."
            ) from error
