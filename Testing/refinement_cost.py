"""What an epoch of `rvqc refine` costs over the bare forward and backward passes of batches of the same size.

`bare` is forward and backward of every candidate on as many slices in as large batches at the same precision; nothing is drawn,
augmented, averaged or looked at. An epoch is all that comes between two checkpoints: steps with their augmentation, the slow-moving
copy, the look at the guard set and at the flagged stacks, the checkpoint. Each is measured in a process of its own, so that the
peaks of memory can be compared. Labelled studies are phantoms, the unlabelled ones others under heavy noise.
"""

from __future__ import annotations

import contextlib
import copy
import math
import multiprocessing
import re
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


def _apart(work: Callable[..., tuple[float, float]], *how: Any) -> tuple[float, float]:
    """What `work` returns in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *how).result()


def _begin_peak() -> None:
    """Forget the most memory that was held so far."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak(device: str) -> float:
    """The most memory in MB since: of the GPU, else of this process; not a number where the system does not tell."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return math.nan
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


def _bare(bundle_path: Path, device: str, config: RefinementConfig) -> tuple[float, float]:
    """Seconds and peak of forward and backward passes of one epoch of every candidate."""
    models = load_bundle(bundle_path).models(VIEW, device)
    size = models.sampling.size
    half = native_precision(device) == "bfloat16"
    images = torch.rand(config.batch, 1, size, size, generator=torch.Generator().manual_seed(0))
    images = images.to(device, memory_format=torch.channels_last)
    labels = torch.zeros(config.batch, size, size, dtype=torch.uint8, device=device)
    _begin_peak()
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
    return seconds, _peak(device)


def _epochs(bundle_path: Path, device: str, config: RefinementConfig, home: Path) -> tuple[float, float]:
    """Seconds of the epochs of every candidate, as a refinement tells them, and the peak while it learnt: with the images
    that it learns from, without the segmentation of the studies before and after."""
    seconds: list[float] = []
    peak = 0.0

    def hear(event: dict[str, Any]) -> None:
        nonlocal peak
        if event["event"] == "epoch":
            seconds.append(event["seconds"])
            peak = max(peak, _peak(device))
        elif not seconds:
            _begin_peak()

    how = {"labelled": home / "labelled", "device": device, "report": hear}
    refine_bundle(home / "new", bundle_path, home / "out", config, **how)
    if not seconds:
        raise RuntimeError(
            "No study of the noisy phantoms was flagged, so nothing was refined and nothing can be measured."
        )
    return sum(seconds), peak
