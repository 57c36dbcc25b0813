"""The M&Ms-2 challenge: who of its 360 studies is for what, what its diseases are called, and what it is sent.

The studies are numbered: 001 to 160 train, 161 to 200 validate, 201 to 360 test. Diseases stand in
``dataset_information.csv``. An entry is an archive with one mask a stack, ``161/161_SA_ED_pred.nii.gz`` and so on, in
which the right ventricle alone is scored (public code of two entries, that of the paper's authors among them).
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from RVQCLib.files import RVQCError, whole_file
from RVQCLib.images import read_mask, write_mask
from RVQCLib.stack import LABELS, PHASES, VIEWS
from RVQCLib.study import StudySource, find_studies
from RVQCLib.subjects import find_subject

DISEASES = {
    "NOR": "Normal",
    "FALL": "Tetralogy of Fallot",
    "FAL": "Tetralogy of Fallot",
    "CIA": "Interatrial Communication",
    "ARR": "Congenital Arrhythmogenesis",
    "HCM": "Hypertrophic Cardiomyopathy",
    "LV": "Dilated Left Ventricle",
    "TRI": "Tricuspidal Regurgitation",
    "RV": "Dilated Right Ventricle",
    "DRV": "Dilated Right Ventricle",
}
"""The paper's names in the order of its Table 1, by the table's codes; FAL and DRV are those of the phantom."""
TRAINING, VALIDATION = 160, 40
"""How many numbers train and validate; the others test."""
_MOMENT = (1980, 1, 1, 0, 0, 0)  # of every file in an archive: the same masks make the same archive


@dataclass(frozen=True)
class Challenge:
    """The studies of the challenge by part, in the order of their numbers.

    Parameters
    ----------
    training : all labelled; networks learn from most of them and are chosen and calibrated on the rest.
    validation, test : not read before everything is trained; their true masks, where there are any, only judge.
    """

    training: tuple[StudySource, ...]
    validation: tuple[StudySource, ...]
    test: tuple[StudySource, ...]

    @property
    def judged(self) -> tuple[StudySource, ...]:
        """The studies that no network saw."""
        return (*self.validation, *self.test)

    @property
    def unseen(self) -> list[str]:
        """Diseases that are judged and were absent in training."""
        return sorted({source.group for source in self.judged} - {source.group for source in self.training})


def read_challenge(folder: str | Path, *, training: int = TRAINING, validation: int = VALIDATION) -> Challenge:
    """Find the challenge's studies: the numbers up to `training` train, the next `validation` validate, the rest test.

    Raises
    ------
    RVQCError
        A study lacks a file, is not in the challenge's layout or has no disease in the table, one that trains lacks a true
        mask, or there is none to train or none to judge.
    """
    sources = find_studies(folder)
    for source in sources:
        _check_known(source, Path(folder))
    sources.sort(key=lambda source: int(source.name))
    trained = tuple(source for source in sources if int(source.name) <= training)
    others = tuple(source for source in sources if int(source.name) > training)
    if not trained or not others:
        raise RVQCError(
            f"{folder} holds {len(trained)} studies up to number {training}, which train, and {len(others)} above, which are "
            "judged; give the whole challenge, or another --training."
        )
    for source in trained:
        _check_labelled(source, training)
    middle = training + validation
    parts = [tuple(s for s in others if (int(s.name) <= middle) == early) for early in (True, False)]
    return Challenge(trained, *parts)


def _check_known(source: StudySource, folder: Path) -> None:
    if source.problems:
        raise RVQCError(source.problems[0])
    if not source.name.isdigit() or source.layout != "mnms2":
        raise RVQCError(
            f"{source.name} in {folder} is no study of M&Ms-2 (a folder such as 001 with 001_SA_ED.nii.gz); remove it or "
            "give the challenge's folder."
        )
    if not source.group:
        _, (image, _) = source.image_files[0]
        raise RVQCError(find_subject(image.parent, source.name).problem)


def _check_labelled(source: StudySource, training: int) -> None:
    for view in VIEWS:
        for phase in PHASES:
            if (view, phase) not in source.images or (view, phase) not in source.labels:
                what = "true mask" if (view, phase) in source.images else "image"
                raise RVQCError(
                    f"Study {source.name} has no {view} {phase} {what}, but numbers up to {training} train; "
                    "restore it or give another --training."
                )


def write_submission(masks: str | Path, sources: Sequence[StudySource], out: Path, *, rv_label: int = 3) -> list[str]:
    """Write the archive of the masks in `masks` (as a batch leaves them), ``submission/161/161_SA_ED_pred.nii.gz`` and so on.

    Parameters
    ----------
    rv_label
        What the RV's pixels hold, 3 as in the true masks; all others are 0.

    Returns
    -------
    The stacks of `sources` that have no mask, such as ``161_SA_ED``.

    Raises
    ------
    RVQCError
        There is no mask at all.
    """
    wanted = [(source.name, view, phase) for source in sources for view, phase in source.images if phase]
    stacks = {f"{name}_{view}_{phase}": (name, view, phase) for name, view, phase in wanted}
    files = {stem: Path(masks) / where[0] / f"{stem}.nii.gz" for stem, where in stacks.items()}
    missing = [stem for stem, file in files.items() if not file.is_file()]
    if len(missing) == len(files):
        raise RVQCError(f"{masks} holds no mask of the {len(sources)} studies to send; look into its cohort.csv.")
    with whole_file(out) as archive, zipfile.ZipFile(archive, "w") as content:
        part = archive.with_name("mask.nii.gz")
        for stem, (name, view, phase) in stacks.items():
            if stem in missing:
                continue
            mask = read_mask(files[stem], view=view, phase=phase)
            write_mask(mask.with_pixels(np.uint8(rv_label) * (mask.pixels == LABELS["RV"])), part)
            entry = zipfile.ZipInfo(f"submission/{name}/{stem}_pred.nii.gz", _MOMENT)
            entry.external_attr = 0o644 << 16
            content.writestr(entry, part.read_bytes())
    return missing
