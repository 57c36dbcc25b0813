"""Refinement: from a calibrated bundle and unlabelled studies to a new bundle, in every mode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from RVQCLib import training
from RVQCLib.bundle import load_bundle
from RVQCLib.files import read_json, sha256
from RVQCLib.refinement import RefinementConfig, refine_bundle
from RVQCLib.slices import Sampling
from RVQCLib.training import TrainingConfig, train_bundle

STAGES = {"stages": 3}
TINY = TrainingConfig(
    networks=("BN1", "BN2"),
    width=4,
    parameters={"BN1": STAGES, "BN2": STAGES, "AE": {"width": 4, "latent": 8}},
    epochs=2,
    qc_epochs=2,
    locator_epochs=2,
    batch=8,
    source_size=40,
    precision="float32",
    sampling=Sampling(spacing_mm=4.0, size=32, locator_spacing_mm=6.0, locator_size=32),
)
QUICK = RefinementConfig(epochs=2, steps=2, batch=4, guard_slices=6, precision="float32", recalibrate=False)


@pytest.fixture(autouse=True, scope="module")
def one_core() -> Iterator[None]:
    """One thread, so that every run computes alike and leaves the other tests' threads alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.os, "cpu_count", lambda: 1)
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def parent(one_core: None, tiny_acdc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated bundle of barely trained networks: every stack is flagged."""
    out = tmp_path_factory.mktemp("parent") / "bundle"
    train_bundle(tiny_acdc, out, TINY, name="parent", device="cpu")
    return out


def files_of(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def guarded(
    parent: Path, tiny_acdc: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], list]:
    """One whole guarded refinement: the bundle's folder, what was returned, what was reported."""
    out, events = tmp_path_factory.mktemp("guarded") / "bundle", []
    was = files_of(parent)
    config = replace(QUICK, recalibrate=True)
    test = load_bundle(parent).description["views"]["SA"]["training"]["split"]["test"]
    result = refine_bundle(
        tiny_acdc, parent, out, config, labelled=tiny_acdc, device="cpu", names=test, report=events.append
    )
    assert files_of(parent) == was
    return out, result, events


def test_the_new_bundle_opens_names_its_parent_and_says_what_was_done(guarded: Any, parent: Path) -> None:
    out, result, _ = guarded
    bundle = load_bundle(out)
    assert bundle.description["parent"] == {"name": "parent", "hash": load_bundle(parent).hash}
    assert read_json(out / "refinement.json") == result
