"""What the whole costs over the bare networks, in one run on the same stacks: ``make bench`` writes ``bench.json``.

`bare` is the forward passes of all candidates and of R on the prepared slices, nothing else; `warm` is the whole
`segment_study` (locator, resampling, networks, QC, the way back) with the bundle loaded; `cold_s` a fresh process from
start to written masks and report, as `rvqc segment` runs it. `refine` is an epoch of a refinement over the bare forward and
backward passes of as many slices (`refinement_cost.py`). `panel` is the way from the click on Run QC to the overlay,
warm, on the stand-in for Slicer, over the engine's own segment in the same worker and over `bare`; without the stand-in it
is left out, with a sentence. Speed is meaningful as a ratio of one run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from refinement_cost import refinement_cost
from RVQCLib.bundle import load_bundle, shipped_bundle
from RVQCLib.inference import hard_masks, propose, reconstruct
from RVQCLib.measures import measure
from RVQCLib.phantom import phantom_study
from RVQCLib.pipeline import segment_study
from RVQCLib.result import write_result
from RVQCLib.slices import find_heart, to_network
from RVQCLib.study import Study, read_study

NO_STAND_IN = 77


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


@contextmanager
def _on_disk(study: Study, path: str | None) -> Iterator[str]:
    """The folder of the study that is measured, for those that read it from the disk."""
    if path:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        for stack in study.stacks:
            image = sitk.GetImageFromArray(stack.pixels)
            image.SetOrigin(stack.geometry.origin)
            image.SetSpacing(stack.geometry.spacing)
            image.SetDirection(stack.geometry.direction)
            sitk.WriteImage(image, f"{folder}/phantom_{stack.name}.nii.gz")
        yield folder


def _click(study: str, bundle_path: Path, repeats: int) -> dict[str, float]:
    """From the click on Run QC to the overlay; empty where the stand-in for Slicer is absent."""
    script = Path(__file__).parent / "panel" / "click_benchmark.py"
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    command = [sys.executable, str(script), study, str(bundle_path), str(repeats)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == NO_STAND_IN:
        print(f"The click is not measured: {done.stderr.strip().splitlines()[-1]}")
        return {}
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def _cold(study: str, bundle_path: Path, device: str) -> dict[str, float]:
    """A fresh process from its start to the written result, and the most memory it held."""
    with tempfile.TemporaryDirectory() as folder:
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
    with _on_disk(study, args.study) as path:
        numbers = _measure(study, bundle_path, args.device, args.repeats)
        panel = _click(path, bundle_path, args.repeats) if args.device == "cpu" else {}
        numbers |= _cold(path, bundle_path, args.device)
    numbers["slices"] = sum(len(stack.pixels) for stack in study.stacks)
    if panel:
        panel["click_over_bare"] = panel["click_s"] / numbers["bare_s"]
    found = {"segment": numbers, "panel": panel, "refine": refinement_cost(bundle_path, args.device)}
    Path(args.out).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for part, values in found.items():
        for key, value in values.items():
            print(f"{part:8s} {key:24s} {value:.3f}")


if __name__ == "__main__":
    main()
