"""An analytic beating heart inside a torso: which tissue is where, for any plane through the patient.

Heart frame (mm): the origin is the centre of the mitral annulus at end diastole, x points to the right ventricle,
z from base to apex, y = z cross x (downwards). The patient frame is LPS. Every function takes broadcastable coordinate
arrays, so that the same heart gives the short-axis and the long-axis view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

(AIR, SKIN, FAT, MUSCLE, BONE, LUNG, VESSEL, LIVER, STOMACH, SPLEEN, CONTENT,
 MYOCARDIUM, LV_BLOOD, RV_BLOOD, VALVE, FLUID) = range(16)  # fmt: skip
TISSUES = 16
DISEASES = (
    "NOR",
    "LV",
    "HCM",
    "ARR",
    "FAL",
    "CIA",
    "DRV",
    "TRI",
)  # M&Ms-2's; the last two are absent from its training set
Points = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Anatomy:
    """One patient. Lengths in mm, volumes in ml, angles in degrees; volumes are those of the end-diastolic cavities."""

    disease: str = "NOR"
    lv_volume: float = 135.0
    lv_length: float = 88.0
    lv_oval: tuple[float, float, float] = (0.0, 0.0, 0.0)  # second (two) and third harmonics of the endocardial radius
    lv_ejection: float = 0.60
    shortening: float = 0.14  # of the long axis
    wall: float = 7.9
    wall_septal: float = 0.08  # how much thicker the septum is than the mean wall
    septal_flattening: float = 0.0
    rv_volume: float = 152.0
    rv_length: float = 0.90  # of the LV
    rv_width: float = 44.0  # septum to free wall at the base, before scaling to `rv_volume`
    rv_height: float = 43.0  # half height at the base
    rv_bend: float = 13.0  # how far the horns of the crescent reach around the septum
    rv_corner: float = 1.3  # how square the acute margin is: 0 round, 2 square
    rv_egg: float = 0.3  # how much wider it is below than at the outflow
    rv_drift: float = 16.0  # how much lower the crescent lies at the apex than at the base
    rv_taper: float = 1.5  # how late it narrows towards the apex: 1 is a cone
    rv_waist: float = 0.10  # how much narrower it is at the tricuspid annulus
    rv_ejection: float = 0.56
    rv_wall: float = 3.0
    atrium: float = 1.0  # size of both atria
    atria: tuple[float, float] = (1.0, 1.0)  # of the left and of the right one beside that
    base_tilt: tuple[float, float] = (0.0, 0.03)  # slope of the mitral plane along x and y
    papillary: float = 5.0  # radius; 0 for none
    trabeculae: float = 1.0
    epicardial_fat: float = 3.0
    effusion: float = 0.0  # thickness of the fluid in the pericardium
    position: tuple[float, float, float] = (26.0, 0.0, 0.0)  # of the mitral annulus, LPS
    axis: tuple[float, float] = (42.0, 25.0)  # the long axis' angle to the left-right line and to the horizontal plane
    roll: float = 0.0
    torso: tuple[float, float] = (166.0, 108.0)  # half width, half depth
    mediastinum: tuple[float, float] = (24.0, 5.0)  # half width of the fat behind the sternum, and its unevenness
    chest_gap: float = 6.0  # between the heart and the inside of the chest wall
    body_fat: float = 10.0
    chest_wall: float = 15.0
    diaphragm: float = -46.0
    organ_shift: tuple[float, float, float] = (0.0, 0.0, 0.0)


# standard deviations of what `make_anatomy` draws, and the limits that keep it a heart
_SPREADS = {
    "lv_ejection": 0.022, "shortening": 0.012, "wall_septal": 0.06, "rv_length": 0.035, "rv_width": 3.0,
    "rv_height": 3.0, "rv_bend": 3.0, "rv_corner": 0.4, "rv_egg": 0.05, "rv_drift": 4.0, "rv_ejection": 0.022,
    "rv_wall": 0.3, "papillary": 0.7, "trabeculae": 0.4, "epicardial_fat": 1.5, "roll": 6.0, "chest_gap": 3.0,
    "body_fat": 4.0, "chest_wall": 2.0, "diaphragm": 6.0,
}  # fmt: skip
_SPREADS_OF_TUPLES = {
    "lv_oval": 0.03, "base_tilt": 0.05, "position": 4.0, "axis": 6.0, "torso": 7.0, "organ_shift": 12.0,
}  # fmt: skip
_SPREADS_WITH_SIZE = {  # relative deviation, power of the body's size
    "lv_volume": (0.10, 1.0), "lv_length": (0.04, 1 / 3), "wall": (0.07, 1 / 3), "rv_volume": (0.10, 1.0),
    "atrium": (0.09, 1 / 3),
}  # fmt: skip
_LIMITS = {
    "lv_ejection": (0.3, 0.75), "rv_ejection": (0.3, 0.7), "shortening": (0.05, 0.22), "wall": (5.0, 20.0),
    "wall_septal": (-0.2, 0.35), "rv_length": (0.7, 1.0), "rv_width": (25.0, 60.0), "rv_height": (30.0, 60.0),
    "rv_corner": (0.0, 1.9), "rv_egg": (0.0, 0.5), "rv_wall": (1.5, 8.0), "papillary": (0.0, 9.0),
    "trabeculae": (0.0, 3.0), "epicardial_fat": (0.2, 15.0), "chest_gap": (0.0, 25.0), "body_fat": (3.0, 45.0),
    "chest_wall": (8.0, 30.0), "diaphragm": (-75.0, -25.0),
}  # fmt: skip


def make_anatomy(
    rng: np.random.Generator, *, dilated_rv: bool = False, disease: str = "NOR", spread: float = 1.0
) -> Anatomy:
    """Draw a patient. `spread` 1 is a clinic's variety, 0 the mean adult, 2 goes beyond the plausible.

    `dilated_rv` is short for `disease` "DRV"; the other names are those of `DISEASES`. The same generator
    state gives the same patient but for the effects of the disease.
    """
    if disease not in DISEASES:
        raise ValueError(f"{disease!r} is no disease of the phantom; choose one of {', '.join(DISEASES)}.")

    mean = Anatomy()

    def draw() -> float:
        return spread * float(np.clip(rng.standard_normal(), -2, 2))

    size = math.exp(0.11 * draw())  # a large patient is large everywhere
    values = {name: getattr(mean, name) + deviation * draw() for name, deviation in _SPREADS.items()}
    values |= {
        name: tuple(m + deviation * draw() for m in getattr(mean, name))
        for name, deviation in _SPREADS_OF_TUPLES.items()
    }
    for name, (deviation, power) in _SPREADS_WITH_SIZE.items():
        values[name] = getattr(mean, name) * size**power * math.exp(deviation * draw())
    for name, (low, high) in _LIMITS.items():
        values[name] = min(max(values[name], low), high)
    return _fall_ill(replace(mean, **values), "DRV" if dilated_rv else disease)


def _fall_ill(person: Anatomy, disease: str) -> Anatomy:
    lv, rv = person.lv_volume, person.rv_volume
    effects = {
        "LV": {
            "lv_volume": lv * 1.75,
            "lv_ejection": person.lv_ejection * 0.5,
            "shortening": person.shortening * 0.5,
            "wall": person.wall * 0.9,
        },
        "HCM": {"lv_volume": lv * 0.9, "wall": person.wall * 1.45, "wall_septal": person.wall_septal + 0.25},
        "ARR": {"rv_volume": rv * 1.4, "rv_ejection": person.rv_ejection * 0.75, "trabeculae": person.trabeculae + 1},
        "FAL": {"rv_volume": rv * 1.5, "rv_wall": person.rv_wall + 2, "septal_flattening": 0.07},
        "CIA": {"rv_volume": rv * 1.45, "atrium": person.atrium * 1.15, "septal_flattening": 0.05},
        "DRV": {"rv_volume": rv * 1.65, "rv_ejection": person.rv_ejection * 0.85, "septal_flattening": 0.09},
        "TRI": {"rv_volume": rv * 1.5, "atrium": person.atrium * 1.3, "septal_flattening": 0.06},
    }
    return replace(person, disease=disease, **effects.get(disease, {}))


def heart_frame(anatomy: Anatomy) -> tuple[np.ndarray, np.ndarray]:
    """Rows x, y, z of the heart frame as LPS unit vectors (3, 3), and its origin in LPS mm."""
    azimuth, down, roll = np.deg2rad([*anatomy.axis, anatomy.roll])
    apex = np.array([np.cos(down) * np.cos(azimuth), -np.cos(down) * np.sin(azimuth), -np.sin(down)])
    below = np.array([0.0, 0.0, -1.0]) + np.sin(down) * -apex  # straight down, made perpendicular to the axis
    below /= np.linalg.norm(below)
    front = np.cross(below, apex)  # towards the sternum
    turn = np.deg2rad(15.0) + roll  # the right ventricle lies in front of the septum and below its level
    right = np.cos(turn) * front + np.sin(turn) * below
    return np.stack([right, np.cross(apex, right), apex]), np.array(anatomy.position)


def torso_centre(anatomy: Anatomy) -> float:
    """LPS y of the torso's centre, such that the chest wall passes `chest_gap` in front of the heart."""
    frame, origin = heart_frame(anatomy)
    half, depth = (size - anatomy.body_fat - anatomy.chest_wall for size in anatomy.torso)
    reach = anatomy.rv_width * math.sqrt(anatomy.rv_volume / 152) + 30
    points = (
        np.array([[reach, -10, 25], [reach - 8, 12, 45], [8, 0, anatomy.lv_length + anatomy.wall]]) @ frame + origin
    )
    return float(
        np.min(points[:, 1] - anatomy.chest_gap + depth * np.sqrt(np.clip(1 - (points[:, 0] / half) ** 2, 0.1, 1)))
    )


