"""A DICOM folder: one series is one stack, or one slice of a short axis; several temporal positions make it a cine."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from RVQCLib.files import RVQCError
from RVQCLib.names import not_utf8, other_view, read_name
from RVQCLib.stack import Geometry

_SERIES, _DESCRIPTION = "0020|000e", "0008|103e"
_MR_IMAGE = b"1.2.840.10008.5.1.4.1.1.4\0"
"""The class of an MR image (PS3.4, B.5), which is named in the file's first group."""
_HEAD = 1024
_TIMES = ("0020|0100", "0018|1060", "0020|0013")  # temporal position, trigger time, instance number


@dataclass(frozen=True)
class _Slice:
    path: str
    size: tuple[int, ...]
    origin: tuple[float, ...]
    spacing: tuple[float, ...]
    direction: tuple[float, ...]
    time: tuple[float, ...]
    series: str
    description: str


@dataclass(frozen=True)
class _Series:
    """The files of a series, the header of the first, and of all where they had to be read."""

    files: tuple[str, ...]
    first: _Slice
    slices: tuple[_Slice, ...] = ()


def is_dicom(path: str | os.PathLike) -> bool:
    """Whether the file starts as DICOM files do (128 bytes, then DICM)."""
    with open(path, "rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def list_series(folder: str | os.PathLike) -> list[tuple[Path, str]]:
    """The series directly in a folder: the first file of each (it stands for the series), and its description.

    The series of a short axis that was saved slice by slice are one here, and wherever a file stands for its series: they hold a
    slice each, in parallel, and are named as short axis, or are cines that no name calls long axis, three at least.

    Raises
    ------
    RVQCError
        Such series do not make one stack, or a file is damaged or of no kind that is read.
    """
    with _quiet_itk():
        stacks = _stacks(Path(folder))
        for stack in stacks:
            _check_joined(stack, folder)
        return [(Path(stack[0].files[0]), stack[0].first.description) for stack in stacks]


def series_files(path: str | os.PathLike) -> tuple[Path, ...]:
    """All files of the series that a file belongs to, from the files beside it."""
    with _quiet_itk():
        return tuple(Path(part.path) for part in _series(path))


def read_series(path: str | os.PathLike) -> tuple[np.ndarray, Geometry]:
    """Read the series that a file belongs to, from the files beside it.

    Returns
    -------
    pixels : (slices, rows, columns), or (frames, slices, rows, columns) where positions repeat; slices along the
        normal, frames in time (temporal position, trigger time, instance number).
    geometry : of the first slice, with the distance between slices as slice spacing.

    Raises
    ------
    RVQCError
        Slices are missing, uneven, tilted, of several sizes, coloured, or in one multi-frame file, or the series of a short
        axis that was saved slice by slice do not fit.
    """
    with _quiet_itk():
        frames, geometry = _sorted(_series(path), path)
        pixels = np.stack([_pixels(frame, path) for frame in frames])
    return (pixels if len(pixels) > 1 else pixels[0]), geometry


def series_shape(path: str | os.PathLike) -> tuple[int, ...]:
    """The shape that `read_series` would give, from the headers alone."""
    with _quiet_itk():
        frames, _ = _sorted(_series(path), path)
    columns, rows = frames[0][0].size[:2]
    return (*([len(frames)] if len(frames) > 1 else []), len(frames[0]), rows, columns)


@contextmanager
def _quiet_itk() -> Iterator[None]:
    """ITK warns on stderr of uneven slices, which are checked here, and of tags that do not matter here."""
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


def _files(folder: Path) -> dict[str, tuple[str, ...]]:
    for path in folder.iterdir():
        if path.is_file() and (said := not_utf8(path)) and is_dicom(path):
            raise RVQCError(said)
    reader = sitk.ImageSeriesReader
    found = {
        series: reader.GetGDCMSeriesFileNames(str(folder), series) for series in reader.GetGDCMSeriesIDs(str(folder))
    }
    _check_whole(folder, {Path(name).name for names in found.values() for name in names})
    return found


def _check_whole(folder: Path, known: set[str]) -> None:
    """Refuse a folder with an image that GDCM left out of every series, as it does with what it cannot read to its end."""
    for path in sorted(folder.iterdir()):
        if path.name in known or path.name.startswith(".") or not path.is_file():
            continue
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
        if head[128:132] == b"DICM" and _MR_IMAGE in head:
            raise RVQCError(f"{path} is cut off or damaged; copy or export it again.")


def _series(path: str | os.PathLike) -> list[_Slice]:
    own = _header(str(path))
    for stack in _stacks(Path(path).parent, strict=False):
        if own.series in [one.first.series for one in stack]:
            _check_joined(stack, Path(path).parent)
            return [part for one in stack for part in one.slices or map(_header, one.files)]
    return [own]


def _stacks(folder: Path, *, strict: bool = True) -> list[list[_Series]]:
    """The stacks in a folder, each by its series: one, or those of a short axis that was saved slice by slice.

    Unless `strict`, series that cannot be read are passed over.
    """
    kin: list[list[_Series]] = []
    for files in _files(folder).values():
        try:
            one = _Series(files, _header(files[0]))
        except RVQCError:
            if strict:
                raise
            continue
        like = next((others for others in kin if _alike(others[0].first, one.first)), None)
        kin.append([one]) if like is None else like.append(one)
    return [stack for series in kin for stack in (_joined(series) if len(series) > 1 else [series])]


def _alike(one: _Slice, other: _Slice) -> bool:
    """Whether two slices can be of one short axis, by the words of their series, their size and their direction."""
    words, others = (read_name(part.description) for part in (one, other))
    if words.view == "LA" or (words.view, words.phase) != (others.view, others.phase) or other_view(one.description):
        return False
    near = np.allclose(one.direction, other.direction, atol=1e-3) and np.allclose(one.spacing[:2], other.spacing[:2])
    return near and one.size == other.size and not other_view(other.description)


def _joined(series: list[_Series]) -> list[list[_Series]]:
    """Stacks of series that are alike: the one-slice cines together, the one-slice images together, every other alone.

    Without a word for the view, three cines are a stack, because nobody takes as many long axes in parallel; images may be scouts.
    """
    named = bool(read_name(series[0].first.description).view)
    series = [replace(one, slices=tuple(map(_header, one.files))) for one in series]
    slices = [one for one in series if len(set(map(_place, one.slices))) == 1]
    cines = [one for one in slices if len(one.files) > 1]
    images = [one for one in slices if len(one.files) == 1]
    stacks = [cines] if len(cines) > (1 if named else 2) else []
    stacks += [images] if len(images) > 1 and named else []
    return stacks + [[one] for one in series if not any(one in stack for stack in stacks)]


def _check_joined(stack: list[_Series], folder: str | os.PathLike) -> None:
    """Refuse series of one slice each that look like one stack and cannot be one."""
    if len(stack) < 2:
        return
    first = stack[0].first
    normal = np.reshape(first.direction, (3, 3))[:, 2]
    across = [np.subtract(one.first.origin, first.origin) @ (np.eye(3) - np.outer(normal, normal)) for one in stack]
    counts = sorted({len(one.files) for one in stack})
    gaps = np.diff(sorted(_place(one.first) for one in stack))
    if gaps.min() < 0.5:
        what = "two of them lie in the same place"
    elif len(counts) > 1:
        what = f"they have {counts[0]} to {counts[-1]} frames"
    elif np.ptp(gaps) > 0.05 * gaps.mean():
        what = "they are unevenly spaced, as if one were missing"
    elif np.linalg.norm(across, axis=1).max() > 0.5 * min(first.spacing[:2]):
        what = "they are shifted against each other in the plane"
    else:
        return
    raise RVQCError(
        f"{folder} has {len(stack)} series that look like the slices of one short axis, but {what}; leave in the folder what is of it."
    )


def _place(part: _Slice) -> float:
    """Where along its normal a slice lies, in mm."""
    return round(float(np.dot(part.origin, np.reshape(part.direction, (3, 3))[:, 2])), 2)


def _header(name: str) -> _Slice:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(name)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise RVQCError(f"{name} cannot be read as DICOM; copy or export it again.") from error
    if reader.GetNumberOfComponents() != 1:
        raise RVQCError(f"{name} holds colours; give the greyscale series.")
    if reader.GetDimension() > 2 and reader.GetSize()[2] > 1:
        raise RVQCError(f"{name} is a multi-frame DICOM file, which RVQC does not read; convert it to NIfTI first.")

    def tag(key: str) -> str:
        return reader.GetMetaData(key).strip() if reader.HasMetaDataKey(key) else ""

    times = tuple(_number(tag(key)) for key in _TIMES)
    place = (reader.GetOrigin(), reader.GetSpacing(), reader.GetDirection())
    return _Slice(name, reader.GetSize(), *place, times, tag(_SERIES), tag(_DESCRIPTION))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _sorted(slices: list[_Slice], path: str | os.PathLike) -> tuple[list[list[_Slice]], Geometry]:
    """Frames in time order, each a list of slices along the normal, and the geometry that they share."""
    first = slices[0]
    direction = np.reshape(first.direction, (3, 3))
    if any(not np.allclose(part.direction, first.direction, atol=1e-3) for part in slices):
        raise RVQCError(f"{path} belongs to a series whose slices are tilted against each other; give one stack.")
    places = defaultdict(list)
    for part in slices:
        places[round(float(np.dot(part.origin, direction[:, 2])), 2)].append(part)
    stack = [sorted(places[place], key=lambda part: part.time) for place in sorted(places)]
    if len({len(times) for times in stack}) > 1:
        raise RVQCError(f"{path} belongs to a series with slices missing in some frames; export all of it.")
    gaps = np.diff(sorted(places))
    if len(gaps) and np.ptp(gaps) > 0.05 * gaps.mean():
        raise RVQCError(f"{path} belongs to a series with slices missing or unevenly spaced; export all of it.")
    thick = float(gaps.mean()) if len(gaps) else first.spacing[2]
    geometry = Geometry(stack[0][0].origin, (*first.spacing[:2], thick), tuple(direction.ravel()))
    return [list(frame) for frame in zip(*stack, strict=True)], geometry


def _pixels(frame: list[_Slice], path: str | os.PathLike) -> np.ndarray:
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames([part.path for part in frame])
    try:
        pixels = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise RVQCError(f"{path} belongs to a series that cannot be read; copy or export it again.") from error
    return pixels
