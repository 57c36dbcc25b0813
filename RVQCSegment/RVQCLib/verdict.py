"""The last word on a refinement: all candidates together, on the whole guard set, and how far they may go."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from RVQCLib.adaptation import SHARES, Refined
from RVQCLib.bundle import ViewModels
from RVQCLib.dataset import Example
from RVQCLib.guards import fallen
from RVQCLib.inference import propose
from RVQCLib.learner import between
from RVQCLib.metrics import dice
from RVQCLib.recipes import RefinementConfig
from RVQCLib.stack import LABELS, STRUCTURES


@dataclass(frozen=True, eq=False)
class Verdict:
    """The candidates as they are to be, `share` of the way to what they have learnt (0: all is taken back), and the guard
    ``before``, ``refined`` (as the candidates came) and ``after``."""

    models: ViewModels
    share: float
    guard: dict[str, dict[str, float]]


def judge(
    models: ViewModels,
    refined: Sequence[Refined],
    guards: Sequence[Example],
    config: RefinementConfig,
    check: Callable[[], None],
) -> Verdict:
    """Where the guard fell by more than the margin, all candidates go back, part of the way or all of it.

    `check` is called before every stack and may raise.
    """
    old = _guard(models, guards, config, check)
    new = last = _guard(part_way(models, refined, 1.0), guards, config, check)
    share = 1.0
    while config.recipe.guarded and fallen(old, last) > config.margin:
        share = next((less for less in SHARES if less < share), 0.0)
        last = _guard(part_way(models, refined, share), guards, config, check) if share else old
    return Verdict(part_way(models, refined, share), share, {"before": old, "refined": new, "after": last})


def judge_by_agreement(models: ViewModels, refined: Sequence[Refined], config: RefinementConfig) -> Verdict:
    """Without labels: all is taken back where the candidates agree less."""
    looks = [(one.looks[0], next(look for look in one.looks if look.epoch == one.kept)) for one in refined]
    old, new = (
        {"agreement": float(np.mean([look.guard["agreement"] for look in all_]))} for all_ in zip(*looks, strict=True)
    )
    share = 0.0 if config.recipe.guarded and fallen(old, new) > config.margin else 1.0
    return Verdict(
        part_way(models, refined, share), share, {"before": old, "refined": new, "after": new if share else old}
    )


def part_way(models: ViewModels, refined: Sequence[Refined], share: float) -> ViewModels:
    """The candidates `share` of the way from what they were to what they have become."""
    pairs = zip(models.segmenters, refined, strict=True)
    moved = [with_weights(model, between(model.state_dict(), one.weights, share)) for model, one in pairs]
    return replace(models, segmenters=tuple(moved))


def with_weights(model: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """A copy of the model with other weights, in evaluation mode."""
    twin = copy.deepcopy(model)
    twin.load_state_dict(weights)
    return twin.eval()


def _guard(
    models: ViewModels, guards: Sequence[Example], config: RefinementConfig, check: Callable[[], None]
) -> dict[str, float]:
    """Mean Dice by structure of the candidates' mean on the guard set."""
    rows = []
    for example in guards:
        check()
        with torch.autocast(models.device.split(":")[0], torch.bfloat16, enabled=config.precision == "bfloat16"):
            probabilities = propose(example.images.astype(np.float32)[:, None], replace(models, consensus=False))
        mask = probabilities.mean(axis=0).argmax(axis=1)
        rows.append([dice(mask == LABELS[s], example.labels == LABELS[s]) for s in STRUCTURES])
    return dict(zip(STRUCTURES, np.mean(rows, axis=0).tolist(), strict=True))
