"""Phantoms of training variety: stranger images, labels that stay true."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from RVQCLib import phantom
from RVQCLib.phantom_anatomy import FLUID, Anatomy, beat, make_anatomy
from RVQCLib.phantom_scanner import Contrast, truncate
from RVQCLib.phantom_variety import FIELDS_MM, SMALL_FIELDS_MM, SPACINGS_MM, vary
from RVQCLib.stack import LABELS, Stack
from RVQCLib.study import find_studies

CLEAN = Contrast(texture=0, noise=1e-3, bias=0, blur_mm=0.1, ghosting=0, flow=0)


def long_axis(seed: int = 3, **options) -> tuple[Stack, Stack]:
    study = phantom.phantom_study(seed, views=("LA",), **options)
    return study.stack("LA", "ED"), study.label("LA", "ED")


def test_bent_hearts_carry_their_labels_with_them():
    _, straight = long_axis(contrast=CLEAN)
    image, bent = long_axis(contrast=CLEAN, warp=5.0)
    moved = np.mean(bent.pixels[straight.pixels > 0] != straight.pixels[straight.pixels > 0])
    assert moved > 0.1
    for name, signal in (("LV", CLEAN.blood), ("RV", CLEAN.rv_blood), ("MYO", CLEAN.myocardium)):
        inside = image.pixels[bent.pixels == LABELS[name]]
        assert np.median(inside) == pytest.approx(signal, rel=0.03)


def test_clutter_changes_the_body_and_neither_labels_nor_blood():
    (plain, truth), (strange, same) = long_axis(contrast=CLEAN), long_axis(contrast=CLEAN, clutter=0.8)
    np.testing.assert_array_equal(truth.pixels, same.pixels)
    cavity = truth.pixels == LABELS["LV"]
    assert np.mean(plain.pixels[cavity] == strange.pixels[cavity]) > 0.9
    assert np.mean(np.abs(plain.pixels - strange.pixels)[truth.pixels == 0] > 50) > 0.15


def test_an_effusion_is_a_bright_layer_around_the_heart():
    fluid = replace(CLEAN, fluid=1500.0)
    dry, _ = long_axis(contrast=fluid, anatomy=Anatomy())
    wet, truth = long_axis(contrast=fluid, anatomy=Anatomy(effusion=10.0))
    pixel_mm2 = np.prod(truth.geometry.spacing[:2])
    bright = [np.count_nonzero(image.pixels > 1300) * pixel_mm2 for image in (dry, wet)]
    assert bright[1] - bright[0] > 500 and FLUID < 16  # mm2; a layer of 10 mm along a third of the outline has 800
    assert not (wet.pixels > 1300)[truth.pixels == LABELS["RV"]].any()


def test_truncation_removes_the_high_frequencies_and_no_others():
    image = np.random.default_rng(0).standard_normal((1, 64, 48)).astype(np.float32)
    spectrum, kept = np.fft.fft2(image), np.fft.fft2(truncate(image, 0.5))
    far = np.abs(np.fft.fftfreq(64))[:, None] > 0.25, np.abs(np.fft.fftfreq(48))[None] > 0.25
    outside = far[0] | far[1]
    np.testing.assert_allclose(kept[0][outside], 0, atol=1e-3)
    np.testing.assert_allclose(kept[0][~outside], spectrum[0][~outside], atol=1e-3)


def test_a_later_taper_makes_a_fuller_rv_of_the_same_volume():
    cone, full = (beat(Anatomy(rv_taper=taper), 0.0) for taper in (1.3, 3.0))
    assert cone.volumes()["RV"] == pytest.approx(full.volumes()["RV"], rel=0.02)
    areas = [
        long_axis(anatomy=Anatomy(rv_taper=taper))[1].pixels for taper in (1.3, 3.0)
    ]  # the same volume, nearer the apex: the centre of the RV comes nearer to that of the whole heart
    centre = [np.argwhere(a == LABELS["RV"]).mean(0) - np.argwhere(a == LABELS["LV"]).mean(0) for a in areas]
    assert np.linalg.norm(centre[0] - centre[1]) > 1


def test_training_patients_are_the_same_for_a_seed_and_vary_more_with_strength():
    assert vary(5, "NOR") == vary(5, "NOR") != vary(6, "NOR")
    drawn = {s: [vary(seed, "NOR", s) for seed in range(40)] for s in (0.3, 1.0)}
    for options in drawn[1.0]:
        assert SPACINGS_MM[0] <= options["spacing"][0] <= SPACINGS_MM[1]
        field = max(n * options["spacing"][0] for n in options["size"])
        assert SMALL_FIELDS_MM[0] - 2 <= field <= FIELDS_MM[1] + 2
        assert isinstance(options["contrast"], Contrast) and options["contrast"].myocardium < options["contrast"].blood
    for of in (lambda o: np.log(o["anatomy"].rv_volume), lambda o: o["contrast"].liver / o["contrast"].blood):
        assert np.std([of(o) for o in drawn[0.3]]) < np.std([of(o) for o in drawn[1.0]])


@pytest.mark.parametrize("seed", range(8))
def test_every_training_patient_has_a_whole_heart(seed):
    image, truth = long_axis(seed, **vary(seed, "DRV"))
    assert np.isfinite(image.pixels).all() and set(np.unique(truth.pixels)) == {0, 1, 2, 3}
    cm2 = np.bincount(truth.pixels.ravel())[1:] * np.prod(truth.geometry.spacing[:2]) / 100
    assert 8 < cm2[0] < 90 and 4 < cm2[1] < 60 and 5 < cm2[2] < 90


def test_written_training_phantoms_carry_their_seed_as_a_name(tmp_path):
    folders = phantom.write_phantom(tmp_path, 2, 7, views=("LA",), variety=1.0)
    assert [folder.name for folder in folders] == ["00700022", "00700023"]  # 7 * 100003 + 1 and + 2
    sources = find_studies(tmp_path)
    assert [source.layout for source in sources] == ["mnms2", "mnms2"]
    read = sources[1].load(labels=True).label("LA", "ES").pixels
    own = phantom.phantom_study(700_023, views=("LA",), **vary(700_023, "LV")).label("LA", "ES").pixels
    np.testing.assert_array_equal(read, own)


def test_the_usual_patient_is_what_it_was():
    person = make_anatomy(np.random.default_rng(0))
    assert person.effusion == 0 and person.atria == (1.0, 1.0) and person.rv_taper == 1.5
