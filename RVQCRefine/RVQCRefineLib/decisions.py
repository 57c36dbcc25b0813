"""What a reviewer decides about a stack of a run: a line in the log, and an accepted mask as a file. No Slicer.

The log is written before the mask is copied, and the mask only where it is accepted: nothing else ever lies in
``accepted/``. A decision can be taken again; the last one counts.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from RVQCLib.edits import set_mask_aside
from RVQCLib.files import RVQCError, whole_file
from RVQCLib.reviews import Review, append_review
from RVQCRefineLib.rows import Row, accepted_file, mask_hash
from RVQCRefineLib.run_folder import REVIEWS

ACCEPT, REJECT, KEEP_OLD = "accepted", "rejected", "kept old"


def decide(
    home: Path, row: Row, decision: str, *, reviewer: str, note: str = "", image: dict[str, Any] | None = None
) -> Row:
    """Take a decision on the new mask of `row`.

    An accepted mask that somebody edited in ``accepted/`` since is moved to ``edited/`` before it is replaced or removed.

    Parameters
    ----------
    home
        The folder of the run or batch, with its ``reviews.jsonl`` and ``accepted/``.
    image
        The entry of the stack's image (`image_of`), which must be the one that the QC judged; None where it is not known:
        then the hash that the QC wrote down is recorded.

    Returns
    -------
    The row with its review.

    Raises
    ------
    RVQCError
        Nobody is named, there is no new mask yet, there is no old one to keep, or the image is gone or changed.
    OSError
        The log or the mask cannot be written.
    """
    if not reviewer.strip():
        raise RVQCError("Nobody is named as the reviewer; fill in who reviews.")
    if row.after is None:
        raise RVQCError(f"{row.study} has no new mask yet; let the run come to it first.")
    if decision == KEEP_OLD and row.before is None:
        raise RVQCError(f"{row.study} has no older mask to keep; accept or reject the one that it has.")
    review = Review(
        study=row.study,
        view=row.view,
        phase=row.phase,
        decision=decision,
        reviewer=reviewer.strip(),
        note=note.strip(),
        image_sha256=image_hash(row, image),
        mask_sha256=mask_hash(row.after.mask),
        bundle_hash=row.after.bundle_hash,
    )
    append_review(home / REVIEWS, review)
    target = accepted_file(home, row)
    set_mask_aside(target, home, written=review.mask_sha256)
    if decision == ACCEPT:
        with whole_file(target) as part:
            shutil.copyfile(row.after.mask, part)
    else:
        target.unlink(missing_ok=True)
    return replace(row, review=review)


def image_of(studies: Sequence[Mapping[str, Any]], row: Row) -> dict[str, Any] | None:
    """The entry of a stack's image among what a scan found, of a cine that of the whole cine; None where there is none."""
    study = next((s for s in studies if s["study"] == row.study), None)
    entries = {(e["view"], e["phase"]): e for e in study["images"]} if study else {}
    return entries.get((row.view, row.phase)) or entries.get((row.view, ""))


def image_hash(row: Row, image: Mapping[str, Any] | None) -> str:
    """SHA-256 of the image that a stack's newest mask was made from; of a DICOM series of all its files.

    Raises
    ------
    RVQCError
        The file at `image` cannot be read, or is not the image that the QC judged any more.
    """
    from RVQCLib.images import image_sha256

    judged = (row.shown.stack.get("image") or {}).get("sha256", "")
    if image is None:
        return judged
    path = Path(image["file"])
    try:
        found = image_sha256(path)
    except OSError as error:
        mend = "bring the folder of studies back"
        if row.before is None:  # a batch, which takes up its results wherever the images lie
            mend = "resume the batch from where the images are now"
        raise RVQCError(f"{path} cannot be read now ({error.strerror}); {mend}.") from error
    if judged and found != judged:
        raise RVQCError(f"{path} has changed since the QC ran; bring the old file back, or run the QC again.")
    return found
