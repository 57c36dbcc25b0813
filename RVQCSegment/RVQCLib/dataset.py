"""Labelled studies as training examples, and the split that keeps patients apart."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from RVQCLib.bundle import pools
from RVQCLib.files import RVQCError
from RVQCLib.slices import Crop, Sampling, crop_around, labels_to_network, locator_crop, to_network
from RVQCLib.study import Stack, StudySource

log = logging.getLogger(__name__)

PARTS = ("train", "validation", "test")
ENOUGH = 5
"""So many studies are always split; fewer may all be for training."""


@dataclass(frozen=True)
class Example:
    """One labelled stack on the networks' grid.

    `images` float16 (slices, size, size), 0..1; `labels` uint8 of the same shape; `spacing_zyx` in mm on that grid.
    """

    study: str
    group: str
    name: str
    images: np.ndarray
    labels: np.ndarray
    spacing_zyx: tuple[float, float, float]


def split(
    sources: Sequence[StudySource], *, seed: int, validation: float, test: float, leave_out: Collection[str] = ()
) -> dict[str, list[str]]:
    """Names of the studies for train, validation and test, the shares alike in every group, the same for a seed.

    A group too small to give a study to each part gives to training first. Where all groups are so small that a part
    with a share would stay empty, it gets its share of all studies, one a group at most, from `ENOUGH` studies on. What
    `leave_out` names, groups or single studies, goes to the test part whole and moves nobody of a group that fills its
    parts: so unseen pathologies are made, as those of the paper's Table 1.

    Raises
    ------
    RVQCError
        There is no group and no study of a name in `leave_out`.
    """
    _check_names(sources, leave_out)
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    groups: dict[str, list[str]] = defaultdict(list)
    for source in sources:
        outside = source.group in leave_out or source.name in leave_out
        (parts["test"] if outside else groups[source.group]).append(source.name)
    rest = []
    for group in sorted(groups):
        names = sorted(groups[group], key=lambda name: _rank(seed, name))
        n_test, n_validation = round(test * len(names)), round(validation * len(names))
        parts["test"] += names[:n_test]
        parts["validation"] += names[n_test : n_test + n_validation]
        rest.append(names[n_test + n_validation :])
    n = sum(map(len, groups.values()))
    for part, share in (("validation", validation), ("test", test)):
        if share > 0 and not parts[part] and n >= ENOUGH:
            parts[part] = _one_a_group(rest, max(1, round(share * n)), seed)
    parts["train"] = [name for names in rest for name in names]
    return {part: sorted(names) for part, names in parts.items()}


def _rank(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()


def _one_a_group(rest: list[list[str]], count: int, seed: int) -> list[str]:
    """Take up to `count` names, one a group, out of `rest`: the largest groups give first. One name stays behind."""
    count = min(count, sum(map(len, rest)) - 1)
    giving = sorted(filter(None, rest), key=lambda names: (-len(names), _rank(seed, names[0])))
    return [names.pop(0) for names in giving[: max(0, count)]]


def _check_names(sources: Sequence[StudySource], leave_out: Collection[str]) -> None:
    groups = {source.group for source in sources if source.group}
    if unknown := sorted(set(leave_out) - groups - {source.name for source in sources}):
        raise RVQCError(
            f"None of the {len(sources)} studies is {unknown[0]!r} or of that group, so it cannot be left out; the groups "
            f"are {', '.join(sorted(groups)) or 'not known'}."
        )


def unseen_groups(sources: Sequence[StudySource], views: dict[str, Any]) -> list[str]:
    """The groups of `sources` that training never saw, by the split that a bundle's `views` record.

    Empty where `sources` hold none of the studies that it was trained on: then nothing is known of their groups.
    """
    trained: set[str] = set()
    for view in views.values():
        for part in ("train", "validation"):
            trained |= set(view.get("training", {}).get("split", {}).get(part, ()))
    seen = {source.group for source in sources if source.name in trained}
    return sorted({source.group for source in sources if source.group} - seen) if seen else []


def not_new(
    judged: Sequence[StudySource], everyone: Sequence[StudySource], views: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """Which labelled studies of `judged` the networks know already, by what `views` of bundles record.

    Returns
    -------
    Their names: ``taught``, and of the others ``chose``: those that chose networks or calibrated them. ``said`` is the warning,
    which names the test part where that is among `everyone` and is new; empty where all studies are new.
    """
    recorded: dict[str, set[str]] = {part: set() for part in PARTS}
    for view in views:
        for part in PARTS:
            recorded[part] |= set(view.get("training", {}).get("split", {}).get(part, ()))
        for pool in pools(dict(view)):
            recorded["validation"] |= set((pool.get("calibration") or {}).get("studies", ()))
    taught, chose = recorded["train"], recorded["validation"] - recorded["train"]
    names = [source.name for source in judged if source.labels]
    found = {"taught": [n for n in names if n in taught], "chose": [n for n in names if n in chose]}
    test = recorded["test"] & {source.name for source in everyone}
    honest = "use --split test" if test and not test & (taught | chose) else "give others"
    return {**found, "said": _not_new_in_words(len(found["taught"]), len(found["chose"]), len(names), honest)}


def _not_new_in_words(taught: int, chose: int, n: int, honest: str) -> str:
    if not taught and not chose:
        return ""
    said = [f"{taught} of {n} studies taught these networks"] if taught else []
    if chose:
        said.append(
            f"{chose} chose or calibrated them"
            if taught
            else f"{chose} of {n} studies chose or calibrated these networks"
        )
    return f"{', '.join(said)}; {honest} for an honest number"


def training_crop(image: Stack, mask: Stack, sampling: Sampling, size: int) -> Crop:
    """A window of `size` pixels at the networks' spacing, centred on the true heart."""
    coarse = locator_crop(image, sampling)
    heart = labels_to_network(mask, coarse).any(axis=0)
    return replace(crop_around(heart, coarse, image, sampling), size=size)


