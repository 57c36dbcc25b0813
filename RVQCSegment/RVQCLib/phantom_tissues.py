"""Paints the phantom: torso and great vessels once a plane, the beating heart over them once a phase."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from RVQCLib.phantom_anatomy import (
    AIR,
    BONE,
    CONTENT,
    FAT,
    FLUID,
    LIVER,
    LUNG,
    LV_BLOOD,
    MUSCLE,
    MYOCARDIUM,
    RV_BLOOD,
    SKIN,
    SPLEEN,
    STOMACH,
    TISSUES,
    VALVE,
    VESSEL,
    Anatomy,
    Beat,
    Points,
    _lv_distances,
    _rv_distance,
    heart_frame,
    torso_centre,
)


@dataclass(frozen=True)
class Roughness:
    """Smooth random fields (unit variance) on the voxels of a view: what an analytic body lacks."""

    fine: np.ndarray  # structures of 3 mm
    middle: np.ndarray  # 8 mm
    coarse: np.ndarray  # 35 mm

    def window(self, rows: slice, columns: slice) -> Roughness:
        return Roughness(*(field[:, rows, columns] for field in (self.fine, self.middle, self.coarse)))


def _ellipsoid(p: Points, centre, radii) -> np.ndarray:
    """Below 1 inside, 1 on the surface: the squared level of an ellipsoid."""
    return sum(((q - c) / r) ** 2 for q, c, r in zip(p, centre, radii, strict=True))


def _tube(p: Points, start, end, radius: float) -> np.ndarray:
    """Signed distance (mm) to a capsule between two points."""
    start, way = np.asarray(start, float), np.asarray(end, float) - np.asarray(start, float)
    q = [c - np.float32(s) for c, s in zip(p, start, strict=True)]
    t = np.clip(sum(c * np.float32(w) for c, w in zip(q, way / (way @ way), strict=True)), 0, 1)
    return np.sqrt(sum((c - t * np.float32(w)) ** 2 for c, w in zip(q, way, strict=True))) - np.float32(radius)


def paint_body(p: Points, anatomy: Anatomy, rough: Roughness) -> np.ndarray:
    """Tissue (uint8) of every point (LPS mm) without the heart: chest wall, lungs, abdomen, great vessels."""
    x, y, z = p
    half, depth = anatomy.torso
    middle = np.float32(torso_centre(anatomy))
    front = y - middle
    e = np.sqrt((x / half) ** 2 + (front / depth) ** 2) + np.float32(1e-3)
    below = (1 - 1 / e) * np.sqrt(x * x + front * front) * -1  # depth under the skin
    fat = anatomy.body_fat * (1 + 0.12 * rough.coarse + 0.4 * np.exp(-(((np.abs(x) - 85) / 45) ** 2)) * (front < 0))
    high = np.maximum(z - 15, 0)
    cavity = below - fat - anatomy.chest_wall - high * high * np.float32(0.004)  # the thorax narrows to the shoulders
    tissue = np.zeros(cavity.shape, np.uint8)
    tissue[below > 0] = SKIN
    tissue[below > 2.2] = FAT
    tissue[below > fat] = MUSCLE
    middle_layer = np.abs(cavity + 0.35 * anatomy.chest_wall) < 4.5
    rib = np.cos((z + 0.45 * y) * np.float32(2 * np.pi / 27)) > 0.25
    tissue[middle_layer & rib] = BONE
    tissue[(cavity > -1.5) & (cavity < 0)] = FAT
    tissue[(np.abs(x) < 15) & (front < 0) & (cavity > -13) & (cavity < -2) & (z > -75)] = BONE
    inside = cavity > 0
    _paint_chest(tissue, p, inside, rough, middle, anatomy.mediastinum)
    _paint_abdomen(tissue, p, inside, anatomy, rough)
    _paint_spine_and_arms(tissue, p, anatomy, middle)
    _paint_vessels(tissue, p, anatomy, middle)
    return tissue


def clutter(tissue: np.ndarray, rough: Roughness, part: float, rng: np.random.Generator) -> None:
    """Make the body strange: `part` of its tissues stand for others, and blobs of other tissues lie in it.

    Changes `tissue`, which has no heart yet. The same generator state does the same to every slab of a slice.
    """
    kinds = np.arange(TISSUES, dtype=np.uint8)
    swapped = (rng.random(TISSUES) < part) & (kinds != AIR)
    kinds[swapped] = rng.integers(SKIN, CONTENT + 1, TISSUES)[swapped]
    tissue[:] = kinds[tissue]
    for field in (rough.coarse, -rough.coarse, rough.middle, -rough.middle):
        tissue[(field > 2.4 - 1.6 * part * rng.random()) & (tissue != AIR)] = rng.integers(SKIN, CONTENT + 1)


def _paint_chest(
    tissue: np.ndarray, p: Points, inside: np.ndarray, rough: Roughness, middle: float, width: tuple[float, float]
) -> None:
    x, y, _z = p
    tissue[inside] = LUNG
    # vessels branch from the hilum: thicker and denser near it
    hilum = np.exp(-(((np.abs(x) - 35) / 50) ** 2) - ((y - middle - 10) / 55) ** 2)
    tissue[inside & (rough.fine > 2.55 - 0.75 * hilum)] = VESSEL
    broad = width[0] + (y - middle) * np.float32(0.15) - width[1] * rough.coarse  # narrow behind the sternum
    mediastinum = (np.abs(x - 4) < broad) & (np.abs(y - middle) < 85)
    tissue[inside & mediastinum] = FAT


def _paint_abdomen(tissue: np.ndarray, p: Points, inside: np.ndarray, anatomy: Anatomy, rough: Roughness) -> None:
    x, y, z = p
    top, (dx, dy, dz) = anatomy.diaphragm, anatomy.organ_shift
    right = top + 14 - ((x + 72) ** 2 + (y - 8) ** 2) * np.float32(1 / 260)
    left = top - ((x - 70) ** 2 + (y - 14) ** 2) * np.float32(1 / 260)
    dome = np.maximum(np.maximum(right, left), top - 12 - (x * x + y * y) * np.float32(1 / 500)) + 2 * rough.coarse
    abdomen = inside & (z < dome)
    loops = 0.4 * rough.middle + 0.9 * rough.coarse  # of the bowel, in fat
    tissue[abdomen] = FAT
    tissue[abdomen & (loops > 0.25)] = CONTENT
    tissue[abdomen & (loops < -0.35)] = STOMACH
    under = abdomen & (z < dome - 2.5)
    edge = 30 + dx + 12 * rough.coarse + 0.5 * (z - top)  # the left lobe thins out downwards
    tissue[under & (x < edge) & (y < 75)] = LIVER
    tissue[under & (x < edge) & (y < 75) & (rough.middle > 2.0)] = VESSEL
    stomach = _ellipsoid(p, (72 + dx, -8 + dy, top - 42 + dz), (42, 48, 34)) + 0.15 * rough.coarse
    tissue[under & (stomach < 1.2)] = FAT
    tissue[under & (stomach < 1.0)] = MUSCLE
    tissue[under & (stomach < 0.85)] = STOMACH
    spleen = _ellipsoid(p, (112, 45 + dy, top - 30 + dz), (30, 38, 45)) + 0.1 * rough.coarse
    tissue[under & (spleen < 1)] = SPLEEN
    tissue[inside & (np.abs(z - dome + 1.5) < 1.5)] = MUSCLE  # the diaphragm itself


def _paint_spine_and_arms(tissue: np.ndarray, p: Points, anatomy: Anatomy, middle: float) -> None:
    x, y, z = p
    half, depth = anatomy.torso
    spine = middle + depth * 0.54
    muscles = ((np.abs(x) - 34) / 30) ** 2 + ((y - spine - 30) / 20) ** 2 < 1
    tissue[muscles & (tissue != 0)] = MUSCLE
    body = (x * x + (y - spine) ** 2) < 19.0**2
    tissue[body] = BONE
    tissue[body & (np.cos((z + 0.1 * y) * np.float32(2 * np.pi / 28)) > 0.93)] = MUSCLE  # discs
    tissue[(x * x + (y - spine - 27) ** 2) < 9.0**2] = FLUID
    arm = np.sqrt((np.abs(x) - half - 52) ** 2 + (y - middle - 25) ** 2)
    for radius, kind in ((36, FAT), (28, MUSCLE), (10, BONE)):
        tissue[arm < radius] = kind


def _paint_vessels(tissue: np.ndarray, p: Points, anatomy: Anatomy, middle: float) -> None:
    spine = middle + anatomy.torso[1] * 0.54
    frame, origin = heart_frame(anatomy)

    def lps(*point: float) -> np.ndarray:
        return np.array(point) @ frame + origin

    right_atrium, left_atrium = lps(50, 10, -28), lps(-2, 4, -32)
    pulmonary, aorta = lps(22, -44, -14), lps(11, -18, -12)
    arch = pulmonary + [18, 40, 50]
    tubes = [
        (right_atrium + [-8, 18, 0], right_atrium + [-6, 24, -140], 12.0),
        (right_atrium + [-4, 4, 0], right_atrium + [-12, 8, 140], 9.0),
        (left_atrium, left_atrium + [62, 8, 8], 6.5),
        (left_atrium, left_atrium + [-62, 4, 2], 6.5),
        (left_atrium, left_atrium + [52, 16, -14], 5.5),
        (left_atrium, left_atrium + [-50, 10, -18], 5.5),
        (aorta, aorta + [-14, -12, 60], 14.5),
        (pulmonary, arch, 13.5),
        (arch, arch + [-75, 12, -8], 9.0),
        (arch, arch + [60, 15, -8], 9.0),
        ((24, spine - 20, -200), (22, spine - 22, 200), 11.0),
    ]
    for start, end, radius in tubes:
        distance = _tube(p, start, end, radius)
        tissue[distance < 1.5] = MUSCLE
        tissue[distance < 0] = LV_BLOOD if radius > 10.5 and radius != 12.0 else VESSEL


def label_heart(p: Points, now: Beat) -> np.ndarray:
    """True labels (uint8: 1 LV cavity, 2 MYO, 3 RV cavity) of points in the heart frame.

    Papillary muscles and trabeculae count as cavity, as in the labels of ACDC and M&Ms-2.
    """
    endo, epi, rv, fraction = _surfaces(p, now)
    return _labels(p, now, endo, epi, rv, fraction)


def _surfaces(p: Points, now: Beat) -> tuple[np.ndarray, ...]:
    return *_lv_distances(now, *p), *_rv_distance(now, *p)


def _below_mitral(p: Points, now: Beat) -> np.ndarray:
    """Distance (mm) beyond the mitral plane, positive on the ventricle's side."""
    x, y, z = p
    tilt = now.anatomy.base_tilt
    return z - now.base - tilt[0] * x - tilt[1] * y


