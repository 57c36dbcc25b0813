"""Dice and Hausdorff distances in mm between two masks, with a written rule for empty ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_CHUNK = 1 << 20
_FAR = 1 << 20


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice coefficient ``2 |a & b| / (|a| + |b|)`` of two boolean arrays of one shape.

    Both empty: 1. One empty: 0.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"dice: masks {a.shape} and {b.shape} do not fit together.")
    total = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
    return 2.0 * int(np.count_nonzero(a & b)) / total if total else 1.0


def empty_reason(candidate: np.ndarray, reference: np.ndarray) -> str:
    """``lost`` where only the candidate is empty, ``invented`` where only the reference is, else an empty string."""
    found, expected = bool(candidate.any()), bool(reference.any())
    return "" if found == expected else "invented" if found else "lost"


def slice_diagonal(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """Diagonal of a slice in mm: the distance that stands for "no counterpart". The last two axes are in the plane."""
    return float(np.hypot(shape[-2] * spacing[-2], shape[-1] * spacing[-1]))


def hausdorff(a: np.ndarray, b: np.ndarray, spacing: Sequence[float]) -> tuple[float, float]:
    """Hausdorff distance and its 95th percentile in mm, exact.

    The boundary of a mask is the mask without its erosion by the cross of direct neighbours (4 in the plane, 6 in
    space; outside the image is background). From every boundary voxel's centre the nearest one of the other boundary is
    measured. HD is the largest of these distances in both directions (MONAI, medpy). HD95 is the larger of the two
    directions' 95th percentiles, linearly interpolated (MONAI; medpy pools the directions). A stack of one slice is
    measured in its plane.

    Parameters
    ----------
    a, b
        Boolean arrays of one shape: (rows, columns) or (slices, rows, columns).
    spacing
        Of every axis, in array order, in mm.

    Returns
    -------
    (HD, HD95). Both masks empty: (0, 0). One empty: the slice's diagonal for both (`slice_diagonal`), never inf or nan.

    Raises
    ------
    ValueError
        The shapes differ, or the spacing has another number of axes.
    """
    if a.shape != b.shape or a.ndim not in (2, 3) or len(spacing) != a.ndim:
        raise ValueError(f"hausdorff: masks {a.shape} and {b.shape} with spacing {tuple(spacing)} do not fit together.")
    if a.ndim == 2:
        a, b, spacing = a[None], b[None], (1.0, *spacing)
    diagonal = slice_diagonal(a.shape, spacing)
    box = _bounding_box(a | b)
    if box is None:
        return 0.0, 0.0
    edges = boundary(a[box], across=len(a) > 1), boundary(b[box], across=len(a) > 1)
    forth, back = (_nearest(*pair, spacing, across=True)[0] for pair in (edges, edges[::-1]))
    return _summary(forth, back, diagonal)


def hausdorff_of_slices(a: np.ndarray, b: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """`hausdorff` in the plane for every slice of two boolean stacks in one pass.

    Parameters
    ----------
    a, b
        (slices, rows, columns).
    spacing
        Of rows and columns in mm.

    Returns
    -------
    (slices, 2): HD and HD95 in mm.

    Raises
    ------
    ValueError
        The shapes differ, or the spacing has another number of axes.
    """
    if a.shape != b.shape or a.ndim != 3 or len(spacing) != 2:
        raise ValueError(
            f"hausdorff: stacks {a.shape} and {b.shape} with spacing {tuple(spacing)} do not fit together."
        )
    result = np.zeros((len(a), 2))
    diagonal = slice_diagonal(a.shape, spacing)
    box = _bounding_box(a | b)
    if box is None:
        return result
    edges = boundary(a[box], across=False), boundary(b[box], across=False)
    ways = [_nearest(*pair, (1.0, *spacing), across=False) for pair in (edges, edges[::-1])]
    cuts = [np.searchsorted(z, np.arange(len(edges[0]) + 1)) for _, z in ways]
    for s in range(len(edges[0])):
        forth, back = (far[cut[s] : cut[s + 1]] for (far, _), cut in zip(ways, cuts, strict=True))
        result[box[0].start + s] = _summary(forth, back, diagonal)
    return result


def boundary(mask: np.ndarray, *, across: bool) -> np.ndarray:
    """A stack's mask, bool (slices, rows, columns), without its erosion by the cross of direct neighbours.

    The cross reaches `across` slices or not; what lies outside the array is not the mask.
    """
    inner = mask.copy()
    for axis in (0, 1, 2) if across else (1, 2):
        # Views with `axis` first: what is written to `target` shrinks `inner`.
        source, target = mask.swapaxes(0, axis), inner.swapaxes(0, axis)
        target[1:] &= source[:-1]
        target[:-1] &= source[1:]
        target[0] = target[-1] = False
    return mask & ~inner


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """The smallest box around a stack's mask, None of an empty one."""
    plane = mask.any(axis=0)
    if not plane.any():
        return None
    used = (np.flatnonzero(line) for line in (mask.any(axis=(1, 2)), plane.any(axis=1), plane.any(axis=0)))
    return tuple(slice(int(where[0]), int(where[-1]) + 1) for where in used)


