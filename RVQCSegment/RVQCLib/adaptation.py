"""Refining one candidate: labelled and flagged slices in one summed step, a slow-moving teacher, the guards (Sec. 2.2).

One loop serves every mode; `recipes.py` says how they differ. Every epoch draws from (seed, candidate, epoch), so a run that
was killed continues from its checkpoint as it would have gone on: on a CPU to the same end; on a GPU, where sums may come out
in another order, nearly.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from RVQCLib.augmentation import AugmentationConfig, augment
from RVQCLib.bundle import ViewModels
from RVQCLib.dataset import Example
from RVQCLib.files import Cancelled
from RVQCLib.fitting import Report, build_like
from RVQCLib.guards import EpochRecord, best_of, fallen, reason_to_stop, weighted
from RVQCLib.inference import hard_masks
from RVQCLib.learner import Batch, Learner
from RVQCLib.material import Material
from RVQCLib.metrics import dice
from RVQCLib.recipes import RefinementConfig
from RVQCLib.stack import LABELS
from RVQCLib.teachers import lesson, standing

GENTLE = AugmentationConfig(scale=(0.85, 1.2), relabel=0.1, remap=0.25, gamma=0.25, bias=0.25, blur=0.1, noise=0.2)
"""Of flagged slices: moved and turned as in training, but with more of their own look left."""

PLACED = AugmentationConfig(relabel=0, remap=0, gamma=0, bias=0, blur=0, noise=0, ghost=0)
"""Of labelled slices that get the look of the new domain: only moved and turned, the look is all that changes them."""

SHARES = (1.0, 0.7, 0.5, 0.35, 0.25)
"""How far a candidate may go from its start toward what it learnt, of which the largest is taken at which the guard holds."""
RISE = 2
"""Epochs after the first in which alpha rises to its full value beside labels."""


@dataclass(frozen=True, eq=False)
class Refined:
    """A candidate after refinement: its weights, what was seen of it, which epoch was kept, and why it ended."""

    weights: dict[str, Tensor]
    probabilities: list[np.ndarray]
    history: tuple[EpochRecord, ...]
    kept: int
    stopped_because: str
    rolled_back: bool

    def to_json(self) -> dict[str, Any]:
        """All but the arrays, as JSON values."""
        return {
            "kept_epoch": self.kept,
            "stopped_because": self.stopped_because,
            "rolled_back": self.rolled_back,
            "epochs": [record.to_json() for record in self.history],
        }


@dataclass
class Refinement:
    """The refinement of candidate `number` (from 0) of the pool `models`.

    Parameters
    ----------
    voters
        Of every flagged stack the class probabilities of all segmenters as they are now (m, slices, 4, size, size).
    checkpoint
        A safetensors file, rewritten whole after every epoch by the leader; an existing one is continued.
    reconstruction
        Weight of R's opinion in the lessons; 0 where R may not teach.
    """

    config: RefinementConfig
    number: int
    models: ViewModels
    material: Material
    voters: Sequence[np.ndarray]
    checkpoint: Path
    reconstruction: float
    report: Report = lambda event: None
    cancelled: Callable[[], bool] = lambda: False
    _others: list[np.ndarray] = field(init=False, repr=False)  # of every stack the masks of the other candidates

    def run(self) -> Refined:
        """Refine, from the checkpoint if there is one.

        Raises
        ------
        Cancelled
            `cancelled` returned True; the checkpoint of the last whole epoch stays.
        """
        config, recipe = self.config, self.config.recipe
        keep = [j for j in range(len(self.models.segmenters)) if j != self.number]
        self._others = [_masks(voters[keep]) for voters in self.voters]
        learner = Learner(config, self.models.segmenters[self.number], self.models.device, self.report)
        learner.load(self.checkpoint)
        if learner.history:
            own = self._probabilities(learner, learner.toward(learner.history[-1].share))
        else:
            own = self._see(learner)
        reason = self._reason(learner)
        while not reason and learner.epoch < config.epochs:
            started = time.monotonic()
            losses = self._epoch(learner, own)
            learner.epoch += 1
            own = self._see(learner)
            learner.save(self.checkpoint)
            reason = self._reason(learner)
            self._tell(learner, losses, time.monotonic() - started)
        return self._end(learner, own, reason or "K_semi was reached" if recipe.teacher != "none" else "nothing to do")

    def _reason(self, learner: Learner) -> str:
        history, config = learner.history, self.config
        if config.recipe.guarded:
            return reason_to_stop(history, config.allowed(history[0].guard), config.patience)
        return "no flags are left" if history[-1].flagged == 0 < history[0].flagged else ""

    def _end(self, learner: Learner, own: list[np.ndarray], reason: str) -> Refined:
        history, allowed = learner.history, self.config.allowed(learner.history[0].guard)
        kept = best_of(history, allowed) if self.config.recipe.guarded else history[-1]
        weights = learner.best if self.config.recipe.guarded else learner.average
        if kept.epoch != learner.epoch:
            own = self._probabilities(learner, weights)
        back = self.config.recipe.guarded and fallen(history[0].guard, history[-1].guard) > allowed
        return Refined(weights, own, tuple(history), kept.epoch, reason, back)

    # What is seen --------------------------------------------------------------------------------------------------

    def _see(self, learner: Learner) -> list[np.ndarray]:
        """Look at the candidate as it is now and remember it; returns its probabilities on the flagged stacks."""
        share, guard, score = self._settle(learner)
        weights = learner.toward(share)
        own = self._probabilities(learner, weights)
        here = standing(own, self._others, self.material.flagged, self.models)
        if not guard:
            seen = [here.agreement, here.trust, here.flagged]
            agreement, trust, flagged = learner.crew.agree(seen, learner.device)
            learner.remember(EpochRecord(learner.epoch, {"agreement": agreement}, trust, int(flagged)))
            return own
        # With labels the score owes nothing to R or to the other candidates, who may all be wrong in the same way.
        (flagged,) = learner.crew.agree([here.flagged], learner.device)
        learner.remember(EpochRecord(learner.epoch, guard, score, int(flagged), share))
        return own

    def _settle(self, learner: Learner) -> tuple[float, dict[str, float], float]:
        """How far the candidate goes: the largest of `SHARES` at which the labelled guard holds (or the smallest), or a smaller
        one at which slices with the look of the new domain are segmented better; that guard, and that score.

        What was learnt of the new domain outlives a step back better than what was lost of the old one. The search begins
        a step above where it ended after the last epoch.
        """
        if not self.material.guard:
            return 1.0, {}, 0.0
        guarded, history = self.config.recipe.guarded, learner.history
        last = SHARES.index(history[-1].share) if history else 0
        shares = iter(SHARES[max(last - 1, 0) :])
        for share in shares:
            guard = self._agreed(learner, share, self.material.guard)
            if not guarded or fallen(history[0].guard if history else guard, guard) <= self.config.allowed(guard):
                break
        borne, score = share, weighted(self._agreed(learner, share, self.material.styled))
        for smaller in shares if guarded and history else ():
            here = weighted(self._agreed(learner, smaller, self.material.styled))
            if here <= score:
                break
            share, score = smaller, here
        if share != borne:
            guard = self._agreed(learner, share, self.material.guard)
        return share, guard, score

    def _agreed(self, learner: Learner, share: float, examples: Sequence[Example]) -> dict[str, float]:
        """What `_guard` says at a share, the same in all processes."""
        found = self._guard(learner, learner.toward(share), examples)
        return dict(zip(found, learner.crew.agree(list(found.values()), learner.device), strict=True))

    def _probabilities(self, learner: Learner, weights: dict[str, Tensor]) -> list[np.ndarray]:
        """Class probabilities of the model with these weights on every flagged stack, float16."""
        model = build_like(learner.model, weights)
        found = []
        for stack in self.material.flagged:
            self._check()
            found.append(learner.predict(model, stack.images).astype(np.float16))
        return found

    def _guard(self, learner: Learner, weights: dict[str, Tensor], examples: Sequence[Example]) -> dict[str, float]:
        """Dice by structure over all slices together: a stray pixel in a slice without the RV costs what it is worth."""
        model = build_like(learner.model, weights)
        masks = []
        for example in examples:
            self._check()
            masks.append(learner.predict(model, example.images.astype(np.float32)[:, None]).argmax(axis=1))
        found, true = np.concatenate(masks), np.concatenate([example.labels for example in examples])
        return {structure: dice(found == label, true == label) for structure, label in LABELS.items()}

    def _check(self) -> None:
        if self.cancelled():
            raise Cancelled

    def _tell(self, learner: Learner, losses: np.ndarray, seconds: float) -> None:
        first, now, count = learner.history[0], learner.history[-1], len(self.models.segmenters)
        left = self.config.epochs - learner.epoch + self.config.epochs * (count - self.number - 1)
        event = {"event": "epoch", "candidate": self.number + 1, "candidates": count, "epoch": learner.epoch}
        event |= {"epochs": self.config.epochs, "alpha": self._alpha(learner.epoch)}
        event |= {"loss": float(losses.sum()), "loss_supervised": float(losses[0]), "loss_flagged": float(losses[1])}
        event |= {"flagged_before": first.flagged, "flagged": now.flagged, "score": now.score}
        event |= {"share": now.share, "guard_dice": now.guard.get("RV"), "agreement": now.guard.get("agreement")}
        if learner.crew.leads:
            self.report({**event, "seconds": round(seconds, 3), "seconds_left": seconds * left})

    # What is learnt ------------------------------------------------------------------------------------------------

    def _alpha(self, k: int) -> float:
        """alpha in epoch k (from 1): 1/k (eq. 2); beside labels it rises from 0, as the teacher must learn first."""
        if self.config.recipe.fading:
            return 1.0 / k
        return self.config.alpha * min(1.0, (k - 1) / RISE) if self.material.labelled else 1.0

    def _epoch(self, learner: Learner, own: Sequence[np.ndarray]) -> np.ndarray:
        """One pass; returns the mean of the weighted losses (labelled, flagged)."""
        config, recipe = self.config, self.config.recipe
        generator = Generator().manual_seed((config.seed * 1009 + self.number) * 100003 + learner.epoch)
        labelled = _Slices.of(self.material.labelled) if recipe.supervised and self.material.labelled else None
        alpha = self._alpha(learner.epoch + 1)
        flagged = self._flagged_slices(own) if alpha else _Slices.none()
        alpha = alpha if flagged.weights.sum() > 0 else 0.0
        taught = config.batch // 2 if labelled else config.batch
        steps = min(config.steps, math.ceil(len(flagged.images) / taught))
        # Where labels lead, the flagged slices, which may be idle, do not count the steps.
        if labelled and recipe.guarded:
            taught, steps = (taught if alpha else 0), config.steps
        drawn = flagged.draw(steps * taught, generator)
        losses = np.zeros(2)
        for step in range(steps):
            if learner.crew.agree([float(self.cancelled())], learner.device)[0]:
                raise Cancelled
            batch = self._batch(labelled, flagged, drawn[step * taught : (step + 1) * taught], generator)
            learner.set_learning_rate(learner.epoch + step / steps)
            losses += learner.step(batch, alpha, self.models)
        return losses / steps

    def _flagged_slices(self, own: Sequence[np.ndarray]) -> _Slices:
        """The flagged slices as this mode learns from them: with lessons, or as inference sees them."""
        stacks = self.material.flagged
        if self.config.recipe.teacher != "consensus":
            images = np.concatenate([stack.images[:, 0] for stack in stacks])
            return _Slices(images, np.zeros(images.shape, np.uint8), np.ones(len(images), np.float32))
        lessons = []
        for mine, voters, others in zip(own, self.voters, self._others, strict=True):
            self._check()
            adapted = voters[: self.number]
            lessons.append(lesson(mine, adapted, others, self.models, reconstruction=self.reconstruction))
        edge = (stacks[0].source.shape[-1] - stacks[0].images.shape[-1]) // 2
        return _Slices(
            np.concatenate([stack.source for stack in stacks]),
            np.pad(np.concatenate([one.labels for one in lessons]), ((0, 0), (edge, edge), (edge, edge))),
            np.concatenate([one.weights for one in lessons]),
        )

    def _batch(self, labelled: _Slices | None, flagged: _Slices, drawn: Tensor, generator: Generator) -> Batch:
        """A step's slices: labelled ones, and those `drawn` of the flagged ones."""
        parts = [] if labelled is None else [self._known(labelled, self.config.batch - len(drawn), generator)]
        known = sum(len(images) for images, _ in parts)
        if len(drawn):
            images, labels = flagged.take(drawn)
            if self.config.recipe.teacher == "consensus":
                images, labels = augment(
                    images, labels, self.models.sampling.size, config=self._posed(GENTLE), generator=generator
                )
            parts.append((images, labels))
        return Batch(*_joined(parts), known)

    def _known(self, labelled: _Slices, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Labelled slices as in training; the first of them, in ``guarded``, with the look of the new domain instead."""
        size, looks = self.models.sampling.size, self.material.looks
        images, truth = labelled.take(torch.randint(0, len(labelled.images), (count,), generator=generator))
        new = round(self.config.style * count) if looks and self.config.recipe.guarded else 0
        parts = []
        if looks and new:
            first, true = images[:new], truth[:new]
            if self.material.shapes:
                first, true = self.material.shapes.give(first, true, generator=generator)
            if self.material.ghosts:
                first = self.material.ghosts.give(first, generator=generator)
            moved, there = augment(first, true, size, config=self._posed(PLACED), generator=generator)
            parts.append((looks.give(moved, generator=generator), there))
        if new < count:
            parts.append(
                augment(images[new:], truth[new:], size, config=self._posed(AugmentationConfig()), generator=generator)
            )
        return _joined(parts)

    def _posed(self, config: AugmentationConfig) -> AugmentationConfig:
        return config.for_upright() if self.models.sampling.upright else config


def _joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Images and labels of all parts."""
    images, labels = zip(*parts, strict=True)
    return torch.cat(images), torch.cat(labels)


def _masks(voters: np.ndarray) -> np.ndarray:
    """The masks (m, slices, size, size) of class probabilities (m, slices, 4, size, size); m may be 0."""
    masks = [hard_masks(one.astype(np.float32))[0] for one in voters]
    return np.array(masks, np.uint8).reshape(len(voters), voters.shape[1], *voters.shape[3:])


@dataclass(frozen=True, eq=False)
class _Slices:
    """n images (size, size), labels of the same shape, weights (n,). Images and labels lie where they were: there may be many."""

    images: Sequence[np.ndarray]
    labels: Sequence[np.ndarray]
    weights: np.ndarray

    @staticmethod
    def none() -> _Slices:
        return _Slices((), (), np.zeros(0, np.float32))

    @staticmethod
    def of(examples: Sequence[Example]) -> _Slices:
        images = [image for example in examples for image in example.images]
        labels = [one for example in examples for one in example.labels]
        return _Slices(images, labels, np.ones(len(images), np.float32))

    def draw(self, count: int, generator: Generator) -> Tensor:
        """Indices, `count` of them, with chances by weight; all alike where nothing weighs."""
        if not count:
            return torch.zeros(0, dtype=torch.long)
        weights = torch.from_numpy(self.weights)
        weights = weights if weights.sum() > 0 else torch.ones_like(weights)
        return torch.multinomial(weights, count, replacement=True, generator=generator)

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Float images (n, 1, size, size) and labels (n, size, size)."""
        images, labels = (np.stack([of[i] for i in index.tolist()]) for of in (self.images, self.labels))
        return torch.from_numpy(images).float()[:, None], torch.from_numpy(labels)
