"""Pictures of the masks that failed most: the slice where the found and the true RV differ most, with both outlines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from RVQCLib.drawing import png, to_grey
from RVQCLib.report import upright, window
from RVQCLib.stack import LABELS, Stack
from RVQCLib.thumbnail import places

WORST = 5
"""How many stacks, those of the lowest RV Dice, are pictured."""
SIDE = 256
"""Rows and columns of a picture."""
TRUE, FOUND = (88, 180, 255), (255, 125, 31)
"""RGB of the outlines: blue the true RV, orange the found one."""


@dataclass(frozen=True)
class Failure:
    """One stack: its row in the tables, and its picture, uint8 (SIDE, SIDE, 3)."""

    row: dict[str, Any]
    picture: np.ndarray

    @property
    def name(self) -> str:
        """As in file names: ``patient001_SA_ES``."""
        return "_".join(self.row[key] for key in ("study", "view", "phase"))


def worst(failures: Iterable[Failure]) -> list[Failure]:
    """The WORST of them, the lowest RV Dice first."""
    return sorted(failures, key=lambda one: (one.row["RV_dice"], one.name))[:WORST]


def picture(image: Stack, mask: Stack, truth: Stack) -> np.ndarray:
    """uint8 (SIDE, SIDE, 3): the slice whose RVs differ in most pixels, in grey, around the heart, with both outlines.

    `image`, `mask` and `truth` (slices, rows, columns) are of one grid.
    """
    flips = upright(image.geometry.direction)
    pixels, found, true = (np.flip(stack.pixels, flips) for stack in (image, mask, truth))
    height, width = image.geometry.spacing_zyx[1:]
    rv = [labels == LABELS["RV"] for labels in (true, found)]
    index = int((rv[0] ^ rv[1]).sum(axis=(1, 2)).argmax())
    rows, columns, side = window((true > 0) | rv[1], height, width)
    grid = np.ix_(places(rows, true.shape[1], height, side, SIDE), places(columns, true.shape[2], width, side, SIDE))
    shown = np.repeat(to_grey(pixels[index][grid])[..., None], 3, axis=2)
    for structure, colour in zip(rv, (TRUE, FOUND), strict=True):
        shown[border(structure[index][grid])] = colour
    return shown


def border(mask: np.ndarray, width: int = 2) -> np.ndarray:
    """The `width` outermost pixels of a boolean mask (rows, columns)."""
    inner = np.pad(mask, 1)
    for _ in range(width):
        core = inner[1:-1, 1:-1] & inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
        inner = np.pad(core, 1)
    return mask & ~inner[1:-1, 1:-1]


def write_failures(failures: Sequence[Failure], folder: Path) -> list[dict[str, Any]]:
    """Write the pictures into ``folder/worst``; returns an entry a stack with its picture's path under `folder`."""
    entries = []
    for one in failures:
        file = Path("worst") / f"{one.name}.png"
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_bytes(png(one.picture))
        said = {key: one.row[key] for key in ("study", "group", "view", "phase", "RV_dice", "RV_hd_mm", "verdict")}
        entries.append({**said, "predicted_dice": one.row.get("RV_predicted_dice"), "picture": file.as_posix()})
    return entries
