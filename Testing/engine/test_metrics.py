"""Dice and Hausdorff distances: worked by hand, against scipy and MONAI, and their symmetries."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from RVQCLib.metrics import boundary, dice, empty_reason, hausdorff, hausdorff_of_slices

ANISOTROPIC = (10.0, 1.5, 1.2)


def pixels(shape: tuple[int, ...], *where: tuple) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for place in where:
        mask[place] = True
    return mask


def blobs(seed: int, shape: tuple[int, int, int] = (5, 24, 30)) -> tuple[np.ndarray, np.ndarray]:
    """Two similar lumps, some cut by the image's edge, some with slices missing at the ends."""
    generator = np.random.default_rng(seed)
    z, r, c = np.mgrid[: shape[0], : shape[1], : shape[2]]
    masks = []
    middle = generator.uniform((1, 4, 4), (3, 20, 26))
    for _ in range(2):
        center = middle + generator.normal(0, (0.4, 1.5, 1.5))
        radius = generator.uniform((1, 4, 4), (3, 8, 8))
        lump = sum(((x - m) / w) ** 2 for x, m, w in zip((z, r, c), center, radius, strict=True)) < 1
        lump[tuple(round(min(max(m, 0), n - 1)) for m, n in zip(center, shape, strict=True))] = True
        masks.append(lump & (generator.random(shape) < 0.95))
    return masks[0], masks[1]


def by_scipy(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...]) -> tuple[float, float]:
    """All distances between the boundaries that scipy's erosion leaves."""
    ndimage = pytest.importorskip("scipy.ndimage")
    distance = pytest.importorskip("scipy.spatial.distance")
    points = [np.argwhere(mask & ~ndimage.binary_erosion(mask)) * np.array(spacing) for mask in (a, b)]
    table = distance.cdist(*points)
    ways = table.min(axis=1), table.min(axis=0)
    return max(w.max() for w in ways), max(np.percentile(w, 95) for w in ways)


def test_dice_by_hand():
    # 4 and 6 pixels, 3 in common: 2 * 3 / 10
    a = pixels((5, 5), (0, slice(0, 4)))
    b = pixels((5, 5), (0, slice(1, 4)), (1, slice(0, 3)))
    assert dice(a, b) == pytest.approx(0.6)
    assert type(dice(a, b)) is float


def test_dice_of_masks_of_two_shapes_is_refused():
    with pytest.raises(ValueError, match=r"dice: masks \(2, 3\) and \(3,\) do not fit together"):
        dice(np.ones((2, 3), bool), np.ones(3, bool))


def test_dice_of_empty_masks():
    nothing, something = pixels((3, 4)), pixels((3, 4), (1, 1))
    assert dice(nothing, nothing) == 1.0
    assert dice(nothing, something) == dice(something, nothing) == 0.0


def test_empty_reason_names_who_lacks_it():
    nothing, something = pixels((3, 4)), pixels((3, 4), (1, 1))
    assert empty_reason(nothing, something) == "lost"
    assert empty_reason(something, nothing) == "invented"
    assert empty_reason(something, something) == empty_reason(nothing, nothing) == ""


def test_hausdorff_of_two_pixels_is_their_distance():
    # 3 rows of 2 mm and 4 columns of 0.5 mm apart: sqrt(6^2 + 2^2)
    a, b = pixels((9, 9), (2, 3)), pixels((9, 9), (5, 7))
    assert hausdorff(a, b, (2.0, 0.5)) == pytest.approx((math.sqrt(40),) * 2)
    # and 2 slices of 10 mm besides: sqrt(20^2 + 40)
    a, b = pixels((4, 9, 9), (0, 2, 3)), pixels((4, 9, 9), (2, 5, 7))
    assert hausdorff(a, b, (10.0, 2.0, 0.5)) == pytest.approx((math.sqrt(440),) * 2)


