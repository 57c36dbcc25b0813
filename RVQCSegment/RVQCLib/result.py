"""What one study's run yields, and how it is written: masks, quality.json, report.html, whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from RVQCLib.files import whole_folder, write_json
from RVQCLib.report import study_page
from RVQCLib.study import Stack, Study, write_mask


@dataclass(frozen=True)
class StackResult:
    """One judged stack. `mask`, `reconstruction` and `candidates` lie on the grid of `image`; `judgement` is the stack's
    entry of quality.json."""

    image: Stack
    mask: Stack
    reconstruction: Stack
    candidates: tuple[Stack, ...]
    judgement: dict[str, Any]


@dataclass(frozen=True)
class StudyResult:
    """All stacks of a study with what was said of them. `checks` are sentences about the study as a whole."""

    study: Study
    stacks: tuple[StackResult, ...]
    checks: tuple[str, ...]
    provenance: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The content of quality.json."""
        return {
            "study": self.study.name,
            **self.provenance,
            "checks": list(self.checks),
            "stacks": [stack.judgement for stack in self.stacks],
        }


def write_result(
    result: StudyResult, out: str | Path, *, candidates: bool = False, report: bool = True, folder_name: str = ""
) -> Path:
    """Write ``OUT/<study>/`` whole: ``<study>_SA_ED.nii.gz`` …, ``…_reconstruction.nii.gz``, ``quality.json``,
    ``report.html`` and, when asked, ``…_candidate1.nii.gz`` …. With `folder_name` the folder is called so instead.

    Returns
    -------
    The study's folder. A folder of an earlier run is replaced in one step.
    """
    study = result.study.name
    target = Path(out) / (folder_name or study)
    with whole_folder(target) as folder:
        for stack in result.stacks:
            stem = f"{study}_{stack.image.name}"
            write_mask(stack.mask, folder / f"{stem}.nii.gz")
            write_mask(stack.reconstruction, folder / f"{stem}_reconstruction.nii.gz")
            for number, candidate in enumerate(stack.candidates if candidates else (), start=1):
                write_mask(candidate, folder / f"{stem}_candidate{number}.nii.gz")
        content = result.to_json()
        write_json(folder / "quality.json", content)
        if report:
            triples = [(stack.image, stack.mask, stack.reconstruction) for stack in result.stacks]
            (folder / "report.html").write_text(study_page(content, triples), encoding="utf-8")
    return target
