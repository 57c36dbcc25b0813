"""The domain types: the geometry of a stack of slices, the stack, the study."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from RVQCLib.files import RVQCError

LABELS = {"LV": 1, "MYO": 2, "RV": 3}
STRUCTURES = ("RV", "LV", "MYO")
VIEWS = ("SA", "LA")
PHASES = ("ED", "ES")


@dataclass(frozen=True)
class Geometry:
    """Where a stack lies in the patient, as SimpleITK says it.

    Parameters
    ----------
    origin : (x, y, z) in mm (LPS) of the centre of the first pixel of the first row of the first slice.
    spacing : (column, row, slice) distances in mm, all positive.
    direction : nine cosines, row by row of the 3x3 matrix whose columns are the directions in which the column, the
        row and the slice index grow. Need not be orthonormal: work happens in slice index space.
    nifti_header : the NIfTI header that the stack came with, empty for other sources. A mask written to NIfTI gets it
        back byte for byte where it describes geometry, because ITK cannot write every geometry that files have.
    """

    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    direction: tuple[float, float, float, float, float, float, float, float, float] = (1, 0, 0, 0, 1, 0, 0, 0, 1)
    nifti_header: bytes = field(default=b"", repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, count in (("origin", 3), ("spacing", 3), ("direction", 9)):
            values = tuple(float(value) for value in getattr(self, name))
            if len(values) != count or not np.all(np.isfinite(values)):
                raise ValueError(f"Geometry: {name} must be {count} finite numbers, not {values}.")
            object.__setattr__(self, name, values)
        if min(self.spacing) <= 0:
            raise ValueError(f"Geometry: spacing must be positive, not {self.spacing}.")
        if abs(np.linalg.det(np.reshape(self.direction, (3, 3)))) < 1e-6:
            raise ValueError(f"Geometry: direction {self.direction} does not span space.")

    @property
    def spacing_zyx(self) -> tuple[float, float, float]:
        """(slice, row, column) spacing in mm: the order of `Stack.pixels`."""
        return self.spacing[::-1]


@dataclass(frozen=True, eq=False)
class Stack:
    """The image, or the mask, of one view at one phase.

    Parameters
    ----------
    pixels : (slices, rows, columns), float32 for an image, uint8 for labels (0 background, `LABELS`).
    geometry : where it lies in the patient.
    view : "SA" or "LA".
    phase : "ED", "ES", or "" for a frame of a cine whose phase is not known yet.
    source : the file that it was read from, for messages and provenance.
    frame : which frame of a cine in that file (from 0), None for a file that is no cine.

    Raises
    ------
    ValueError
        The array is not three-dimensional or empty, is neither float32 nor uint8, or the view or phase is unknown.
    """

    pixels: np.ndarray
    geometry: Geometry
    view: str
    phase: str
    source: str = ""
    frame: int | None = None

    def __post_init__(self) -> None:
        pixels = self.pixels
        if pixels.ndim != 3 or pixels.size == 0:
            raise ValueError(f"Stack: pixels must be (slices, rows, columns), not of shape {pixels.shape}.")
        if pixels.dtype not in (np.float32, np.uint8):
            raise ValueError(f"Stack: pixels must be float32 (image) or uint8 (labels), not {pixels.dtype}.")
        if self.view not in VIEWS:
            raise ValueError(f"Stack: view must be one of {VIEWS}, not {self.view!r}.")
        if self.phase not in (*PHASES, ""):
            raise ValueError(f'Stack: phase must be one of {PHASES} or "", not {self.phase!r}.')

    @property
    def name(self) -> str:
        """View and phase, as in file names: ``SA_ED``."""
        return f"{self.view}_{self.phase}" if self.phase else self.view

    def with_pixels(self, pixels: np.ndarray) -> Stack:
        """The same place, view and phase with other pixels of the same shape (float32 or uint8).

        Raises
        ------
        ValueError
            The shape differs.
        """
        if pixels.shape != self.pixels.shape:
            raise ValueError(f"Stack {self.name}: pixels {pixels.shape} do not fit the grid {self.pixels.shape}.")
        return replace(self, pixels=pixels)


@dataclass(frozen=True, eq=False)
class Study:
    """One patient examination.

    Parameters
    ----------
    name : the study's name, as in file names.
    stacks : the images, at most one a view and phase.
    labels : the true masks, where known.
    group, vendor : disease group and scanner vendor, empty where unknown.
    cines : per view that came as a cine, its frames in time order (phase ""), from which ED and ES are still to be
        picked.
    notes : sentences of what was assumed in reading it.
    """

    name: str
    stacks: tuple[Stack, ...]
    labels: tuple[Stack, ...] = ()
    group: str = ""
    vendor: str = ""
    cines: tuple[tuple[Stack, ...], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def views(self) -> tuple[str, ...]:
        """The views that it has images of, SA first."""
        present = {stack.view for stack in self.stacks} | {cine[0].view for cine in self.cines}
        return tuple(view for view in VIEWS if view in present)

    def stack(self, view: str, phase: str) -> Stack | None:
        """The image of a view and phase, None where the study has none."""
        return _pick(self.stacks, view, phase)

    def label(self, view: str, phase: str) -> Stack | None:
        """The true mask of a view and phase, None where there is none."""
        return _pick(self.labels, view, phase)

    @property
    def chosen(self) -> dict[str, tuple[int, int]]:
        """By view of a cine which of its frames (ED, ES) are that view's stacks already, as `with_phases` makes them."""
        stacks = {view: [self.stack(view, phase) for phase in PHASES] for view in (cine[0].view for cine in self.cines)}
        frames = {view: [None if one is None else one.frame for one in pair] for view, pair in stacks.items()}
        return {view: (ed, es) for view, (ed, es) in frames.items() if ed is not None and es is not None}

    def with_phases(self, view: str, *, ed: int, es: int) -> Study:
        """The study with frames `ed` and `es` (from 0) of the cine of `view` as that view's ED and ES stacks.

        Raises
        ------
        ValueError
            The view has no cine.
        IndexError
            The cine has no such frame.
        """
        frames = next((cine for cine in self.cines if cine[0].view == view), None)
        if frames is None:
            raise ValueError(f"Study {self.name} has no {view} cine.")
        if not 0 <= min(ed, es) <= max(ed, es) < len(frames):
            raise IndexError(
                f"The {view} cine of {self.name} has the frames 0 to {len(frames) - 1}, not {ed} and {es}."
            )
        chosen = (replace(frames[ed], phase="ED", frame=ed), replace(frames[es], phase="ES", frame=es))
        return replace(self, stacks=(*(stack for stack in self.stacks if stack.view != view), *chosen))


