"""The fences of a calibration: what is usual on clean held-out stacks, of stacks by phase and of slices by position."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from RVQCLib.inference import Proposal
from RVQCLib.measures import Measures
from RVQCLib.selection import fences, slice_position
from RVQCLib.stack import LABELS, STRUCTURES


@dataclass(frozen=True, eq=False)
class Clean:
    """What fences need of one clean stack: its phase, the measures of its candidates, and which structures, bool
    (m, slices, 3), and how many pixels of any, (m, slices), they show in every slice."""

    phase: str
    measures: Measures
    shown: np.ndarray
    pixels: np.ndarray

    @staticmethod
    def of(proposal: Proposal) -> Clean:
        """Keep what is needed of `proposal`."""
        masks = proposal.masks
        shown = np.stack([(masks == LABELS[s]).any(axis=(2, 3)) for s in STRUCTURES], axis=-1)
        return Clean(proposal.stack.phase, proposal.measures, shown, (masks > 0).sum(axis=(2, 3)))


def stack_fences(clean: Sequence[Clean]) -> dict[str, dict[str, dict[str, Any]]]:
    """Eqs. 3 and 4 a phase and structure over all candidates; ``all`` pools the phases."""
    groups: dict[str, list[Measures]] = defaultdict(list)
    for one in clean:
        for key in (one.phase, "all"):
            groups[key].append(one.measures)
    return {
        key: {
            s: fences(*(np.concatenate(v)[:, k] for v in _columns(some)), n=len(some)).to_json()
            for k, s in enumerate(STRUCTURES)
        }
        for key, some in groups.items()
    }


def _columns(some: Sequence[Measures]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return [m.stack_pDC for m in some], [m.stack_pHD for m in some]


def slice_fences(clean: Sequence[Clean]) -> dict[str, dict[str, dict[str, Any]]]:
    """Eqs. 3 and 4 a slice position and structure, over slices and candidates in which the structure is seen."""
    values: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    slices: dict[tuple[str, str], set[tuple[int, int]]] = defaultdict(set)
    for number, one in enumerate(clean):
        for m, pixels in enumerate(one.pixels):
            for s, position in enumerate(slice_position(pixels)):
                for k in np.flatnonzero(one.shown[m, s]):
                    key = (position, STRUCTURES[k])
                    values[key].append((one.measures.slice_pDC[m, s, k], one.measures.slice_pHD[m, s, k]))
                    slices[key].add((number, s))
    tables: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for (position, structure), pairs in values.items():
        n = len(slices[position, structure])
        tables[position][structure] = fences(*np.array(pairs).T, n=n).to_json()
    return dict(tables)


def agreement_fences(clean: Sequence[Clean]) -> dict[str, Any]:
    """Eq. 3 for the candidates' agreement: of stacks by structure, and of slices by position and structure."""
    stack = np.stack([one.measures.stack_agreement for one in clean])
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for one in clean:
        for s, position in enumerate(slice_position(one.pixels[0])):
            for k, structure in enumerate(STRUCTURES):
                values[(position, structure)].append(float(one.measures.slice_agreement[s, k]))
    tables: dict[str, dict[str, float]] = defaultdict(dict)
    for (position, structure), numbers in values.items():
        tables[position][structure] = _low(np.array(numbers))
    return {"stack": {s: _low(stack[:, k]) for k, s in enumerate(STRUCTURES)}, "slice": dict(tables)}


def _low(values: np.ndarray) -> float:
    return fences(values, np.zeros_like(values)).th_low
