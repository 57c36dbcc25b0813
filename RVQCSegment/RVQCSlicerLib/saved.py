"""Results of an earlier run opened from their folder: for a review without torch, without a worker, without a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import slicer

from RVQCLib.files import RVQCError, read_json
from RVQCLib.stack import Stack
from RVQCSlicerLib import overlays, scene
from RVQCSlicerLib.results import MADE, Result, remove, results_in_scene
from RVQCSlicerLib.words import short


def result_folders(path: str) -> list[Path]:
    """The folders of studies at `path`: itself, or those directly in it, by name; not those that are half written.

    Raises
    ------
    RVQCError
        There are none.
    """
    folder = Path(path)
    found = [one for one in (folder, *sorted(folder.glob("[!.]*"))) if (one / "quality.json").is_file()]
    if not found:
        raise RVQCError(f"{path} holds no results (no quality.json); choose the folder that a QC run wrote.")
    return found[:1] if found[0] == folder else found


def open_result(folder: Path, images: dict[str, Any]) -> tuple[Result, str]:
    """Bring a study's result into the scene: all of it, or nothing.

    Parameters
    ----------
    images : Volume nodes by stack ("SA_ED"), or None. The image that was judged lies behind its mask, from its file; where
        the file is gone or changed, a volume out of `images` that has the mask's grid, else black.

    Returns
    -------
    The result, and sentences about images that are missing, "" for none.

    Raises
    ------
    RVQCError
        A file is missing or garbled.
    """
    quality, made, lacks = read_json(folder / "quality.json"), [], []
    try:
        earlier = [result for result in results_in_scene() if result.study == quality["study"]]
        result = Result.create(quality, str(folder))
        made.append(result.node)
        for key in result.stacks:
            mask = overlays.read(folder / result.stacks[key]["mask"], result.stacks[key])
            volume, lack = _image(result, key, images.get(key), mask)
            if volume is not images.get(key):
                volume.SetAttribute(MADE, "a file")
                made.append(volume)
            lacks += [lack] if lack else []
            result.set("volume", key, volume)
            _exhaust(overlays.build(result, key))
    except (KeyError, TypeError, ValueError, OSError) as error:
        remove([*(Result(made[0]).own_nodes() if made else ()), *made[1:]])
        if isinstance(error, RVQCError):
            raise
        raise RVQCError(f"{folder} holds no whole result ({error}); run QC again.") from error
    remove(node for old in earlier for node in old.own_nodes())
    return result, " ".join(lacks)


def _image(result: Result, key: str, chosen: Any, mask: Stack) -> tuple[Any, str]:
    """The volume behind a mask, and what a reviewer must know of it."""
    from RVQCLib.images import image_sha256, read_image

    entry, name = result.image(key), f"{result.study} {short(key)}"
    file = Path(entry.get("file") or "image")
    if not file.is_file():
        why = f"The image of {short(key)} ({file.name}) is not where it was"
    elif image_sha256(file) != entry["sha256"]:
        why = f"The image of {short(key)} ({file.name}) was changed since QC ran"
    elif chosen is not None and Path(scene.file_of(chosen)) == file and _same_grid(chosen, mask):
        return chosen, ""
    else:
        stack = read_image(file, view=mask.view, phase=mask.phase, frame=entry["frame"])
        return scene.add_volume(stack, name), ""
    if chosen is not None and _same_grid(chosen, mask):
        return chosen, f"{why}; {chosen.GetName()} lies behind its mask: make sure that it is the same."
    black = scene.add_volume(replace(mask, pixels=np.zeros_like(mask.pixels), source=""), name)
    return black, f"{why}, so its mask lies on black; load the study first to see it."


def _same_grid(volume: Any, mask: Stack) -> bool:
    geometry = scene.geometry_of(volume)
    return slicer.util.arrayFromVolume(volume).shape == mask.pixels.shape and all(
        np.allclose(getattr(geometry, part), getattr(mask.geometry, part), atol=1e-3)
        for part in ("origin", "spacing", "direction")
    )


def _exhaust(steps: Iterator[None]) -> None:
    for _ in steps:
        slicer.app.processEvents()
