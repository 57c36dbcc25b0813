"""Fitting one network to labelled slices: a candidate M, the QC module R, or the locator (Sec. 2.2).

One loop serves all three. Every epoch draws its randomness from (seed, epoch), so a run that was killed continues from its
checkpoint as it would have gone on: on a CPU to the same end, bit for bit; on a GPU sums may come out in another order.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from RVQCLib.augmentation import AugmentationConfig, augment, sample_grid, warp_labels
from RVQCLib.checkpoints import (
    moments,
    random_states,
    read_checkpoint,
    read_own,
    restore_moments,
    restore_random,
    under,
    write_checkpoint,
)
from RVQCLib.dataset import Example
from RVQCLib.files import Cancelled
from RVQCLib.losses import deep_supervised_loss, one_hot, reconstruction_loss, supervised_loss
from RVQCLib.mask_errors import corrupt_slice
from RVQCLib.networks import build

log = logging.getLogger(__name__)

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class RunConfig:
    """One training run of one network.

    `task` is ``segmenter``, ``locator`` (heart or not) or ``qc`` (R). `keep` is m_best for a segmenter. `corruption` is
    the share of R's inputs that are corrupted masks; 0 is the plain autoencoder of the paper. `start` is the SHA-256 of
    the weights that the run begins from, empty for random ones.
    """

    task: str
    network: str
    parameters: dict[str, Any] = field(default_factory=dict)
    epochs: int = 40
    batch: int = 16
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    average: float = 0.99
    seed: int = 0
    size: int = 128
    keep: int = 1
    spread: int = 1
    corruption: float = 0.7
    precision: str = "float32"
    start: str = ""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return json.loads(json.dumps(asdict(self)))


@dataclass(frozen=True)
class Snapshot:
    """A state of a network that was kept: its mean validation Dice (per structure and over all) and its weights, on the CPU."""

    epoch: int
    score: float
    dice: dict[str, float]
    weights: dict[str, Tensor]


def native_precision(device: str) -> str:
    """``bfloat16`` where the device computes in it natively, else ``float32``."""
    if device.startswith("cuda"):
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if native else "float32"
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return "bfloat16" if device == "cpu" and supported() else "float32"


def train_network(
    config: RunConfig,
    train: Sequence[Example],
    validation: Sequence[Example],
    *,
    checkpoint: Path,
    start: dict[str, Tensor] | None = None,
    device: str = "cpu",
    allow: Sequence[str] = (),
    report: Report = lambda event: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> list[Snapshot]:
    """Train one network and return the snapshots that were best on `validation`, best first.

    Parameters
    ----------
    train, validation
        Examples; those of `train` may be larger than ``config.size``, which leaves room to move the crop.
    checkpoint
        A safetensors file, rewritten whole after every epoch and there in the end, from which `read_snapshots` reads what is
        returned here; an existing one of the same configuration is continued.
    start
        Weights to begin from instead of random ones. They count as the snapshot of epoch 0, so that a run never returns
        worse than it began.
    report
        Is called with a dict after every epoch: run, epoch, epochs, loss, dice, seconds left.

    Raises
    ------
    RVQCError
        The checkpoint is of another configuration.
    Cancelled
        `cancelled` returned True; the checkpoint of the last whole epoch stays.
    """
    torch.manual_seed(config.seed)
    model = build(config.network, config.parameters, allow=allow).to(device, memory_format=torch.channels_last)
    state = _State(config, model, device)
    if checkpoint.exists():
        state.load(checkpoint)
    elif start is not None:
        state.begin(start, validation)
    images, labels = _stack_slices(train)
    steps = max(1, len(images) // config.batch)
    while state.epoch < config.epochs:
        started = time.monotonic()
        generator = Generator().manual_seed(config.seed * 100003 + state.epoch)
        order = torch.randperm(len(images), generator=generator)
        total = 0.0
        for step in range(steps):
            if cancelled():
                raise Cancelled
            index = order[step * config.batch : (step + 1) * config.batch]
            state.set_learning_rate((state.epoch + step / steps) / config.epochs)
            total += state.step(images[index], labels[index], generator)
        state.epoch += 1
        dice = state.validate(validation)
        state.save(checkpoint)
        seconds = time.monotonic() - started
        report(
            {
                "task": config.task,
                "network": config.network,
                "seed": config.seed,
                "epoch": state.epoch,
                "epochs": config.epochs,
                "loss": total / steps,
                "validation_dice": dice,
                "seconds_left": seconds * (config.epochs - state.epoch),
            }
        )
    if not checkpoint.exists():  # a run of no epochs
        state.save(checkpoint)
    return state.snapshots


def _stack_slices(examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    images = np.concatenate([example.images for example in examples])
    labels = np.concatenate([example.labels for example in examples])
    return torch.from_numpy(images)[:, None], torch.from_numpy(labels)


class _State:
    """Model, moving average of its weights, optimizer and kept snapshots: what a checkpoint holds."""

    def __init__(self, config: RunConfig, model: nn.Module, device: str) -> None:
        self.config, self.model, self.device = config, model, device
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.epoch = 0
        self.updates = 0
        self.snapshots: list[Snapshot] = []

    def begin(self, weights: dict[str, Tensor], validation: Sequence[Example]) -> None:
        """Take over `weights`, and keep them as the first snapshot."""
        self.model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
        self.average = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        # As after a long run: the average moves slowly away from where it begins.
        self.updates = 1000
        self.validate(validation)

    def set_learning_rate(self, progress: float) -> None:
        """Warm up over the first 3 % of the run, then a half cosine down to zero."""
        warm = min(1.0, progress / 0.03 + 0.02)
        rate = self.config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * progress))
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def step(self, images: Tensor, labels: Tensor, generator: Generator) -> float:
        """One optimizer step on one batch; returns the loss."""
        self.model.train()
        with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            loss = self._loss(images, labels, generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimizer.step()
        self._update_average()
        return float(loss.detach())

    def _loss(self, images: Tensor, labels: Tensor, generator: Generator) -> Tensor:
        config = self.config
        if config.task == "qc":
            noisy, clean = _corrupted(labels, config, generator)
            return reconstruction_loss(self.model(one_hot(noisy).to(self.device)), clean.to(self.device))
        batch, target = augment(images.float(), labels, config.size, config=config.augmentation, generator=generator)
        if config.task == "locator":
            target = (target > 0).to(target.dtype)
        batch = batch.to(self.device, memory_format=torch.channels_last)
        target = target.to(self.device)
        if hasattr(self.model, "forward_deep"):
            return deep_supervised_loss(self.model.forward_deep(batch), target)
        return supervised_loss(self.model(batch), target)

    @torch.no_grad()
    def _update_average(self) -> None:
        self.updates += 1
        decay = min(self.config.average, self.updates / (self.updates + 9.0))
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    def validate(self, examples: Sequence[Example]) -> dict[str, float]:
        """Mean Dice per structure over stacks, of the averaged weights; keeps the snapshot if it is among the best."""
        model = build_like(self.model, self.average)
        dice = validation_dice(model, examples, self.config, device=self.device)
        score = float(np.mean(list(dice.values())))
        weights = {name: value.to("cpu", copy=True) for name, value in self.average.items()}
        self.snapshots = keep_best(
            [*self.snapshots, Snapshot(self.epoch, score, dice, weights)], self.config.keep, self.config.spread
        )
        return dice

    def save(self, path: Path) -> None:
        weights = {f"{n}/{k}": v for n, snapshot in enumerate(self.snapshots) for k, v in snapshot.weights.items()}
        meta = {
            "config": self.config.to_json(),
            "epoch": self.epoch,
            "updates": self.updates,
            "snapshots": [{"epoch": s.epoch, "score": s.score, "dice": s.dice} for s in self.snapshots],
        }
        write_checkpoint(
            path,
            meta,
            model=self.model.state_dict(),
            average=self.average,
            adam=moments(self.optimizer),
            snapshot=weights,
            random=random_states(self.device),
        )

    def load(self, path: Path) -> None:
        meta, tensors = read_own(path, self.config.to_json(), RunConfig(task="", network="").to_json())
        self.epoch, self.updates = meta["epoch"], meta["updates"]
        self.model.load_state_dict(under(tensors, "model"))
        self.average = {k: v.to(self.device) for k, v in under(tensors, "average").items()}
        self.snapshots = _snapshots(meta, tensors)
        restore_moments(self.optimizer, under(tensors, "adam"))
        restore_random(under(tensors, "random"), self.device)


def read_snapshots(path: Path) -> list[Snapshot]:
    """The snapshots that a run's checkpoint keeps, best first.

    Raises
    ------
    RVQCError
        It is damaged, or no checkpoint.
    """
    return _snapshots(*read_checkpoint(path))


def _snapshots(meta: dict[str, Any], tensors: dict[str, Tensor]) -> list[Snapshot]:
    return [
        Snapshot(s["epoch"], s["score"], s["dice"], under(tensors, f"snapshot/{number}"))
        for number, s in enumerate(meta["snapshots"])
    ]


def build_like(model: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """A model like `model`, in evaluation mode, whose parameters and buffers are `weights`: shared, not copied."""
    own = [*model.parameters(), *model.buffers()]
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in own})  # which leaves tensors where they are
    twin.load_state_dict(weights, assign=True)
    return twin.to(memory_format=torch.channels_last).eval()  # weights from a checkpoint are not


def keep_best(snapshots: Sequence[Snapshot], keep: int, spread: int) -> list[Snapshot]:
    """The best snapshot of each of the `keep` best windows of `spread` epochs, best first.

    Windows, because neighbouring epochs of one run are nearly the same network, and candidates should differ.
    """
    windows: dict[int, Snapshot] = {}
    for snapshot in sorted(snapshots, key=lambda s: (-s.score, s.epoch)):
        windows.setdefault((snapshot.epoch - 1) // spread, snapshot)
    return list(windows.values())[:keep]


def _corrupted(labels: Tensor, config: RunConfig, generator: Generator) -> tuple[Tensor, Tensor]:
    """Moved and deformed true masks, and the same after realistic segmentation errors (in a share of them)."""
    grid = sample_grid(len(labels), labels.shape[-1], config.size, config=config.augmentation, generator=generator)
    clean = warp_labels(labels, grid)
    seeds = torch.randint(0, 2**31, (len(labels),), generator=generator).tolist()
    strengths = torch.rand(len(labels), generator=generator).tolist()
    chosen = (torch.rand(len(labels), generator=generator) < config.corruption).tolist()
    noisy = [
        corrupt_slice(mask, np.random.default_rng(seed), strength) if corrupt else mask
        for mask, seed, strength, corrupt in zip(clean.numpy(), seeds, strengths, chosen, strict=True)
    ]
    return torch.from_numpy(np.stack(noisy)), clean


@torch.inference_mode()
def validation_dice(
    model: nn.Module, examples: Sequence[Example], config: RunConfig, *, device: str
) -> dict[str, float]:
    """Mean over stacks of the Dice of whole stacks, on the networks' grid.

    For a segmenter of its masks, for the locator of heart or not, for R of its reconstructions of true masks: R's ceiling.
    A structure that is absent from both counts 1.
    """
    names = ("heart",) if config.task == "locator" else ("LV", "MYO", "RV")
    scores = []
    for example in examples:
        labels = torch.from_numpy(example.labels)
        inputs = one_hot(labels) if config.task == "qc" else torch.from_numpy(example.images).float()[:, None]
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=config.precision == "bfloat16"):
            found = model(inputs.to(device, memory_format=torch.channels_last)).argmax(1).cpu()
        truth = (labels > 0).long() if config.task == "locator" else labels
        scores.append([_dice(found == k + 1, truth == k + 1) for k in range(len(names))])
    return dict(zip(names, np.mean(scores, axis=0).tolist(), strict=True))


def _dice(a: Tensor, b: Tensor) -> float:
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0
