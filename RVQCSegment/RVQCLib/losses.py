"""The losses of Sec. 2.2: generalized Dice, its RV-weighted form, and their sums (eqs. 1 and 2).

Logits and one-hot targets are float tensors (batch, classes, rows, columns).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

WEIGHTS_RV = (0.0, 0.25, 0.25, 0.5)
"""Class weights of L_WGD (background, LV, MYO, RV): more importance to the RV, as the paper asks without numbers."""


def one_hot(labels: Tensor, classes: int = 4) -> Tensor:
    """One-hot float (batch, classes, rows, columns) of integer labels (batch, rows, columns)."""
    return functional.one_hot(labels.long(), classes).movedim(-1, 1).float()


def generalized_dice_loss(probabilities: Tensor, target: Tensor, *, weights: tuple[float, ...] | None = None) -> Tensor:
    """L_GD, the generalized Dice loss (Sudre et al., DLMIA 2017), over the whole batch; both (batch, classes, rows, columns).

    ``1 - 2 sum_l w_l sum_n r_ln p_ln / sum_l w_l sum_n (r_ln + p_ln)`` with ``w_l = 1 / (sum_n r_ln)^2``. A class that
    is absent from the batch takes the largest weight of those present. `weights` multiply the w_l (L_WGD).
    """
    axes = (0, 2, 3)
    p, r = probabilities.float(), target.float()
    volume = r.sum(axes)
    w = torch.where(volume > 0, 1.0 / volume.clamp(min=1.0) ** 2, 0.0)
    w = torch.where(volume > 0, w, w.max().clamp(min=1e-12))
    if weights is not None:
        w = w * torch.tensor(weights, dtype=w.dtype, device=w.device)
    overlap = (w * (r * p).sum(axes)).sum()
    total = (w * (r + p).sum(axes)).sum()
    return 1.0 - 2.0 * overlap / total.clamp(min=1e-12)


def supervised_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """L_SUP of eq. 1: ``L_GD + L_CE`` of a segmenter's logits against integer labels (batch, rows, columns)."""
    logits = logits.float()
    target = one_hot(labels, logits.shape[1])
    return generalized_dice_loss(logits.softmax(1), target) + functional.cross_entropy(logits, labels.long())


def deep_supervised_loss(logits: list[Tensor], labels: Tensor) -> Tensor:
    """L_SUP at several resolutions, finest first, with weights 1, 1/2, 1/4 ... that sum to one (nnU-Net)."""
    shares = [0.5**k for k in range(len(logits))]
    loss = logits[0].new_zeros((), dtype=torch.float32)
    for share, level in zip(shares, logits, strict=True):
        step = labels.shape[-1] // level.shape[-1]
        loss = loss + share / sum(shares) * supervised_loss(level, labels[:, ::step, ::step])
    return loss


def reconstruction_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """L_R of Sec. 2.2: ``L_MSE + L_GD`` of the autoencoder's logits against the true labels (batch, rows, columns)."""
    probabilities = logits.float().softmax(1)
    target = one_hot(labels, logits.shape[1])
    return functional.mse_loss(probabilities, target) + generalized_dice_loss(probabilities, target)


def semi_supervised_loss(logits: Tensor, reconstruction: Tensor, *, weights: tuple[float, ...] = WEIGHTS_RV) -> Tensor:
    """L_WGD of eq. 2 between a segmenter's logits and the labels (batch, rows, columns) that R made of its mask."""
    return generalized_dice_loss(logits.float().softmax(1), one_hot(reconstruction, logits.shape[1]), weights=weights)