def with_indices_of(mask: Stack, image: Stack) -> Stack:
    """The mask, its indices reversed where they grow the other way than those of its image in the same box of space.

    Viewers show such a mask in its place, but pixel by pixel it would be compared mirrored. Only what is certain is done,
    where all corners agree to half a voxel: data sets also have masks without geometry, or with another origin.

    Raises
    ------
    RVQCError
        Mask and image fill the same box with their axes in another order.
    """
    image_axes, mask_axes = (np.reshape(g.direction, (3, 3)) * g.spacing for g in (image.geometry, mask.geometry))
    turn = np.linalg.solve(image_axes, mask_axes)  # of mask indices (column, row, slice) into the image's
    shift = np.linalg.solve(image_axes, np.subtract(mask.geometry.origin, image.geometry.origin))
    signs = np.round(turn)
    if np.array_equal(signs, np.eye(3)) or np.abs([abs(signs).sum(0), abs(signs).sum(1)] - np.ones(3)).any():
        return mask
    last = np.array(image.pixels.shape[::-1]) - 1
    corners = np.stack(np.meshgrid(*([0, size - 1] for size in mask.pixels.shape[::-1]), indexing="ij")).reshape(3, -1)
    ends = np.where(signs.sum(1) < 0, last, 0)
    if np.abs((turn - signs) @ corners + (shift - ends)[:, None]).max() >= 0.5:
        return mask
    if np.any(np.diag(signs) == 0):
        raise RVQCError(
            f"{mask.source} has its axes in another order than {image.source}; save it on its image's grid."
        )
    reversed_axes = [2 - axis for axis in range(3) if signs[axis, axis] < 0]
    return replace(mask, pixels=np.flip(mask.pixels, reversed_axes).copy(), geometry=image.geometry)


def _pick(stacks: tuple[Stack, ...], view: str, phase: str) -> Stack | None:
    return next((stack for stack in stacks if (stack.view, stack.phase) == (view, phase)), None)


def structure_volumes_ml(mask: Stack) -> dict[str, float]:
    """Volume of every structure in ml: voxels times the voxel's volume (spacing in mm).

    The slice spacing counts as the slices' thickness, as clinical short-axis volumetry does (sum of discs).
    """
    voxel_ml = float(np.prod(mask.geometry.spacing)) / 1000.0
    counts = np.bincount(mask.pixels.ravel(), minlength=4)
    return {structure: float(counts[LABELS[structure]]) * voxel_ml for structure in STRUCTURES}
