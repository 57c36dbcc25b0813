"""The labelled studies of a refinement: which of them teach, which guard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from RVQCLib.bundle import Bundle
from RVQCLib.dataset import PARTS, split
from RVQCLib.files import RVQCError
from RVQCLib.fitting import Report
from RVQCLib.images import image_sha256
from RVQCLib.recipes import RefinementConfig
from RVQCLib.study import PHASES, StudySource, find_studies

Parts = Mapping[str, Sequence[StudySource]]
"""The studies to learn from (``train``) and those that guard (``guard``); both empty without labels."""


def labelled_parts(
    folder: str | Path | None, bundle: Bundle, config: RefinementConfig, report: Report
) -> dict[str, list[StudySource]]:
    """The studies of `folder` to learn from and those that guard: by the split that the bundle records, else a new one.

    Raises
    ------
    RVQCError
        There are too few of either.
    """
    if folder is None:
        return {"train": [], "guard": []}
    sources = {source.name: source for source in find_studies(folder)}
    recorded = [view.get("training", {}).get("split", {}) for view in bundle.description["views"].values()]
    named = {part: {n for parts in recorded for n in parts.get(part, ())} & set(sources) for part in PARTS}
    if any(named.values()):
        train = named["train"] - named["validation"] - named["test"]
        guard = named["validation"] - named["train"] - named["test"]
        if others := sorted(set(sources).difference(*named.values())):
            said = f"The bundle's split does not name {_counted(others)} of {folder}, so they are not learnt from"
            report({"event": "warning", "message": f"{said}; to learn from them, give them in a folder of their own."})
    else:
        parts = split(tuple(sources.values()), seed=config.seed, validation=0.2, test=0.0)
        train, guard = set(parts["train"]), set(parts["validation"])
    if not train or not guard:
        raise RVQCError(
            f"{folder} has {len(train)} studies to learn from and {len(guard)} that may guard; give studies of both "
            "the train and the validation part of the bundle's split, or at least 5 others."
        )
    return {"train": [sources[n] for n in sorted(train)], "guard": [sources[n] for n in sorted(guard)]}


def names_of(parts: Parts) -> dict[str, list[str]]:
    """The studies' names, part by part."""
    return {part: [source.name for source in sources] for part, sources in parts.items()}


def has_labels(parts: Parts, view: str) -> bool:
    """Whether a view has labels to learn from and two labelled stacks to guard, the fewest beside which a new domain can be
    told; ACDC, for one, has no long axis."""
    of_a_file = {"": len(PHASES)}  # a mask of a whole cine is of both
    stacks = {
        name: sum(of_a_file.get(phase, 1) for one in part for own, phase in one.labels if own == view)
        for name, part in parts.items()
    }
    return stacks["train"] > 0 and stacks["guard"] > 1


def tell_doubles(parts: Parts, images: set[str], report: Report) -> None:
    """Warn of studies of which an image is among `images` (SHA-256 of the unlabelled ones) too."""
    sources = [source for part in parts.values() for source in part]
    doubles = [one.name for one in sources if images & {image_sha256(file) for _, (file, _) in one.image_files}]
    if doubles:
        said = f"Among the unlabelled studies is {_counted(doubles)} of the labelled ones"
        report({"event": "warning", "message": f"{said}; what is won on such a study says nothing of others."})


def _counted(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