def _labels(p: Points, now: Beat, endo, epi, rv, fraction) -> np.ndarray:
    label = np.zeros(np.broadcast_shapes(endo.shape, rv.shape), np.uint8)
    label[(rv < 0) & (fraction >= 0) & (fraction < 1)] = 3
    label[epi < 0] = 0
    ventricle = _below_mitral(p, now) >= 0
    label[(epi < 0) & ventricle] = 2
    label[(endo < 0) & ventricle] = 1
    return label


def paint_heart(tissue: np.ndarray, p: Points, now: Beat, rough: Roughness) -> None:
    """Paint the heart of this moment over `tissue` (changed in place); `p` is in the heart frame."""
    a = now.anatomy
    _x, _y, _z = p
    endo, epi, rv, fraction = _surfaces(p, now)
    label = _labels(p, now, endo, epi, rv, fraction)
    depth = _below_mitral(p, now)
    _paint_coat(tissue, p, now, rough, epi, rv, fraction)
    _paint_atria(tissue, p, now, epi, depth, fraction)
    crux = (depth < 0) & (depth > -14) & (epi > 0) & (epi < 7) & (rv < 3) & (tissue != RV_BLOOD) & (tissue != LV_BLOOD)
    tissue[crux] = MYOCARDIUM  # where the atrial meets the ventricular septum
    outflow = np.minimum(
        _tube(p, (40, -28, now.base + 6), (30, -36, now.base - 6), 19.0),
        _tube(p, (30, -36, now.base - 4), (22, -44, -16), 15.0),
    )
    rv_like = (label == 3) | ((outflow < 0) & (fraction < 0.02) & (epi > 0))
    shell = ((rv < a.rv_wall) & (fraction >= 0) & (fraction < 1.03)) | ((outflow < 2.5) & (fraction < 0))
    gap = (
        (rv < a.rv_wall) & (fraction > -0.3) & (fraction < 0) & (epi > 0) & (tissue != RV_BLOOD) & (tissue != LV_BLOOD)
    )
    tissue[gap] = FAT  # of the atrioventricular groove
    tissue[shell & (epi > 0) & ~rv_like] = MYOCARDIUM
    tissue[rv_like] = RV_BLOOD
    _paint_trabeculae(tissue, p, now, rough, label, endo, rv, fraction)
    tissue[label == 2] = MYOCARDIUM
    _paint_valves(tissue, p, now, endo, epi, rv, depth, fraction)
    grooves = np.hypot(epi - 5, depth + 5) - 6 - 0.6 * a.epicardial_fat + 1.5 * rough.coarse
    sulcus = np.hypot(rv - 3, fraction * 80 + 3) - 4 - 0.6 * a.epicardial_fat + 1.5 * rough.coarse
    fat = ((grooves < 0) & (epi > 1) & (rv > 3) | (sulcus < 0) & (rv > 1) & (epi > 4)) & (label == 0) & ~rv_like
    tissue[fat & (outflow > 2)] = FAT
    artery = np.minimum(np.hypot(epi - 6, depth + 4), np.hypot(rv - 5, fraction * 80 + 4)) < 1.7
    tissue[artery & fat] = VESSEL


