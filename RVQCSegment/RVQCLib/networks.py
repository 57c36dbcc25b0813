"""The networks: BN1 and BN2 (candidates M), the autoencoder of the QC module R, and the door for any other segmenter.

All networks are two-dimensional and take and give float tensors (batch, channels, rows, columns). A segmenter maps one
image channel to logits of ``classes`` channels in the order background, LV, MYO, RV. The autoencoder maps a one-hot mask
to logits of the same shape. Rows and columns are multiples of ``2 ** (stages - 1)``, for the autoencoder of 32.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from RVQCLib.files import RVQCError

_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),
}

_WHOLE = {"width": (1, 256), "stages": (2, 8), "latent": (1, 1024), "classes": (2, 64)}
_MOST_CHANNELS = 4096
"""Of one layer. A 3 x 3 convolution between two such has 150 million weights."""


def _check(*, norm: str = "batch", dropout: float = 0.0, **whole: int) -> None:
    """Raise ValueError where a parameter of a network is none that it can have; `whole` are keys of `_WHOLE`."""
    for name, value in whole.items():
        low, high = _WHOLE[name]
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{name} is {value!r}, give a whole number from {low} to {high}")
    if norm not in tuple(_NORMS):
        raise ValueError(f"norm is {norm!r}, give {' or '.join(_NORMS)}")
    if type(dropout) not in (int, float) or not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout!r}, give a number from 0 to below 1")


def _widths(width: int, stages: int, most: int) -> list[int]:
    """Channels of every stage: they double up to ``most * width``."""
    widest = min(2 ** (stages - 1), most) * width
    if widest > _MOST_CHANNELS:
        raise ValueError(
            f"width is {width} and stages {stages}, {widest} channels at the coarsest, give fewer than {_MOST_CHANNELS + 1}"
        )
    return [min(2**k, most) * width for k in range(stages)]


def _block(inputs: int, outputs: int, norm: str, *, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False),
        _NORMS[norm](outputs),
        nn.LeakyReLU(0.01, inplace=True),
    )


def _double(inputs: int, outputs: int, norm: str, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(_block(inputs, outputs, norm, stride=stride), _block(outputs, outputs, norm))


class BN1(nn.Module):
    """The 2-D U-Net of nnU-Net, which won the M&Ms challenge (Full et al., STACOM 2020; Isensee et al., 2021).

    Two convolutions a stage, strided convolutions down, transposed convolutions up, normalization and leaky ReLU after
    every convolution, and logits at every decoder stage for deep supervision.

    Parameters
    ----------
    width
        Channels of the first stage; they double a stage up to ``16 * width``. nnU-Net's own is 32; 16 suits a CPU.
    stages
        Resolutions, the full one included.
    norm
        ``instance`` (nnU-Net's) or ``batch``.
    """

    def __init__(self, *, width: int = 32, stages: int = 6, classes: int = 4, norm: str = "instance") -> None:
        super().__init__()
        _check(width=width, stages=stages, classes=classes, norm=norm)
        channels = _widths(width, stages, 16)
        self.encoder = nn.ModuleList(
            _double(1 if k == 0 else channels[k - 1], channels[k], norm, stride=1 if k == 0 else 2)
            for k in range(stages)
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(channels[k + 1], channels[k], 2, 2) for k in range(stages - 1))
        self.decoder = nn.ModuleList(_double(2 * channels[k], channels[k], norm) for k in range(stages - 1))
        self.heads = nn.ModuleList(nn.Conv2d(channels[k], classes, 1) for k in range(min(3, stages - 1)))

    def _decode(self, image: Tensor) -> list[Tensor]:
        skips = []
        features = image
        for stage in self.encoder:
            features = stage(features)
            skips.append(features)
        outputs = []
        for k in reversed(range(len(self.up))):
            features = self.decoder[k](torch.cat([self.up[k](features), skips[k]], dim=1))
            outputs.append(features)
        return outputs[::-1]

    def forward(self, image: Tensor) -> Tensor:
        """Logits (batch, classes, rows, columns) of images (batch, 1, rows, columns)."""
        return self.heads[0](self._decode(image)[0])

    def forward_deep(self, image: Tensor) -> list[Tensor]:
        """Logits at full, half and quarter resolution, finest first, for deep supervision."""
        return [head(features) for head, features in zip(self.heads, self._decode(image), strict=False)]


class BN2(nn.Module):
    """The 2-D U-Net that won the ACDC challenge (Isensee et al., STACOM 2017).

    Pooling down, bilinear upscaling and a convolution up, batch normalization, dropout, and logits that are summed over
    the three finest decoder stages, each upscaled to the next: deep supervision inside the forward pass.

    Parameters
    ----------
    width
        Channels of the first of five stages; they double a stage. The authors' own is 48; 16 suits a CPU.
    dropout
        Probability of dropping a feature map in the two coarsest stages.
    """

    def __init__(
        self, *, width: int = 48, stages: int = 5, classes: int = 4, norm: str = "batch", dropout: float = 0.3
    ) -> None:
        super().__init__()
        _check(width=width, stages=stages, classes=classes, norm=norm, dropout=dropout)
        channels = _widths(width, stages, 2**stages)
        self.encoder = nn.ModuleList(
            _double(1 if k == 0 else channels[k - 1], channels[k], norm) for k in range(stages)
        )
        self.up = nn.ModuleList(_block(channels[k + 1], channels[k], norm) for k in range(stages - 1))
        self.decoder = nn.ModuleList(_double(2 * channels[k], channels[k], norm) for k in range(stages - 1))
        self.heads = nn.ModuleList(nn.Conv2d(channels[k], classes, 1) for k in range(min(3, stages - 1)))
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (batch, classes, rows, columns) of images (batch, 1, rows, columns)."""
        skips = []
        features = image
        for k, stage in enumerate(self.encoder):
            features = stage(features if k == 0 else functional.max_pool2d(features, 2))
            if k >= len(self.encoder) - 2:
                features = self.dropout(features)
            skips.append(features)
        logits: Tensor | None = None
        for k in reversed(range(len(self.up))):
            up = self.up[k](_double_size(features))
            features = self.decoder[k](torch.cat([up, skips[k]], dim=1))
            if k < len(self.heads):
                here = self.heads[k](features)
                logits = here if logits is None else here + _double_size(logits)
        assert logits is not None
        return logits


def _double_size(features: Tensor) -> Tensor:
    return functional.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)


