"""What a training is to make, and the runs of single networks that it consists of."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from RVQCLib.augmentation import AugmentationConfig
from RVQCLib.files import RVQCError
from RVQCLib.fitting import RunConfig
from RVQCLib.networks import NETWORKS
from RVQCLib.slices import Sampling


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides what a bundle will be.

    With `consensus`, the mean of the candidates is one more candidate; without, the pool is the paper's.
    `start` is the hash of the bundle whose networks the runs begin from, empty for random weights, and `continuation` how
    many trainings lie before this one; a run of 0 epochs takes its network over as it is.
    `leave_out` names groups, or single studies, that go to the test part whole.
    `networks` names one training run each, with its own seed; the m_best of all their epochs become the candidates, the
    best of every run first, because candidates that differ say more when they agree.
    """

    view: str = "SA"
    networks: tuple[str, ...] = ("BN1", "BN2")
    width: int = 16
    parameters: dict[str, dict[str, Any]] = field(default_factory=dict)
    m_best: int = 3
    consensus: bool = True
    epochs: int = 40
    qc_epochs: int = 60
    locator_epochs: int = 12
    corruption: float = 0.7
    batch: int = 16
    learning_rate: float = 2e-3
    start: str = ""
    continuation: int = 0
    seed: int = 0
    validation: float = 0.2
    test: float = 0.2
    leave_out: tuple[str, ...] = ()
    source_size: int = 192
    precision: str = "float32"
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        if not self.networks or min(self.m_best, self.width, self.batch) < 1 or self.learning_rate <= 0:
            raise RVQCError(
                f"A training needs networks, m_best, width and batch from 1 and a learning rate above 0, not m_best "
                f"{self.m_best}, width {self.width}, batch {self.batch}, learning rate {self.learning_rate:g}."
            )
        if min(self.epochs, self.qc_epochs, self.locator_epochs) < 0:
            raise RVQCError(
                f"A training has no fewer than 0 epochs, not {self.epochs} of the candidates, {self.qc_epochs} of the QC "
                f"module, {self.locator_epochs} of the locator; give 0 or more."
            )

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values; `leave_out` only where it names something, so that older trainings can go on."""
        values = json.loads(json.dumps(asdict(self)))
        return values if self.leave_out else {k: v for k, v in values.items() if k != "leave_out"}

    def runs(self) -> dict[str, RunConfig]:
        """The training runs by name: one a candidate network, the QC module R, the locator."""
        # A run that begins where another ended must not see that one's augmented images again.
        seed = self.seed + 1000 * self.continuation
        common: dict[str, Any] = {
            "batch": self.batch,
            "precision": self.precision,
            "learning_rate": self.learning_rate,
        }
        seeing, judging = AugmentationConfig(), AugmentationConfig()
        locating = AugmentationConfig(shift_pixels=20.0, scale=(0.7, 1.4), elastic_pixels=1.0)
        if self.sampling.upright:
            # A few otherwise, for headers that are wrong; none for R, to which a heart with LV and RV swapped must look wrong.
            seeing, locating = (one.for_upright() for one in (seeing, locating))
            judging = judging.for_upright(dihedral=0.0)
        runs = {}
        for number, network in enumerate(self.networks):
            width = {"width": self.width} if network in NETWORKS else {}
            runs[f"segmenter{number + 1}"] = RunConfig(
                task="segmenter",
                network=network,
                parameters={**width, **self.parameters.get(network, {})},
                epochs=self.epochs,
                seed=seed + number,
                size=self.sampling.size,
                keep=self.m_best,
                spread=max(1, self.epochs // 10),
                augmentation=seeing,
                **common,
            )
        runs["qc"] = RunConfig(
            task="qc",
            network="AE",
            parameters=self.parameters.get("AE", {}),
            epochs=self.qc_epochs,
            seed=seed,
            size=self.sampling.size,
            corruption=self.corruption,
            augmentation=judging,
            **common,
        )
        runs["locator"] = RunConfig(
            task="locator",
            network="BN1",
            parameters={"width": 8, "stages": 4, "classes": 2},
            epochs=self.locator_epochs,
            seed=seed,
            size=self.sampling.locator_size,
            augmentation=locating,
            **common,
        )
        return runs
