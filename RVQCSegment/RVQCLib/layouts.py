"""How studies lie on a disk: which file of a folder is which view and phase of which study."""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from RVQCLib.dicom import is_dicom, list_series
from RVQCLib.files import RVQCError
from RVQCLib.images import SUFFIXES, image_shape, is_exchanged, labelled_frames, read_cine, read_image, read_mask
from RVQCLib.names import Name, not_utf8, other_view, read_name, shown
from RVQCLib.stack import PHASES, VIEWS, Stack, Study, with_indices_of
from RVQCLib.subjects import MNMS1, Subject, find_subject

log = logging.getLogger(__name__)

Key = tuple[str, str]
Entry = Path | tuple[Path, int]
_ACDC = re.compile(r"(.+)_(?:frame(\d+)|(4d))(_gt)?", re.IGNORECASE)
_MNMS1 = re.compile(r"[A-Z0-9]{6}_sa(_gt)?", re.IGNORECASE)
_MNMS2 = re.compile(r"(\d+)_(SA|LA)_(ED|ES|CINE)(_gt)?", re.IGNORECASE)


@dataclass(frozen=True)
class StudySource:
    """A study on the disk: which file is which view and phase, and why it cannot be read, if so.

    Parameters
    ----------
    images, labels : file of every (view, phase); of a cine a pair (file, frame from 0), and for a cine whose phases are
        still to be picked, and the mask of all its frames, the file under (view, ""). A DICOM file stands for its whole series.
    layout : "acdc", "mnms2", "plain", "file", "cine", "dicom", or "" where no image was found.
    problems : sentences; a study with any is listed but not loaded.
    notes : sentences of what was assumed.
    """

    name: str
    images: dict[Key, Entry] = field(default_factory=dict)
    labels: dict[Key, Entry] = field(default_factory=dict)
    group: str = ""
    vendor: str = ""
    layout: str = "plain"
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def image_files(self) -> list[tuple[Key, tuple[Path, int | None]]]:
        """(view, phase), and file and frame, of every image; the frame is None where the file is no cine of picked phases."""
        return _entries(self.images)

    @property
    def label_files(self) -> list[tuple[Key, tuple[Path, int | None]]]:
        """The same of every true mask."""
        return _entries(self.labels)

    def load(self, labels: bool = False) -> Study:
        """Read the study; with `labels` the true masks as well, where there are any.

        A cine with a mask of all its frames comes with `labels` as ED and ES, the two frames that are labelled.

        Raises
        ------
        RVQCError
            The study has problems, a file cannot be read, or a mask does not fit its image or is of an unknown
            frame of a cine.
        """
        if self.problems:
            raise RVQCError(self.problems[0])
        source = self._at_labelled_frames() if labels else self
        files = source.image_files
        stacks = tuple(
            read_image(path, view=view, phase=phase, frame=frame) for (view, phase), (path, frame) in files if phase
        )
        cines = tuple(tuple(read_cine(path, view=view)) for (view, phase), (path, _) in files if not phase)
        study = Study(self.name, stacks, (), self.group, self.vendor, cines, self.notes)
        return replace(study, labels=tuple(source._masks(study))) if labels else study

    def _at_labelled_frames(self) -> StudySource:
        """The study whose ED and ES are, of each cine with a mask of all its frames, those with labels."""
        images, labels = dict(self.images), dict(self.labels)
        for view in VIEWS:
            if (view, "") not in images or (view, "") not in labels:
                continue
            cine, mask = images.pop((view, "")), labels.pop((view, ""))
            _check_shapes(mask, image_shape(mask), cine, image_shape(cine))
            for phase, frame in zip(PHASES, labelled_frames(mask), strict=True):
                images[view, phase], labels[view, phase] = (cine, frame), (mask, frame)
        return replace(self, images=images, labels=labels)

    def _masks(self, study: Study) -> Iterable[Stack]:
        convention = "acdc" if self.layout == "acdc" else "mnms2"
        for (view, phase), (path, frame) in self.label_files:
            image = study.stack(view, phase)
            if image is None and any(cine[0].view == view for cine in study.cines):
                raise RVQCError(
                    f"{path} is a true mask, but the {view} images are a cine; give the frame that it is of as a file of its own "
                    f"({study.name}_{view}_{phase or 'ED'}.nii.gz)."
                )
            if image is None:
                continue
            mask = read_mask(path, view=view, phase=phase, convention=convention, frame=frame)
            _check_shapes(path, mask.pixels.shape, image.source, image.pixels.shape)
            mask = with_indices_of(mask, image)
            if view == "SA" and is_exchanged(mask.pixels):
                wanted = "1 RV and 3 LV" if convention == "acdc" else "1 LV and 3 RV"
                raise RVQCError(
                    f"{path} has the myocardium around the RV; its labels should be {wanted}, exchange them."
                )
            yield mask


