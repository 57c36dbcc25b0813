"""The look of a new domain on labelled images: contrast, sharpness, noise and histogram, without touching anatomy.

What a scanner changes can be read from unlabelled images by comparing their mean power spectrum with that of labelled ones:
``new = gain^2 * old + noise`` at every radius. A labelled image that went through this filter, got this noise and then the
new domain's intensities looks as if it came from there, and its true mask is still true. Means over a whole stack are
compared, not single slices: where the heart is and how large it is belong to the patient, not to the scanner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor, fft

FITTED = (0.015, 0.2)
"""Radii, in parts of the sampling frequency, from which contrast, blur and noise are told: beyond, interpolation to the networks'
pixels has made noise weaker."""
COARSE = 0.065
"""Below it anatomy is stronger than any noise, and an image no less sharp than the fitted blur says."""
FLOOR = 3e-4
"""Power, in squared intensities of a pixel, so little that errors are not counted in parts of it: what a strong blur leaves at fine
radii must not tell the contrast."""
WIDTHS = torch.arange(0, 4.55, 0.1)
"""Widths of a blur in pixels that are tried."""
KNOTS = 33
DRAWN = 48
"""Labelled images from which the curve of a look is found."""


@dataclass(frozen=True, eq=False)
class Looks:
    """The looks of k stacks of a new domain.

    Parameters
    ----------
    gain
        Factor on the amplitude of every frequency, (k, size, size // 2 + 1).
    noise
        Power that is added there, in squared intensities of a pixel, same shape.
    curves
        Intensities before and after, (k, 2, KNOTS): the last step, a monotone curve.
    """

    gain: Tensor
    noise: Tensor
    curves: Tensor

    @staticmethod
    def of(stacks: Sequence[np.ndarray], labelled: np.ndarray) -> Looks:
        """The looks of stacks (slices, size, size) beside labelled images (n, size, size), all 0..1."""
        old = _tensor(labelled)
        new = [_tensor(stack) for stack in stacks]
        gain, noise = _fitted(torch.stack([_power(one) for one in new]), _power(old))
        generator = Generator().manual_seed(0)
        curves = []
        for k, stack in enumerate(new):
            few = old[torch.randint(0, len(old), (DRAWN,), generator=generator)]
            curves.append(torch.stack([_levels(_filtered(few, gain[k], noise[k], generator)), _levels(stack)]))
        return Looks(gain, noise, torch.stack(curves))

    def give(self, images: Tensor, *, generator: Generator) -> Tensor:
        """Images (batch, 1, size, size), 0..1, each with one of the looks; all randomness comes from `generator`."""
        index = torch.randint(0, len(self.gain), (len(images),), generator=generator)
        filtered = _filtered(images[:, 0], self.gain[index], self.noise[index], generator)
        return _through(filtered, self.curves[index])[:, None].clamp(0, 1)


def _tensor(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))


def _radius(size: int) -> Tensor:
    return torch.hypot(fft.fftfreq(size)[:, None], fft.rfftfreq(size)[None, :])


def _power(images: Tensor) -> Tensor:
    """Mean power of images (n, size, size), (size, size // 2 + 1), the same all around a ring; white noise has its
    variance everywhere. The images are faded out toward their edges, which would look like detail."""
    size = images.shape[-1]
    fade = torch.hann_window(size, periodic=False)
    fade = fade[:, None] * fade[None, :]
    spectrum = fft.rfft2((images - images.mean((1, 2), keepdim=True)) * fade)
    power = (spectrum.real**2 + spectrum.imag**2).mean(0) / fade.square().sum()
    ring = (_radius(size) * size).round().long().flatten()
    sums = torch.zeros(int(ring.max()) + 1).index_add_(0, ring, power.flatten())
    return (sums / torch.bincount(ring))[ring].view_as(power)


def _fitted(new: Tensor, old: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and noise of spectra `new` (k, …) over the spectrum `old` (…): ``new = gain^2 * old + noise``.

    Noise fills up what a blur takes, so neither can be read alone: contrast, width of the blur and level of the noise are those
    at which ``contrast * blur(width)^2 * old + level`` is nearest to `new`. What this leaves is told apart ring by ring:
    gain at coarser radii, noise at those that are finer than `FITTED`.
    """
    radius = _radius(old.shape[0])
    old = old.clamp(min=1e-9)
    contrast, width, level = _nearest(new, old, radius)
    sharp = contrast * _blur(radius, width)
    noise = torch.where(radius < FITTED[1], level, (new - sharp * old).clamp(min=0))
    gain = ((new - noise) / old).clamp(min=0)
    gain = torch.where(radius < COARSE, torch.maximum(gain, sharp), gain)
    return torch.minimum(gain, contrast).sqrt(), noise


def _nearest(new: Tensor, old: Tensor, radius: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Contrast, width in pixels and level, each (k, 1, 1), of least squares of the error in parts of ``new + FLOOR``."""
    fitted = (radius >= FITTED[0]) & (radius < FITTED[1])
    r, seen = radius[fitted].double(), new[:, fitted].double()
    weight = 1 / r / (seen + FLOOR).square()  # a ring has as many pixels as its radius is long
    blurred = _blur(r, WIDTHS[:, None].double()) * old[fitted].double()
    # The normal equations of all spectra and widths, (k, widths).
    aa, a, one = weight @ blurred.square().T, weight @ blurred.T, weight.sum(1, keepdim=True)
    ay, y = (weight * seen) @ blurred.T, (weight * seen).sum(1, keepdim=True)
    level = ((aa * y - a * ay) / (aa * one - a.square())).clamp(min=0)
    contrast = ((ay - level * a) / aa).clamp(min=1e-6)
    error = contrast.square() * aa + level.square() * one + 2 * (contrast * level * a - contrast * ay - level * y)
    best = error.argmin(1, keepdim=True)
    return (
        contrast.gather(1, best)[..., None].float(),
        WIDTHS[best][..., None],
        level.gather(1, best)[..., None].float(),
    )


def _blur(radius: Tensor, width: Tensor) -> Tensor:
    """What a Gaussian of `width` pixels leaves of the power at a radius."""
    return (-((2 * np.pi * width * radius) ** 2)).exp()


def _filtered(images: Tensor, gain: Tensor, noise: Tensor, generator: Generator) -> Tensor:
    """Images (n, size, size) with a gain and a noise, of one look or of one each; their means stay."""
    mean = images.mean((1, 2), keepdim=True)
    grain = fft.rfft2(torch.randn(images.shape, generator=generator))
    spectrum = fft.rfft2(images - mean) * gain + grain * noise.sqrt()
    return fft.irfft2(spectrum, s=images.shape[-2:]) + mean


def _levels(images: Tensor) -> Tensor:
    """Quantiles of all pixels together, (KNOTS,)."""
    pixels = images.flatten().sort().values
    return pixels[torch.linspace(0, len(pixels) - 1, KNOTS).round().long()]


def _through(images: Tensor, curves: Tensor) -> Tensor:
    """Images (n, size, size) through curves (n, 2, KNOTS)."""
    # Ties (the black frame around an image) need growing knots.
    own, other = (curves[:, 0] + torch.arange(KNOTS) * 1e-6).contiguous(), curves[:, 1].contiguous()
    flat = images.flatten(1).contiguous()
    right = torch.searchsorted(own, flat).clamp(1, KNOTS - 1)
    low, high = own.gather(1, right - 1), own.gather(1, right)
    part = ((flat - low) / (high - low)).clamp(0, 1)
    return torch.lerp(other.gather(1, right - 1), other.gather(1, right), part).view_as(images)
