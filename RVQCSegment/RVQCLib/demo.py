"""The main job on two synthetic studies: one as a scanner gives it, one spoilt as a failing scan spoils it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from RVQCLib.bundle import load_bundle
from RVQCLib.files import check_folder
from RVQCLib.pipeline import segment_study
from RVQCLib.result import in_words, write_result
from RVQCLib.samples import sample_studies


def run_demo(
    out: Path, bundle_path: Path, *, device: str = "auto", progress: Callable[[dict[str, Any]], None] | None = None
) -> tuple[dict[str, Any], str]:
    """Segment, judge and write both studies to `out`; returns the results as JSON and as text.

    Raises
    ------
    RVQCError
        Nothing can be written to `out`, or `device` does not work here.
    """
    check_folder(out)
    bundle = load_bundle(bundle_path)
    answers, lines = [], []
    for study in sample_studies(bundle.views):
        result = segment_study(study, bundle, device=device, progress=progress)
        folder = write_result(result, out)
        answers.append(result.to_json())
        lines += in_words(answers[-1])
        lines.append(f"  masks, quality.json and report: {folder / 'report.html'}")
    return {"studies": answers}, "\n".join(lines)
