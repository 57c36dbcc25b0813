"""Whether to adopt a new bundle: what changed, in numbers from the files, and the record of the decision. No Slicer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from RVQCLib.bundle import load_bundle
from RVQCLib.files import RVQCError
from RVQCRefineLib.rows import Row, counts
from RVQCRefineLib.run_folder import RunFolder


@dataclass(frozen=True)
class Comparison:
    """The new bundle beside the old one. Guard values are None where no candidate was refined."""

    name: str
    parent: str
    guard_of: str
    guard_before: float | None
    guard_after: float | None
    studies: int
    flagged_before: int
    flagged_after: int
    proposed: int
    failed: int
    changed: int
    labelled: bool
    calibration: str
    stopped_because: str

    @property
    def warnings(self) -> tuple[str, ...]:
        """What should make the reader hesitate, in sentences."""
        found = []
        if not self.changed:
            found.append("Nothing has changed: the new bundle segments exactly as the old one does.")
        if self.guard_before is not None and self.guard_after is not None and self.guard_after < self.guard_before:
            found.append("The guard fell: on what the guard measures the new bundle is worse than the old one.")
        if self.flagged_after > self.flagged_before:
            found.append("More studies are flagged than before.")
        if not self.labelled:
            found.append("No labelled studies were used, so no measured Dice stands behind the new bundle.")
        return tuple(found)


def compare(run: RunFolder) -> Comparison:
    """The comparison as ``refinement.json`` tells it. Raises RVQCError where the run has no result or it is garbled."""
    result = run.result()
    if result is None:
        raise RVQCError(f"{run.out} is not there yet; let the run end first.")
    try:
        return _comparison(run.out.name, result)
    except (KeyError, TypeError) as error:
        raise RVQCError(
            f"{run.out}/refinement.json lacks or garbles {error}; resume the run to make it anew."
        ) from error


def _comparison(name: str, result: Mapping[str, Any]) -> Comparison:
    studies = result["studies"]
    return Comparison(
        name=name,
        parent=result["parent"]["name"],
        guard_of=result["guard"]["of"],
        guard_before=result["guard"]["before"],
        guard_after=result["guard"]["after"],
        studies=len(studies),
        flagged_before=sum(study["flagged_before"] for study in studies),
        flagged_after=sum(study["flagged_after"] for study in studies),
        proposed=sum(study["accepted"] for study in studies),
        failed=len(result["failed"]),
        changed=len(result["changed"]),
        labelled=bool(result["labelled"]["guard"]),
        calibration=result["calibration"],
        stopped_because=result["stopped_because"],
    )


def adopt(run: RunFolder, *, reviewer: str, was: str, rows: Sequence[Row]) -> str:
    """Check the new bundle whole and write down that it is adopted.

    Parameters
    ----------
    was
        Folder of the bundle that was used until now; it stays where it is.

    Returns
    -------
    The folder of the new bundle, to be put into the setting `chosen_bundle.SETTING`.

    Raises
    ------
    RVQCError
        Nobody is named, or the bundle is damaged.
    OSError
        The log cannot be written; nothing is adopted.
    """
    if not reviewer.strip():
        raise RVQCError("Nobody is named as the reviewer; fill in who adopts the bundle.")
    bundle = load_bundle(run.out)
    content = {"bundle": str(run.out), "hash": bundle.hash, "was": was, "reviewer": reviewer.strip()}
    run.log({"event": "adopted", **content, "decisions": {key or "open": n for key, n in counts(list(rows)).items()}})
    return str(run.out)


def give_back(run: RunFolder, *, reviewer: str) -> str:
    """Write down that the bundle from before is used again; returns its folder. Raises RVQCError where none was adopted."""
    adopted = [event for event in run.events() if event["event"] == "adopted"]
    if not adopted:
        raise RVQCError(f"{run.out} was never adopted; there is nothing to give back.")
    run.log({"event": "returned", "bundle": adopted[-1]["was"], "was": str(run.out), "reviewer": reviewer.strip()})
    return adopted[-1]["was"]
