"""What the pages show of a slice: PNG images and mask outlines, in numpy and the standard library only."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterator

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
    mask = np.asarray(mask, bool)
    stride = len(mask) + 1
    loops = list(_loops(*_edges(mask, stride), stride))
    if not loops:
        return ""
    points = _bends(np.stack(np.divmod(np.concatenate(loops), stride), axis=1), [len(loop) for loop in loops])
    return "".join(map(_path, points))


def _edges(mask: np.ndarray, stride: int) -> tuple[list[int], list[int]]:
    """The corners ``x * stride + y`` where directed pixel edges begin and end, with the mask on the right hand."""
    padded = np.pad(mask, 1).astype(np.int8)
    across, along = np.diff(padded[:, 1:-1], axis=0), np.diff(padded[1:-1], axis=1)
    starts, ends = [], []
    for sign in (1, -1):
        for (y, x), step in ((np.nonzero(across == sign), stride), (np.nonzero(along == -sign), 1)):
            corners = x * stride + y
            forward = (corners, corners + step) if sign == 1 else (corners + step, corners)
            starts.append(forward[0])
            ends.append(forward[1])
    return np.concatenate(starts).tolist(), np.concatenate(ends).tolist()


def _loops(starts: list[int], ends: list[int], stride: int) -> Iterator[list[int]]:
    """Closed walks along the edges; where two pixels touch at a corner, turn right and keep them apart."""
    ahead = dict(zip(starts, ends, strict=True))
    # The second way on from a corner where two pixels touch.
    other = {start: end for start, end in zip(starts, ends, strict=True) if ahead[start] != end}
    for first in sorted(ahead):
        while first in ahead:
            loop, corner, following = [first], first, ahead.pop(first)
            if first in other:
                ahead[first] = other.pop(first)
            while following != first:
                loop.append(following)
                onward = ahead.pop(following)
                if following in other:
                    ways = (onward, other.pop(following))
                    right = ways[1] == _right(corner, following, stride)
                    onward, ahead[following] = ways[::-1] if right else ways
                corner, following = following, onward
            yield loop


def _right(corner: int, following: int, stride: int) -> int:
    """The corner to the right of those who came from `corner` to `following`."""
    step = following - corner
    return following + step // stride if step % stride == 0 else following - step * stride


def _bends(corners: np.ndarray, lengths: list[int]) -> list[np.ndarray]:
    """Of every loop of corners (n, 2) the middles of its edges in half pixels, without those on a straight line between
    their neighbours."""
    ends = np.cumsum(lengths)
    begins = ends - lengths
    after, before = np.arange(len(corners)) + 1, np.arange(len(corners)) - 1
    after[ends - 1], before[begins] = begins, ends - 1
    middles = corners + corners[after]
    bend = (middles[after] - middles != middles - middles[before]).any(axis=1)
    return np.split(middles[bend], np.cumsum(np.add.reduceat(bend, begins))[:-1])


def _path(points: np.ndarray) -> str:
    steps = " ".join([f"{x} {y}" for x, y in np.diff(points, axis=0).tolist()])
    return f"M{points[0, 0]} {points[0, 1]}l{steps}z"
