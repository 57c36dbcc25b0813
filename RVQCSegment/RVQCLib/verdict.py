"""The last word on a refinement: the whole bundle, as users will have it, on the whole guard set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from RVQCLib.adaptation import Refined
from RVQCLib.bundle import ViewModels
from RVQCLib.calibration import Labelled
from RVQCLib.domain import Domain
from RVQCLib.fitting import build_like
from RVQCLib.guards import fallen
from RVQCLib.metrics import dice
from RVQCLib.pipeline import look, look_again
from RVQCLib.recipes import RefinementConfig
from RVQCLib.stack import LABELS, STRUCTURES, Stack
from RVQCLib.successor import widened


@dataclass(frozen=True, eq=False)
class Verdict:
    """Whether all is taken back, the guard ``before``, ``refined`` (as the candidates came) and ``after``, and why it would
    be taken back."""

    rolled_back: bool
    guard: dict[str, dict[str, float]]
    why: str = "the guard of the whole bundle fell"


def judge(
    models: ViewModels,
    new: ViewModels,
    guards: Sequence[Labelled],
    config: RefinementConfig,
    check: Callable[[], None],
) -> Verdict:
    """Segment the guard set with the `models` of before and the `new` ones; where it fell by more than the margin, all is to be
    taken back.

    What the first pool is trusted with stays as it is, and so does what does not look like the new domain: the guard shows
    what is risked on the rest.

    `check` is called before every stack and may raise.
    """
    old, now = [], []
    for study, image, truth in guards:
        check()
        first = look(study, image, models)
        old.append(_dice(look_again(first, models).mask, truth))
        if new.refined is None:  # the first pool itself is another
            first = look(study, image, new)
        now.append(_dice(look_again(first, new).mask, truth))
    before, after = (dict(zip(STRUCTURES, np.mean(rows, axis=0).tolist(), strict=True)) for rows in (old, now))
    back = config.recipe.guarded and fallen(before, after) > config.margin
    return Verdict(back, {"before": before, "refined": after, "after": before if back else after})


def _dice(mask: Stack, truth: Stack) -> list[float]:
    return [dice(mask.pixels == LABELS[s], truth.pixels == LABELS[s]) for s in STRUCTURES]


def judge_by_agreement(refined: Sequence[Refined], config: RefinementConfig) -> Verdict:
    """Without labels: all is taken back where the candidates agree less."""
    old, new = _own_guards(refined)
    back = config.recipe.guarded and fallen(old, new) > config.margin
    return Verdict(back, {"before": old, "refined": new, "after": old if back else new})


def _own_guards(refined: Sequence[Refined]) -> tuple[dict[str, float], dict[str, float]]:
    """The mean of the candidates' own guards, before and as they came."""
    ends = [(one.history[0], next(record for record in one.history if record.epoch == one.kept)) for one in refined]
    before, after = (
        {key: float(np.mean([record.guard[key] for record in all_])) for key in all_[0].guard}
        for all_ in zip(*ends, strict=True)
    )
    return before, after


def too_few_learnt(refined: Sequence[Refined]) -> Verdict | None:
    """All is taken back where fewer than half of the candidates became better on guard slices with the new look: what changes
    then is less what the pool sees than which of its candidates is selected. None where enough did."""
    learnt = sum(one.kept > 0 for one in refined)
    if 2 * learnt >= len(refined):
        return None
    before, after = _own_guards(refined)
    guard = {"before": before, "refined": after, "after": before}
    return Verdict(True, guard, f"only {learnt} of {len(refined)} candidates learnt something")


def with_refined(models: ViewModels, refined: Sequence[Refined], domain: Domain | None, *, second: bool) -> ViewModels:
    """The models with what was learnt: as the second pool, for images of `domain`, else in the place of the pool that learnt
    it."""
    pool = models.latest
    moved = [  # a candidate may have ended on the CPU, for want of memory
        build_like(model, one.weights).to(models.device) for model, one in zip(pool.segmenters, refined, strict=True)
    ]
    calibration = widened(pool.calibration) if pool.calibration else None
    learnt = replace(pool, segmenters=tuple(moved), calibration=calibration, refined=None, domain=domain)
    return replace(models, refined=learnt) if second or models.refined else learnt
