"""The phantom: reproducible, anatomically sound, consistent between its views, and read back by the loaders."""

from __future__ import annotations

import csv
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import SimpleITK as sitk

from RVQCLib import phantom, study
from RVQCLib.files import RVQCError
from RVQCLib.phantom_anatomy import DISEASES, beat, make_anatomy
from RVQCLib.phantom_scanner import Contrast, random_contrast

SEEDS = (0, 1, 2, 3)
LV, MYO, RV = 1, 2, 3


@cache
def patient(seed: int, disease: str = "NOR", spread: float = 1.0) -> study.Study:
    return phantom.phantom_study(seed, disease=disease, spread=spread)


@cache
def small_patient(contrast: Contrast) -> study.Study:
    return phantom.phantom_study(2, contrast=contrast, views=("SA",), size=(128, 128), spacing=(2.2, 2.2, 10.0))


def touches(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two masks (slices, rows, columns) share a pixel's edge within a slice."""
    rows = (one[:, 1:] & other[:, :-1]) | (one[:, :-1] & other[:, 1:])
    columns = (one[:, :, 1:] & other[:, :, :-1]) | (one[:, :, :-1] & other[:, :, 1:])
    return bool(rows.any() or columns.any())


def pieces(mask: np.ndarray) -> int:
    return sitk.GetArrayFromImage(sitk.ConnectedComponent(sitk.GetImageFromArray(mask.astype(np.uint8)))).max()


def centres_lps(mask: study.Stack, label: int) -> np.ndarray:
    """(n, 3) LPS mm of the voxel centres that carry a label, by SimpleITK's definition of the geometry."""
    index = np.argwhere(mask.pixels == label)[:, ::-1]
    geometry = mask.geometry
    direction = np.reshape(geometry.direction, (3, 3))
    return np.array(geometry.origin) + (index * np.array(geometry.spacing)) @ direction.T


def labels_at(mask: study.Stack, points: np.ndarray) -> np.ndarray:
    """The label of the voxel nearest to each LPS point, 0 outside the grid."""
    geometry = mask.geometry
    inverse = np.linalg.inv(np.reshape(geometry.direction, (3, 3)))
    index = np.rint((points - np.array(geometry.origin)) @ inverse.T / np.array(geometry.spacing)).astype(int)[:, ::-1]
    inside = np.all((index >= 0) & (index < mask.pixels.shape), axis=1)
    found = np.zeros(len(points), np.uint8)
    found[inside] = mask.pixels[tuple(index[inside].T)]
    return found


def test_the_same_seed_gives_the_same_study_and_another_seed_another():
    first, again, other = patient(1), phantom.phantom_study(1), patient(2)
    for one, two in zip((*first.stacks, *first.labels), (*again.stacks, *again.labels), strict=True):
        np.testing.assert_array_equal(one.pixels, two.pixels)
        assert one.geometry == two.geometry
    assert first.stacks[0].geometry != other.stacks[0].geometry


def test_a_view_is_the_same_alone_and_with_the_other():
    alone = phantom.phantom_study(1, views=("LA",))
    np.testing.assert_array_equal(alone.stack("LA", "ES").pixels, patient(1).stack("LA", "ES").pixels)
    assert alone.stack("SA", "ED") is None


@pytest.mark.parametrize("seed", SEEDS)
def test_images_and_labels_have_the_contracts_types_and_range(seed):
    for view in ("SA", "LA"):
        for phase in ("ED", "ES"):
            image, label = patient(seed).stack(view, phase), patient(seed).label(view, phase)
            assert image.pixels.dtype == np.float32 and label.pixels.dtype == np.uint8
            assert image.geometry == label.geometry and image.pixels.shape == label.pixels.shape
            assert image.pixels.shape[1:] == (208, 208)
            assert np.isfinite(image.pixels).all() and image.pixels.min() >= 0
            assert 300 < np.percentile(image.pixels, 99) < 2000
            assert set(np.unique(label.pixels)) == {0, LV, MYO, RV}
    assert 9 <= len(patient(seed).label("SA", "ED").pixels) <= 16
    assert len(patient(seed).label("LA", "ED").pixels) == 1


@pytest.mark.parametrize("disease", DISEASES)
@pytest.mark.parametrize("phase", ["ED", "ES"])
def test_the_rv_touches_the_myocardium_and_never_the_lv_cavity(disease, phase):
    pixels = patient(4, disease).label("SA", phase).pixels
    assert not touches(pixels == RV, pixels == LV)
    middle = pixels[len(pixels) // 3 : len(pixels) // 2 + 1]
    for number in range(len(middle)):
        one = middle[number : number + 1]
        assert touches(one == RV, one == MYO)
        assert [pieces(one == label) for label in (LV, MYO, RV)] == [1, 1, 1]


@pytest.mark.parametrize("spread", [1.0, 2.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_lv_is_enclosed_by_myocardium_below_the_base(seed, spread):
    for phase in ("ED", "ES"):
        pixels = patient(seed, spread=spread).label("SA", phase).pixels
        whole = np.array([(s == LV).any() and (s == RV).any() for s in pixels]).nonzero()[0]
        middle = pixels[whole[2] : whole[-1] + 1]  # the mitral plane, which is tilted, may cut the first ones
        outside = (middle == 0) | (middle == RV)
        assert len(middle) >= 3 and not touches(middle == LV, outside)


def test_nothing_is_labelled_above_the_base_or_cut_by_the_image():
    for seed in SEEDS:
        for label in patient(seed).labels:
            edge = np.concatenate([label.pixels[:, [0, -1]].ravel(), label.pixels[:, :, [0, -1]].ravel()])
            assert not edge.any()
        systole = patient(seed).label("SA", "ES").pixels
        assert not systole[0].any() and not systole[-1].any()  # the base has gone down by a centimetre


@pytest.mark.parametrize("seed", SEEDS)
def test_volumes_ejection_fractions_and_myocardial_mass_are_those_of_an_adult(seed):
    diastole, systole = (study.structure_volumes_ml(patient(seed).label("SA", phase)) for phase in ("ED", "ES"))
    assert 90 < diastole["LV"] < 190 and 100 < diastole["RV"] < 210 and 65 < diastole["MYO"] < 160
    assert 0.52 < 1 - systole["LV"] / diastole["LV"] < 0.68
    assert 0.48 < 1 - systole["RV"] / diastole["RV"] < 0.66
    assert abs(systole["MYO"] / diastole["MYO"] - 1) < 0.10


@pytest.mark.parametrize("seed", SEEDS)
def test_the_mask_has_the_volumes_that_the_anatomy_asks_for(seed):
    anatomy = make_anatomy(np.random.default_rng([seed, 0]))
    volumes = study.structure_volumes_ml(patient(seed).label("SA", "ED"))
    assert beat(anatomy, 0.0).volumes()["LV"] == pytest.approx(anatomy.lv_volume, rel=1e-6)
    assert beat(anatomy, 0.0).volumes()["RV"] == pytest.approx(anatomy.rv_volume, rel=0.02)
    assert volumes["LV"] == pytest.approx(anatomy.lv_volume, rel=0.08)
    assert volumes["RV"] == pytest.approx(anatomy.rv_volume, rel=0.12)


def test_the_formula_of_the_lv_volume_is_that_of_an_ellipsoid():
    round_heart = replace(make_anatomy(np.random.default_rng(0), spread=0.0), lv_volume=100.0, lv_length=80.0)
    now = beat(round_heart, 0.0)
    # 3/4 of the length is the half axis h below the widest section, h/3 lies above it: pi r^2 h (2/3 + 1/3 - 1/81)
    expected = np.pi * now.radius**2 * 60 * (2 / 3 + 1 / 3 - 1 / 81) / 1000
    assert expected == pytest.approx(100.0, rel=1e-9)


def test_a_heart_that_contracts_keeps_its_mass_and_shortens():
    anatomy = make_anatomy(np.random.default_rng(5))
    moments = [beat(anatomy, value) for value in (0.0, 0.5, 1.0)]
    masses = [moment.volumes()["MYO"] for moment in moments]
    assert np.ptp(masses) < 0.01 * masses[0]
    assert moments[0].base < moments[1].base < moments[2].base
    assert moments[0].wall < moments[1].wall < moments[2].wall


def test_a_dilated_rv_is_larger_while_the_lv_stays():
    for seed in SEEDS:
        healthy = patient(seed)
        dilated = phantom.phantom_study(seed, dilated_rv=True)
        assert dilated.group == "DRV" and healthy.group == "NOR"
        small, large = (study.structure_volumes_ml(one.label("SA", "ED")) for one in (healthy, dilated))
        assert large["RV"] > 1.5 * small["RV"] and large["LV"] == pytest.approx(small["LV"], rel=0.03)
        areas = [np.count_nonzero(one.label("LA", "ED").pixels == RV) for one in (healthy, dilated)]
        assert areas[1] > 1.2 * areas[0]


@pytest.mark.parametrize("oblique", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_both_views_show_the_same_heart_at_the_same_place(seed, oblique):
    pair = phantom.phantom_study(seed, oblique=oblique)
    for phase in ("ED", "ES"):
        long, short = pair.label("LA", phase), pair.label("SA", phase)
        for label, share in ((LV, 0.85), (MYO, 0.6), (RV, 0.75)):
            found = labels_at(short, centres_lps(long, label))
            assert np.mean(found == label) > share
        distance = np.linalg.norm(
            centres_lps(long, LV).mean(0) - centres_lps(short, LV).mean(0),
        )
        assert distance < 12


def test_the_patient_may_lie_along_the_axes_or_obliquely_with_the_same_pixels():
    straight = phantom.phantom_study(3, views=("SA",), oblique=False).stack("SA", "ED")
    oblique = patient(3).stack("SA", "ED")
    np.testing.assert_array_equal(straight.pixels, oblique.pixels)
    np.testing.assert_allclose(np.abs(np.reshape(straight.geometry.direction, (3, 3))), np.eye(3), atol=1e-9)
    matrix = np.reshape(oblique.geometry.direction, (3, 3))
    assert np.all(np.abs(matrix).max(axis=0) < 0.97)
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(3), atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [{"blood": 400.0}, {"fat": 200.0}, {"noise": 60.0}, {"blur_mm": 2.0}, {"bias": 0.8}, {"ghosting": 0.2},
     {"flow": 0.4}, {"banding": 0.8}, {"texture": 3.0}, {"ink": False}, {"gain": 2.0}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_the_contrast_changes_the_image_and_never_the_labels(change):
    plain, other = small_patient(Contrast()), small_patient(replace(Contrast(), **change))
    for phase in ("ED", "ES"):
        np.testing.assert_array_equal(plain.label("SA", phase).pixels, other.label("SA", phase).pixels)
        assert np.abs(plain.stack("SA", phase).pixels - other.stack("SA", phase).pixels).max() > 20


def test_tissues_have_the_signals_that_the_contrast_names():
    clean = Contrast(texture=0, noise=1e-3, bias=0, blur_mm=0.1, ghosting=0, flow=0)
    shown = phantom.phantom_study(1, contrast=clean)
    image, label = shown.stack("SA", "ED").pixels, shown.label("SA", "ED").pixels
    assert np.median(image[label == LV]) == pytest.approx(clean.blood, rel=0.02)
    assert np.median(image[label == RV]) == pytest.approx(clean.rv_blood, rel=0.02)
    assert np.median(image[label == MYO]) == pytest.approx(clean.myocardium, rel=0.02)


def test_random_contrast_grows_with_its_strength():
    assert random_contrast(np.random.default_rng(0), 0.0).blood == Contrast().blood
    draws = {s: [random_contrast(np.random.default_rng(i), s).liver for i in range(40)] for s in (0.5, 1.0, 3.0)}
    assert np.std(np.log(draws[0.5])) < np.std(np.log(draws[1.0])) < np.std(np.log(draws[3.0]))
    with pytest.raises(ValueError, match="strength"):
        random_contrast(np.random.default_rng(0), -1.0)


def test_spacing_and_size_are_those_asked_for():
    stack = phantom.phantom_study(0, spacing=(1.2, 1.3, 8.0), size=(180, 220)).stack("SA", "ED")
    np.testing.assert_allclose(stack.geometry.spacing, (1.2, 1.3, 8.0), rtol=1e-6)
    assert stack.pixels.shape[1:] == (180, 220)


def test_a_cine_beats_once():
    frames = phantom.phantom_cine(1, "SA", 12, size=(160, 160), spacing=(1.8, 1.8, 10.0), labels=True)
    volumes = np.array([study.structure_volumes_ml(frame)["LV"] for frame in frames])
    end = int(volumes.argmin())
    assert [frame.phase for frame in frames].count("ED") == 1 and frames[0].phase == "ED"
    assert frames[end].phase == "ES" and volumes.argmax() == 0
    assert np.all(np.diff(volumes[: end + 1]) < 0) and np.all(np.diff(volumes[end:]) > 0)


def test_a_cine_shows_the_patient_of_the_study():
    images = phantom.phantom_cine(1, "LA", 8)
    ends = {frame.phase: frame for frame in images if frame.phase}
    for phase in ("ED", "ES"):
        np.testing.assert_array_equal(ends[phase].pixels, patient(1).stack("LA", phase).pixels)
    assert len(images) == 8 and {frame.pixels.dtype for frame in images} == {np.dtype("float32")}


@pytest.mark.parametrize("frames", [4, 5, 20, 25, 30, 40])
def test_the_course_of_a_beat_has_one_ed_and_one_es(frames):
    course = phantom.activation(frames)
    assert len(course) == frames and course[0] == 0 and course.max() == 1
    assert np.sum(course == 1) == 1 and np.sum(course == 0) == 1
    end = course.argmax()
    assert np.all(np.diff(course[: end + 1]) > 0) and np.all(np.diff(course[end:]) < 0)


@pytest.mark.parametrize("layout", ["mnms2", "acdc"])
def test_written_studies_are_found_and_read_back_as_they_were(tmp_path, layout):
    options = {"size": (128, 128), "spacing": (2.2, 2.2, 10.0)}
    folders = phantom.write_phantom(tmp_path, 2, 7, layout, diseases=("NOR", "DRV"), **options)
    sources = study.find_studies(tmp_path)
    assert [source.name for source in sources] == [folder.name for folder in folders]
    assert [source.layout for source in sources] == [layout, layout]
    assert [source.group for source in sources] == ["NOR", "DRV"]
    views = ("SA", "LA") if layout == "mnms2" else ("SA",)
    truth = phantom.phantom_study(7 * 100_003 + 2, disease="DRV", views=views, **options)
    read = sources[1].load(labels=True)
    for one in (*truth.stacks, *truth.labels):
        find = read.stack if one.pixels.dtype == np.float32 else read.label
        same = find(one.view, one.phase)
        np.testing.assert_array_equal(same.pixels, one.pixels)
        np.testing.assert_allclose(same.geometry.spacing, one.geometry.spacing, rtol=1e-5)
        np.testing.assert_allclose(same.geometry.direction, one.geometry.direction, atol=1e-5)
        np.testing.assert_allclose(same.geometry.origin, one.geometry.origin, atol=1e-2)


def test_a_cohort_has_its_table_its_cines_and_only_the_labels_asked_for(tmp_path):
    options = {"size": (96, 96), "spacing": (2.9, 2.9, 10.0)}
    phantom.write_phantom(tmp_path, 3, 0, views=("LA",), labelled=1, cine_frames=5, **options)
    with (tmp_path / "dataset_information.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["SUBJECT_CODE"] for row in rows] == ["001", "002", "003"]
    assert [row["DISEASE"] for row in rows] == list(DISEASES[:3]) and set(rows[0]) >= {"VENDOR", "SCANNER", "FIELD"}
    assert len(list(tmp_path.glob("*/*_gt.nii.gz"))) == 2
    assert sitk.ReadImage(str(tmp_path / "002" / "002_LA_CINE.nii.gz")).GetSize() == (96, 96, 1, 5)


def test_dilated_rv_makes_every_written_patient_one(tmp_path):
    phantom.write_phantom(tmp_path, 2, views=("LA",), size=(96, 96), spacing=(2.9, 2.9), dilated_rv=True)
    assert (tmp_path / "dataset_information.csv").read_text().count("DRV") == 2


def test_wrong_wishes_are_refused_with_the_choice_there_is(tmp_path):
    with pytest.raises(RVQCError, match="mnms2 or acdc"):
        phantom.write_phantom(tmp_path, 1, layout="bids")
    with pytest.raises(RVQCError, match="1 or more"):
        phantom.write_phantom(tmp_path, 0)
    with pytest.raises(ValueError, match="NOR"):
        phantom.phantom_study(0, disease="FLU")
    with pytest.raises(ValueError, match="SA, LA"):
        phantom.phantom_study(0, views=("AX",))
    with pytest.raises(ValueError, match="4 or more"):
        phantom.activation(3)
