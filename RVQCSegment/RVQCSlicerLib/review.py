"""What a reviewer decides: accepted masks become segmentation nodes, every decision a line of the log."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import slicer

from RVQCLib.files import RVQCError, sha256, whole_file
from RVQCLib.function import Quantity, quantities
from RVQCLib.overall import worst
from RVQCLib.reviews import Review, append_review, read_reviews
from RVQCLib.stack import Stack, structure_volumes_ml
from RVQCSlicerLib.hierarchy import place_beside
from RVQCSlicerLib.overlays import layer
from RVQCSlicerLib.results import Result, flagged_words
from RVQCSlicerLib.scene import add_labels, lies_on, mask_of
from RVQCSlicerLib.segments import STRUCTURES, tag_as
from RVQCSlicerLib.words import NOT_JUDGED, VERDICTS, short, split

ACCEPTED, REJECTED, NEEDS_EDIT = "accepted", "rejected", "needs edit"
LOG = "reviews.jsonl"
_MADE = "RVQC.Made"
"""Attribute of a final segmentation: the fingerprint of the mask that it was made of."""


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
    node, and a file in ``accepted/``, where nothing else ever lies; needs edit makes the node to be edited. A final
    segmentation that is rejected, or that another candidate replaces, goes; with a hand's edits it stays, hidden.

    Parameters
    ----------
    candidate : Whose mask is meant, as it is shown: 0 the final segmentation with all edits or, without one, the selected.
    fallback : Where to keep the log when the study's folder is gone.

    Raises
    ------
    RVQCError
        No reviewer is named, the nodes of the stack are gone or were moved, or the result does not hold the image's hash.
    OSError
        The log or the mask cannot be written.
    """
    if not by.reviewer.strip():
        raise RVQCError("Nobody is named as the reviewer; fill in who reviews.")
    mask, path = current_mask(result, key, candidate), log_path(result, fallback)
    _refuse_moved(result, key)
    review = _recorded(result, key, kind, by, mask, path)
    if kind == REJECTED or candidate:
        _set_aside(result, key, "rejected" if kind == REJECTED else "earlier")
    if kind != REJECTED and result.get("accepted", key) is None:
        _make_final(result, key, mask)
    if kind == ACCEPTED and result.get("accepted", key).GetAttribute(_MADE) != _fingerprint(mask):
        mark_edited(result, key)
    result.decide(key, {**asdict(review), "labels": _fingerprint(mask)})
    return review


def current_mask(result: Result, key: str, candidate: int = 0) -> Stack:
    """The mask that is shown, and that a decision is about: `candidate` as for `decide`."""
    final, overlay, volume = (result.get(role, key) for role in ("accepted", "overlay", "volume"))
    source, prefix = (overlay, layer(candidate)) if candidate or final is None else (final, "")
    if volume is None or source is None:
        raise RVQCError(f"The image or the masks of {short(key)} are no longer in the scene; run QC again.")
    return mask_of(source, volume, *split(key), prefix)


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


def verdict_of(result: Result, key: str, candidate: int = 0) -> str:
    """The verdict of the mask that is shown; "" where QC has judged another: it was edited, or is another candidate's."""
    overlay, volume = result.get("overlay", key), result.get("volume", key)
    if not candidate and result.get("accepted", key) is None:
        return result.verdict(key)
    if overlay is None or volume is None:
        return ""
    judged = mask_of(overlay, volume, *split(key), layer(0))
    same = _fingerprint(judged) == _fingerprint(current_mask(result, key, candidate))
    return result.verdict(key) if same else ""


def function_of(result: Result) -> list[tuple[Quantity, str, str]]:
    """Volumes, EF and mass of the accepted short-axis masks, each with the worst QC verdict and the state of its masks.

    The verdict is "" where one of the masks is another than QC judged. The state is "accepted", "edited after acceptance",
    or "" where a mask is missing. A stack of one slice is left out: it has an area, no volume.
    """
    states: dict[str, str] = {}
    verdicts: dict[str, str] = {}
    volumes: dict[str, Mapping[str, float]] = {}
    for key, stack in result.stacks.items():
        there = None not in (result.get("accepted", key), result.get("volume", key))
        is_stack = stack["view"] == "SA" and len(stack["slices"]) > 1
        if is_stack and there and result.decision(key).get("decision") == ACCEPTED:
            volumes[stack["phase"]] = structure_volumes_ml(current_mask(result, key))
            verdicts[stack["phase"]] = verdict_of(result, key)
            states[stack["phase"]] = "edited after acceptance" if is_edited(result, key) else "accepted"
    answer = []
    for quantity in quantities(volumes) if volumes else ():
        here = [phase for phase in quantity.phases if phase in states]
        said = [verdicts[phase] for phase in here]
        verdict = worst(said) if all(said) else ""
        state = max((states[phase] for phase in here), default="", key=len) if quantity.amount is not None else ""
        answer.append((quantity, verdict, state))
    return answer