def test_hausdorff_measures_between_boundaries():
    # A square of 5 x 5 has a boundary of 16 pixels. Without its centre, the centre's 4 neighbours join the boundary:
    # each is 1 pixel from the outer ring. From there 16 distances are 0 and 4 are 1, so the 95th percentile is 1.
    solid = pixels((7, 7), (slice(1, 6), slice(1, 6)))
    hollow = solid.copy()
    hollow[3, 3] = False
    assert boundary(solid[None], across=False).sum() == 16
    assert boundary(hollow[None], across=False).sum() == 20
    assert hausdorff(solid, hollow, (1.0, 1.0)) == (1.0, 1.0)


def test_hd95_interpolates_and_takes_the_worse_direction():
    # Lines of 20 and 22 pixels. There: 20 zeros. Back: 20 zeros, 1, 2 mm. 95 % of 22 values is place 0.95 * 21 = 19.95
    # of the sorted ones, between the last zero (19) and the 1 (20): 0.95 mm.
    a, b = pixels((1, 30), (0, slice(0, 20))), pixels((1, 30), (0, slice(0, 22)))
    assert hausdorff(a, b, (1.0, 1.0)) == pytest.approx((2.0, 0.95))
    assert hausdorff(b, a, (1.0, 1.0)) == pytest.approx((2.0, 0.95))


def test_the_boundary_in_space_is_open_at_the_ends():
    # A block of 3 slices of 3 x 3: the cross of 6 neighbours leaves only its very centre inside; in the plane alone,
    # every slice has a centre.
    block = pixels((5, 5, 5), (slice(1, 4), slice(1, 4), slice(1, 4)))
    assert boundary(block, across=True).sum() == 26
    assert boundary(block, across=False).sum() == 24


def test_masks_in_one_slice_of_a_stack_are_open_above_and_below():
    # All of a disk is boundary, as no neighbouring slice covers it: as scipy says, and as MONAI does.
    rows, columns = np.mgrid[:40, :40]
    a, b = np.zeros((2, 6, 40, 40), bool)
    a[2], b[2] = (rows - 20) ** 2 + (columns - 20) ** 2 < 100, (rows - 22) ** 2 + (columns - 15) ** 2 < 150
    assert hausdorff(a, b, ANISOTROPIC) == pytest.approx(by_scipy(a, b, ANISOTROPIC))
    assert hausdorff(a, b, ANISOTROPIC)[1] < hausdorff(a[2], b[2], ANISOTROPIC[1:])[1]


def test_outside_the_image_is_background():
    full = np.ones((4, 6), bool)
    assert boundary(full[None], across=False).sum() == 2 * 6 + 2 * 2
    # one column less: the nearest boundary column is the next one
    assert hausdorff(full, pixels((4, 6), (slice(None), slice(0, 5))), (1.0, 1.0))[0] == 1.0


def test_one_slice_is_measured_in_its_plane():
    a, b = (mask[2] for mask in blobs(3))
    assert hausdorff(a[None], b[None], ANISOTROPIC) == hausdorff(a, b, ANISOTROPIC[1:])


def test_empty_masks_give_zero_or_the_slice_diagonal():
    # 30 rows and 40 columns of 1 mm: 50 mm, however many slices there are
    nothing, something = pixels((3, 30, 40)), pixels((3, 30, 40), (1, 4, 4))
    spacing = (10.0, 1.0, 1.0)
    assert hausdorff(nothing, nothing, spacing) == (0.0, 0.0)
    assert hausdorff(something, nothing, spacing) == hausdorff(nothing, something, spacing) == (50.0, 50.0)
    assert hausdorff(something[1], nothing[1], (1.0, 1.0)) == (50.0, 50.0)
    narrow, one = pixels((3, 30, 20)), pixels((3, 30, 20), (1, 4, 4))  # columns of 2 mm
    assert hausdorff(narrow, one, (10.0, 1.0, 2.0)) == (50.0, 50.0)
    expected = [[0, 0], [50, 50], [0, 0]]
    np.testing.assert_array_equal(hausdorff_of_slices(something, nothing, (1.0, 1.0)), expected)
    np.testing.assert_array_equal(hausdorff_of_slices(nothing, nothing, (1.0, 1.0)), np.zeros((3, 2)))