@dataclass(frozen=True)
class Beat:
    """The ventricles at one moment: `activation` 0 is end diastole, 1 end systole. Made by `beat`."""

    anatomy: Anatomy
    activation: float
    base: float  # z of the mitral plane
    centre: float  # z of the centre of the LV ellipsoid
    half: float  # its half length, endocardial
    radius: float
    wall: float
    rv_scale: float = 1.0

    def volumes(self) -> dict[str, float]:
        """ml of the cavities and of the LV myocardium, from the formulas (`RV` by quadrature)."""
        inner = _ellipsoid_volume(self, 0.0)
        return {"LV": inner, "MYO": _ellipsoid_volume(self, self.wall) - inner, "RV": _rv_volume(self)}


def beat(anatomy: Anatomy, activation: float) -> Beat:
    """The heart at `activation`: volumes fall by the ejection fractions while the myocardial volume is kept."""
    still = _left(anatomy, 0.0)
    mass = _ellipsoid_volume(still, anatomy.wall) - _ellipsoid_volume(still, 0.0)
    now = _left(anatomy, activation)
    inner = _ellipsoid_volume(now, 0.0)
    wall = _bisect(lambda w: _ellipsoid_volume(now, w) - inner - mass, 1.0, 40.0)
    now = replace(now, wall=wall)
    target = anatomy.rv_volume * (1 - anatomy.rv_ejection * activation)
    return replace(now, rv_scale=_bisect(lambda q: _rv_volume(replace(now, rv_scale=q)) - target, 0.1, 4.0, steps=9))


