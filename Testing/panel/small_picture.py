"""Pictures that are small enough for a repository and still as sharp as the screen: fewer greys, no scaling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PySide6.QtGui import QImage

MOST_BYTES = 300_000
GREYS = (96, 64, 40, 24)
COLORS, BITS, GREY_SPREAD = 156, 4, 10
"""How many colours beside the greys, bits a channel by which colours are told apart, and what counts as grey (0..255)."""


def make_small(path: Path) -> None:
    """Replace a picture by one with a palette, of as many greys as `MOST_BYTES` allow; colours of the panel stay.

    Raises
    ------
    ValueError
        Even the fewest greys need more.
    """
    full = QImage(str(path)).convertToFormat(QImage.Format.Format_RGB888)
    height, width = full.height(), full.width()
    rows = np.frombuffer(full.constBits(), np.uint8).reshape(height, full.bytesPerLine())[:, : 3 * width]
    pixels = rows.reshape(-1, 3).astype(np.int32)
    for greys in GREYS:
        indices, palette = _indexed(pixels, greys)
        padded = np.pad(indices.reshape(height, width), ((0, 0), (0, -width % 4)))  # rows of whole words
        picture = QImage(padded.data, width, height, padded.shape[1], QImage.Format.Format_Indexed8)
        picture.setColorTable([255 << 24 | red << 16 | green << 8 | blue for red, green, blue in palette.tolist()])
        picture.save(str(path), "PNG", 0)
        if path.stat().st_size < MOST_BYTES:
            return
    raise ValueError(f"{path} has {path.stat().st_size} bytes; take a picture of less.")


def _indexed(pixels: np.ndarray, greys: int) -> tuple[np.ndarray, np.ndarray]:
    """For (n, 3) pixels an index each, uint8, and the palette: `greys` shades, then the most frequent colours."""
    shades = np.linspace(0, 255, greys).round().astype(np.int32)
    indices = (pixels.mean(axis=1) * (greys - 1) / 255).round().astype(np.uint8)
    colored = np.ptp(pixels, axis=1) > GREY_SPREAD
    bins = (pixels[colored] >> (8 - BITS)) @ [1 << 2 * BITS, 1 << BITS, 1]
    found, where, counts = np.unique(bins, return_inverse=True, return_counts=True)
    means = np.stack([np.bincount(where, pixels[colored, c], len(found)) / counts for c in range(3)], axis=1)
    kept = np.argsort(-counts)[:COLORS]
    if len(kept):  # a picture may be grey all over
        nearest = np.argmin(((means[:, None] - means[kept][None]) ** 2).sum(axis=2), axis=1)
        indices[colored] = greys + nearest[where]
    return indices, np.concatenate([np.repeat(shades[:, None], 3, axis=1), means[kept].round().astype(np.int32)])
