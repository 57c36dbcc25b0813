"""What an epoch of `rvqc refine` costs over the bare forward and backward passes of batches of the same size.

`bare` is forward and backward of every candidate on as many slices in as large batches at the same precision; nothing is drawn,
augmented, averaged or looked at. An epoch is all that comes between two checkpoints: steps with their augmentation, the slow-moving
copy, the look at the guard set and at the flagged stacks, the checkpoint. Each is measured in a process of its own, so that the
peaks of memory can be compared. Labelled studies are phantoms, the unlabelled ones others under heavy noise.
"""

from __future__ import annotations

import copy
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from refinement_benchmark import write_shifted
from RVQCLib.bundle import load_bundle
from RVQCLib.fitting import native_precision
from RVQCLib.losses import supervised_loss
from RVQCLib.phantom import write_phantom
from RVQCLib.refinement import RefinementConfig, refine_bundle
from RVQCLib.study import find_studies

VIEW, LABELLED, UNLABELLED = "SA", 10, 3


def refinement_cost(bundle_path: Path, device: str, *, config: RefinementConfig | None = None) -> dict[str, float]:
    """Seconds and peak memory of an epoch of all candidates and of the bare passes, with their ratios.

    `config` is that of the refinement; without it the defaults with one epoch.
    """
    config = config or RefinementConfig(epochs=1, recalibrate=False)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        write_phantom(home / "labelled", LABELLED, 0, views=(VIEW,))
        write_phantom(home / "clean", UNLABELLED, 100, views=(VIEW,))
        for source in find_studies(home / "clean"):
            write_shifted(source, "noise", 5, 0, home / "new")
        bare, bare_mb = _apart(_bare, bundle_path, device, config)
        epoch, epoch_mb = _apart(_epochs, bundle_path, device, config, home)
    return {
        "bare_s": bare,
        "epoch_s": epoch,
        "epoch_over_bare": epoch / bare,
        "bare_peak_mb": bare_mb,
        "epoch_peak_mb": epoch_mb,
        "memory_over_bare": epoch_mb / bare_mb,
    }


def _apart(work: Callable[..., float], *how: Any) -> tuple[float, float]:
    """What `work` returns in a fresh process, and the most memory in MB that the process held."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_with_peak, work, *how).result()


def _with_peak(work: Callable[..., float], *how: Any) -> tuple[float, float]:
    seconds = work(*how)
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return seconds, torch.cuda.max_memory_allocated() / 2**20
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _bare(bundle_path: Path, device: str, config: RefinementConfig) -> float:
    """Seconds of forward and backward passes of one epoch of every candidate."""
    models = load_bundle(bundle_path).models(VIEW, device)
    size = models.sampling.size
    half = native_precision(device) == "bfloat16"
    images = torch.rand(config.batch, 1, size, size, generator=torch.Generator().manual_seed(0))
    images = images.to(device, memory_format=torch.channels_last)
    labels = torch.zeros(config.batch, size, size, dtype=torch.uint8, device=device)
    seconds = 0.0
    for segmenter in models.segmenters:
        model = copy.deepcopy(segmenter).requires_grad_(True)

        def step(model: torch.nn.Module = model) -> None:
            model.zero_grad(set_to_none=True)
            with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=half):
                logits = model(images).float()
            supervised_loss(logits, labels).backward()

        step()
        started = time.perf_counter()
        for _ in range(config.steps * config.epochs):
            step()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds += time.perf_counter() - started
    return seconds


def _epochs(bundle_path: Path, device: str, config: RefinementConfig, home: Path) -> float:
    """Seconds of the epochs of every candidate, as a refinement tells them."""
    seconds: list[float] = []

    def hear(event: dict[str, Any]) -> None:
        if event["event"] == "epoch":
            seconds.append(event["seconds"])

    how = {"labelled": home / "labelled", "device": device, "report": hear}
    refine_bundle(home / "new", bundle_path, home / "out", config, **how)
    if not seconds:
        raise RuntimeError(
            "No study of the noisy phantoms was flagged, so nothing was refined and nothing can be measured."
        )
    return sum(seconds)