def test_a_far_slice_wins_when_it_is_nearer_in_space():
    # From slice 1 the only pixel of slice 0 is 30 columns away, that of slice 3 two slices of 5 mm: 10 mm.
    a = pixels((4, 3, 40), (1, 1, 2))
    b = pixels((4, 3, 40), (0, 1, 32), (3, 1, 2))
    forth = 10.0
    back = math.hypot(30, 5)  # from the pixel of slice 0
    assert hausdorff(a, b, (5.0, 1.0, 1.0))[0] == pytest.approx(max(forth, back))


@pytest.mark.parametrize("seed", range(12))
def test_against_scipy(seed):
    a, b = blobs(seed)
    assert hausdorff(a, b, ANISOTROPIC) == pytest.approx(by_scipy(a, b, ANISOTROPIC))
    for s in range(len(a)):
        if a[s].any() and b[s].any():
            assert hausdorff(a[s], b[s], ANISOTROPIC[1:]) == pytest.approx(by_scipy(a[s], b[s], ANISOTROPIC[1:]))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_against_monai(seed, planar):
    torch = pytest.importorskip("torch")
    monai = pytest.importorskip("monai.metrics")
    a, b = blobs(seed)
    spacing = ANISOTROPIC
    if planar:
        s = np.minimum(a.sum(axis=(1, 2)), b.sum(axis=(1, 2))).argmax()
        a, b, spacing = a[s], b[s], ANISOTROPIC[1:]
    tensors = [torch.from_numpy(mask)[None, None].float() for mask in (a, b)]
    options = {"include_background": True, "spacing": spacing}
    hd = monai.compute_hausdorff_distance(*tensors, **options).item()
    hd95 = monai.compute_hausdorff_distance(*tensors, percentile=95, **options).item()
    assert hausdorff(a, b, spacing) == pytest.approx((hd, hd95), rel=1e-5)
    assert dice(a, b) == pytest.approx(monai.compute_dice(*tensors).item(), rel=1e-6)


masks = arrays(bool, (3, 7, 6), elements=st.booleans())


@settings(max_examples=60, deadline=None)
@given(a=masks, b=masks)
def test_symmetric_finite_and_bounded(a, b):
    hd, hd95 = hausdorff(a, b, ANISOTROPIC)
    assert (hd, hd95) == hausdorff(b, a, ANISOTROPIC)
    assert 0 <= hd95 <= hd < math.inf
    assert 0 <= dice(a, b) == dice(b, a) <= 1
    assert hausdorff(a, a, ANISOTROPIC) == (0.0, 0.0)
    assert dice(a, a) == 1.0


@settings(max_examples=60, deadline=None)
@given(a=masks, b=masks)
def test_all_slices_at_once_are_the_slices_one_by_one(a, b):
    expected = [hausdorff(x, y, ANISOTROPIC[1:]) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(hausdorff_of_slices(a, b, ANISOTROPIC[1:]), expected)


def test_where_the_mask_lies_does_not_matter():
    a, b = blobs(5)
    wide = [np.pad(mask, ((2, 1), (30, 5), (3, 40))) for mask in (a, b)]
    assert hausdorff(*wide, ANISOTROPIC) == hausdorff(a, b, ANISOTROPIC)


@pytest.mark.parametrize(
    ("shapes", "spacing"), [(((3, 4), (4, 3)), (1, 1)), (((3, 4), (3, 4)), (1, 1, 1)), (((4,), (4,)), (1,))]
)
def test_masks_that_do_not_fit_are_refused(shapes, spacing):
    with pytest.raises(ValueError, match="do not fit together"):
        hausdorff(*(np.zeros(shape, bool) for shape in shapes), spacing)
    with pytest.raises(ValueError, match="do not fit together"):
        hausdorff_of_slices(*(np.zeros(shape, bool) for shape in shapes), spacing)
