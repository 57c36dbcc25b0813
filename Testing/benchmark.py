"""What the whole costs over the bare networks, in one run on the same stacks: ``make bench`` writes ``bench.json``.

`bare` is the forward passes of all candidates and of R on the prepared slices, nothing else; `warm` is the whole
`segment_study` (locator, resampling, networks, QC, the way back) with the bundle loaded; `cold_s` a fresh process from
start to written masks and report, as `rvqc segment` runs it. Speed is meaningful as a ratio of one run.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from RVQCLib.bundle import load_bundle, shipped_bundle
from RVQCLib.inference import hard_masks, propose, reconstruct
from RVQCLib.measures import measure
from RVQCLib.phantom import phantom_study
from RVQCLib.pipeline import segment_study
from RVQCLib.result import write_result
from RVQCLib.slices import find_heart, to_network
from RVQCLib.study import Study, read_study


def _median(work: Callable[[], object], repeats: int) -> float:
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _study(path: str | None) -> Study:
    return read_study(path) if path else phantom_study(0, views=("SA",))


def _measure(study: Study, bundle_path: Path, device: str, repeats: int) -> dict[str, float]:
    bundle = load_bundle(bundle_path)
    prepared = []
    for stack in study.stacks:
        models = bundle.models(stack.view, device)
        crop = find_heart(stack, models.locator, models.sampling, device=device)
        prepared.append((models, to_network(stack, crop, models.sampling)))
    masks = [np.stack([hard_masks(p)[0] for p in propose(images, models)]) for models, images in prepared]

    def candidates() -> None:
        for models, images in prepared:
            propose(images, models)

    def reconstructions() -> None:
        for (models, _), mask in zip(prepared, masks, strict=True):
            reconstruct(mask, models)

    def judging() -> None:
        for (models, _), mask, stack in zip(prepared, masks, study.stacks, strict=True):
            spacing = (stack.geometry.spacing_zyx[0], models.sampling.spacing_mm, models.sampling.spacing_mm)
            measure(mask, reconstruct(mask, models), spacing)

    bare_m, bare_r = _median(candidates, repeats), _median(reconstructions, repeats)
    whole = _median(lambda: segment_study(study, bundle, device=device), repeats)
    with tempfile.TemporaryDirectory() as folder:
        result = segment_study(study, bundle, device=device)
        writing = _median(lambda: write_result(result, folder), repeats)
    return {
        "bare_s": bare_m + bare_r,
        "warm_s": whole,
        "warm_over_bare": whole / (bare_m + bare_r),
        "qc_over_forward_of_M": _median(judging, repeats) / bare_m,
        "writing_over_bare": writing / (bare_m + bare_r),
    }


def _cold(study: str | None, bundle_path: Path, device: str) -> dict[str, float]:
    """A fresh process from its start to the written result, and the most memory it held."""
    with tempfile.TemporaryDirectory() as folder:
        if study is None:
            from RVQCLib.phantom import write_phantom

            study = str(write_phantom(Path(folder) / "in", 1, seed=0, views=("SA",))[0])
        command = [sys.executable, "-m", "RVQCLib.cli", "segment", study, "-o", f"{folder}/out", "--json"]
        started = time.perf_counter()
        subprocess.run([*command, "--bundle", str(bundle_path), "--device", device], check=True, capture_output=True)
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {"cold_s": seconds, "peak_mb": peak}


def main() -> None:
    """Run and write the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="bench.json")
    parser.add_argument("--bundle", help="folder of a bundle; without it, the shipped one")
    parser.add_argument("--study", help="a study with the views of the bundle; without it, a phantom")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    bundle_path = Path(args.bundle) if args.bundle else shipped_bundle()
    study = _study(args.study)
    numbers = {
        **_measure(study, bundle_path, args.device, args.repeats),
        **_cold(args.study, bundle_path, args.device),
    }
    numbers["slices"] = sum(len(stack.pixels) for stack in study.stacks)
    Path(args.out).write_text(json.dumps({"segment": numbers}, indent=1) + "\n", encoding="utf-8")
    for key, value in numbers.items():
        print(f"{key:24s} {value:.3f}")


if __name__ == "__main__":
    main()