def _summary(forth: np.ndarray, back: np.ndarray, diagonal: float) -> tuple[float, float]:
    """(HD, HD95) of the distances in both directions; no distances stand for an empty mask."""
    if len(forth) == 0 or len(back) == 0:
        return (diagonal, diagonal) if len(forth) or len(back) else (0.0, 0.0)
    return max(float(forth.max()), float(back.max())), max(_percentile_95(forth), _percentile_95(back))


def _percentile_95(distances: np.ndarray) -> float:
    """`np.percentile(distances, 95)` without its overhead."""
    rank = 0.95 * (len(distances) - 1)
    low = int(rank)
    high = min(low + 1, len(distances) - 1)
    part = np.partition(distances, (low, high))
    return float(part[low] + (rank - low) * (part[high] - part[low]))


def _nearest(
    start: np.ndarray, goal: np.ndarray, spacing: Sequence[float], *, across: bool
) -> tuple[np.ndarray, np.ndarray]:
    """From every point of the boundary `start` the distance in mm to the nearest of `goal`, and the point's slice.

    Only its own slice is searched unless `across`. Without any goal the distances mean nothing.
    """
    z, row, column = np.nonzero(start)
    if len(z) == 0 or not goal.any():
        return np.zeros(len(z)), z
    along = _squared_along_rows(goal, spacing[1])
    between = ((np.arange(start.shape[2])[:, None] - np.arange(start.shape[2])) * spacing[2]) ** 2
    best = _lowest(along, between, z, row, column)
    for offset in range(1, len(start) if across else 1):
        gap = (spacing[0] * offset) ** 2
        # Slices farther away than the best so far need no search.
        if not (best > gap).any():
            break
        for other in (z - offset, z + offset):
            pick = np.flatnonzero((best > gap) & (other >= 0) & (other < len(start)))
            found = gap + _lowest(along, between, other[pick], row[pick], column[pick])
            best[pick] = np.minimum(best[pick], found)
    return np.sqrt(best), z


def _squared_along_rows(goal: np.ndarray, spacing: float) -> np.ndarray:
    """Squared distance of every pixel to the nearest goal of its slice and column; far where there is none."""
    row = np.arange(goal.shape[1], dtype=np.int32)[:, None]
    before = row - np.maximum.accumulate(np.where(goal, row, -_FAR), axis=1)
    after = np.minimum.accumulate(np.where(goal, row, _FAR)[:, ::-1], axis=1)[:, ::-1] - row
    return (np.minimum(before, after) * spacing) ** 2


def _lowest(along: np.ndarray, between: np.ndarray, z: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Squared distances in slice `z`: the least, over its columns, of the way along the row axis and to that column."""
    step = max(1, _CHUNK // len(between))
    parts = [slice(k, k + step) for k in range(0, len(z), step)]
    lowest = [(along[z[p], row[p]] + between[column[p]]).min(axis=1) for p in parts]
    return np.concatenate(lowest) if lowest else np.zeros(0)
