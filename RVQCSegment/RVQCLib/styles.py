"""The look of a new domain on labelled images: histogram, coil shading, sharpness and noise, without touching anatomy.

What a scanner changes is mostly in an image's histogram and in its spectrum of amplitudes; where the heart is lies in the
phase. So a labelled image can be given the look of an unlabelled one and keep its true mask. Low frequencies are
exchanged as in Fourier domain adaptation (Yang & Soatto, CVPR 2020); above them the mean amplitude of every radius is
matched: by damping where the new domain is smoother, by noise where it has more power.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, fft

LOW = 0.02
"""Frequencies, in parts of the sampling frequency, whose amplitudes are exchanged one by one: shading and coarse contrast."""
KNOTS = 33
MOST = 4.0
"""By how much a single low frequency may change; ringing grows with it."""


def give_style(images: Tensor, examples: Tensor, *, share: float, generator: Generator) -> Tensor:
    """Images with the look of others, in a share of them.

    Parameters
    ----------
    images
        float (batch, 1, size, size), 0..1.
    examples
        float (n, 1, size, size) of the new domain; every image draws one of them.
    share
        Part of the images that is changed.
    generator
        All randomness comes from it; the same draws are made whatever `share` is.
    """
    batch = len(images)
    drawn = examples[torch.randint(0, len(examples), (batch,), generator=generator)].to(images)
    grain = torch.randn(images.shape, generator=generator)
    chosen = (torch.rand(batch, generator=generator) < share)[:, None, None, None]
    styled = match_spectrum(match_histogram(images, drawn), drawn, grain)
    return torch.where(chosen, styled, images)


def match_histogram(images: Tensor, examples: Tensor) -> Tensor:
    """Every image through the monotone curve that gives it the quantiles of its example; shapes (batch, 1, size, size)."""
    levels = torch.linspace(0, 1, KNOTS)
    own = torch.quantile(images.flatten(1), levels, dim=1).T.contiguous()
    other = torch.quantile(examples.flatten(1), levels, dim=1).T.contiguous()
    # Ties (the black frame around an image) need growing knots.
    own = own + torch.arange(KNOTS) * 1e-6
    flat = images.flatten(1).contiguous()
    right = torch.searchsorted(own, flat).clamp(1, KNOTS - 1)
    low, high = own.gather(1, right - 1), own.gather(1, right)
    part = ((flat - low) / (high - low)).clamp(0, 1)
    return torch.lerp(other.gather(1, right - 1), other.gather(1, right), part).view_as(images)


def match_spectrum(images: Tensor, examples: Tensor, grain: Tensor) -> Tensor:
    """Every image with the low frequencies' amplitudes of its example and, above them, its mean amplitude by radius.

    Parameters
    ----------
    images, examples, grain
        (batch, 1, size, size); `grain` is white noise of standard deviation 1, the source of the power that is missing.
    """
    size = images.shape[-1]
    own, other = fft.rfft2(images), fft.rfft2(examples)
    radius = torch.hypot(fft.fftfreq(size)[:, None], fft.rfftfreq(size)[None, :])
    ring = (radius * size).round().long()
    mine, theirs = _power_by_radius(own, ring), _power_by_radius(other, ring)
    damping = (theirs / mine.clamp(min=1e-12)).clamp(max=1.0).sqrt()
    missing = (theirs - mine).clamp(min=0.0).sqrt() / size
    shaped = own * damping + fft.rfft2(grain) * missing
    amplitude = other.abs() / own.abs().clamp(min=1e-6)
    swapped = own * amplitude.clamp(1 / MOST, MOST)
    low = (radius < LOW) & (radius > 0)
    result = torch.where(radius == 0, other, torch.where(low, swapped, shaped))
    return fft.irfft2(result, s=(size, size))


def _power_by_radius(spectrum: Tensor, ring: Tensor) -> Tensor:
    """Mean squared amplitude of the pixels of every ring, spread over them again; real, of the shape of `spectrum`."""
    power = spectrum.real**2 + spectrum.imag**2
    flat, index = power.flatten(2), ring.flatten()
    count = torch.bincount(index).clamp(min=1)
    sums = torch.zeros(*flat.shape[:2], len(count)).index_add_(2, index, flat)
    return (sums / count)[..., index].view_as(power)
