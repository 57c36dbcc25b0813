"""What reviewers decided: `reviews.jsonl`, one line a decision, only ever appended to; and how far reviewers agree."""

from __future__ import annotations

import datetime
import json
import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import combinations
from pathlib import Path
from typing import Any

from RVQCLib.files import RVQCError, append_line

DECISIONS = ("accepted", "rejected", "needs edit", "kept old")

log = logging.getLogger(__name__)


def utc_now() -> str:
    """The time as ISO 8601 in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Review:
    """One decision on the mask of one stack: who, when, what, why, and of which image, mask and bundle.

    Raises
    ------
    RVQCError
        The decision is none of `DECISIONS`, a field is no text, or study, view, phase or reviewer are missing.
    """

    study: str
    view: str
    phase: str
    decision: str
    reviewer: str
    note: str = ""
    time: str = field(default_factory=utc_now)
    image_sha256: str = ""
    mask_sha256: str = ""
    bundle_hash: str = ""

    def __post_init__(self) -> None:
        wrong = [f.name for f in fields(self) if not isinstance(getattr(self, f.name), str)]
        missing = [name for name in ("study", "view", "phase", "reviewer") if not str(getattr(self, name)).strip()]
        if wrong or missing:
            raise RVQCError(f"A review of '{self.study}' needs text for {', '.join(wrong or missing)}; fill it in.")
        if self.decision not in DECISIONS:
            raise RVQCError(f"'{self.decision}' of {self.study} is no decision; use one of {', '.join(DECISIONS)}.")

    @property
    def judged(self) -> tuple[str, str, str, str]:
        """What was looked at: study, view, phase, and the mask's hash; another mask of the stack is another thing."""
        return self.study, self.view, self.phase, self.mask_sha256.lower()

    @property
    def person(self) -> str:
        """Who it is, however they type their name: capitals, spaces and ways to compose a letter do not tell people apart."""
        return " ".join(unicodedata.normalize("NFKC", self.reviewer).casefold().split())


def append_review(path: str | os.PathLike, review: Review) -> None:
    """Add `review` to the log at `path` as one line that is on the disk when this returns; nobody's line is touched.

    Raises
    ------
    OSError
        The file cannot be written; the log is as before.
    """
    append_line(path, json.dumps(asdict(review), ensure_ascii=False))


def read_reviews(path: str | os.PathLike) -> tuple[Review, ...]:
    """All reviews of the log in the order in which they were appended; none when there is no log yet.

    Lines that are no reviews are left out (`damaged_lines`), with one warning where there are others. Keys of a later version
    are passed over.

    Raises
    ------
    RVQCError
        The file cannot be read.
    """
    lines = list(_lines(path))
    reviews = tuple(review for _, review in lines if review is not None)
    if damaged := [number for number, review in lines if reviews and review is None]:
        log.warning(
            "%s: %d of its lines are no reviews and are left out, line %d first.", path, len(damaged), damaged[0]
        )
    return reviews


def damaged_lines(path: str | os.PathLike) -> tuple[int, ...]:
    """Numbers, from 1, of the lines of the log that are no reviews."""
    return tuple(number for number, review in _lines(path) if review is None)


def _lines(path: str | os.PathLike) -> Iterator[tuple[int, Review | None]]:
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise RVQCError(f"{path} cannot be read ({error.strerror}); check the file and its permissions.") from error
    known = {f.name for f in fields(Review)}
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, Review(**{key: value for key, value in json.loads(line).items() if key in known})
        except (ValueError, TypeError, AttributeError):
            yield number, None


def summarize(reviews: Sequence[Review]) -> dict[str, Any]:
    """Counts, every pair of reviewers' agreement, and what they dispute.

    The last line of a reviewer on a mask counts. Two reviewers are compared on the masks, by hash, that both judged. A
    reviewer is a `Review.person`, named as they first signed.

    Returns
    -------
    dict
        ``n_reviews``, ``n_masks``, ``decisions`` (how often), ``reviewers`` (the same by name), ``agreement`` (a pair each:
        ``reviewers``, ``n``, ``agree`` as a share, ``kappa``) and ``disputed`` (a mask each: ``study``, ``view``, ``phase``,
        ``decisions`` by reviewer).
    """
    last: dict[str, dict[tuple[str, ...], str]] = {}
    names: dict[str, str] = {}
    for review in reviews:
        name = names.setdefault(review.person, " ".join(review.reviewer.split()))
        last.setdefault(name, {})[review.judged] = review.decision
    masks = dict.fromkeys(review.judged for review in reviews)
    opinions = {mask: {name: said[mask] for name, said in sorted(last.items()) if mask in said} for mask in masks}
    return {
        "n_reviews": len(reviews),
        "n_masks": len(masks),
        "decisions": _counts([decision for said in last.values() for decision in said.values()]),
        "reviewers": {name: _counts(list(said.values())) for name, said in sorted(last.items())},
        "agreement": [_agreement(a, b, last[a], last[b]) for a, b in combinations(sorted(last), 2)],
        "disputed": [
            {"study": mask[0], "view": mask[1], "phase": mask[2], "decisions": said}
            for mask, said in opinions.items()
            if len(set(said.values())) > 1
        ],
    }


def _counts(decisions: Sequence[str]) -> dict[str, int]:
    return {decision: decisions.count(decision) for decision in DECISIONS}


def _agreement(a: str, b: str, of_a: dict[tuple[str, ...], str], of_b: dict[tuple[str, ...], str]) -> dict[str, Any]:
    pairs = [(of_a[mask], of_b[mask]) for mask in of_a if mask in of_b]
    same = sum(x == y for x, y in pairs)
    return {
        "reviewers": [a, b],
        "n": len(pairs),
        "agree": same / len(pairs) if pairs else None,
        "kappa": cohens_kappa(pairs),
    }


def cohens_kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Agreement beyond chance: ``(p_o - p_e) / (1 - p_e)`` (Cohen 1960); None where chance alone explains everything.

    That is so without pairs, and where both reviewers gave one and the same decision throughout.
    """
    n = len(pairs)
    first, second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    chance = sum(first[decision] * second[decision] for decision in first)  # n² p_e, exact in integers
    if n * n == chance:
        return None
    return (n * sum(a == b for a, b in pairs) - chance) / (n * n - chance)
