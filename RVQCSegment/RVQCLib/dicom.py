"""A DICOM folder: one series is one stack; several temporal positions make it a cine."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from RVQCLib.files import RVQCError
from RVQCLib.names import not_utf8
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


def is_dicom(path: str | os.PathLike) -> bool:
    """Whether the file starts as DICOM files do (128 bytes, then DICM)."""
    with open(path, "rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def list_series(folder: str | os.PathLike) -> list[tuple[Path, str]]:
    """The series directly in a folder: the first file of each (it stands for the series), and its description."""
    with _quiet_itk():
        names = [files[0] for files in _files(Path(folder)).values()]
        return [(Path(name), _header(name).description) for name in names]


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
        Slices are missing, uneven, tilted, of several sizes, coloured, or in one multi-frame file.
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
    files = _files(Path(path).parent).get(_header(str(path)).series, (str(path),))
    return [_header(name) for name in files]


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