def _left(anatomy: Anatomy, activation: float) -> Beat:
    shorter = anatomy.lv_length * anatomy.shortening * activation
    length = anatomy.lv_length - shorter
    base = 0.85 * shorter  # the base descends; the apex hardly moves
    shape = Beat(anatomy, activation, base, base + 0.25 * length, 0.75 * length, 1.0, anatomy.wall)
    volume = anatomy.lv_volume * (1 - anatomy.lv_ejection * activation)
    return replace(shape, radius=float(np.sqrt(volume / _ellipsoid_volume(shape, 0.0))))


def _bisect(function, low: float, high: float, steps: int = 30) -> float:
    """Root of an increasing function, by `steps` halvings and a last secant."""
    f_low, f_high = function(low), function(high)
    for _ in range(steps):
        middle = 0.5 * (low + high)
        value = function(middle)
        if value < 0:
            low, f_low = middle, value
        else:
            high, f_high = middle, value
    return low - f_low * (high - low) / (f_high - f_low) if f_high > f_low else low


def _outline(now: Beat, cosine, sine, wall: float):
    """Radius of the LV surface that lies `wall` outside the endocardium, in the ellipsoid's widest section."""
    a = now.anatomy
    square = cosine * cosine
    oval = (
        1
        + a.lv_oval[0] * (2 * square - 1)
        + a.lv_oval[1] * 2 * sine * cosine
        + a.lv_oval[2] * cosine * (4 * square - 3)
    )
    flat = 1 - a.septal_flattening * (1 - 0.5 * now.activation) * square * square * (cosine > 0)
    return now.radius * oval * flat + wall * (1 + a.wall_septal * cosine)


