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

COARSE = (0.015, 0.065)
"""Radii, in parts of the sampling frequency, at which anatomy is stronger than any noise: they tell the contrast."""
FINE = (0.125, 0.2)
"""Radii that tell the level of the noise, which is no lower at coarser ones."""
ROUNDS = 4
"""Contrast and noise are estimated in turn, each with the other taken off."""
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

    Power above that of the old images at their contrast is noise; below it the new images are less sharp.
    """
    radius = _radius(old.shape[0])
    coarse, fine = ((radius >= low) & (radius < high) for low, high in (COARSE, FINE))
    old = old.clamp(min=1e-9)
    level = torch.zeros(len(new), 1, 1)
    for _ in range(ROUNDS):
        contrast = ((new - level).clamp(min=1e-6) / old)[:, coarse].log().mean(1).exp()[:, None, None]
        excess = (new - contrast * old).clamp(min=0)
        level = excess[:, fine].mean(1)[:, None, None]
    noise = torch.where(radius < FINE[1], level, excess)
    sharp = torch.minimum(((new - noise) / old).clamp(min=0), contrast)
    return torch.where(radius < COARSE[1], contrast, sharp).sqrt(), noise


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
