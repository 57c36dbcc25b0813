"""One stack through the pipeline: by which fences it is judged, and of which grid its volumes are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_calibration import rows_by_chance
from test_verdict import learnt

from RVQCLib import calibration
from RVQCLib.bundle import ViewModels, load_bundle
from RVQCLib.pipeline import segment_stack
from RVQCLib.stack import STRUCTURES, Geometry, Study, structure_volumes_ml
from RVQCLib.verdict import with_refined


@pytest.fixture
def models(tiny_bundle: Path) -> ViewModels:
    """Calibrated, with fences that differ: th_low 0.1 at ED, 0.2 at ES, 0.3 of both together."""

    def fences(low: float) -> dict[str, Any]:
        return {structure: {"th_low": low, "th_up": 10 * low, "n": 9} for structure in STRUCTURES}

    tables = {"fences": {"ED": fences(0.1), "ES": fences(0.2), "all": fences(0.3)}}
    models = load_bundle(tiny_bundle).models("SA", "cpu")
    return replace(models, calibration={**calibration._fit(rows_by_chance(20)), **tables})


@pytest.mark.parametrize(("phase", "low"), [("ED", 0.1), ("ES", 0.2)])
def test_a_stack_is_chosen_and_judged_by_the_fences_of_its_phase(
    phase: str, low: float, models: ViewModels, tiny_study: Study
) -> None:
    found = segment_stack("tiny", tiny_study.stack("SA", phase), models).judgement
    assert found["fences"]["reference"]["RV"]["th_low"] == low
    assert f"{10 * low:.1f} mm" in found["selection_reason"]


def test_volumes_are_those_of_the_mask_that_is_written(tiny_bundle: Path, tiny_study: Study) -> None:
    models, image = load_bundle(tiny_bundle).models("SA", "cpu"), tiny_study.stack("SA", "ED")
    models = with_refined(models, learnt(models, 2), None, second=False)  # which take nothing for a structure
    image = replace(image, geometry=Geometry(spacing=(3.1, 4.7, 9.0)))  # not the networks' 4 mm
    found = segment_stack("tiny", image, models)
    volumes = {structure: entry["volume_ml"] for structure, entry in found.judgement["structures"].items()}
    assert volumes == structure_volumes_ml(found.mask) and any(volumes.values())