def _check_shapes(mask: Path, its: tuple[int, ...], image: Path | str, other: tuple[int, ...]) -> None:
    if its != other:
        sizes = " and ".join(" x ".join(map(str, shape)) for shape in (its, other))
        raise RVQCError(f"{mask} has not the shape of its image {image} ({sizes}); give the mask of it.")


def _entries(files: dict[Key, Entry]) -> list[tuple[Key, tuple[Path, int | None]]]:
    return [(key, entry if isinstance(entry, tuple) else (entry, None)) for key, entry in files.items()]


def in_folder(folder: Path) -> list[StudySource]:
    """The studies whose files lie directly in a folder; empty where it holds no image.

    An image that is a link to nothing is a problem of its study: left out unsaid, it could be the ES of a "trusted" study.
    """
    found = _present(folder)
    gone = {path: said for path in sorted(folder.iterdir()) if _stem(path) and (said := link_to_nothing(path))}
    if gone and len(found) == 1:
        found = [replace(found[0], problems=(*gone.values(), *found[0].problems))]
    else:
        found += [StudySource(_stem(path) or "", problems=(said,)) for path, said in gone.items()]
    return [_nameable(source) for source in found]


def _nameable(source: StudySource) -> StudySource:
    """The source, or one that stands for it and has a problem where results could not name its files."""
    paths = [path for _, (path, _) in (*source.image_files, *source.label_files)]
    if said := next(filter(None, map(not_utf8, paths)), ""):
        source = replace(source, images={}, labels={}, problems=(said, *source.problems))
    return replace(source, name=shown(source.name), problems=tuple(dict.fromkeys(map(shown, source.problems))))


def link_to_nothing(path: Path) -> str:
    """What is wrong with a link whose target is gone, and what to do; "" for every other path."""
    if not path.is_symlink() or path.exists():
        return ""
    return f"{path} is a link to something that is gone; fetch or restore it, or remove the link."


def _present(folder: Path) -> list[StudySource]:
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    images = [path for path in files if _stem(path) is not None]
    if (folder / "Info.cfg").is_file() or any((found := _ACDC.fullmatch(_stem(path))) and found[2] for path in images):
        return [_acdc(folder, images)]
    if images:
        return _plain(folder, images)
    return [_dicom(folder)] if any(map(_has_dicom, files)) else []


def one_file(path: Path) -> StudySource:
    """A single file as a study: a frame of an ACDC study, a cine, a DICOM series, or one stack.

    The view is told by the name, else by the number of slices (one: LA); the phase by the name, else it is ED.
    """
    if said := not_utf8(os.path.abspath(path)):
        raise RVQCError(said)
    if _stem(path) is None:
        if not path.is_file() or not _has_dicom(path):
            raise RVQCError(f"{path} is of no format that RVQC reads; give {', '.join(SUFFIXES)} or DICOM.")
        cine, slices = _size(path)
        images: dict[Key, Entry] = {("SA" if slices > 1 else "LA", "" if cine else "ED"): path}
        return StudySource(_name(path.parent), images, layout="dicom", notes=_assumed(images, {path}))
    if (path.parent / "Info.cfg").is_file():
        study = in_folder(path.parent)[0]
        images = {key: entry for key, entry in study.images.items() if entry == path}
        if images:
            labels = {key: entry for key, entry in study.labels.items() if key in images}
            return replace(study, images=images, labels=labels, problems=())
    name = read_name(_stem(path))
    view, phase = _settle(path, name)
    images, layout = {(view, phase): path}, "file" if phase else "cine"
    notes = () if name.phase else _assumed(images, {path})
    return StudySource(name.study or _stem(path), images, layout=layout, notes=notes)


