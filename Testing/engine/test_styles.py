"""The look of a new domain on other images: histogram and spectrum follow, anatomy stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Generator, Tensor

from RVQCLib.styles import give_style, match_histogram, match_spectrum

SIZE = 64


def smooth_noise(seed: int, sigma: float, size: int = SIZE) -> Tensor:
    """A smooth random image, 0..1."""
    image = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((size, size)), sigma, mode="wrap")
    image = (image - image.min()) / (image.max() - image.min())
    return torch.from_numpy(image.astype(np.float32))[None, None]


def power(image: Tensor, low: float, high: float) -> float:
    """Mean squared amplitude between two radii in parts of the sampling frequency, by numpy."""
    spectrum = np.abs(np.fft.fft2(image[0, 0].numpy())) ** 2
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(SIZE), np.fft.fftfreq(SIZE)))
    return float(spectrum[(radius >= low) & (radius < high)].mean())


def test_the_histogram_follows_and_the_order_of_intensities_stays() -> None:
    image, example = smooth_noise(0, 2), smooth_noise(1, 2) ** 3 * 0.5
    matched = match_histogram(image, example)
    quantiles = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])
    assert torch.allclose(torch.quantile(matched, quantiles), torch.quantile(example, quantiles), atol=0.01)
    order = image.flatten().argsort()
    assert (matched.flatten()[order].diff() >= -1e-6).all()


def test_an_image_of_its_own_domain_stays_as_it_is() -> None:
    image = smooth_noise(3, 1.5)
    grain = torch.randn(image.shape, generator=Generator().manual_seed(0))
    assert torch.allclose(match_histogram(image, image), image, atol=2e-3)
    assert torch.allclose(match_spectrum(image, image, grain), image, atol=1e-5)


def test_a_sharp_image_becomes_as_smooth_as_its_example() -> None:
    image, example = smooth_noise(0, 1.2), 0.5 * smooth_noise(1, 3)
    styled = match_spectrum(image, example, torch.zeros_like(image))
    # By whole rings around the centre; the half plane of a real image weighs their points a little differently.
    for ring in (5, 6, 8, 10):
        edges = ((ring - 0.5) / SIZE, (ring + 0.5) / SIZE)
        assert power(image, *edges) > 2 * power(example, *edges)
        assert power(styled, *edges) == pytest.approx(power(example, *edges), rel=0.25)


def test_a_clean_image_becomes_as_noisy_as_its_example() -> None:
    image, clean = smooth_noise(0, 3), smooth_noise(1, 3)
    generator = Generator().manual_seed(4)
    example = clean + 0.1 * torch.randn(clean.shape, generator=generator)
    styled = match_spectrum(image, example, torch.randn(image.shape, generator=generator))
    assert power(image, 0.3, 0.5) < 0.01 * power(example, 0.3, 0.5)
    assert power(styled, 0.3, 0.5) == pytest.approx(power(example, 0.3, 0.5), rel=0.2)
    assert float(styled.mean()) == pytest.approx(float(example.mean()), abs=1e-4)


def test_edges_stay_where_they_are() -> None:
    disc = torch.from_numpy((np.hypot(*(np.mgrid[:SIZE, :SIZE] - 30.0)) < 12).astype(np.float32))[None, None] * 0.6
    styled = match_spectrum(disc, smooth_noise(1, 2), torch.zeros_like(disc))
    spectra = [np.fft.fft2(x[0, 0].numpy()) for x in (disc, styled)]
    strong = np.minimum(*np.abs(spectra)) > 0.5
    assert strong.sum() > 40
    turn = np.angle(spectra[1][strong] / spectra[0][strong])
    assert np.abs(turn).max() < 1e-2  # the phases say where things are


def test_a_share_of_the_images_is_changed_and_the_same_draws_give_the_same() -> None:
    images, examples = torch.cat([smooth_noise(k, 2) for k in range(8)]), smooth_noise(20, 4) * 0.3
    none = give_style(images, examples, share=0.0, generator=Generator().manual_seed(1))
    some = give_style(images, examples, share=0.5, generator=Generator().manual_seed(1))
    again = give_style(images, examples, share=0.5, generator=Generator().manual_seed(1))
    assert torch.equal(none, images) and torch.equal(some, again)
    changed = (some != images).flatten(1).any(1)
    assert 0 < int(changed.sum()) < 8
