"""Augmentation on batches: first sample what will be done, then do it.

Images are float (batch, 1, rows, columns) with intensities of about 0..1, labels uint8 (batch, rows, columns). All
randomness comes from the generator that is passed in. The source may be larger than the crop that leaves, so that a
moved or turned heart does not bring black corners with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor
from torch.nn import functional


@dataclass(frozen=True)
class AugmentationConfig:
    """Ranges and probabilities of what is done to an image. `dihedral` is the share that is laid down otherwise: one of
    the eight quarter turns and mirrors."""

    rotation_degrees: float = 30.0
    scale: tuple[float, float] = (0.75, 1.35)
    shear: float = 0.12
    shift_pixels: float = 14.0
    elastic_pixels: float = 2.0
    dihedral: float = 0.5
    remap: float = 0.5
    relabel: float = 0.2
    gamma: float = 0.4
    bias: float = 0.4
    blur: float = 0.25
    noise: float = 0.4
    ghost: float = 0.1

    def for_upright(self, *, dihedral: float = 0.1) -> AugmentationConfig:
        """The same for images that are turned upright: hearts lean more, and few are laid down otherwise."""
        return replace(self, rotation_degrees=max(self.rotation_degrees, 45.0), dihedral=dihedral)


def _uniform(generator: Generator, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    return torch.rand(shape, generator=generator) * (high - low) + low


def _chosen(generator: Generator, batch: int, probability: float) -> Tensor:
    return (torch.rand(batch, generator=generator) < probability).float()


def sample_grid(batch: int, source: int, size: int, *, config: AugmentationConfig, generator: Generator) -> Tensor:
    """A sampling grid (batch, size, size, 2) for `grid_sample` from a `source`-pixel square: turn, mirror, scale, shear,
    shift, and a smooth elastic deformation."""
    angle = _uniform(generator, (batch,), -1, 1) * math.radians(config.rotation_degrees)
    turn = _chosen(generator, batch, config.dihedral)
    angle = angle + turn * torch.randint(0, 4, (batch,), generator=generator) * (math.pi / 2)
    mirror = 1 - 2 * turn * torch.randint(0, 2, (batch,), generator=generator)
    scale = _uniform(generator, (batch,), math.log(config.scale[0]), math.log(config.scale[1])).exp()
    stretch = _uniform(generator, (batch,), -0.1, 0.1).exp()
    shear = _uniform(generator, (batch,), -config.shear, config.shear)
    cos, sin = angle.cos(), angle.sin()
    turned = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    zeros, ones = torch.zeros(batch), torch.ones(batch)
    sheared = torch.stack([torch.stack([ones, shear], -1), torch.stack([zeros, ones], -1)], -2)
    sized = torch.diag_embed(torch.stack([mirror * stretch / scale, 1 / (stretch * scale)], -1))
    matrix = turned @ sheared @ sized * (size / source)
    shift = _uniform(generator, (batch, 2), -1, 1) * (2 * config.shift_pixels / source)
    grid = functional.affine_grid(torch.cat([matrix, shift[:, :, None]], -1), [batch, 1, size, size], False)
    field = torch.randn(batch, 2, 6, 6, generator=generator) * (2 * config.elastic_pixels / source)
    smooth = functional.interpolate(field, size=(size, size), mode="bicubic", align_corners=False)
    return grid + smooth.movedim(1, -1)


def warp(images: Tensor, labels: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Images (linear) and labels (nearest) through a sampling grid (batch, rows, columns, 2); what comes from outside is black, background."""
    moved = functional.grid_sample(images, grid, mode="bilinear", align_corners=False)
    return moved, warp_labels(labels, grid)


def warp_labels(labels: Tensor, grid: Tensor) -> Tensor:
    """Labels through a sampling grid (batch, rows, columns, 2), nearest neighbour."""
    moved = functional.grid_sample(labels[:, None].float(), grid, mode="nearest", align_corners=False)
    return moved[:, 0].to(labels.dtype)


def remap(images: Tensor, *, probability: float, generator: Generator, knots: int = 8) -> Tensor:
    """Another scanner's contrast: every image through a random piecewise-linear curve, in half the cases monotone."""
    batch = len(images)
    steps = torch.rand(batch, knots, generator=generator)
    monotone = (steps + 0.15).cumsum(1)
    monotone = (monotone - monotone[:, :1]) / (monotone[:, -1:] - monotone[:, :1])
    loose = torch.linspace(0, 1, knots)[None] + _uniform(generator, (batch, knots), -0.3, 0.3)
    curve = torch.where(_chosen(generator, batch, 0.5)[:, None] > 0, monotone, loose)
    mapped = _through(images, curve)
    return _mix(images, mapped, _chosen(generator, batch, probability))


def _through(images: Tensor, curve: Tensor) -> Tensor:
    """Intensities 0..1 through the piecewise-linear curve (batch, knots) of each image."""
    knots = curve.shape[1]
    position = images.clamp(0, 1).flatten(1) * (knots - 1)
    left = position.long().clamp(max=knots - 2)
    low, high = curve.gather(1, left), curve.gather(1, left + 1)
    return (low + (high - low) * (position - left)).view_as(images)