def _paint_coat(tissue, p, now, rough, epi, rv, fraction) -> None:
    """Epicardial fat of uneven thickness inside a thin layer of pericardial fluid."""
    x, _y, z = p
    a = now.anatomy
    free = np.where(fraction < 1, rv - a.rv_wall, 99)
    around = np.where(
        (z > now.base - 12) & (fraction > -0.15), np.minimum(epi, free), np.where(z > now.base - 12, epi, 99)
    )
    # the grooves at the two insertions hold more of it
    thick = a.epicardial_fat * (0.5 + 0.8 * rough.coarse + 1.5 * (np.abs(epi - free) < 6) + 0.5 * (x > 40))
    soft = (tissue != MUSCLE) & (tissue != BONE)
    fluid = np.maximum(thick, 0) + a.effusion * (0.7 + 0.5 * rough.coarse)
    tissue[(around < np.maximum(thick, fluid if a.effusion > 0 else 0) + 1.6) & soft] = MUSCLE
    if a.effusion > 0:
        tissue[(around < fluid) & soft] = FLUID
    tissue[(around < thick) & soft] = FAT


def _paint_atria(tissue, p, now, epi, depth, fraction) -> None:
    for own, x0, y0, radius, front, height, beyond in (
        (now.anatomy.atria[0], -2.0, 5.0, 28.0, now.base + 10, 30.0, depth < 0),
        (now.anatomy.atria[1], 47.0, 10.0, 27.0, now.base + 14, 30.0, fraction < 0),
    ):
        size = now.anatomy.atrium * own
        back = -66.0 * size
        grow = size * (1 + 0.08 * now.activation)
        centre, half = 0.5 * (front + back), 0.5 * (front - back)
        level = np.sqrt(_ellipsoid(p, (x0, y0, centre), (radius * grow, height * grow, half))) + np.float32(1e-3)
        distance = (level - 1) * radius
        region = beyond & (epi > 0) if x0 > 10 else beyond
        tissue[(distance < 1.5) & region] = MYOCARDIUM
        tissue[(distance < 0) & region] = RV_BLOOD if x0 > 10 else LV_BLOOD
    aorta = _tube(p, (11, -16, now.base - 4), (10, -42, now.base - 34), 12.5)
    tissue[(aorta < 1.5) & (depth < 0)] = MYOCARDIUM
    tissue[(aorta < 0) & (depth < 0)] = LV_BLOOD


