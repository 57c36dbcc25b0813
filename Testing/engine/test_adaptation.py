"""One candidate while it is refined: by whom it is taught, by whom it is judged, and how slowly."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from RVQCLib import adaptation
from RVQCLib.adaptation import Refinement
from RVQCLib.bundle import load_bundle
from RVQCLib.guards import EpochRecord
from RVQCLib.learner import Learner
from RVQCLib.material import Material
from RVQCLib.recipes import RefinementConfig
from RVQCLib.stack import LABELS
from RVQCLib.teachers import Standing

KNOWN, GUARD, STYLED = ([SimpleNamespace(name=name)] for name in ("known", "guard", "styled"))


@pytest.fixture
def refinement(tiny_bundle: Path, tmp_path: Path) -> Refinement:
    """The second of three candidates, which see labels 1, 2 and 3 everywhere in one stack."""
    models = load_bundle(tiny_bundle).models("SA", "cpu")
    everywhere = np.eye(4, dtype=np.float16)[1:, :, None, None]  # voter, class
    voters = np.tile(everywhere[:, None], (1, 3, 1, 32, 32))
    material = Material([], KNOWN, GUARD, STYLED)  # type: ignore[arg-type]
    return Refinement(
        RefinementConfig(epochs=0, alpha=0.5), 1, models, material, [voters], tmp_path / "candidate.safetensors", 0.0
    )


def test_the_score_is_of_guard_slices_with_the_new_look(
    refinement: Refinement, monkeypatch: pytest.MonkeyPatch
) -> None:
    def guard(self: Refinement, learner: Learner, weights: Any, examples: Any) -> dict[str, float]:
        return dict.fromkeys(LABELS, 0.5 if examples is STYLED else 0.9)

    monkeypatch.setattr(Refinement, "_guard", guard)
    (start,) = _run(refinement, monkeypatch)
    assert start.guard == dict.fromkeys(LABELS, 0.9) and start.score == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("kept", "new", "expected"),
    [
        ({1.0: 0.80, 0.7: 0.89, 0.5: 0.90, 0.35: 0.90, 0.25: 0.90}, (0.7, 0.8, 0.6, 0.5, 0.4), 0.7),
        ({1.0: 0.80, 0.7: 0.89, 0.5: 0.90, 0.35: 0.90, 0.25: 0.90}, (0.9, 0.6, 0.7, 0.8, 0.7), 0.35),
        ({1.0: 0.90, 0.7: 0.90, 0.5: 0.90, 0.35: 0.90, 0.25: 0.90}, (0.7, 0.6, 0.9, 0.9, 0.9), 1.0),
        ({1.0: 0.50, 0.7: 0.50, 0.5: 0.50, 0.35: 0.50, 0.25: 0.50}, (0.9, 0.9, 0.9, 0.9, 0.6), 0.25),
    ],
)
def test_a_candidate_goes_as_far_as_the_guard_bears_and_the_new_look_wins(
    refinement: Refinement,
    monkeypatch: pytest.MonkeyPatch,
    kept: dict[float, float],
    new: tuple[float, ...],
    expected: float,
) -> None:
    styled = dict(zip(adaptation.SHARES, new, strict=True))

    def guard(self: Refinement, learner: Learner, share: float, examples: Any) -> dict[str, float]:
        return dict.fromkeys(LABELS, (styled if examples is STYLED else kept)[share])

    monkeypatch.setattr(Learner, "toward", lambda self, share: share)
    monkeypatch.setattr(Refinement, "_guard", guard)
    learner = Learner(refinement.config, refinement.models.segmenters[0], "cpu", lambda event: None)
    learner.history = [EpochRecord(0, dict.fromkeys(LABELS, 0.9), 0.5, 0, 1.0)]
    assert refinement._settle(learner) == (expected, dict.fromkeys(LABELS, kept[expected]), styled[expected])


def test_a_candidate_is_compared_with_the_others_and_taught_by_those_before_it(
    refinement: Refinement, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught = []

    def lesson(own: np.ndarray, adapted: np.ndarray, others: np.ndarray, *_: Any, **__: Any) -> None:
        taught.extend((adapted, others))
        raise KeyboardInterrupt

    monkeypatch.setattr(Refinement, "_guard", lambda *_: dict.fromkeys(LABELS, 0.9))
    monkeypatch.setattr(adaptation, "lesson", lesson)
    _run(refinement, monkeypatch)
    stack = SimpleNamespace(source=np.zeros((3, 40, 40)), images=np.zeros((3, 1, 32, 32)))
    refinement.material = Material([stack])  # type: ignore[list-item]
    with pytest.raises(KeyboardInterrupt):
        refinement._flagged_slices([refinement.voters[0][1]])
    adapted, others = taught
    assert np.array_equal(adapted, refinement.voters[0][:1])
    assert [set(mask.flat) for mask in others] == [{1}, {3}]


def test_lessons_beside_labels_begin_slowly(refinement: Refinement) -> None:
    assert [refinement._alpha(epoch) for epoch in (1, 2, 3, 4)] == [0.0, 0.25, 0.5, 0.5]
    refinement.material = Material([])
    assert [refinement._alpha(epoch) for epoch in (1, 2)] == [1.0, 1.0]


def _run(one: Refinement, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The looks at a candidate that was run for no epoch, its flagged stacks left aside."""
    monkeypatch.setattr(Refinement, "_probabilities", lambda *_: [])
    monkeypatch.setattr(adaptation, "standing", lambda *_: Standing(0, 0.0, 0.0))
    return one.run().history
