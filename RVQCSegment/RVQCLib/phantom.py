"""Synthetic short-axis and four-chamber studies with true masks, for tests, the demo and LA training.

One analytic heart (`phantom_anatomy`) is painted in its torso (`phantom_tissues`) and seen through the planes that a
radiographer would set: a short-axis stack across the long axis, and a four-chamber slice through it and the RV. The
labels depend on the seed and the anatomy only, never on the contrast.
"""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
import SimpleITK as sitk

from RVQCLib.files import RVQCError, whole_file
from RVQCLib.phantom_anatomy import DISEASES, Anatomy, Beat, beat, heart_frame, make_anatomy
from RVQCLib.phantom_planes import Scene, set_scene
from RVQCLib.phantom_scanner import Contrast, blur, expose, random_contrast, signal_tables
from RVQCLib.phantom_tissues import clutter, label_heart, paint_body, paint_heart
from RVQCLib.phantom_variety import vary
from RVQCLib.study import LABELS, VIEWS, Stack, Study, write_mask

logger = logging.getLogger(__name__)

SLABS = (-0.22, 0.22)  # where in a slice, as parts of its thickness, the tissues are sampled
ACDC_FRAMES = {"ED": 1, "ES": 12}
SLIVER_MM2 = 120.0  # a slice with less of the heart, or 0.3 of it of the RV, is left unlabelled
LAYOUTS = ("mnms2", "acdc")
SCANNERS = (
    ("SIEMENS", "Avanto", 1.5),
    ("SIEMENS", "Symphony", 1.5),
    ("GE", "Signa HDxt", 1.5),
    ("Philips", "Achieva", 3.0),
)


def _labels(scene: Scene, view: str, now: Beat) -> np.ndarray:
    plane, window = scene.planes[view], scene.window(view)
    mask = np.zeros(plane.shape, np.uint8)
    mask[:, *window] = label_heart(plane.points(0.0, heart_frame(scene.anatomy), window), now)
    _tidy(mask, SLIVER_MM2 / (plane.geometry.spacing[0] * plane.geometry.spacing[1]))
    return mask


def _tidy(mask: np.ndarray, sliver: float) -> None:
    """Leave what a reader would draw: each structure in one piece a slice, no slices or RVs of a few pixels.

    Changes `mask`; `sliver` is an area in pixels.
    """
    for structure in LABELS.values():
        for label, pieces in zip(mask, _pieces(mask == structure), strict=True):
            sizes = np.bincount(pieces.ravel())
            sizes[0] = 0
            largest = sizes.argmax() if sizes.max() >= 0.3 * sliver or structure != LABELS["RV"] else -1
            label[(pieces > 0) & (pieces != largest)] = 0
    for label in mask:
        if np.count_nonzero(label) < sliver:
            label[:] = 0


def _pieces(mask: np.ndarray) -> np.ndarray:
    """Numbers of the connected pieces of each slice; one call for all slices, set one below the other."""
    column = np.pad(mask, ((0, 0), (0, 1), (0, 0))).astype(np.uint8)
    components = sitk.ConnectedComponentImageFilter()
    components.SetNumberOfThreads(1)  # the image is too small for more to pay
    found = components.Execute(sitk.GetImageFromArray(column.reshape(-1, mask.shape[2])))
    return sitk.GetArrayFromImage(found).reshape(column.shape)[:, :-1]


def _bodies(scene: Scene, view: str) -> list[np.ndarray]:
    plane, rough = scene.planes[view], scene.rough[view]
    bodies = [paint_body(plane.points(offset), scene.anatomy, rough) for offset in SLABS]
    for body in bodies if scene.clutter > 0 else ():
        clutter(body, rough, scene.clutter, np.random.default_rng([scene.seed, 7]))
    return bodies


def _image(scene: Scene, view: str, now: Beat, contrast: Contrast, bodies: list[np.ndarray], moment: int) -> np.ndarray:
    """The image at one moment; `moment` seeds its noise."""
    plane, rough, window = scene.planes[view], scene.rough[view], scene.window(view)
    signal, texture, flow = signal_tables(contrast)
    column, row = plane.geometry.spacing[:2]
    tilt = contrast.blur_ratio**0.5
    spread = max(contrast.blur_mm / tilt / row, 0.2), max(contrast.blur_mm * tilt / column, 0.2)
    swirl = np.abs(rough.middle) + 0.5 * np.abs(rough.coarse) - 1
    grain = 0.6 * rough.fine + 0.6 * rough.middle + 0.4 * rough.coarse
    image = np.zeros(plane.shape, np.float32)
    for offset, body in zip(SLABS, bodies, strict=True):
        tissue = body.copy()
        heart = plane.points(offset, heart_frame(scene.anatomy), window)
        paint_heart(tissue[:, *window], heart, now, rough.window(*window))
        slab = signal[tissue] * (1 + texture[tissue] * grain - flow[tissue] * swirl)
        image += np.abs(blur(slab, spread)) / len(SLABS)
    noise = np.random.default_rng([scene.seed, 3, VIEWS.index(view), moment])
    return expose(image, contrast, (column, row), window, noise, scene.seed)


