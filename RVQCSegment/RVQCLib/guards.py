"""The guards of a refinement: labelled slices that are never trained on, when to stop, and whose new mask is believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from RVQCLib.dataset import Example
from RVQCLib.stack import STRUCTURES

PLATEAU = 0.001
"""By how much a score must be better to count."""


def thinned(examples: Sequence[Example], most: int) -> list[Example]:
    """The examples with evenly left-out slices: about `most` slices together, at least one of every stack."""
    total = sum(len(example.images) for example in examples)
    step = max(1, round(total / max(most, 1)))
    return [
        replace(example, images=example.images[start::step], labels=example.labels[start::step])
        for number, example in enumerate(examples)
        for start in [min(number % step, len(example.images) - 1)]
    ]


def weighted(dice_by_structure: Mapping[str, float]) -> float:
    """One number of a guard's Dice: the RV half, LV and MYO a quarter each."""
    return 0.5 * dice_by_structure["RV"] + 0.25 * dice_by_structure["LV"] + 0.25 * dice_by_structure["MYO"]


def fallen(before: Mapping[str, float], now: Mapping[str, float]) -> float:
    """How far a guard has fallen: the larger loss of the RV's Dice and of the mean over structures; or of the agreement."""
    if "agreement" in before:
        return before["agreement"] - now["agreement"]
    return max(before["RV"] - now["RV"], float(np.mean([before[s] - now[s] for s in STRUCTURES])))


@dataclass(frozen=True)
class EpochRecord:
    """What was seen of a candidate after an epoch.

    Parameters
    ----------
    guard
        What must not fall: Dice by structure of the labelled guard set; without labels {"agreement": …}.
    score
        What decides which epoch is kept.
    flagged
        Flagged stacks that this candidate would flag itself.
    share
        How far it went from the weights of before to what it had learnt.
    """

    epoch: int
    guard: Mapping[str, float]
    score: float
    flagged: int
    share: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {**asdict(self), "guard": dict(self.guard)}


def best_of(history: Sequence[EpochRecord], margin: float) -> EpochRecord:
    """The record to keep: the best score among those whose guard held. The first, before any step, always counts."""
    best = history[0]
    for record in history[1:]:
        if fallen(history[0].guard, record.guard) <= margin and record.score > best.score + PLATEAU:
            best = record
    return best


def reason_to_stop(history: Sequence[EpochRecord], margin: float, patience: int) -> str:
    """Why a guarded candidate should stop now, or an empty string: no flags, guard, plateau, in this order.

    A guard that fell is no reason before `patience` has run out: with a high learning rate it falls at first and comes back,
    and nothing is kept while it is low.

    A candidate that alone would have flagged nothing from the start (the stacks were flagged for disagreement) has no flags
    to lose. One that has lost its flags and still becomes better goes on, for a fence sees only the worst; and so does one that
    has not become better yet.
    """
    now = history[-1]
    best = best_of(history, margin).epoch
    if now.flagged == 0 < history[0].flagged and 0 < best < now.epoch:
        return "no flags are left"
    if now.epoch - best >= patience:
        return "the guard fell" if fallen(history[0].guard, now.guard) > margin else "plateau"
    return ""
