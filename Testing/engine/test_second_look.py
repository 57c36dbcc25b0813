"""A refined bundle has a second pool of networks, which is asked only about what the first cannot be trusted with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from RVQCLib import pipeline
from RVQCLib.acceptance import Acceptance, comparable
from RVQCLib.bundle import Bundle, ViewModels, entries, load_bundle, model_hash, pools
from RVQCLib.card import card
from RVQCLib.domain import LEVELS, RINGS, Domain
from RVQCLib.files import BundleError, read_json, write_json
from RVQCLib.inference import Proposal
from RVQCLib.info import describe
from RVQCLib.pipeline import segment_stack, segment_study
from RVQCLib.quality import QCOptions
from RVQCLib.stack import Stack, Study
from RVQCLib.successor import write_successor

FEATURES = RINGS + len(LEVELS)


def other_weights(bundle: Bundle, seed: int) -> list[dict[str, torch.Tensor]]:
    """Random weights for the first pool's networks."""
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            name: torch.rand(value.shape, generator=generator) - 0.5 if value.is_floating_point() else value
            for name, value in network.state_dict().items()
        }
        for network in bundle.models("SA", "cpu").segmenters
    ]


@pytest.fixture
def refine(own_bundle: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes a successor of a bundle, as a refinement would, with random weights; the last of its networks is unchanged."""

    def write(name: str = "new", parent: Path = own_bundle, seed: int = 1, **how: Any) -> Path:
        old = load_bundle(parent)
        records = [{"mode": "guarded", "epoch": 2}, {"mode": "guarded", "epoch": 1}, {}]
        how = {"second": True, "domains": {}, "labelled": {}, **how}
        write_successor(tmp_path / name, old, {"SA": other_weights(old, seed)}, {"SA": records}, name, **how)
        return tmp_path / name

    return write


def segmenters(path: Path) -> list[list[str]]:
    return [[e["sha256"] for e in pool["segmenters"]] for pool in pools(load_bundle(path).description["views"]["SA"])]


def test_the_first_networks_stay_and_the_refined_ones_lie_beside_them(
    own_bundle: Path, refine: Callable[..., Path]
) -> None:
    domain = Domain(np.zeros(FEATURES), np.ones(FEATURES))
    new = load_bundle(refine(domains={"SA": domain}))
    first, later = segmenters(new.path)
    assert first == segmenters(own_bundle)[0] and not set(first) & set(later)
    part, old = (load_bundle(path).description["views"]["SA"] for path in (new.path, own_bundle))
    assert model_hash(part) == model_hash(old) != model_hash(pools(part)[1])
    assert [e["file"] for e in pools(part)[1]["segmenters"]] == [f"SA/refined{k}.safetensors" for k in (1, 2, 3)]
    assert ["refined" in e for e in pools(part)[1]["segmenters"]] == [True, True, False] and len(entries(part)) == 8
    models = new.models("SA", "cpu")
    assert models.refined and models.latest is models.refined and models.refined.qc is models.qc
    assert models.refined.names == ("refined BN1", "refined BN2", "refined BN1") and models.refined.refined is None
    assert models.refined.domain and models.refined.domain.direction.tolist() == [1.0] * FEATURES
    assert load_bundle(own_bundle).models("SA", "cpu").latest.names == ("BN1", "BN2", "BN1")


def test_a_second_refinement_replaces_the_refined_networks_and_never_the_first(
    own_bundle: Path, refine: Callable[..., Path]
) -> None:
    once = refine(domains={"SA": Domain(np.zeros(FEATURES), np.ones(FEATURES))})
    for name, second in (("guarded", True), ("paper", False)):
        again = refine(name, once, 2, second=second)
        assert segmenters(again)[0] == segmenters(own_bundle)[0] and segmenters(again)[1] != segmenters(once)[1]
        assert sorted(path.name for path in (again / "SA").iterdir()) == sorted(p.name for p in (once / "SA").iterdir())
        assert "domain" not in pools(load_bundle(again).description["views"]["SA"])[1], (
            "that of before is no longer true"
        )
    in_place = refine("in place", second=False)
    assert len(segmenters(in_place)) == 1 and segmenters(in_place)[0] != segmenters(own_bundle)[0]


def test_a_draft_that_is_written_again_keeps_its_day(refine: Callable[..., Path]) -> None:
    """A refinement that was killed after its draft goes on another day; results already name the draft's hash."""
    path = refine()
    write_json(path / "bundle.json", {**read_json(path / "bundle.json"), "created": "2001-02-03"})
    assert read_json(refine() / "bundle.json")["created"] == "2001-02-03"


def test_a_damaged_refined_network_or_domain_is_noticed(refine: Callable[..., Path]) -> None:
    path = refine()
    file = path / "SA" / "refined2.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BundleError, match=r"refined2\.safetensors is not the file"):
        load_bundle(path)
    with pytest.raises(BundleError, match="lacks or garbles"):
        load_bundle(refine("short", domains={"SA": Domain(np.zeros(3), np.ones(3))}))


@pytest.fixture
def models(refine: Callable[..., Path]) -> ViewModels:
    return load_bundle(refine()).models("SA", "cpu")


def looked_at(monkeypatch: pytest.MonkeyPatch, verdict: str) -> list[str]:
    """Every pool's verdict is this one; returns the pools in the order in which they are asked."""
    propose, judge, asked = pipeline.propose_stack, pipeline._judgement, []

    def proposed(stack: Stack, pool: ViewModels, *how: Any, **more: Any) -> Proposal:
        asked.append(pool.names[0])
        return propose(stack, pool, *how, **more)

    monkeypatch.setattr(pipeline, "propose_stack", proposed)
    monkeypatch.setattr(pipeline, "_judgement", lambda *what: {**judge(*what), "verdict": verdict})
    return asked


@pytest.mark.parametrize("accepted", [True, False])
def test_what_is_not_trusted_is_asked_again_and_the_better_mask_taken(
    accepted: bool, models: ViewModels, tiny_study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, ticks = looked_at(monkeypatch, "look"), []
    monkeypatch.setattr(pipeline, "accept", lambda before, after: Acceptance(accepted, "because"))
    stack = tiny_study.stacks[0]
    result = segment_stack("s", stack, models, tick=ticks.append)
    assert asked == ["BN1", "refined BN1"] and sum(ticks) == 8 * len(stack.pixels)
    names = [candidate["network"] for candidate in result.judgement["candidates"]]
    assert names == list((models.refined if accepted else models).names)  # type: ignore[union-attr]
    look = result.judgement["second_look"]
    assert look["taken"] is accepted and look["reason"] == "because" and set(look["other"]) == {"RV", "LV", "MYO"}
    assert result.judgement["selection_reason"].endswith(f"was {'' if accepted else 'not '}taken: because.")
    alone = pipeline.look("s", stack, models.latest if accepted else models).result
    assert np.array_equal(result.mask.pixels, alone.mask.pixels)


def test_both_pools_look_at_the_same_place(
    models: ViewModels, tiny_study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at(monkeypatch, "look")
    seen, propose = [], pipeline.propose_stack

    def proposed(*how: Any, **more: Any) -> Proposal:
        seen.append(more.get("crop"))
        return propose(*how, **more)

    monkeypatch.setattr(pipeline, "propose_stack", proposed)
    segment_stack("s", tiny_study.stacks[0], models)
    first = pipeline.look("s", tiny_study.stacks[0], models).proposal
    assert seen[:2] == [None, first.crop]


def test_both_masks_are_graded_by_one_map_and_the_new_one_is_told_of_by_its_own(
    models: ViewModels, tiny_study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    picks: list[Any] = []
    judge, pick, compared = pipeline._judgement, pipeline._picked, []

    def said(study: str, proposal: Proposal, one: Any, pool: ViewModels, options: QCOptions) -> dict[str, Any]:
        assert pool.calibration
        picks.append(one)
        found = judge(study, proposal, one, replace(pool, calibration=None), options)
        return {**found, "structures": {**found["structures"], "map": pool.calibration["map"]}}

    def picked(proposal: Proposal, pool: ViewModels, options: QCOptions) -> Any:
        return pick(proposal, replace(pool, calibration=None), options)

    def accept(before: dict[str, Any], after: dict[str, Any]) -> Acceptance:
        compared.append((before["structures"]["map"], after["structures"]["map"]))
        return Acceptance(True, "because")

    assert models.refined is not None
    refined = replace(models.refined, calibration={"map": "its own"})
    models = replace(models, calibration={"map": "the first"}, refined=refined)
    monkeypatch.setattr(pipeline, "_judgement", said)
    monkeypatch.setattr(pipeline, "_picked", picked)
    monkeypatch.setattr(pipeline, "accept", accept)
    entry = segment_stack("s", tiny_study.stacks[0], models).judgement
    assert compared == [("the first", "the first")] and entry["structures"]["map"] == "its own"
    assert picks[1] is picks[2], "the mask that is compared is the one that is taken"
    assert comparable(entry)["structures"]["map"] == "the first" == entry["second_look"]["other"]["map"]


@pytest.mark.parametrize("why", ["trusted", "another domain"])
def test_what_is_trusted_or_of_another_domain_is_not_asked_again(
    why: str, models: ViewModels, tiny_study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, ticks = looked_at(monkeypatch, "trusted" if why == "trusted" else "look"), []
    assert models.refined is not None
    nowhere = Domain(np.full(FEATURES, 1e6), np.ones(FEATURES))
    models = replace(models, refined=replace(models.refined, domain=nowhere)) if why != "trusted" else models
    result = segment_stack("s", tiny_study.stacks[0], models, tick=ticks.append)
    assert asked == ["BN1"] and sum(ticks) == 8 * len(tiny_study.stacks[0].pixels)
    assert "second_look" not in result.judgement


def test_a_whole_study_is_segmented_with_honest_progress(refine: Callable[..., Path], tiny_study: Study) -> None:
    events: list[dict[str, Any]] = []
    result = segment_study(tiny_study, load_bundle(refine()), device="cpu", progress=events.append)
    steps = [event for event in events if event["event"] == "slices"]
    assert steps[-1]["done"] == steps[-1]["total"]
    assert [stack.judgement["second_look"]["taken"] for stack in result.stacks] == [False] * len(result.stacks)


def test_info_and_card_tell_of_the_refined_networks(refine: Callable[..., Path]) -> None:
    path = refine()
    said, text = describe(path)[1], card(load_bundle(path))
    assert "SA refined candidates, for stacks that those cannot be trusted with: after 2, 1, no epochs" in said
    assert "Candidates 1, 2 were also refined." in text
