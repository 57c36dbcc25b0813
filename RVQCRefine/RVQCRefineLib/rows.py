"""What there is to review of a run: every stack before beside after, worst first, with the decisions so far. No Slicer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from RVQCLib.edits import OUTPUTS
from RVQCLib.files import RVQCError, read_json, sha256
from RVQCLib.manifest import RUN, read_run
from RVQCLib.overall import VERDICTS, stack_reasons, stack_verdict
from RVQCLib.reviews import Review, read_reviews
from RVQCRefineLib.run_folder import ACCEPTED, REVIEWS, RunFolder
from RVQCSlicerLib.words import failure_of

UNDECIDED = ""


@dataclass(frozen=True)
class Judged:
    """One mask of a stack and what the QC says of it. `predicted` and `at_least` are of the RV, None without calibration.

    `written` is the SHA-256 of the mask that the QC judged, "" where that is not known; `checks` are the study's sentences.
    """

    mask: Path
    stack: Mapping[str, Any]
    bundle_hash: str
    cine: tuple[Mapping[str, Any], ...] = ()
    written: str = ""
    checks: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """One of `VERDICTS`; ``look`` at best where the study's checks speak against the view (`overall`)."""
        return stack_verdict(self.stack, self.checks)

    @property
    def reasons(self) -> list[str]:
        """Why it has that verdict: the stack's own reasons, and the checks where they decide it."""
        return stack_reasons(self.stack, self.checks)

    @property
    def predicted(self) -> float | None:
        """The predicted Dice of the RV."""
        return self.stack["structures"]["RV"]["predicted_dice"]

    @property
    def at_least(self) -> float | None:
        """Its 90 % lower bound."""
        return self.stack["structures"]["RV"]["lower_bound_90"]

    @property
    def flags(self) -> dict[int, str]:
        """The flagged slices, from 0, and why."""
        return {s["index"]: "; ".join(s["reasons"]) for s in self.stack["slices"] if s["flag"]}

    @property
    def failed(self) -> str:
        """What is wrong with the mask as a whole, such as that it has no RV; "" for nothing."""
        return failure_of(self.stack)

    def doubt(self, index: int) -> str:
        """Why a slice is to be looked at, "" for no reason. Where the mask failed as a whole, no slice of it can be sound."""
        return "; ".join(filter(None, (self.failed, self.flags.get(index, ""))))

    @property
    def doubted(self) -> int:
        """How many slices are to be looked at."""
        return len(self.stack["slices"]) if self.failed else len(self.flags)

    @property
    def edited(self) -> bool:
        """Whether somebody changed the mask after the QC judged it; verdict and numbers are then of the mask from before."""
        return bool(self.written) and self.mask.is_file() and mask_hash(self.mask) != self.written

    @property
    def badness(self) -> tuple[int, float]:
        """A sort key, the worst lowest: by verdict, then by the RV's predicted Dice, without it by its pDC."""
        dice = self.predicted if self.predicted is not None else self.stack["structures"]["RV"]["pDC"]
        return -VERDICTS.index(self.verdict), dice


@dataclass(frozen=True)
class Row:
    """One stack of a run. `before` is missing in a batch, `after` as long as the run has not come to it.

    `proposal` is the engine's own opinion of the new mask, in words; `review` the last decision on it.
    """

    study: str
    view: str
    phase: str
    n_slices: int
    before: Judged | None
    after: Judged | None
    proposed: bool = False
    proposal: str = ""
    review: Review | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """Study, view, phase."""
        return self.study, self.view, self.phase

    @property
    def decision(self) -> str:
        """What was decided, "" for nothing yet."""
        return self.review.decision if self.review else UNDECIDED

    @property
    def shown(self) -> Judged:
        """The newest mask."""
        judged = self.after or self.before
        assert judged is not None
        return judged


def rows_of(run: RunFolder) -> list[Row]:
    """All stacks of a refinement, worst first.

    Raises
    ------
    RVQCError
        A file of the run cannot be read.
    """
    decided = {(r.study, r.view, r.phase, r.mask_sha256): r for r in read_reviews(run.path / REVIEWS)}
    rows = [row for study in run.studies() for row in _of_study(run.path / "studies" / study, decided)]
    return sorted(rows, key=lambda row: (*row.shown.badness, row.key))


def _of_study(home: Path, decided: Mapping[tuple[str, ...], Review]) -> list[Row]:
    before, after = _judged(home / "before"), _judged(home / "after")
    told = read_json(home / "decision.json")["stacks"] if after and (home / "decision.json").is_file() else []
    proposals = {(entry["view"], entry["phase"]): entry for entry in told}
    rows = []
    for (view, phase), old in before.items():
        new, proposal = after.get((view, phase)), proposals.get((view, phase), {})
        review = decided.get((home.name, view, phase, mask_hash(new.mask))) if new else None
        rows.append(
            Row(
                home.name, view, phase, len(old.stack["slices"]), old, new,
                proposal.get("accepted", False), proposal.get("reason", ""), review,
            )
        )  # fmt: skip
    return rows


def _judged(folder: Path) -> dict[tuple[str, str], Judged]:
    if not (folder / "quality.json").is_file():
        return {}
    content = read_json(folder / "quality.json")
    cine, checks = (tuple(content.get(key, ())) for key in ("cine", "checks"))
    return {
        (s["view"], s["phase"]): Judged(
            folder / s["mask"], s, content["bundle"]["hash"], cine, content.get(OUTPUTS, {}).get(s["mask"], ""), checks
        )
        for s in content["stacks"]
    }


def is_batch(path: str | Path) -> bool:
    """Whether a folder holds the results of ``rvqc batch``."""
    return (Path(path) / RUN).is_file()


def batch_rows(out: Path) -> list[Row]:
    """All stacks of a batch (``rvqc batch``), worst first; there is nothing before. Raises RVQCError as `rows_of`."""
    if not is_batch(out):
        raise RVQCError(f"{out} holds no batch; give the folder that 'rvqc batch' wrote to.")
    decided = {(r.study, r.view, r.phase, r.mask_sha256): r for r in read_reviews(out / REVIEWS)}
    rows = []
    for home in sorted(path.parent for path in out.glob("[!.]*/quality.json")):  # .part-… are half written
        for (view, phase), new in _judged(home).items():
            review = decided.get((home.name, view, phase, mask_hash(new.mask)))
            rows.append(Row(home.name, view, phase, len(new.stack["slices"]), None, new, review=review))
    return sorted(rows, key=lambda row: (*row.shown.badness, row.key))


def unread_of(out: Path) -> dict[str, str]:
    """Studies of a batch that failed, and why. Raises RVQCError where its manifest cannot be read."""
    return {study["study"]: study["error"] for study in read_run(out)["studies"] if study["state"] == "failed"}


def mask_hash(path: Path) -> str:
    """SHA-256 of a mask's file; read again only when the file has changed."""
    try:
        status = path.stat()
    except OSError as error:
        raise RVQCError(f"{path} is missing ({error.strerror}); resume the run to have it made again.") from error
    return _hash(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=100_000)
def _hash(path: Path, changed: int, size: int) -> str:
    return sha256(path)


def accepted_file(home: Path, row: Row) -> Path:
    """Where the accepted mask of a stack is put; `home` is the folder of the run or batch."""
    return home / ACCEPTED / f"{row.study}_{row.view}_{row.phase}.nii.gz"


def counts(rows: list[Row]) -> dict[str, int]:
    """How many stacks have which decision; "" for those that have none."""
    found: dict[str, int] = {}
    for row in rows:
        found[row.decision] = found.get(row.decision, 0) + 1
    return found
