"""The phantoms that networks learn from: hearts, planes, surroundings and scanners from the usual to the absurd.

A network that has seen only synthetic images must find everything that a hospital can show less strange than what it was
trained on (domain randomization, after Billot et al., SynthSeg, Med Image Anal 2023).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from RVQCLib.phantom_anatomy import Anatomy, make_anatomy
from RVQCLib.phantom_scanner import Contrast

FIELDS_MM = (270.0, 420.0)
SMALL_FIELDS_MM = (150.0, 270.0)  # these may cut the heart
SPACINGS_MM = (0.9, 2.0)


def vary(seed: int, disease: str, strength: float = 1.0) -> dict[str, Any]:
    """Options of `phantom.phantom_study` for one training patient; `strength` scales every range, 1 is for training."""
    rng = np.random.default_rng([seed, 8])
    spread = strength * float(rng.uniform(0.7, 2.0))
    spacing = float(np.exp(rng.uniform(*np.log(SPACINGS_MM))))
    low, high = FIELDS_MM if rng.random() < 0.85 else SMALL_FIELDS_MM
    field = rng.uniform(low, high)
    long, short = (max(96, round(part * field / spacing)) for part in (1.0, rng.uniform(0.7, 1.0)))
    return {
        "anatomy": vary_anatomy(make_anatomy(rng, disease=disease, spread=spread), rng, strength),
        "spread": spread,
        "contrast": vary_contrast(rng, strength),
        "spacing": (spacing, spacing * float(np.clip(np.exp(0.05 * rng.standard_normal()), 0.8, 1.25))),
        "size": (long, short) if rng.random() < 0.3 else (short, long),
        "warp": strength * float(rng.uniform(1.0, 5.0)),
        "clutter": strength * float(rng.uniform(0.0, 0.5)) if rng.random() < 0.6 else 0.0,
    }


def vary_anatomy(person: Anatomy, rng: np.random.Generator, strength: float) -> Anatomy:
    """The patient with ventricles and atria that fit each other less, and sometimes fluid around the heart."""

    def factor(deviation: float) -> float:
        return float(np.exp(strength * deviation * np.clip(rng.standard_normal(), -2, 2)))

    return replace(
        person,
        lv_volume=person.lv_volume * factor(0.2),
        rv_volume=person.rv_volume * 1.15 * factor(0.25),
        wall=float(np.clip(person.wall * factor(0.2), 4.5, 22.0)),
        rv_wall=float(np.clip(person.rv_wall * factor(0.3), 1.2, 9.0)),
        rv_taper=float(rng.uniform(1.3, 3.2)),
        rv_waist=float(rng.uniform(0.0, 0.3)),
        mediastinum=(float(rng.uniform(0, 40)), float(rng.uniform(5, 20))),
        atria=(0.85 * factor(0.18), 0.8 * factor(0.18)),
        effusion=strength * float(rng.uniform(2, 12)) if rng.random() < 0.15 else 0.0,
        trabeculae=strength * float(rng.uniform(0.0, 3.0)),
        papillary=0.0 if rng.random() < 0.1 else person.papillary,
    )


def vary_contrast(rng: np.random.Generator, strength: float = 1.0) -> Contrast:
    """A scanner whose tissues share nothing but that blood is the brighter one beside myocardium."""

    def part(low: float, high: float) -> float:
        middle, half = 0.5 * (low + high), 0.5 * (high - low) * strength
        return float(np.clip(rng.uniform(middle - half, middle + half), 0.02, 2.0))

    blood = 620.0 * float(np.exp(0.2 * rng.standard_normal()))
    some = rng.random(4)
    return Contrast(
        blood=blood,
        rv_blood=blood * part(0.65, 1.12),
        myocardium=blood * part(0.08, 0.6),
        lung=blood * (part(0.02, 0.15) if some[0] < 0.7 else part(0.1, 0.5)),
        liver=blood * part(0.2, 0.9),
        fat=blood * (part(0.5, 1.6) if some[1] < 0.75 else part(0.05, 0.6)),
        chest_wall=blood * part(0.1, 0.55),
        skin=blood * part(0.2, 1.5),
        bone=blood * part(0.1, 0.9),
        stomach=blood * part(0.05, 1.2),
        bowel=blood * part(0.1, 1.0),
        spleen=blood * part(0.2, 1.0),
        fluid=blood * part(0.5, 1.6),
        texture=part(0.3, 2.5),
        noise=blood * 0.01 * float(np.exp(strength * rng.uniform(0, 2.2))),
        bias=strength * float(rng.uniform(-0.3, 0.7)),
        blur_ratio=float(np.exp(strength * rng.uniform(-1.0, 1.0))),
        blur_mm=float(np.exp(rng.uniform(np.log(0.4), np.log(2.0)))),
        ghosting=strength * float(rng.uniform(0, 0.12)) if some[2] < 0.6 else 0.0,
        flow=strength * 0.35 * float(rng.random()) ** 2,
        banding=strength * float(rng.uniform(0.2, 0.8)) if some[3] < 0.3 else 0.0,
        ink=bool(rng.random() < 0.65),
        truncation=float(rng.uniform(0.5, 1.0)),
    )