def _ellipsoid_volume(now: Beat, wall: float) -> float:
    """ml below the base plane: pi * mean(r^2) * the integral of 1 - (z / half)^2."""
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    half, above = now.half + 0.5 * wall, now.centre - now.base
    extent = half + above - (half**3 + above**3) / (3 * half**2)
    return float(np.pi * np.mean(_outline(now, np.cos(angle), np.sin(angle), wall) ** 2) * extent / 1000)


def _lv_distances(now: Beat, x, y, z) -> tuple[np.ndarray, np.ndarray]:
    """Approximate signed distances in mm (negative inside) to the endocardial and epicardial ellipsoids."""
    flat = x * x + y * y
    rho = np.sqrt(flat) + np.float32(1e-3)
    cosine, sine = x / rho, y / rho
    along = (z - now.centre) ** 2
    reach = np.sqrt(flat + along) + np.float32(1e-3)
    result = []
    for wall in (0.0, now.wall):
        level = np.sqrt(
            flat / _outline(now, cosine, sine, wall) ** 2 + along / (now.half + 0.5 * wall) ** 2
        ) + np.float32(1e-3)
        result.append((1 - 1 / level) * reach)
    return result[0], result[1]


def tricuspid(now: Beat, x, y):
    """z of the tricuspid plane: 5 mm beyond the mitral one, higher at the outflow, wider travel laterally."""
    return now.base + 5 + 0.16 * y + now.activation * 4 * (x / 60 - 0.5)


def _rv_distance(now: Beat, x, y, z) -> tuple[np.ndarray, np.ndarray]:
    """Signed distance (mm, in plane, approximate) to the RV's free surface; the part of its length, from the base.

    In each section the free surface is an ellipse that begins inside the LV and reaches `width` beyond the septum; the
    cavity is what the LV leaves of it, a crescent whose horns are bent around the septum.
    """
    a = now.anatomy
    plane = tricuspid(now, x, y)
    end = a.lv_length * (a.rv_length - 0.04 * now.activation)
    fraction = (z - plane) / (end - plane)
    s = np.clip(fraction, 0, 1)
    septum = (now.radius + now.wall) * np.sqrt(
        np.clip(1 - ((z - now.centre) / (now.half + 0.5 * now.wall)) ** 2, 0.02, 1)
    )
    taper = 1 - s * np.sqrt(s) if a.rv_taper == 1.5 else 1 - s ** np.float32(a.rv_taper)
    narrow = s * (1 / 0.12)
    width = a.rv_width * now.rv_scale * taper * (1 - a.rv_waist / (1 + narrow * narrow)) + 0.5
    height = a.rv_height * (0.55 + 0.45 * now.rv_scale) * (1 - 0.55 * s * s) + 1e-3
    inside = 0.2 * septum
    v = (y - (a.rv_drift * (s - 0.35))) / height
    bent = x - 0.5 * (inside + septum + width) + a.rv_bend * (1 - 0.5 * s) * v * v
    half = 0.5 * (septum + width - inside) * (1 + a.rv_egg * np.clip(v, -1, 1))
    u2, v2 = (bent / half) ** 2, v * v
    # an ellipse above, squarer below and in front, where the acute margin lies
    square = 2 - a.rv_corner * (v > 0) * np.minimum(v2 * 4, 1)
    level = np.sqrt(np.sqrt(u2 * u2 + v2 * v2 + square * u2 * v2)) + np.float32(1e-3)
    reach = np.sqrt(bent * bent + (v * height) ** 2) + np.float32(1e-3)
    return (1 - 1 / level) * reach, fraction


def _rv_volume(now: Beat, step: float = 3.0) -> float:
    z, y, x = np.meshgrid(
        np.arange(-12, 100, 2 * step), np.arange(-84, 85, step), np.arange(-20, 125, step), indexing="ij", sparse=True
    )
    distance, fraction = _rv_distance(now, x.astype(np.float32), y.astype(np.float32), z.astype(np.float32))
    outside = _lv_distances(now, x.astype(np.float32), y.astype(np.float32), z.astype(np.float32))[1] >= 0
    # soft edges make the count a smooth function of the scale, so that it can be inverted
    part = (
        np.clip(0.5 - distance / step, 0, 1)
        * np.clip(0.5 + fraction * 90 / (2 * step), 0, 1)
        * (fraction < 1)
        * outside
    )
    return float(part.sum() * 2 * step**3 / 1000)