class Options(TypedDict, total=False):
    """Who is imaged, and how."""

    dilated_rv: bool  # short for disease "DRV"
    disease: str  # one of DISEASES, "NOR" unless given
    anatomy: Anatomy  # drawn by `make_anatomy` with `disease` and `spread` unless given
    spread: float  # of anatomy and planning, 1 unless given
    contrast: Contrast | None  # drawn by `random_contrast` with `strength` unless given
    strength: float  # 1 unless given
    spacing: Sequence[float]  # mm between columns, rows and slices; (1.4, 1.4), and 8 to 10 drawn, unless given
    size: tuple[int, int]  # rows, columns; (208, 208) unless given
    warp: float  # mm by which smooth fields bend what the planes show, image and labels alike; 0 unless given
    clutter: float  # 0..1, how much of the body around the heart is something else; 0 unless given
    oblique: bool  # False turns the patient so that the short axis' rows and columns lie along the LPS axes


def _prepare(
    seed: int,
    views: Sequence[str],
    *,
    dilated_rv: bool = False,
    disease: str = "NOR",
    anatomy: Anatomy | None = None,
    spread: float = 1.0,
    contrast: Contrast | None = None,
    strength: float = 1.0,
    spacing: Sequence[float] = (1.4, 1.4),
    size: tuple[int, int] = (208, 208),
    warp: float = 0.0,
    clutter: float = 0.0,
    oblique: bool = True,
) -> tuple[Scene, Contrast]:
    if not views or set(views) - set(VIEWS):
        raise ValueError(f"views are {tuple(views)}; give SA, LA or both.")
    if anatomy is None:
        anatomy = make_anatomy(np.random.default_rng([seed, 0]), dilated_rv=dilated_rv, disease=disease, spread=spread)
    contrast = contrast or random_contrast(np.random.default_rng([seed, 5]), strength)
    scene = set_scene(seed, anatomy, views, spacing=spacing, size=size, oblique=oblique, spread=spread, warp=warp)
    return replace(scene, clutter=clutter), contrast


def phantom_study(
    seed: int, *, views: Sequence[str] = VIEWS, name: str | None = None, **options: Unpack[Options]
) -> Study:
    """One patient: ED and ES images of the views with true labels, all drawn from `seed` (0 or more) and `options`.

    The labels are the tissue at the slices' centre planes; the image averages over the slices' thickness.
    """
    scene, contrast = _prepare(seed, views, **options)
    images, labels = [], []
    beats = {"ED": beat(scene.anatomy, 0.0), "ES": beat(scene.anatomy, 1.0)}
    for view in views:
        bodies, geometry = _bodies(scene, view), scene.planes[view].geometry
        for moment, (phase, now) in enumerate(beats.items()):
            images.append(Stack(_image(scene, view, now, contrast, bodies, moment), geometry, view, phase))
            labels.append(Stack(_labels(scene, view, now), geometry, view, phase))
    return Study(name or f"{seed:03d}", tuple(images), tuple(labels), scene.anatomy.disease, "phantom")


def activation(frames: int) -> np.ndarray:
    """(frames,) from 0 at ED, the first, to 1 at ES, near 3/8 of the beat, and back.

    Systole, rapid filling, diastasis and atrial kick; monotonous before and after ES.
    """
    if frames < 4:
        raise ValueError(f"a beat of {frames} frames has no course; give 4 or more.")
    end = max(1, round(0.375 * frames))
    systole = 0.5 - 0.5 * np.cos(np.pi * np.arange(end + 1) / end)
    t = np.arange(1, frames - end) / (frames - end)
    diastole = np.interp(t, [0, 0.45, 0.8, 1.0], [1.0, 0.22, 0.16, 0.0])
    return np.concatenate([systole, diastole])


def phantom_cine(
    seed: int, view: str = "SA", frames: int = 25, *, labels: bool = False, **options: Unpack[Options]
) -> list[Stack]:
    """One beat of one view: images, or with `labels` the true masks.

    The patient is that of `phantom_study` with the same seed and options: frame 0 is its ED, the frame where
    `activation` is 1 its ES. The phases of the stacks are "ED", "ES" and "" in between.
    """
    scene, contrast = _prepare(seed, (view,), **options)
    course = activation(frames)
    end = int(course.argmax())
    bodies = [] if labels else _bodies(scene, view)
    stacks = []
    for frame, value in enumerate(course):
        now = beat(scene.anatomy, float(value))
        moment = {0: 0, end: 1}.get(frame, frame + 2)
        pixels = _labels(scene, view, now) if labels else _image(scene, view, now, contrast, bodies, moment)
        stacks.append(Stack(pixels, scene.planes[view].geometry, view, {0: "ED", end: "ES"}.get(frame, "")))
    return stacks


