"""The last word on a refinement: the guard set before and after, without a pool that looks twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from RVQCLib import pipeline
from RVQCLib.acceptance import Acceptance
from RVQCLib.adaptation import Refined
from RVQCLib.bundle import ViewModels, load_bundle
from RVQCLib.guards import EpochRecord
from RVQCLib.metrics import dice
from RVQCLib.pipeline import segment_stack
from RVQCLib.recipes import RefinementConfig
from RVQCLib.stack import LABELS, STRUCTURES, Stack, Study
from RVQCLib.verdict import judge, judge_by_agreement, too_few_learnt, with_refined


@pytest.fixture
def models(own_bundle: Path) -> ViewModels:
    return load_bundle(own_bundle).models("SA", "cpu")


def learnt(models: ViewModels, turn: int) -> list[Refined]:
    """Every candidate with its classes taken for others: the last layers' channels, `turn` further on."""
    moved = [
        {name: value.roll(turn, 0) if name.startswith("heads.") else value for name, value in weights.items()}
        for weights in (network.state_dict() for network in models.segmenters)
    ]
    return [Refined(weights, [], (), kept=1, stopped_because="", rolled_back=False) for weights in moved]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[ViewModels]:
    """The pools in the order in which they segment; none is trusted, and a second look's mask is always taken."""
    pools: list[ViewModels] = []
    real = pipeline.propose_stack

    def propose(stack: Stack, pool: ViewModels, *how: Any, **more: Any) -> Any:
        pools.append(pool)
        return real(stack, pool, *how, **more)

    monkeypatch.setattr(pipeline, "propose_stack", propose)
    monkeypatch.setattr(pipeline, "accept", lambda before, after: Acceptance(True, "because"))
    return pools


def mean_dice(models: ViewModels, guards: list[tuple[str, Stack, Stack]]) -> list[float]:
    """By structure, of every guard stack segmented as users would have it."""
    pairs = [(segment_stack(study, image, models).mask.pixels, truth.pixels) for study, image, truth in guards]
    return [float(np.mean([dice(mask == LABELS[s], truth == LABELS[s]) for mask, truth in pairs])) for s in STRUCTURES]


@pytest.mark.parametrize("mode", ["guarded", "paper"])
@pytest.mark.parametrize("pools_before", [1, 2])
def test_no_pool_looks_at_a_guard_stack_twice_and_the_guard_is_that_of_whole_segmentations(
    mode: str, pools_before: int, models: ViewModels, tiny_study: Study, asked: list[ViewModels]
) -> None:
    images = [stack for stack in tiny_study.stacks if stack.view == "SA"]
    # What random weights find is the truth here: of a real heart they find nothing.
    guards = [("tiny", image, segment_stack("tiny", image, models).mask) for image in images]
    if pools_before == 2:
        models = with_refined(models, learnt(models, 1), None, second=True)
    refined, config = learnt(models.latest, 2), RefinementConfig(mode=mode)
    new = with_refined(models, refined, None, second=config.recipe.guarded)
    before, after = mean_dice(models, guards), mean_dice(new, guards)
    assert before != after, "the refined networks must say something else for this to show anything"

    asked.clear()
    checks: list[int] = []
    found = judge(models, new, guards, config, lambda: checks.append(1))
    assert list(found.guard["before"].values()) == before and list(found.guard["refined"].values()) == after
    assert len(asked) == len(guards) * (1 + pools_before) and len(checks) == len(guards)
    assert sum(pool is models for pool in asked) == len(guards)


def test_what_the_first_pool_is_trusted_with_is_looked_at_once(
    models: ViewModels, tiny_study: Study, asked: list[ViewModels], monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., Any] = pipeline.judge

    def trusting(*how: Any, **more: Any) -> Any:
        return replace(real(*how, **more), verdict="trusted")

    monkeypatch.setattr(pipeline, "judge", trusting)
    image = next(stack for stack in tiny_study.stacks if stack.view == "SA")
    guard = (tiny_study.name, image, tiny_study.label("SA", image.phase))
    new = with_refined(models, learnt(models, 2), None, second=True)
    found = judge(models, new, [guard], RefinementConfig(), lambda: None)
    assert asked == [models] and found.guard["before"] == found.guard["refined"] and not found.rolled_back


def test_where_the_guard_fell_by_more_than_the_margin_all_is_taken_back(
    models: ViewModels, tiny_study: Study, asked: list[ViewModels]
) -> None:
    image = tiny_study.stack("SA", "ED")
    guards = [("tiny", image, segment_stack("tiny", image, models).mask)]
    new = with_refined(models, learnt(models, 2), None, second=True)
    found = judge(models, new, guards, RefinementConfig(), lambda: None)
    assert found.guard["before"] == dict.fromkeys(STRUCTURES, 1.0) != found.guard["refined"]
    assert found.rolled_back and found.guard["after"] == found.guard["before"]
    for borne in (RefinementConfig(margin=1.0), RefinementConfig(mode="paper")):
        assert not judge(models, new, guards, borne, lambda: None).rolled_back


def refined(kept: int, *agreement: float) -> Refined:
    """A candidate whose agreement was so after every epoch, from the start on."""
    history = tuple(EpochRecord(epoch, {"agreement": value}, 0.0, 1) for epoch, value in enumerate(agreement))
    return Refined({}, [], history, kept, "", False)


def test_without_labels_less_agreement_of_what_was_kept_takes_all_back() -> None:
    config = RefinementConfig()
    worse = judge_by_agreement([refined(1, 0.9, 0.89)] * 2, config)
    assert worse.rolled_back and worse.guard["after"] == worse.guard["before"]
    assert not judge_by_agreement([refined(1, 0.9, 0.898), refined(0, 0.9, 0.1)], config).rolled_back


def test_fewer_than_half_that_learnt_take_all_back() -> None:
    learnt, idle = refined(1, 0.9, 0.9), refined(0, 0.9, 0.9)
    assert too_few_learnt([learnt, idle]) is None
    found = too_few_learnt([learnt, idle, idle])
    assert found is not None and found.rolled_back and found.why == "only 1 of 3 candidates learnt something"