class Autoencoder(nn.Module):
    """The convolutional autoencoder of the QC module R (Galati & Zuluaga, FIMH 2021, reference [9] of the paper).

    Strided convolutions squeeze a one-hot mask to ``latent`` maps of 1/32 its size; transposed convolutions bring it back.
    What does not look like the anatomy it has seen does not fit through.
    """

    def __init__(self, *, width: int = 32, latent: int = 32, classes: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        _check(width=width, latent=latent, classes=classes, dropout=dropout)
        channels = [classes, width, 2 * width, 4 * width, 4 * width, 8 * width]
        down: list[nn.Module] = []
        for inputs, outputs in zip(channels[:-1], channels[1:], strict=True):
            down += [nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2, True)]
        self.encoder = nn.Sequential(*down, nn.Dropout2d(dropout), nn.Conv2d(channels[-1], latent, 1))
        up: list[nn.Module] = [nn.Conv2d(latent, channels[-1], 1), nn.LeakyReLU(0.2, True)]
        for inputs, outputs in zip(channels[:1:-1], channels[-2:0:-1], strict=True):
            up += [
                nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.LeakyReLU(0.2, True),
            ]
        self.decoder = nn.Sequential(*up, nn.ConvTranspose2d(width, classes, 4, 2, 1))

    def forward(self, mask: Tensor) -> Tensor:
        """Logits of the reconstruction of a one-hot mask, both (batch, classes, rows, columns)."""
        return self.decoder(self.encoder(mask))


NETWORKS: dict[str, Callable[..., nn.Module]] = {"BN1": BN1, "BN2": BN2, "AE": Autoencoder}


def build(name: str, parameters: dict[str, Any], *, allow: Sequence[str] = ()) -> nn.Module:
    """Build the network `name` with keyword `parameters`.

    `name` is a key of `NETWORKS` or a factory ``package.module:function`` that returns a `torch.nn.Module`. A factory is
    imported only when `allow` holds its very name: a bundle cannot make this machine import what its author chose.

    Raises
    ------
    RVQCError
        The name is unknown, the factory is not allowed or cannot be imported, or the parameters do not fit.
    """
    if name in NETWORKS:
        factory = NETWORKS[name]
    elif ":" not in name:
        raise RVQCError(f"There is no network {name!r}; choose from {', '.join(NETWORKS)} or name a 'module:factory'.")
    elif name not in allow:
        raise RVQCError(
            f"The network {name!r} is code from outside RVQC; if you trust it, allow it by name (--allow {name})."
        )
    else:
        factory = _foreign(name)
    try:
        model = factory(**parameters)
    except (TypeError, KeyError, ValueError, RuntimeError) as error:
        raise RVQCError(
            f"The network {name!r} cannot be built with {parameters} ({error}); check its parameters."
        ) from error
    if not isinstance(model, nn.Module):
        raise RVQCError(f"The factory {name!r} makes a {type(model).__name__}, no torch.nn.Module; name another one.")
    return model


def check_shapes(model: nn.Module, name: str, inputs: int, classes: int, size: int) -> None:
    """Raise RVQCError where `model` does not map images of `inputs` channels, `size` pixels wide and high, to logits of
    `classes` channels of that size: a network with too many stages for it, or one from outside that is no such segmenter."""
    expected = (1, classes, size, size)
    try:
        with torch.inference_mode():
            made = tuple(model.eval()(torch.zeros(1, inputs, size, size)).shape)
        why = f"they have the shape {made}, not {expected}"
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        made, why = None, f"{error} ".splitlines()[0].strip()
    if made != expected:
        raise RVQCError(
            f"The network {name!r} makes no logits of {classes} classes of {size} x {size} pixels ({why}); "
            "choose other parameters, such as fewer stages, or another --size."
        )


def _foreign(name: str) -> Callable[..., nn.Module]:
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise RVQCError(
            f"The network factory {name!r} cannot be imported ({error}); install it or check its name."
        ) from error