def relabel(images: Tensor, labels: Tensor, *, probability: float, generator: Generator) -> Tensor:
    """Domain-randomized contrast from the label map: each structure brighter or darker as a whole (after SynthSeg)."""
    batch = len(images)
    offset = _uniform(generator, (batch, 4), -0.25, 0.25) * _chosen(generator, batch, probability)[:, None]
    offset[:, 0] = 0
    change = offset.gather(1, labels.flatten(1).long()).view_as(images)
    return images + functional.avg_pool2d(change, 3, stride=1, padding=1)


def gamma(images: Tensor, *, probability: float, generator: Generator) -> Tensor:
    """Gamma 0.5..2, of the inverted image in half the cases."""
    batch = len(images)
    power = _uniform(generator, (batch, 1, 1, 1), math.log(0.5), math.log(2)).exp()
    inverted = _chosen(generator, batch, 0.5)[:, None, None, None]
    base = (inverted + (1 - 2 * inverted) * images).clamp(1e-4, 1)
    return _mix(images, inverted + (1 - 2 * inverted) * base**power, _chosen(generator, batch, probability))


def bias(images: Tensor, *, probability: float, generator: Generator) -> Tensor:
    """A smooth multiplicative field, as a surface coil makes."""
    batch = len(images)
    field = torch.randn(batch, 1, 3, 3, generator=generator) * 0.35
    smooth = functional.interpolate(field, size=images.shape[-2:], mode="bicubic", align_corners=False).exp()
    return _mix(images, images * smooth, _chosen(generator, batch, probability))


def blur(images: Tensor, *, probability: float, generator: Generator) -> Tensor:
    """A Gaussian blur of one width a batch, for the images that draw it: lower resolution, motion."""
    sigma = float(_uniform(generator, (1,), 0.5, 1.6))
    offsets = torch.arange(-4, 5, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    blurred = functional.conv2d(images, kernel[None, None, None, :], padding=(0, 4))
    blurred = functional.conv2d(blurred, kernel[None, None, :, None], padding=(4, 0))
    return _mix(images, blurred, _chosen(generator, len(images), probability))


def noise(images: Tensor, *, probability: float, generator: Generator) -> Tensor:
    """Rician noise with a standard deviation up to 0.12 of the intensity range."""
    batch = len(images)
    sigma = _uniform(generator, (batch, 1, 1, 1), 0.01, 0.12)
    real, imaginary = (torch.randn(images.shape, generator=generator) * sigma for _ in range(2))
    noisy = torch.sqrt((images + real) ** 2 + imaginary**2)
    return _mix(images, noisy, _chosen(generator, batch, probability))


def ghost(images: Tensor, *, probability: float, generator: Generator) -> Tensor:
    """Breathing ghosts: faint copies displaced along rows or columns, one displacement a batch."""
    axis = 2 + int(torch.randint(0, 2, (1,), generator=generator))
    distance = int(torch.randint(images.shape[axis] // 6, images.shape[axis] // 2, (1,), generator=generator))
    weight = _uniform(generator, (len(images), 1, 1, 1), 0.05, 0.25)
    copies = 0.5 * (images.roll(distance, axis) + images.roll(-distance, axis))
    return _mix(images, (1 - weight) * images + weight * copies, _chosen(generator, len(images), probability))


def _mix(images: Tensor, changed: Tensor, chosen: Tensor) -> Tensor:
    return torch.where(chosen[:, None, None, None] > 0, changed, images)


def rescale(images: Tensor, *, generator: Generator) -> Tensor:
    """Back to 0..1 by each image's own range, with the clip points jittered as percentiles of other crops would be."""
    flat = images.flatten(1)
    low, high = flat.amin(1), flat.amax(1)
    jitter = _uniform(generator, (2, len(images)), -0.08, 0.12)
    low, high = low + jitter[0] * (high - low) * 0.5, high - jitter[1] * (high - low)
    scaled = (images - low[:, None, None, None]) / (high - low).clamp(min=1e-3)[:, None, None, None]
    return scaled.clamp(0, 1)


def augment(
    images: Tensor, labels: Tensor, size: int, *, config: AugmentationConfig, generator: Generator
) -> tuple[Tensor, Tensor]:
    """All of the above on one batch.

    Parameters
    ----------
    images, labels
        float (batch, 1, source, source) and uint8 (batch, source, source).

    Returns
    -------
    float (batch, 1, size, size) and uint8 (batch, size, size).
    """
    grid = sample_grid(len(images), images.shape[-1], size, config=config, generator=generator)
    images, labels = warp(images, labels, grid)
    images = relabel(images, labels, probability=config.relabel, generator=generator)
    images = remap(images, probability=config.remap, generator=generator)
    images = gamma(images, probability=config.gamma, generator=generator)
    images = bias(images, probability=config.bias, generator=generator)
    images = blur(images, probability=config.blur, generator=generator)
    images = noise(images, probability=config.noise, generator=generator)
    images = ghost(images, probability=config.ghost, generator=generator)
    return rescale(images, generator=generator), labels