def mixed(folder: Path, studies: list[StudySource]) -> StudySource:
    """What stands for a folder that should hold one study and holds several."""
    names = ", ".join(study.name for study in studies[:4]) + (", …" if len(studies) > 4 else "")
    problem = f"{folder} mixes the files of {len(studies)} studies ({names}); give every study a folder of its own"
    if not any(study.images and study.labels for study in studies):
        problem += ", and true masks beside their images, named like them with _gt, _mask, _label or _seg at the end"
    return StudySource(_name(folder), problems=(f"{problem}.",))


def _name(folder: Path) -> str:
    return Path(os.path.abspath(folder)).name


def _stem(path: Path) -> str | None:
    """The name without its image suffix; None where it has none."""
    suffix = next(
        (suffix for suffix in (".nii.gz", ".nii", ".nrrd", ".mha") if path.name.lower().endswith(suffix)), None
    )
    return path.name[: -len(suffix)] if suffix else None


def _size(path: Path) -> tuple[bool, int]:
    """Whether a file is a cine, and its number of slices."""
    shape = image_shape(path)
    return len(shape) > 3, shape[-3]


# ACDC -----------------------------------------------------------------------------------------------------------------


def _acdc(folder: Path, images: list[Path]) -> StudySource:
    """patient001_frame01.nii.gz, …_gt.nii.gz; ED, ES and Group in Info.cfg. Short axis only."""
    name = _name(folder)
    files, prefixes = {}, set()
    for path in images:
        if found := _ACDC.fullmatch(_stem(path)):
            prefixes.add(found[1])
            files[int(found[2] or 0), bool(found[4])] = path
    if len(prefixes) > 1:
        return mixed(folder, [StudySource(prefix) for prefix in sorted(prefixes)])
    try:
        info = _info(folder)
        frames = {phase: int(info[phase]) for phase in PHASES}
    except (OSError, UnicodeDecodeError, KeyError, ValueError):
        problem = f"{folder / 'Info.cfg'} does not say which frames are ED and ES (lines ED: and ES:); restore it."
        return StudySource(name, layout="acdc", problems=(problem,))
    chosen, problems = {}, []
    for phase, frame in frames.items():
        if (frame, False) in files:
            chosen["SA", phase] = files[frame, False]
        elif (0, False) in files:
            chosen["SA", phase] = (files[0, False], frame - 1)
        else:
            missing = folder / f"{min(prefixes, default=name)}_frame{frame:02d}.nii.gz"
            problems.append(f"{missing} is missing, the {phase} image of {name}; restore it.")
    labels = {("SA", phase): files[frame, True] for phase, frame in frames.items() if (frame, True) in files}
    return StudySource(name, chosen, labels, info.get("Group", ""), "", "acdc", tuple(problems))


def _info(folder: Path) -> dict[str, str]:
    lines = (folder / "Info.cfg").read_text(encoding="utf-8").splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


# M&Ms-2 and plain folders ---------------------------------------------------------------------------------------------


def _settle(path: Path, name: Name) -> Key:
    """View and phase, with the file's header where the name leaves something open; the phase of a cine is "".

    Raises
    ------
    RVQCError
        The name is not UTF-8 or says another view or two at once, or the header cannot be read.
    """
    if said := not_utf8(path):
        raise RVQCError(said)
    if other := other_view(_stem(path)):
        raise RVQCError(_unknown_view(path, other))
    if name.doubt:
        raise RVQCError(f"{path} says {name.doubt} in its name, and which is meant is not clear; rename it.")
    cine, slices = name.cine, 2
    if not (name.view and (name.phase or name.cine)):
        cine, slices = _size(path)
    return name.view or ("SA" if slices > 1 else "LA"), name.phase or ("" if cine else "ED")


def _assumed(images: Mapping[Key, Entry], unnamed: Collection[Path]) -> tuple[str, ...]:
    """A sentence for every image that is taken for ED because nothing says its phase, nor that another one is of ES."""
    told = "its name does not say which phase it is, so it is taken for end-diastole; put ES in the name of an image at end-systole"
    return tuple(
        f"{view} ED: {told}"
        for (view, phase), path in images.items()
        if phase == "ED" and path in unnamed and (view, "ES") not in images
    )


def _unknown_view(path: Path, words: str) -> str:
    return f"{path} is named as another view ({words}); RVQC segments short-axis and four-chamber images, give these."


