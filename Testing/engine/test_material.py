"""What refinement learns from and is watched by: who teaches does not guard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from conftest import schematic_study

from RVQCLib.bundle import load_bundle
from RVQCLib.dataset import Example
from RVQCLib.inference import propose_stack
from RVQCLib.material import gather
from RVQCLib.recipes import RefinementConfig
from RVQCLib.study import find_studies
from RVQCLib.teachers import flagged_stack


def test_who_teaches_does_not_guard(tiny_bundle: Path, tiny_acdc: Path) -> None:
    models, sources = load_bundle(tiny_bundle).models("SA", "cpu"), find_studies(tiny_acdc)
    image = schematic_study("new", 99).stack("SA", "ED")
    flagged = flagged_stack("new", propose_stack(image, models), np.zeros(3), models, 40)
    parts = {"train": sources[:3], "guard": sources[3:5]}
    found = gather(parts, "SA", [flagged], models, RefinementConfig(), 40)
    train, guard = ({source.name for source in part} for part in parts.values())
    assert _studies(found.labelled) == train
    assert _studies(found.guard) == _studies(found.styled) == guard


def _studies(examples: Sequence[Example]) -> set[str]:
    return {example.study for example in examples}
