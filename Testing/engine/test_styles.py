"""The look of a new domain on other images: contrast, sharpness, noise and histogram follow, anatomy stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Generator

from RVQCLib.styles import Looks

SIZE = 64
RADIUS = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None, :])


def anatomy(seed: int, count: int = 24) -> np.ndarray:
    """Images with the spectrum of real ones, amplitudes falling with the radius, (count, SIZE, SIZE) within 0..1."""
    noise = np.random.default_rng(seed).standard_normal((count, SIZE, SIZE))
    radius = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.fftfreq(SIZE)[None, :])
    images = np.fft.ifft2(np.fft.fft2(noise) / (radius + 0.02) ** 1.5).real
    return (0.5 + 0.12 * images / images.std()).clip(0, 1).astype(np.float32)


def given(looks: Looks, images: np.ndarray, seed: int = 1) -> np.ndarray:
    found = looks.give(torch.from_numpy(images)[:, None], generator=Generator().manual_seed(seed))
    assert found.shape == (len(images), 1, SIZE, SIZE) and float(found.min()) >= 0 and float(found.max()) <= 1
    return found[:, 0].numpy()


def at(values: torch.Tensor, low: float, high: float) -> float:
    return float(values[0].numpy()[(low <= RADIUS) & (high > RADIUS)].mean())


def test_images_of_their_own_domain_stay_as_they_are() -> None:
    old, new = anatomy(0, 200), anatomy(1, 12)
    found = given(Looks.of([old[:100]], old), new)
    assert np.abs(found - new).mean() < 0.02
    assert np.corrcoef(found.ravel(), new.ravel())[0, 1] > 0.99


def test_a_blur_is_found_and_given() -> None:
    """A Gaussian of 1.5 pixels has the gain exp(-2 (pi 1.5 f)^2); the images given the look are those that are blurred."""
    old, new = anatomy(0, 200), anatomy(1, 12)
    blurred = ndimage.gaussian_filter(old[:100], (0, 1.5, 1.5), mode="wrap")
    looks = Looks.of([blurred], old)
    for low, high in ((0.08, 0.12), (0.13, 0.17), (0.18, 0.22)):
        expected = np.exp(-2 * (np.pi * 1.5 * (low + high) / 2) ** 2)
        assert abs(at(looks.gain, low, high) - expected) < 0.08
    assert float(looks.noise.max()) < 1e-4
    truth = ndimage.gaussian_filter(new, (0, 1.5, 1.5), mode="wrap")
    assert (given(looks, new) - truth).std() < 0.3 * (new - truth).std()


def test_noise_and_a_weaker_contrast_are_told_apart() -> None:
    old = anatomy(0, 200)
    grain = np.random.default_rng(5).standard_normal(old[:100].shape)
    looks = Looks.of([(0.25 + 0.5 * old[:100] + 0.1 * grain).astype(np.float32)], old)
    assert abs(at(looks.gain, 0.015, 0.065) - 0.5) < 0.04
    for low, high in ((0.015, 0.065), (0.15, 0.2), (0.3, 0.45)):
        assert abs(at(looks.noise, low, high) - 0.01) < 0.002
    found = given(looks, anatomy(1, 12))
    spectrum = np.abs(np.fft.rfft2(found - found.mean((1, 2), keepdims=True))) ** 2 / SIZE**2
    assert abs(float(spectrum[:, (RADIUS >= 0.3) & (RADIUS < 0.45)].mean()) - 0.01) < 0.002


@pytest.mark.parametrize(
    ("width", "contrast", "grain"), [(1.5, 0.8, 0.06), (2.5, 1.0, 0.1), (3.5, 1.0, 0.0), (0.0, 1.0, 0.15)]
)
def test_a_blur_and_noise_that_fill_up_the_same_frequencies_are_told_apart(
    width: float, contrast: float, grain: float
) -> None:
    """Noise over a blurred image, where the power of both is about that of a sharp image without noise."""
    old = anatomy(0, 200)
    image = 0.5 + contrast * (ndimage.gaussian_filter(old[:100], (0, width, width), mode="wrap") - 0.5)
    image += grain * np.random.default_rng(5).standard_normal(image.shape)
    looks = Looks.of([image.astype(np.float32)], old)
    expected = contrast * torch.from_numpy(np.exp(-2 * (np.pi * width * RADIUS) ** 2))[None]
    for low, high in ((0.03, 0.06), (0.08, 0.12), (0.13, 0.17)):
        assert abs(at(looks.gain, low, high) - at(expected, low, high)) < 0.06
        assert abs(at(looks.noise, low, high) ** 0.5 - grain) < 0.015


def test_the_histogram_follows() -> None:
    old = anatomy(0, 200)
    darker = old[:100] ** 2
    found = given(Looks.of([darker], old), anatomy(1, 60))
    quantiles = np.linspace(0.05, 0.95, 10)
    assert np.abs(np.quantile(found, quantiles) - np.quantile(darker, quantiles)).max() < 0.02


def test_every_image_gets_one_of_the_looks_and_the_same_draws_give_the_same() -> None:
    old = anatomy(0, 200)
    smooth = ndimage.gaussian_filter(old[:50], (0, 2, 2), mode="wrap")
    looks, new = Looks.of([old[:50], smooth], old), anatomy(1, 16)
    found = given(looks, new)
    assert np.array_equal(found, given(looks, new)) and not np.array_equal(found, given(looks, new, seed=2))
    rough = np.abs(np.diff(found, axis=2)).mean((1, 2)) / np.abs(np.diff(new, axis=2)).mean((1, 2))
    assert ((rough < 0.5) | (rough > 0.85)).all() and 0 < (rough < 0.5).sum() < 16
