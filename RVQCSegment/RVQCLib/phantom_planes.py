"""The planes that a radiographer would set through the phantom's heart, and the unevenness of what they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from RVQCLib.phantom_anatomy import Anatomy, Points, heart_frame
from RVQCLib.phantom_scanner import smooth_field
from RVQCLib.phantom_tissues import Roughness
from RVQCLib.stack import VIEWS, Geometry

EVERYWHERE = (slice(None), slice(None))


@dataclass(frozen=True)
class Plane:
    """Where the voxels of a view lie: `geometry` as it is written, the rest as it is sampled."""

    view: str
    geometry: Geometry
    origin: np.ndarray  # LPS of voxel (0, 0, 0)
    axes: np.ndarray  # rows: mm steps in LPS of one column, one row, one slice
    shape: tuple[int, int, int]
    breath: np.ndarray  # (slices, 3) mm by which each breath hold missed
    bend: np.ndarray | None = None  # (2, slices, rows, columns) pixels by which rows and columns are displaced

    def points(
        self, offset: float = 0.0, frame: tuple[np.ndarray, np.ndarray] | None = None, window=EVERYWHERE
    ) -> Points:
        """Coordinates (mm, LPS or of `frame`) of the voxels, `offset` slices off the slice's centre."""
        rotation, zero = frame or (np.eye(3), np.zeros(3))
        column, row, through = self.axes @ rotation.T
        start = (self.origin - zero + self.breath) @ rotation.T + (np.arange(self.shape[0])[:, None] + offset) * through
        rows, columns = (np.arange(n)[w][:, None] for n, w in zip(self.shape[1:], window, strict=True))
        in_rows, in_columns = rows * row, columns * column
        straight = [
            start[:, k, None, None] + in_rows[None, :, k, None] + in_columns[None, None, :, k] for k in range(3)
        ]
        if self.bend is not None:
            down, along = (field[:, *window] for field in self.bend)
            straight = [line + down * row[k] + along * column[k] for k, line in enumerate(straight)]
        return tuple(line.astype(np.float32) for line in straight)


@dataclass(frozen=True)
class Scene:
    """A patient on the scanner: everything but the contrast and the moment."""

    anatomy: Anatomy
    planes: dict[str, Plane]
    rough: dict[str, Roughness]
    seed: int
    clutter: float = 0.0

    def window(self, view: str) -> tuple[slice, slice]:
        """The rows and columns that can show the heart."""
        plane, (rotation, origin) = self.planes[view], heart_frame(self.anatomy)
        box = np.stack(np.meshgrid((-55, 125), (-95, 95), (-95, 125)), -1).reshape(-1, 3)  # mm, heart frame
        corners = box @ rotation + origin - plane.origin
        result = []
        for axis, count in ((1, plane.shape[1]), (0, plane.shape[2])):
            steps = corners @ plane.axes[axis] / (plane.axes[axis] @ plane.axes[axis])
            result.append(slice(int(np.clip(steps.min(), 0, count - 1)), int(np.clip(steps.max() + 2, 1, count))))
        return result[0], result[1]


def set_scene(
    seed: int,
    anatomy: Anatomy,
    views: Sequence[str],
    *,
    spacing: Sequence[float],
    size: tuple[int, int],
    oblique: bool,
    spread: float,
    warp: float = 0.0,
) -> Scene:
    """Plan the views of a patient; the options are those of `phantom.phantom_study`."""
    rng = np.random.default_rng([seed, 1])
    thickness = spacing[2] if len(spacing) > 2 and spacing[2] else float(rng.uniform(8, 10))
    spacing = (spacing[0], spacing[1], thickness)
    wander = {view: (spread * rng.uniform(-1, 1, 4), rng.uniform(size=3)) for view in VIEWS}
    short = _short_axis(anatomy, spacing, size, *wander["SA"], rng.standard_normal((40, 3)) * 0.5 * spread)
    turn = np.eye(3)
    if not oblique:
        column, row = (axis / np.linalg.norm(axis) for axis in short[1][:2])
        turn = np.stack([column, row, np.cross(column, row)])
    planes, rough = {}, {}
    for view in views:
        origin, axes, shape, breath = (
            short if view == "SA" else _four_chamber(anatomy, spacing, size, *wander["LA"], spread)
        )
        lengths = np.round(np.linalg.norm(axes, axis=1), 9)
        direction = (turn @ (axes / lengths[:, None]).T).ravel()
        geometry = Geometry(tuple(map(float, turn @ origin)), tuple(map(float, lengths)), tuple(map(float, direction)))
        bend = _bend(np.random.default_rng([seed, 6, VIEWS.index(view)]), shape, spacing, warp) if warp > 0 else None
        planes[view] = Plane(view, geometry, origin, axes, shape, breath, bend)
        textures = np.random.default_rng([seed, 2, VIEWS.index(view)])
        rough[view] = Roughness(*(smooth_field(textures, shape, spacing, scale) for scale in (3.0, 8.0, 35.0)))
    return Scene(anatomy, planes, rough, seed)


