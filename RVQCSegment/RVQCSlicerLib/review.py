"""What a reviewer decides: accepted masks become segmentation nodes, every decision a line of the log."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import slicer

from RVQCLib.files import RVQCError, sha256
from RVQCLib.function import Quantity, quantities
from RVQCLib.reviews import Review, append_review, read_reviews
from RVQCLib.stack import Stack, structure_volumes_ml
from RVQCSlicerLib.overlays import layer
from RVQCSlicerLib.results import Result
from RVQCSlicerLib.scene import add_labels, mask_of
from RVQCSlicerLib.segments import STRUCTURES, tag_as
from RVQCSlicerLib.words import short, split, worst

ACCEPTED, REJECTED, NEEDS_EDIT = "accepted", "rejected", "needs edit"
LOG = "reviews.jsonl"


@dataclass(frozen=True)
class Decision:
    """Who decides, and what they note."""

    reviewer: str
    note: str = ""


def log_path(result: Result, fallback: str) -> Path:
    """The log of reviews beside the study's folder; where that is gone (a scene from elsewhere), in `fallback`."""
    folder = Path(result.folder).parent
    return (folder if result.folder and folder.is_dir() else Path(fallback)) / LOG


def decide(result: Result, key: str, kind: str, by: Decision, *, fallback: str, candidate: int = 0) -> Review:
    """Take a decision on a stack.

    The log is written first: a decision that cannot be recorded changes nothing. Accepting makes the final segmentation
    node; where one is there already, it is what is accepted, with all edits. Needs edit makes the node to be edited.

    Parameters
    ----------
    candidate : Whose mask is meant: 0 the selected one.
    fallback : Where to keep the log when the study's folder is gone.

    Raises
    ------
    RVQCError
        No reviewer is named, the nodes of the stack are gone, or the result does not hold the image's hash.
    OSError
        The log or the mask cannot be written.
    """
    if not by.reviewer.strip():
        raise RVQCError("Nobody is named as the reviewer; fill in who reviews.")
    mask, path = current_mask(result, key, candidate), log_path(result, fallback)
    view, phase = split(key)
    target = path.parent / "accepted" / f"{result.study}_{view}_{phase}.nii.gz"
    if kind == ACCEPTED:
        _keep_edits(target, path)
    review = Review(
        study=result.study,
        view=view,
        phase=phase,
        decision=kind,
        reviewer=by.reviewer.strip(),
        note=by.note.strip(),
        image_sha256=_image_hash(result, key),
        mask_sha256=_written(mask, target, kind == ACCEPTED),
        bundle_hash=result.quality["bundle"]["hash"],
    )
    append_review(path, review)
    if kind in (ACCEPTED, NEEDS_EDIT) and result.get("accepted", key) is None:
        _make_final(result, key, mask)
    result.decide(key, {**asdict(review), "labels": _fingerprint(mask)})
    return review


def current_mask(result: Result, key: str, candidate: int = 0) -> Stack:
    """The mask that a decision is about: the final segmentation as it is now, or a candidate of the overlay."""
    final, overlay, volume = (result.get(role, key) for role in ("accepted", "overlay", "volume"))
    if volume is None or (final is None and overlay is None):
        raise RVQCError(f"The image or the masks of {short(key)} are no longer in the scene; run QC again.")
    view, phase = split(key)
    if final is not None:
        return mask_of(final, volume, view, phase)
    return mask_of(overlay, volume, view, phase, layer(candidate))


def is_edited(result: Result, key: str) -> bool:
    """Whether the final segmentation differs from what was accepted; then its tags say SEMIAUTOMATIC."""
    decision, final = result.decision(key), result.get("accepted", key)
    if decision.get("decision") != ACCEPTED or final is None or result.get("volume", key) is None:
        return False
    return _fingerprint(current_mask(result, key)) != decision["labels"]