def _plain(folder: Path, images: list[Path]) -> list[StudySource]:
    """Files grouped by what their names say beside view and phase; without those of other views, where there are others."""
    groups: dict[str, dict[Path, Name]] = defaultdict(dict)
    known = [path for path in images if not other_view(_stem(path))]
    if known and len(known) < len(images):
        left = ", ".join(shown(path.name) for path in images if path not in known)
        log.warning("Of %s these are left out, as they are named as other views: %s.", shown(folder), left)
    for path in known or images:
        name = read_name(_stem(path))
        groups[name.study][path] = name
    # A name that says nothing but view and phase belongs to the folder's study.
    return [_group(folder, study or _name(folder), files) for study, files in sorted(groups.items())]


def _group(folder: Path, name: str, files: dict[Path, Name]) -> StudySource:
    mnms2 = all(_MNMS2.fullmatch(_stem(path)) for path in files)
    images: dict[Key, Path] = {}
    labels: dict[Key, Path] = {}
    problems: list[str] = []
    for path, said in files.items():
        try:
            key = _settle(path, said)
        except RVQCError as error:
            problems.append(str(error))
            continue
        kind = labels if said.label else images
        if key in kind:
            twice = "_".join(filter(None, key))
            problems.append(f"{kind[key]} and {path.name} both look like {twice}; say SA or LA, ED or ES in names.")
        kind.setdefault(key, path)
    problems += _gaps(folder, name, images, labels, mnms2) if images or not problems else []
    mnms1 = all(_MNMS1.fullmatch(_stem(path)) for path in files)
    subject = find_subject(folder, name) if mnms2 else find_subject(folder, name, MNMS1) if mnms1 else Subject()
    images = {key: path for key, path in _ordered(images) if key[1] or (key[0], "ED") not in images}
    layout = "mnms2" if mnms2 else "plain" if any(phase for _, phase in images) else "cine"
    notes = _assumed(images, {path for path, said in files.items() if not said.phase})
    masks, why = dict(_ordered(labels)), tuple(problems)
    return StudySource(name, images, masks, subject.disease, subject.vendor, layout, why, notes)


def _ordered(files: dict[Key, Path]) -> list[tuple[Key, Path]]:
    keys = [(view, phase) for view in VIEWS for phase in (*PHASES, "")]
    return [(key, files[key]) for key in keys if key in files]


def _gaps(folder: Path, name: str, images: dict[Key, Path], labels: dict[Key, Path], mnms2: bool) -> list[str]:
    """Views that lack the image of a true mask or, as M&Ms-2 has all views at the same phases, of another view's phase.

    A cine makes up for all.
    """
    problems = [] if images else [f"{folder} holds no image of {name}; add it."]
    for view in VIEWS:
        has = {phase for phase in (*PHASES, "") if (view, phase) in images}
        told = {phase for of, phase in labels if of == view} | {phase for _, phase in images if mnms2}
        if has and "" not in has:
            problems += [
                f"{folder / f'{name}_{view}_{phase}.nii.gz'} is missing, the {phase} image of view {view}; add it."
                for phase in PHASES
                if phase in told - has
            ]
    return problems


# DICOM ----------------------------------------------------------------------------------------------------------------


def _has_dicom(path: Path) -> bool:
    try:
        return is_dicom(path)
    except OSError:
        return False


def _dicom(folder: Path) -> StudySource:
    images: dict[Key, Path] = {}
    unnamed, problems = set(), []
    try:
        series = list_series(folder)
        known = [one for one in series if not other_view(one[1])]
        if series and not known:
            path, description = series[0]
            return StudySource(_name(folder), layout="dicom", problems=(_unknown_view(path, other_view(description)),))
        for path, description in known:
            words = read_name(description)
            if words.doubt:
                problems.append(
                    f"{path} is of a series that says {words.doubt} in its description; leave out what is not meant."
                )
                continue
            cine, slices = _size(path)
            key = (words.view or ("SA" if slices > 1 else "LA"), words.phase or ("" if cine else "ED"))
            if key in images:
                twice = "_".join(filter(None, key))
                problems.append(f"{folder} holds two series that look like {twice}; leave the one that is meant.")
            images.setdefault(key, path)
            if not words.phase:
                unnamed.add(path)
    except RVQCError as error:
        problems.append(str(error))
    notes = _assumed(images, unnamed)
    return StudySource(_name(folder), images, layout="dicom", problems=tuple(problems), notes=notes)