def _bend(rng: np.random.Generator, shape: tuple[int, int, int], spacing, warp: float) -> np.ndarray:
    """Smooth displacements in the plane, large ones of large structures: no analytic body keeps its outline."""
    displacement = [
        sum(
            part * smooth_field(rng, shape, spacing, scale) for part, scale in ((1.0, 80.0), (0.45, 34.0), (0.15, 14.0))
        )
        for _ in range(2)
    ]
    return np.stack([warp * field / mm for field, mm in zip(displacement, spacing[1::-1], strict=True)])


def _short_axis(anatomy: Anatomy, spacing, size, wander, chance, breath):
    """Origin, axes, shape and breath of a stack from above the base to below the apex; the patient's left is right."""
    level, heart = heart_frame(replace(anatomy, roll=-15.0))  # the image is set level whatever the heart's roll
    angle = np.deg2rad(12 * wander[0])
    column = -np.cos(angle) * level[0] + np.sin(angle) * level[1]
    row = np.cos(angle) * level[1] + np.sin(angle) * level[0]
    first = -spacing[2] * (0.35 + 0.8 * chance[0])
    last = anatomy.lv_length + anatomy.wall + spacing[2] * (chance[1] - 0.4)
    slices = int(np.ceil((last - first) / spacing[2])) + 1
    axes = np.stack([column * spacing[0], row * spacing[1], level[2] * spacing[2]])
    centre = heart + level[2] * first + level[0] * 10 + column * (22 + 20 * wander[1]) + row * 20 * wander[2]
    origin = centre - 0.5 * (size[1] - 1) * axes[0] - 0.5 * (size[0] - 1) * axes[1]
    return origin, axes, (slices, *size), breath[:slices]


def _four_chamber(anatomy: Anatomy, spacing, size, wander, chance, spread):
    """One slice through the long axis and the RV, a few degrees and millimetres off as in practice; anterior is up."""
    frame, heart = heart_frame(anatomy)
    turn = np.deg2rad(15 + 9 * wander[0])  # towards the acute margin, where the RV is widest
    across = np.cos(turn) * frame[0] + np.sin(turn) * frame[1]
    normal = np.cross(frame[2], across)
    normal += np.tan(np.deg2rad(4 * spread * (2 * chance[1] - 1))) * frame[2]  # past the apex, or through the outflow
    normal /= np.linalg.norm(normal)
    column = np.array([1.0, 0, 0]) - normal[0] * normal
    column /= np.linalg.norm(column)
    row = np.cross(normal, column)
    row *= np.sign(row[1])
    angle = np.deg2rad(20 * wander[3])
    column, row = np.cos(angle) * column + np.sin(angle) * row, np.cos(angle) * row - np.sin(angle) * column
    through = np.cross(column, row)
    axes = np.stack([column * spacing[0], row * spacing[1], through * spacing[2]])
    centre = heart + frame[2] * (22 + 15 * wander[1]) + across * (14 + 15 * wander[2])
    centre = centre + through * 4 * max(spread, 1.0) * (2 * chance[0] - 1)
    origin = centre - 0.5 * (size[1] - 1) * axes[0] - 0.5 * (size[0] - 1) * axes[1]
    return origin, axes, (1, *size), np.zeros((1, 3))
