"""What one study's run yields, and how it is written: masks, quality.json, report.html, whole or not at all."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from RVQCLib.edits import OUTPUTS, check_name, output_hashes, set_aside
from RVQCLib.files import RVQCError, read_json, whole_folder, write_json
from RVQCLib.images import image_sha256
from RVQCLib.overall import stack_reasons, stack_verdict
from RVQCLib.report import frames_in_words, study_page
from RVQCLib.study import PHASES, Stack, Study, read_image, write_mask

log = logging.getLogger(__name__)


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


def named_image(stack: Stack) -> dict[str, Any]:
    """Which image a stack is, for quality.json: its file, the frame of a cine in it (from 0, else None), the SHA-256.

    The hash is that of `image_sha256`, "" where the stack came from no file or from one that is gone.
    """
    return {"file": stack.source, "frame": stack.frame, "sha256": _hash(stack.source)}


def _hash(file: str) -> str:
    try:
        return image_sha256(file) if file else ""
    except OSError as error:
        log.warning("%s cannot be read any more (%s), so the result does not hold its hash.", file, error)
        return ""


def refuse_other_images(study: Study, out: str | Path, origins: Mapping[str, str]) -> None:
    """Refuse to replace results of another image, which may be another patient's, under the same name.

    Parameters
    ----------
    origins : As for `with_origins`; the image may also be known by its origin.

    Raises
    ------
    RVQCError
        ``OUT/<study>/quality.json`` holds another hash for a view and phase of `study`.
    """
    if not (file := Path(out) / study.name / "quality.json").is_file():
        return
    known = {(s["view"], s["phase"]): (s.get("image") or {}).get("sha256") for s in read_json(file).get("stacks", ())}
    for image in (*study.stacks, *(cine[0] for cine in study.cines)):
        before = {known.get((image.view, phase)) for phase in ((image.phase,) if image.phase else PHASES)} - {None, ""}
        if before and before.isdisjoint((_hash(image.source), _hash(_origin_of(image, origins)))):
            raise RVQCError(
                f"{file.parent} holds the results of another image of {image.name.replace('_', ' ')}; give this study another "
                "name or its results another folder."
            )


def with_origins(result: StudyResult, origins: Mapping[str, str]) -> StudyResult:
    """The same result, its images named by the files that they came from first.

    Parameters
    ----------
    origins : File by stack ("SA_ED") or, for a cine, by view ("SA"). One that does not hold the very pixels that were
        judged, in the same place, is passed over: the file that was read stays named.
    """
    return replace(result, stacks=tuple(_with_origin(stack, origins) for stack in result.stacks))


def _with_origin(result: StackResult, origins: Mapping[str, str]) -> StackResult:
    image = result.image
    if not (path := _origin_of(image, origins)):
        return result
    try:
        origin = read_image(path, view=image.view, phase=image.phase, frame=image.frame)
    except RVQCError:
        return result
    same = np.array_equal(origin.pixels, image.pixels) and all(
        np.allclose(getattr(origin.geometry, part), getattr(image.geometry, part), atol=1e-3)
        for part in ("origin", "spacing", "direction")
    )
    return replace(result, judgement={**result.judgement, "image": named_image(origin)}) if same else result


def _origin_of(image: Stack, origins: Mapping[str, str]) -> str:
    return origins.get(image.name) or origins.get(image.view) or ""


def write_result(
    result: StudyResult, out: str | Path, *, candidates: bool = False, report: bool = True, folder_name: str = ""
) -> Path:
    """Write ``OUT/<study>/`` whole: ``<study>_SA_ED.nii.gz`` …, ``…_reconstruction.nii.gz``, ``quality.json``,
    ``report.html`` and, when asked, ``…_candidate1.nii.gz`` …. With `folder_name` the folder is called so instead.

    Returns
    -------
    The study's folder. A folder of an earlier run is replaced in one step; one that somebody edited since is moved aside
    (`edits.set_aside`).

    Raises
    ------
    RVQCError
        The name is that of a folder for people's work.
    OSError
        A file cannot be written or moved; the earlier folder is still there.
    """
    study = result.study.name
    target = Path(out) / (folder_name or study)
    check_name(target.name)
    with whole_folder(target) as folder:
        for stack in result.stacks:
            stem = f"{study}_{stack.image.name}"
            write_mask(stack.mask, folder / f"{stem}.nii.gz")
            write_mask(stack.reconstruction, folder / f"{stem}_reconstruction.nii.gz")
            for number, candidate in enumerate(stack.candidates if candidates else (), start=1):
                write_mask(candidate, folder / f"{stem}_candidate{number}.nii.gz")
        content = {**result.to_json(), OUTPUTS: output_hashes(folder)}
        write_json(folder / "quality.json", content)
        if report:
            triples = [(stack.image, stack.mask, stack.reconstruction) for stack in result.stacks]
            (folder / "report.html").write_text(study_page(content, triples), encoding="utf-8")
        set_aside(target)
    return target


def in_words(answer: Mapping[str, Any]) -> list[str]:
    """A line for every stack, cine and check of a content of ``quality.json``."""
    study, checks, lines = answer["study"], answer["checks"], []
    for stack in answer["stacks"]:
        flagged = ", ".join(str(entry["index"] + 1) for entry in stack["slices"] if entry["flag"])
        usual = f"nothing unusual as a whole; slices to look at: {flagged}" if flagged else "nothing unusual"
        said = "; ".join(stack_reasons(stack, checks)) or usual  # reasons name the slices themselves
        lines.append(f"{study} {stack['view']} {stack['phase']}: {stack_verdict(stack, checks)} ({said})")
    return lines + [f"{study}: {said}" for said in (*frames_in_words(answer["cine"]), *checks)]