def _paint_trabeculae(tissue, p, now, rough, label, endo, rv, fraction) -> None:
    """LV blood with two papillary muscles, and trabeculae that thicken towards both apices."""
    _x, _y, z = p
    a = now.anatomy
    tissue[label == 1] = LV_BLOOD
    depth = (z - now.centre) / now.half
    # darker where the field is high, near the wall: within 5 mm at the apex, 2 mm at the base
    near = -endo < (1.5 + 4 * np.clip(depth, 0, 1)) * min(a.trabeculae, 2)
    crumbs = 0.75 * rough.fine + 0.65 * rough.middle
    tissue[(label == 1) & near & (crumbs > 0.9)] = MYOCARDIUM
    reach = 3 + 9 * np.clip(fraction, 0, 1)
    web = (label == 3) & (-rv < reach * min(a.trabeculae, 2))
    sparse = 0.8 - 0.5 * np.clip(fraction, 0, 1)
    tissue[web & (crumbs > sparse)] = VALVE  # thinner than the slice
    tissue[web & (crumbs > sparse + 0.7)] = MYOCARDIUM
    band = _tube(
        p,
        (0.75 * (now.radius + now.wall), 8, 0.55 * a.lv_length),
        (1.7 * (now.radius + now.wall), 16, 0.66 * a.lv_length),
        2.2,
    )
    tissue[(label == 3) & (band < 0) & (a.trabeculae > 0)] = MYOCARDIUM
    for sign in (-1, 1) if a.papillary > 0 else ():
        angle = np.deg2rad(180 - sign * 52)
        where = 0.72 * now.radius * np.array([np.cos(angle), np.sin(angle)])
        pillar = _tube(
            p, (*where, now.centre + 0.02 * now.half), (*(0.8 * where), now.centre + 0.62 * now.half), a.papillary
        )
        tissue[(label == 1) & (pillar - 1.8 * rough.middle < 0)] = MYOCARDIUM


def _paint_valves(tissue, p, now, endo, epi, rv, depth, fraction) -> None:
    """Leaflets as thin tents that hang from both annuli into the ventricles."""
    mitral = depth - 9 * np.sqrt(np.clip(-endo / now.radius, 0, 1))
    tissue[(np.abs(mitral) < 0.8) & (endo < 0) & (depth > -2)] = VALVE
    tri = fraction * 80 - 7 * np.sqrt(np.clip(-rv / 20, 0, 1))
    tissue[(np.abs(tri) < 0.8) & (rv < 0) & (epi > 0) & (p[1] > -22)] = VALVE