def mark_edited(result: Result, key: str) -> None:
    """Say in the final segmentation's DICOM tags that a person had a hand in it."""
    segmentation = result.get("accepted", key).GetSegmentation()
    for structure in STRUCTURES:
        if (segment := segmentation.GetSegment(structure.key)) is not None:
            tag_as(segment, "SEMIAUTOMATIC")


def function_of(result: Result) -> list[tuple[Quantity, str, str]]:
    """Volumes, EF and mass of the accepted short-axis masks, each with the worst QC verdict and the state of its masks.

    The state is "accepted", "edited after acceptance", or "" where a mask is missing.
    """
    states: dict[str, str] = {}
    volumes: dict[str, Mapping[str, float]] = {}
    for key, stack in result.stacks.items():
        accepted = result.decision(key).get("decision") == ACCEPTED and result.get("accepted", key) is not None
        if stack["view"] == "SA" and accepted:
            volumes[stack["phase"]] = structure_volumes_ml(current_mask(result, key))
            states[stack["phase"]] = "edited after acceptance" if is_edited(result, key) else "accepted"
    answer = []
    for quantity in quantities(volumes) if volumes else ():
        here = [phase for phase in quantity.phases if phase in states]
        verdict = worst([result.stacks[f"SA_{phase}"]["verdict"] for phase in here])
        state = max((states[phase] for phase in here), default="", key=len) if quantity.amount is not None else ""
        answer.append((quantity, verdict, state))
    return answer


def _make_final(result: Result, key: str, mask: Stack) -> None:
    name, volume = f"{result.study} {short(key)}", result.get("volume", key)
    for old in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        if old.GetName() == name:
            old.SetName(f"{name} (earlier)")
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    add_labels(node, mask.pixels, volume)
    display = node.GetDisplayNode()
    display.SetOpacity2DFill(0.2)
    display.SetSliceIntersectionThickness(3)
    display.SetVisibility(False)
    result.set("accepted", key, node)
    _place_beside(node, volume)


def _place_beside(node: slicer.vtkMRMLNode, volume: slicer.vtkMRMLVolumeNode) -> None:
    """Put the node under the same patient and study as its image: what DICOM SEG export asks for."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    if hierarchy is None:
        return
    own, image = hierarchy.GetItemByDataNode(node), hierarchy.GetItemByDataNode(volume)
    if own and image:
        hierarchy.SetItemParent(own, hierarchy.GetItemParent(image))


def _image_hash(result: Result, key: str) -> str:
    """A review without its image's hash proves nothing, so there is none."""
    if not (digest := result.image(key).get("sha256")):
        raise RVQCError(f"The result of {result.study} does not say which image {short(key)} was; run QC again.")
    return digest


def _fingerprint(mask: Stack) -> str:
    return hashlib.sha256(mask.pixels.tobytes()).hexdigest()


def _keep_edits(target: Path, log: Path) -> None:
    """Move an accepted mask that somebody edited outside Slicer to ``edited/``: no review of the log knows its hash."""
    from RVQCLib.edits import set_mask_aside

    known = {review.mask_sha256 for review in read_reviews(log) if review.decision == ACCEPTED}
    if target.is_file() and sha256(target) not in known:
        set_mask_aside(target, log.parent, written="")


def _written(mask: Stack, path: Path, keep: bool) -> str:
    """The SHA-256 of the mask as the file that the engine would write; with `keep` it stays at `path`."""
    from RVQCLib.images import write_mask

    if keep:
        write_mask(mask, path)
        return sha256(path)
    with tempfile.TemporaryDirectory() as folder:
        write_mask(mask, file := Path(folder) / path.name)
        return sha256(file)


def state_words(result: Result, key: str) -> str:
    """The state of a stack's review in words."""
    decision: dict[str, Any] = result.decision(key)
    if not decision:
        return "not reviewed yet"
    words = f"{decision['decision']} by {decision['reviewer']}"
    return f"{words}, edited since: accept again" if is_edited(result, key) else words
