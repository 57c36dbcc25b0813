"""One candidate while it learns: a step, the slow-moving copy, the checkpoint, and what to do when memory runs out."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from RVQCLib.bundle import ViewModels
from RVQCLib.checkpoints import (
    moments,
    random_states,
    read_own,
    restore_moments,
    restore_random,
    under,
    write_checkpoint,
)
from RVQCLib.distributed import crew
from RVQCLib.files import RVQCError
from RVQCLib.fitting import Report, native_precision
from RVQCLib.guards import EpochRecord, best_of
from RVQCLib.inference import reconstruct
from RVQCLib.losses import semi_supervised_loss, supervised_loss
from RVQCLib.recipes import RefinementConfig

log = logging.getLogger(__name__)

T = TypeVar("T")
NORMALIZATIONS = (nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm, nn.LayerNorm)
FULL = ("out of memory", "not enough memory", "can't allocate memory", "STATUS_ALLOC_FAILED")
"""What torch says when the memory of a GPU (CUDA and its libraries, MPS) or of the machine (Windows, others) is full."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's slices: images float (n, 1, size, size) and labels uint8 (n, size, size); the first `labelled` of them
    have true labels, the others what they are taught."""

    images: Tensor
    labels: Tensor
    labelled: int


class Learner:
    """Model, slow-moving copy, optimizer, and what was seen so far: what a checkpoint holds.

    The copy is the model itself in modes without guards. `start` holds the weights from before, those of `segmenter`, which is
    only read; `best` those of the best epoch.
    """

    def __init__(self, config: RefinementConfig, segmenter: nn.Module, device: str, report: Report) -> None:
        self.config, self.device, self.report = config, device, report
        self.model = copy.deepcopy(segmenter)
        self.precision = native_precision(device) if config.precision == "auto" else config.precision
        self.crew = crew()
        self.chunk = config.batch
        self.model.train(config.recipe.live)
        learning = _learning(self.model, config.recipe.normalization_only)
        self.optimizer = torch.optim.AdamW(learning, lr=config.learning_rate, weight_decay=0.0)
        self.start = dict(segmenter.state_dict())
        self.average = {name: value.clone() for name, value in self.start.items()}
        self.best = dict(self.start)
        self.epoch = 0
        self.updates = 0
        self.history: list[EpochRecord] = []

    def set_learning_rate(self, epoch: float) -> None:
        """Warm up over a quarter of an epoch, then a half cosine down to a tenth."""
        config = self.config
        fall = 0.55 + 0.45 * math.cos(math.pi * min(1.0, epoch / max(config.epochs, 1)))
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * fall * min(1.0, 0.1 + 3.6 * epoch)

    def step(self, batch: Batch, alpha: float, models: ViewModels) -> np.ndarray:
        """One summed step; returns the weighted losses (labelled, flagged) of the whole batch, over all processes."""
        before = self._statistics()

        def passes() -> np.ndarray:
            self._set_statistics(before)  # a pass for which the memory was not enough may have moved them
            return self._passes(batch, alpha, models)

        losses = self._with_memory(passes)
        self._update()
        self._follow()
        return losses

    def _passes(self, batch: Batch, alpha: float, models: ViewModels) -> np.ndarray:
        """Forward and backward; what `step` returns. Nothing but gradients and statistics changes, so it can be done again."""
        self._make_moments()
        self.optimizer.zero_grad(set_to_none=True)
        own = batch.images[self.crew.share(len(batch.images))]
        logits = self.crew.gather(self._forward(own.to(self.device, memory_format=torch.channels_last)))
        seen = self._statistics()
        known, taught = logits[: batch.labelled], logits[batch.labelled :]
        labels = batch.labels.to(self.device)
        supervised = supervised_loss(known, labels[: batch.labelled]) if batch.labelled else logits.new_zeros(())
        flagged = alpha * self._lesson_loss(taught, labels[batch.labelled :], models) if len(taught) else supervised * 0
        (supervised + flagged).backward()
        self._set_statistics(seen)  # on its way back a chunk goes forward once more
        self.crew.sum_gradients(self.model)
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        return np.array([float(supervised.detach()), float(flagged.detach())])

    def _lesson_loss(self, logits: Tensor, lesson: Tensor, models: ViewModels) -> Tensor:
        """What the flagged slices say, by the teacher of the mode."""
        teacher = self.config.recipe.teacher
        if teacher == "entropy":
            return -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
        if teacher == "reconstruction":
            mask = logits.detach().argmax(1).to(torch.uint8).cpu().numpy()
            return semi_supervised_loss(logits, torch.from_numpy(reconstruct(mask, models)).to(logits.device))
        return supervised_loss(logits, lesson)

    def _forward(self, images: Tensor) -> Tensor:
        """Logits, float32. In chunks, only one of which is held for the backward pass: the same step in less memory, but for
        modes that normalize by the batch, which is a chunk then, and whose running statistics follow every chunk."""
        parts = images.split(self.chunk)
        with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.precision == "bfloat16"):
            if len(parts) == 1:
                return self.model(parts[0]).float()
            return torch.cat([checkpoint(self.model, part, use_reentrant=False) for part in parts]).float()

    def _statistics(self) -> dict[str, Tensor]:
        """The running statistics as they are; none in modes in which a pass leaves them alone."""
        return {name: value.clone() for name, value in self.model.named_buffers() if self.config.recipe.live}

    def _set_statistics(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.model.get_buffer(name).copy_(value)

    def _make_moments(self) -> None:
        """Make Adam's moments, all or none; in its own first step Adam would leave a part of them where memory runs out."""
        if not self.optimizer.state:
            learning = [one for group in self.optimizer.param_groups for one in group["params"]]
            moments = [{key: torch.zeros_like(one) for key in ("exp_avg", "exp_avg_sq")} for one in learning]
            self.optimizer.state.update(
                {one: {"step": torch.zeros(()), **zeros} for one, zeros in zip(learning, moments, strict=True)}
            )

    def _update(self) -> None:
        """Adam's step. It is not taken again where memory runs out in it, for a part of it may have been taken."""
        try:
            self.optimizer.step()
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            raise RVQCError(
                f"The memory of {self.device} was full in the middle of a step; give the same command again, and it goes on "
                "from the last whole epoch."
            ) from error

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the slow copy toward the model; at first it is a mean over all steps, the late ones weighing more."""
        self.updates += 1
        decay = self.config.average if self.config.recipe.guarded else 0.0
        decay = min(decay, self.updates / (self.updates + 2.0)) if decay else 0.0
        for name, value in self.model.state_dict().items():
            if value.is_floating_point() and decay:
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    def toward(self, share: float) -> dict[str, Tensor]:
        """The weights that lie `share` of the way from those of before to the slow-moving copy."""
        return between(self.start, self.average, share)

    def predict(self, model: nn.Module, images: np.ndarray) -> np.ndarray:
        """Class probabilities (slices, 4, size, size) of images (slices, 1, size, size) by a model in evaluation mode."""

        def parts() -> np.ndarray:
            found = []
            with torch.inference_mode():
                for part in torch.from_numpy(images).split(self.chunk):
                    part = part.to(self.device, memory_format=torch.channels_last)
                    with torch.autocast(
                        self.device.split(":")[0], torch.bfloat16, enabled=self.precision == "bfloat16"
                    ):
                        logits = model.to(self.device)(part)
                    found.append(functional.softmax(logits.float(), 1).cpu().numpy())
            return np.concatenate(found)

        return self._with_memory(parts)

    def _with_memory(self, work: Callable[[], T]) -> T:
        """Do `work`; when memory runs out, with half as many slices at a time, and at last on the CPU."""
        while True:
            try:
                return work()
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                if self.crew.size > 1 or (self.chunk == 1 and self.device == "cpu"):
                    raise RVQCError(
                        "The memory is not enough for a step of this batch; use a smaller --batch."
                    ) from error
            self._give_way()

    def _give_way(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
        if self.chunk > 1:
            self.chunk //= 2
            said = f"The memory of {self.device} is full; going on with {self.chunk} slices at a time."
        else:
            said = f"The memory of {self.device} is not enough for one slice; going on on the CPU."
            self._to_cpu()
        log.warning("%s", said)
        self.report({"event": "memory", "device": self.device, "slices": self.chunk, "message": said})

    def _to_cpu(self) -> None:
        self.device, self.chunk = "cpu", self.config.batch
        if self.precision == "bfloat16":  # of the GPU; a CPU that only imitates it is slower than in float32
            self.precision = native_precision("cpu")
        self.model.to("cpu")
        self.average = {name: value.cpu() for name, value in self.average.items()}
        self.optimizer.load_state_dict(self.optimizer.state_dict())  # which brings its moments to the parameters

    def remember(self, record: EpochRecord) -> None:
        """Add what was seen after an epoch; where it is the best so far, the weights that were looked at are kept."""
        self.history.append(record)
        if best_of(self.history, self.config.allowed(record.guard)) is record:
            self.best = self.toward(record.share)

    # The checkpoint ------------------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write all that the next epoch needs, whole; only the leader does."""
        if not self.crew.leads:
            return
        meta = {"config": self.config.to_json(), "epoch": self.epoch, "updates": self.updates}
        meta["history"] = [record.to_json() for record in self.history]
        write_checkpoint(
            path,
            meta,
            model=self.model.state_dict(),
            average=self.average,
            best=self.best,
            adam=moments(self.optimizer),
            random=random_states(self.device),
        )

    def load(self, path: Path) -> None:
        """Continue from a checkpoint; without one, begin.

        Raises
        ------
        RVQCError
            The checkpoint is damaged or of another configuration.
        """
        torch.manual_seed(self.config.seed)
        if not path.exists():
            return
        meta, tensors = read_own(path, self.config.to_json(), RefinementConfig().to_json())
        self.epoch, self.updates = meta["epoch"], meta["updates"]
        self.history = [_record(values) for values in meta["history"]]
        self.model.load_state_dict(under(tensors, "model"))
        self.average = {k: v.to(self.device) for k, v in under(tensors, "average").items()}
        self.best = {k: v.to(self.device) for k, v in under(tensors, "best").items()}
        restore_moments(self.optimizer, under(tensors, "adam"))
        restore_random(under(tensors, "random"), self.device)


def _out_of_memory(error: RuntimeError) -> bool:
    """Whether this is what torch raises when the memory of a GPU, or of the machine, is full; not always as a kind of its own."""
    return isinstance(error, torch.OutOfMemoryError) or any(said in str(error) for said in FULL)


def _record(values: dict[str, Any]) -> EpochRecord:
    return EpochRecord(values["epoch"], values["guard"], values["score"], values["flagged"], values["share"])


@torch.no_grad()
def between(start: dict[str, Tensor], end: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """New weights on the line from `start` to `end`, `share` of the way (Wortsman et al., CVPR 2022)."""
    return {
        name: start[name].to(value).lerp(value, share) if value.is_floating_point() else value.clone()
        for name, value in end.items()
    }


def _learning(model: nn.Module, normalization_only: bool) -> list[nn.Parameter]:
    """The parameters that learn; the others are frozen."""
    model.requires_grad_(not normalization_only)
    if normalization_only:
        for module in model.modules():
            if isinstance(module, NORMALIZATIONS):
                module.requires_grad_(True)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
