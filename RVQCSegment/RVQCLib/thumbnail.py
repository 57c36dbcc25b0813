"""One small picture of a stack for a table: the slice that most needs a look, with the outlines of its mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from RVQCLib import drawing
from RVQCLib.report import borders, upright, window
from RVQCLib.stack import LABELS, Stack

PIXELS = 72
GREY_BITS = 5
"""Grey levels of a thumbnail: fewer than a screen shows, but a page holds thousands of them."""


def thumbnail(image: Stack, mask: Stack, entry: Mapping[str, Any]) -> dict[str, Any]:
    """A square of PIXELS around the heart.

    Parameters
    ----------
    image, mask
        (slices, rows, columns) of one grid.
    entry
        The stack's entry of quality.json.

    Returns
    -------
    dict
        ``slice`` (from 0), ``picture`` (a ``data:`` address) and ``paths``: SVG outlines by structure, in half pixels.
    """
    flips = upright(image.geometry.direction)
    pixels, labels = np.flip(image.pixels, flips), np.flip(mask.pixels, flips)
    height, width = image.geometry.spacing_zyx[1:]
    rows, columns, side = window(labels > 0, height, width)
    index = _slice(labels, entry)
    grid = (places(rows, labels.shape[1], height, side), places(columns, labels.shape[2], width, side))
    low = 8 - GREY_BITS
    grey = drawing.to_grey(pixels[index][np.ix_(*grid)]) >> low << low
    outlines = borders(labels[index][np.ix_(*grid)])
    return {"slice": index, "picture": drawing.data_uri(grey), "paths": {k: d for k, d in outlines.items() if d}}


def _slice(labels: np.ndarray, entry: Mapping[str, Any]) -> int:
    """The flagged slice with the most reasons, else the one with the most RV; the middle where there is no RV."""
    flagged = [part for part in entry["slices"] if part["flag"]]
    if flagged:
        return max(flagged, key=lambda part: len(part["reasons"]))["index"]
    area = (labels == LABELS["RV"]).sum(axis=(1, 2))
    return int(area.argmax()) if area.any() else len(labels) // 2


def places(cut: slice, size: int, spacing: float, side: float, pixels: int = PIXELS) -> np.ndarray:
    """Indices along one axis at `pixels` even places over `side` mm, centred on the middle of `cut`."""
    start, stop, _ = cut.indices(size)
    found = (start + stop - 1) / 2 + ((np.arange(pixels) + 0.5) / pixels - 0.5) * side / spacing
    return np.clip(np.rint(found), 0, size - 1).astype(int)