def _make_final(result: Result, key: str, mask: Stack) -> None:
    name, volume = f"{result.study} {short(key)}", result.get("volume", key)
    for old in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        if old.GetName() == name:
            _hide(old, "earlier")
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    node.SetAttribute(_MADE, _fingerprint(mask))
    add_labels(node, mask.pixels, volume)
    display = node.GetDisplayNode()
    display.SetOpacity2DFill(0.2)
    display.SetSliceIntersectionThickness(3)
    display.SetVisibility(False)
    result.set("accepted", key, node)
    place_beside(node, volume)


def _set_aside(result: Result, key: str, why: str) -> None:
    """Take the final segmentation out of the result, and out of the scene unless somebody edited it."""
    if (final := result.get("accepted", key)) is None:
        return
    made = _fingerprint(current_mask(result, key)) == final.GetAttribute(_MADE)
    result.set("accepted", key, None)
    if made:
        slicer.mrmlScene.RemoveNode(final)
    else:
        _hide(final, why)


def _hide(final: slicer.vtkMRMLSegmentationNode, why: str) -> None:
    final.SetName(f"{final.GetName()} ({why})")
    if final.GetDisplayNode() is not None:
        final.GetDisplayNode().SetVisibility(False)


def _image_hash(result: Result, key: str) -> str:
    """A review without its image's hash proves nothing, so there is none."""
    if not (digest := result.image(key).get("sha256")):
        raise RVQCError(f"The result of {result.study} does not say which image {short(key)} was; run QC again.")
    return digest


def _fingerprint(mask: Stack) -> str:
    return hashlib.sha256(mask.pixels.tobytes()).hexdigest()


def _refuse_moved(result: Result, key: str) -> None:
    """Raise RVQCError where image and mask do not lie any more as QC saw them."""
    volume, overlay, final = (result.get(role, key) for role in ("volume", "overlay", "accepted"))
    for node in (volume, overlay, final):
        if node is not None and node.GetParentTransformNode() is not None:
            raise RVQCError(
                f"{node.GetName()} lies under a transform now; take it out of the transform, or harden it and run QC again."
            )
    if overlay is not None and not lies_on(overlay, layer(0) + STRUCTURES[0].key, volume):
        raise RVQCError(f"{volume.GetName()} was moved since QC ran; run QC again.")


def _keep_edits(target: Path, log: Path) -> None:
    """Move an accepted mask that somebody edited outside Slicer to ``edited/``: no review of the log knows its hash."""
    from RVQCLib.edits import set_mask_aside

    known = {review.mask_sha256 for review in read_reviews(log) if review.decision == ACCEPTED}
    if target.is_file() and sha256(target) not in known:
        set_mask_aside(target, log.parent, written="")


def _recorded(result: Result, key: str, kind: str, by: Decision, mask: Stack, log: Path) -> Review:
    """The decision as a new line of the log, then the file in ``accepted/`` where it is one to accept, else none."""
    from RVQCLib.images import write_mask

    view, phase = split(key)
    target = log.parent / "accepted" / f"{result.study}_{view}_{phase}.nii.gz"
    with tempfile.TemporaryDirectory() as folder:
        write_mask(mask, file := Path(folder) / target.name)
        review = Review(
            study=result.study,
            view=view,
            phase=phase,
            decision=kind,
            reviewer=by.reviewer.strip(),
            note=by.note.strip(),
            image_sha256=_image_hash(result, key),
            mask_sha256=sha256(file),
            bundle_hash=result.quality["bundle"]["hash"],
        )
        append_review(log, review)
        _keep_edits(target, log)
        if kind == ACCEPTED:
            with whole_file(target) as part:
                shutil.copyfile(file, part)
        else:
            target.unlink(missing_ok=True)
    return review


def state_words(result: Result, key: str, candidate: int = 0) -> str:
    """What QC says of the mask that is shown, and the state of the stack's review, in words."""
    decision: dict[str, Any] = result.decision(key)
    words = f"{decision['decision']} by {decision['reviewer']}" if decision else "not reviewed yet"
    if decision and decision["decision"] != REJECTED and result.get("accepted", key) is None:
        words += ", segmentation removed: decide again"
    elif is_edited(result, key):
        words += ", edited since: accept again"
    return f"{_qc_words(result, key, candidate)}; {words}"


def _qc_words(result: Result, key: str, candidate: int) -> str:
    if not (verdict := verdict_of(result, key, candidate)):
        return f"{NOT_JUDGED.sign} another mask than QC judged"
    how, flagged = VERDICTS[verdict], flagged_words(result.stacks[key])
    return f"{how.sign} {how.title.lower()}{f', {flagged}' if flagged else ''}"