def load_examples(
    sources: Sequence[StudySource], view: str, crop_of: Callable[[Stack, Stack], Crop], sampling: Sampling
) -> list[Example]:
    """Read every labelled stack of `view` and bring it to the window that ``crop_of(image, mask)`` names.

    Raises
    ------
    RVQCError
        No study has a labelled stack of this view.
    """
    examples = []
    for source in sources:
        study = source.load(labels=True)
        for image in study.stacks:
            mask = study.label(image.view, image.phase)
            if image.view != view or mask is None:
                continue
            crop = crop_of(image, mask)
            pixels = to_network(image, crop, sampling)[:, 0].astype(np.float16)
            spacing = (image.geometry.spacing_zyx[0], crop.spacing_mm, crop.spacing_mm)
            examples.append(
                Example(study.name, study.group, image.name, pixels, labels_to_network(mask, crop), spacing)
            )
    if not examples:
        raise RVQCError(f"None of the {len(sources)} studies has a labelled {view} stack; check the folder and --view.")
    return examples


def select_part(sources: Sequence[StudySource], views: dict[str, Any], part: str) -> list[StudySource]:
    """The studies of one part of the split that a bundle's `views` record (``all``: every one).

    Raises
    ------
    RVQCError
        The bundle records no such part, or none of its studies is among `sources`.
    """
    if part == "all":
        return list(sources)
    names: set[str] = set()
    for view in views.values():
        names |= set(view.get("training", {}).get("split", {}).get(part, ()))
    chosen = [source for source in sources if source.name in names]
    if not chosen:
        raise RVQCError(
            f"None of the {len(sources)} studies is in the {part} part of the split that the bundle records; "
            "use --split all for data that its training never saw."
        )
    return chosen


def fingerprint_of(pairs: Iterable[tuple[str, Stack, Stack]]) -> str:
    """A SHA-256 of (study, image, true mask) triples: the same data give the same fingerprint."""
    digest = hashlib.sha256()
    for study, image, truth in sorted(pairs, key=lambda t: (t[0], t[1].name)):
        digest.update(f"{study}/{image.name}".encode())
        digest.update(np.ascontiguousarray(image.pixels).tobytes())
        digest.update(np.ascontiguousarray(truth.pixels).tobytes())
    return digest.hexdigest()
