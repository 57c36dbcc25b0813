"""What the pages show of a slice: PNG images and mask outlines, in numpy and the standard library only."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterable
from itertools import pairwise

import numpy as np


def png(pixels: np.ndarray) -> bytes:
    """Encode an 8-bit image as PNG.

    Parameters
    ----------
    pixels : np.ndarray
        uint8, (rows, columns) for grey or (rows, columns, 3) for RGB.

    Raises
    ------
    ValueError
        Another type or shape.
    """
    if (
        pixels.dtype != np.uint8
        or pixels.size == 0
        or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3))
    ):
        raise ValueError(f"A PNG needs uint8 (rows, columns[, 3]); this is {pixels.dtype} {pixels.shape}.")
    rows, columns = pixels.shape[:2]
    lines = np.ascontiguousarray(pixels).reshape(rows, -1)
    above = np.vstack([np.zeros_like(lines[:1]), lines[:-1]])
    filtered = np.hstack([np.full((rows, 1), 2, np.uint8), lines - above])  # PNG filter 2, "up", modulo 256
    header = struct.pack(">IIBBBBB", columns, rows, 8, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(filtered.tobytes(), 9))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def data_uri(pixels: np.ndarray) -> str:
    """The PNG of `pixels` (see `png`) as a ``data:`` address."""
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode("ascii")


def to_grey(pixels: np.ndarray, *, percentiles: tuple[float, float] = (0.5, 99.5)) -> np.ndarray:
    """Window a float image of any shape to uint8; one window for all of it, non-finite pixels are black."""
    finite = np.isfinite(pixels)
    if not finite.any():
        return np.zeros(pixels.shape, np.uint8)
    low, high = np.percentile(pixels[finite], percentiles)
    scaled = (np.where(finite, pixels, low) - low) / max(float(high - low), 1e-12)
    return np.where(finite, np.rint(255 * np.clip(scaled, 0, 1)), 0).astype(np.uint8)


def outline(mask: np.ndarray) -> str:
    """SVG path along the border of a 2-D boolean mask, through the middles of its pixel edges.

    Coordinates are integers in HALF pixels, x then y, with 0, 0 at the outer corner of pixel [0, 0]; scale them by half
    the pixel spacing. Loops are closed; filled by the even-odd rule the path covers the centres of exactly the mask's
    pixels. An empty mask gives an empty string.
    """
    return "".join(_path(_middles(loop)) for loop in _loops(_edges(np.asarray(mask, bool))))


def _edges(mask: np.ndarray) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Corner (x, y) -> the corners that directed pixel edges lead to, with the mask on the right hand."""
    padded = np.pad(mask, 1).astype(np.int8)
    edges: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for sign in (1, -1):
        for y, x in np.argwhere(np.diff(padded[:, 1:-1], axis=0) == sign).tolist():
            start, end = ((x, y), (x + 1, y)) if sign == 1 else ((x + 1, y), (x, y))
            edges.setdefault(start, []).append(end)
        for y, x in np.argwhere(np.diff(padded[1:-1], axis=1) == sign).tolist():
            start, end = ((x, y + 1), (x, y)) if sign == 1 else ((x, y), (x, y + 1))
            edges.setdefault(start, []).append(end)
    return edges


def _loops(edges: dict[tuple[int, int], list[tuple[int, int]]]) -> Iterable[list[tuple[int, int]]]:
    """Take closed walks out of `edges`; where two pixels touch at a corner, turn right and keep them apart."""
    for first in sorted(edges):
        while edges[first]:
            loop, corner, following = [first], first, edges[first].pop()
            while following != first:
                loop.append(following)
                (x, y), (fx, fy) = corner, following
                right = (fx - (fy - y), fy + (fx - x))
                ends = edges[following]
                corner, following = following, ends.pop(ends.index(right) if right in ends else -1)
            yield loop


def _middles(loop: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Middles of the loop's edges in half pixels, without those on a straight line between their neighbours."""
    corners = np.asarray(loop)
    middles = corners + np.roll(corners, -1, axis=0)
    bend = np.any(np.roll(middles, -1, axis=0) - middles != middles - np.roll(middles, 1, axis=0), axis=1)
    return [tuple(point) for point in middles[bend].tolist()]


def _path(points: list[tuple[int, int]]) -> str:
    steps = (f"{x - px} {y - py}" for (px, py), (x, y) in pairwise(points))
    return f"M{points[0][0]} {points[0][1]}l{' '.join(steps)}z"
