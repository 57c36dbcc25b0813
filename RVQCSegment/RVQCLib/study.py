"""Studies: found in a folder, read into memory. The one door to `stack`, `images` and `layouts`."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

from RVQCLib.files import RVQCError
from RVQCLib.images import SUFFIXES, read_cine, read_image, read_mask, write_mask
from RVQCLib.layouts import StudySource, in_folder, link_to_nothing, mixed, one_file
from RVQCLib.names import not_utf8, shown
from RVQCLib.stack import LABELS, PHASES, STRUCTURES, VIEWS, Geometry, Stack, Study, structure_volumes_ml

__all__ = [
    "LABELS", "PHASES", "STRUCTURES", "SUFFIXES", "VIEWS", "Geometry", "Stack", "Study", "StudySource",
    "find_studies", "read_cine", "read_image", "read_mask", "read_study", "source_of", "structure_volumes_ml",
    "write_mask",
]  # fmt: skip
_DEPTH = 5
_NO_STUDIES = (".", "__MACOSX")
"""How the names of hidden files begin, and of the folder that macOS adds to its zip archives."""


def find_studies(folder: str | os.PathLike) -> list[StudySource]:
    """The studies in a folder, sorted by name; nothing but headers is read.

    Every subfolder with images is a study, every group of files in the folder itself that share a name is one. A study
    that cannot be read is listed with its `problems`, so that one bad study does not stop a cohort; so is a folder that
    holds no image, unless a study has its name.

    Raises
    ------
    RVQCError
        The folder cannot be read, or holds no study at all.
    """
    folder = Path(folder)
    if folder.is_file():
        return [source_of(folder)]
    found = _search(_readable(folder), _DEPTH)
    if not any(source.layout for source in found):
        raise RVQCError(f"{folder} holds no study; give a folder with images ({', '.join(SUFFIXES)} or DICOM).")
    times = Counter(source.name for source in found if source.layout)
    doubt = "is the name of {} studies in {}; give every study a name of its own."
    found = [
        s
        if times[s.name] < 2
        else replace(s, problems=(*s.problems, f"{s.name} {doubt.format(times[s.name], folder)}"))
        for s in found
        if s.layout or not times[s.name]
    ]
    return sorted(found, key=lambda source: source.name)


def source_of(path: str | os.PathLike) -> StudySource:
    """The one study that a file or folder of any layout is.

    Raises
    ------
    RVQCError
        There is none, or several. Other faults are among the source's `problems`.
    """
    if "://" in str(path):
        raise RVQCError(f"{path} is an address and no file; download it first, and give the file.")
    path = Path(path)
    if path.is_file():
        return one_file(path)
    own = in_folder(_readable(path))
    if len(own) > 1:
        return mixed(path, own)
    found = own or find_studies(path)
    if len(found) > 1:
        raise RVQCError(f"{path} holds {len(found)} studies, not one; give one of them, or all of them as a batch.")
    return found[0]


def read_study(path: str | os.PathLike, labels: bool = False) -> Study:
    """Read one study: a folder or file of any layout, with `labels` its true masks too. A cine comes as `Study.cines`.

    Raises
    ------
    RVQCError
        The path holds no study or several, a file or phase is missing, or a file cannot be read.
    """
    return source_of(path).load(labels)


def _readable(folder: Path) -> Path:
    if said := not_utf8(os.path.abspath(folder)):
        raise RVQCError(said)
    try:
        next(folder.iterdir(), None)
    except OSError as error:
        raise RVQCError(f"{folder} cannot be opened ({error.strerror}); check its name and your permission.") from error
    return folder


def _search(folder: Path, depth: int) -> list[StudySource]:
    found = in_folder(folder)
    for sub in sorted(path for path in folder.iterdir() if not path.name.startswith(_NO_STUDIES)):
        if sub.is_dir():
            found += _study_folder(sub, depth)
        elif not sub.name.lower().endswith(SUFFIXES) and (said := link_to_nothing(sub)):  # those of images are told
            found.append(StudySource(shown(sub.name), problems=(shown(said),)))
    return found


def _study_folder(folder: Path, depth: int) -> list[StudySource]:
    """A subfolder: one study, or a folder of studies where it holds no image itself."""
    if said := not_utf8(folder):
        return [StudySource(shown(folder.name), problems=(said,))]
    try:
        own = in_folder(folder)
        if len(own) > 1:
            return [mixed(folder, own)]
        if own:
            # Named like its folder: files in it may be called image_SA_ED in every study.
            return [replace(own[0], name=folder.name)]
        deeper = _search(folder, depth - 1) if depth > 1 else []
    except OSError as error:
        return [StudySource(folder.name, problems=(f"{folder} cannot be opened ({error.strerror}); check it.",))]
    empty = f"{folder} holds no image; add it or remove the folder."
    return deeper or [StudySource(folder.name, layout="", problems=(empty,))]
