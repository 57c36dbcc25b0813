"""What refinement learns from and is watched by: flagged stacks, labelled slices, guards with and without the new look."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from RVQCLib.bundle import ViewModels
from RVQCLib.dataset import Example, load_examples, training_crop
from RVQCLib.domain import Domain
from RVQCLib.ghosts import Ghosts
from RVQCLib.guards import thinned
from RVQCLib.inference import hard_masks
from RVQCLib.recipes import RefinementConfig
from RVQCLib.shapes import Shapes
from RVQCLib.slices import Crop, Sampling
from RVQCLib.stack import Stack
from RVQCLib.study import StudySource
from RVQCLib.styles import Looks
from RVQCLib.teachers import Flagged


@dataclass(frozen=True, eq=False)
class Material:
    """What the candidates of a view learn from and are watched by; `labelled` and the guards are empty without labels.

    Parameters
    ----------
    flagged
        Stacks of the new domain.
    labelled
        Training examples in a larger window than the network's.
    guard, styled
        Thinned guard examples as they are, and with the look and the shapes of the new domain.
    looks
        Of the flagged stacks; None without labels.
    ghosts
        Of the flagged stacks; None without labels, or where no stack has any.
    shapes
        Of the hearts in the flagged stacks; None without labels, or where their RVs are of a usual size.
    domain
        How to tell images like the flagged stacks from the labelled ones; None without labels.
    """

    flagged: Sequence[Flagged]
    labelled: Sequence[Example] = ()
    guard: Sequence[Example] = ()
    styled: Sequence[Example] = ()
    looks: Looks | None = None
    ghosts: Ghosts | None = None
    shapes: Shapes | None = None
    domain: Domain | None = None


def source_size(part: Mapping[str, Any], config: RefinementConfig) -> int:
    """Size of the window from which augmentation crops, for a view's part of ``bundle.json``: at least the network's, an even
    number of pixels larger."""
    size = part["sampling"]["size"]
    recorded = part.get("training", {}).get("config", {}).get("source_size")
    wanted = max(size, recorded or config.source_size * size // 128)
    return wanted + (wanted - size) % 2


def gather(
    parts: Mapping[str, Sequence[StudySource]],
    view: str,
    flagged: Sequence[Flagged],
    models: ViewModels,
    config: RefinementConfig,
    source: int,
    check: Callable[[], None] = lambda: None,
) -> Material:
    """What the candidates of `view` learn from and are watched by.

    Parameters
    ----------
    parts
        The labelled studies: ``train``, without which there is nothing but the flagged stacks, and ``guard``.
    source
        Size of the larger window (`source_size`).
    check
        Is called before every stack and may raise.
    """
    if not parts["train"]:
        return Material(flagged)
    sampling = models.sampling

    def examples(sources: Sequence[StudySource], size: int) -> list[Example]:
        def crop(image: Stack, mask: Stack) -> Crop:
            check()
            return training_crop(image, mask, sampling, size)

        return load_examples(sources, view, crop, sampling)

    labelled = examples(parts["train"], source) if config.recipe.supervised else []
    guards = examples(parts["guard"], sampling.size)
    thin = thinned(guards, config.guard_slices)
    new = [stack.images[:, 0] for stack in flagged]
    # Not the guard's: it is to show how often an image of before is taken for one of the new domain.
    old = [_scaled(_middle(one.images, sampling), sampling) for one in labelled] or [one.images for one in guards]
    ghosts = Ghosts.of([stack.source for stack in flagged])
    shapes = Shapes.of([_consensus(stack) for stack in flagged], [example.labels for example in guards])
    generator = torch.Generator().manual_seed(config.seed)
    seen = guards
    if shapes is not None or ghosts is not None:  # ghosts come from beyond the guard's own window
        seen = []
        for example in examples(parts["guard"], source):
            check()
            seen.append(_as_new(example, shapes, ghosts, sampling, generator))
    looks = Looks.of(new, np.concatenate([example.images for example in seen]))
    styled = _styled(thinned(seen, config.guard_slices), looks, generator)
    domain = replace(Domain.of(new, old), size=shapes.least if shapes else None)
    return Material(flagged, labelled, thin, styled, looks, ghosts, shapes, domain)


def _consensus(stack: Flagged) -> np.ndarray:
    """The mask (slices, size, size) on which a flagged stack's voters agree."""
    return hard_masks(stack.voters.astype(np.float32).mean(axis=0))[0]


def _as_new(
    example: Example, shapes: Shapes | None, ghosts: Ghosts | None, sampling: Sampling, generator: torch.Generator
) -> Example:
    """An example of a larger window with shapes and ghosts of the new domain, cut to the networks' and scaled to 0..1 there."""
    pixels, labels = torch.from_numpy(example.images).float()[:, None], torch.from_numpy(example.labels)
    if shapes is not None:
        pixels, labels = shapes.give(pixels, labels, generator=generator)
    if ghosts is not None:
        pixels = ghosts.give(pixels, generator=generator)
    images = _scaled(_middle(pixels[:, 0].numpy(), sampling), sampling)
    return replace(example, images=images, labels=_middle(labels.numpy(), sampling))


def _middle(pixels: np.ndarray, sampling: Sampling) -> np.ndarray:
    """The networks' window of a larger one (slices, size, size)."""
    edge = (pixels.shape[-1] - sampling.size) // 2
    return pixels[:, edge : edge + sampling.size, edge : edge + sampling.size]


def _scaled(images: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Images scaled to 0..1 by what they hold, float16."""
    images = images.astype(np.float32)
    return sampling.scale(images, images).astype(np.float16)


def _styled(guard: Sequence[Example], looks: Looks, generator: torch.Generator) -> list[Example]:
    """The guard examples with the look of the new domain: labelled, and like what is to be segmented."""
    result = []
    for example in guard:
        styled = looks.give(torch.from_numpy(example.images).float()[:, None], generator=generator)[:, 0]
        result.append(replace(example, images=styled.numpy().astype(np.float16)))
    return result