def write_phantom(
    folder: str | os.PathLike,
    n: int,
    seed: int = 0,
    layout: str = "mnms2",
    *,
    diseases: Sequence[str] = DISEASES,
    views: Sequence[str] = VIEWS,
    labelled: int | None = None,
    cine_frames: int = 0,
    variety: float = 0.0,
    **options: Unpack[Options],
) -> list[Path]:
    """Write `n` studies in the layout of M&Ms-2 (with dataset_information.csv) or of ACDC; return their folders.

    Parameters
    ----------
    layout : "mnms2", or "acdc", which has the short axis only.
    diseases : dealt out in turn; `dilated_rv` or `disease` among the options gives every patient the same.
    labelled : how many of the studies, the first ones, get label files; None for all.
    cine_frames : frames of a ``_CINE`` file of each view (M&Ms-2 only); 0 for none.
    variety : above 0, options of each patient are drawn by `phantom_variety.vary` with this strength.
    options : as in `phantom_study`. The patient is that of the seed ``seed * 100003 + number``.

    Raises
    ------
    RVQCError
        The layout is unknown, or there is nothing to write.
    """
    if layout not in LAYOUTS:
        raise RVQCError(f"{layout!r} is no layout of the phantom; choose {' or '.join(LAYOUTS)}.")
    if n < 1:
        raise RVQCError(f"{n} studies cannot be written; give 1 or more.")
    folder, rows = Path(folder), []
    if options.pop("dilated_rv", False):
        options["disease"] = "DRV"
    for number in range(1, n + 1):
        person = {"disease": diseases[(number - 1) % len(diseases)], **options}
        own_seed = seed * 100_003 + number
        # training phantoms carry their seed, so that no real study has the name of one that a network has seen
        name = f"{number:03d}" if variety == 0 else f"{own_seed:08d}"
        name = name if layout == "mnms2" else f"patient{name}"
        if variety > 0:
            person |= vary(own_seed, person["disease"], variety)
        study = phantom_study(own_seed, name=name, views=views if layout == "mnms2" else ("SA",), **person)
        if labelled is not None and number > labelled:
            study = replace(study, labels=())
        if layout == "mnms2":
            _write_mnms2(study, folder / name)
        else:
            _write_acdc(study, folder / name)
        for view in views if cine_frames and layout == "mnms2" else ():
            _write_cine(
                phantom_cine(own_seed, view, cine_frames, **person), folder / name / f"{name}_{view}_CINE.nii.gz"
            )
        rows.append((name, study.group, *SCANNERS[(number - 1) % len(SCANNERS)]))
        logger.info("wrote phantom %s (%d of %d)", name, number, n)
    if layout == "mnms2":
        _write_table(rows, folder / "dataset_information.csv")
    return [folder / row[0] for row in rows]


def challenge_diseases(n: int, *, unseen_from: int) -> list[str]:
    """The diseases of `n` studies in the plan of M&Ms-2: in turn, but two of them only from study `unseen_from` on."""
    early = [DISEASES[k % len(DISEASES[:-2])] for k in range(min(n, unseen_from - 1))]
    return early + [DISEASES[k % len(DISEASES)] for k in range(n - len(early))]


def _write_table(rows: list[tuple], path: Path) -> None:
    with whole_file(path) as part, part.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("SUBJECT_CODE", "DISEASE", "VENDOR", "SCANNER", "FIELD"), *rows])


def _write_image(stack: Stack, path: Path) -> None:
    with whole_file(path) as part:
        sitk.WriteImage(_as_sitk(stack), str(part))


def _as_sitk(stack: Stack) -> sitk.Image:
    image = sitk.GetImageFromArray(stack.pixels)
    image.SetOrigin(stack.geometry.origin)
    image.SetSpacing(stack.geometry.spacing)
    image.SetDirection(stack.geometry.direction)
    return image


def _write_cine(stacks: list[Stack], path: Path) -> None:
    with whole_file(path) as part:
        sitk.WriteImage(sitk.JoinSeries([_as_sitk(stack) for stack in stacks]), str(part))


def _write_mnms2(study: Study, folder: Path) -> None:
    for stack in study.stacks:
        _write_image(stack, folder / f"{study.name}_{stack.name}.nii.gz")
    for label in study.labels:
        write_mask(label, folder / f"{study.name}_{label.name}_gt.nii.gz")


def _write_acdc(study: Study, folder: Path) -> None:
    """ACDC's names and its labels: 1 RV, 2 MYO, 3 LV."""
    for stack in study.stacks:
        _write_image(stack, folder / f"{study.name}_frame{ACDC_FRAMES[stack.phase]:02d}.nii.gz")
    for label in study.labels:
        theirs = label.with_pixels(np.array([0, 3, 2, 1], np.uint8)[label.pixels])
        write_mask(theirs, folder / f"{study.name}_frame{ACDC_FRAMES[label.phase]:02d}_gt.nii.gz")
    lines = {"ED": ACDC_FRAMES["ED"], "ES": ACDC_FRAMES["ES"], "Group": study.group, "NbFrame": 30}
    with whole_file(folder / "Info.cfg") as part:
        part.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()), encoding="utf-8")
