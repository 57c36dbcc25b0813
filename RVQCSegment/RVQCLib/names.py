"""What the words of a file's name, or of a DICOM series' description, say: whose study, which view, which phase."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

_WORDS = {
    "view": {
        **dict.fromkeys(("sa", "sax", "shortaxis"), "SA"),
        **dict.fromkeys(
            ("la", "lax", "longaxis", "4ch", "4chmb", "4chamber", "fourch", "fourchmb", "fourchamber"), "LA"
        ),
    },
    "phase": {"ed": "ED", "es": "ES", "diastole": "ED", "systole": "ES"},
    "label": dict.fromkeys(("gt", "mask", "label", "labels", "seg"), "label"),
    "cine": dict.fromkeys(("cine", "4d"), "cine"),
}
_WORD = re.compile(
    r"((?:(?![\u0300-\u036f\ud800-\udfff])[\W_])*)"
    r"((?:(?:short|long)[ _-]*axis|(?:4|four)[ _-]*(?:chamber|chmb|ch))(?![^\W_])|(?:[^\W_]|[\u0300-\u036f\ud800-\udfff])+)",
    re.IGNORECASE,
)
"""What is before a word, and the word; accents that stand alone and bytes that are no UTF-8 are of it like letters."""
_OTHER_VIEW = re.compile(
    r"(?<![a-z0-9])(?:(?:2|3|two|three)[ _-]*(?:ch|chamber|chmb)|vertical[ _-]*long[ _-]*axis|lvot|rvot)(?![a-z0-9])",
    re.IGNORECASE,
)
"""Long-axis views that no network here knows: a two-chamber image segmented as four chambers would look like a result."""


@dataclass(frozen=True)
class Name:
    """What a name says: `study` is what is left of it, `view` and `phase` are "" where it leaves them open.

    `doubt` are two words of which it cannot be told which is meant, such as "SA and LA"; "" in nearly every name.
    """

    study: str = ""
    view: str = ""
    phase: str = ""
    label: bool = False
    cine: bool = False
    doubt: str = ""


@dataclass(frozen=True)
class _Word:
    gap: str
    text: str
    kind: str
    value: str


def read_name(name: str) -> Name:
    """What the words of a name say, given without suffix.

    Names of people hold such words too (Maria de la Cruz, Ed Smith). Of several words of a kind those count that stand beside
    words of another kind (SA_ED), and those at an end of the name; the others are the study's.
    """
    words = _words(unicodedata.normalize("NFC", name))
    meant = {kind: _meant(words, kind) for kind in ("view", "phase")}
    values = {kind: sorted({words[place].value for place in places}) for kind, places in meant.items()}
    used = {place for places in meant.values() for place in places}
    study = ""
    for place, word in enumerate(words):
        if place not in used and word.kind not in ("label", "cine"):
            study += word.gap + word.text if study else word.text
    return Name(
        study,
        *(found[0] if len(found) == 1 else "" for found in values.values()),
        label=any(word.kind == "label" for word in words),
        cine=any(word.kind == "cine" for word in words),
        doubt=next((" and ".join(found) for found in values.values() if len(found) > 1), ""),
    )


def _words(name: str) -> list[_Word]:
    words: list[_Word] = []
    for gap, text in _WORD.findall(name):
        small = re.sub("[ _-]", "", text.lower())
        kind = next((kind for kind, known in _WORDS.items() if small in known), "")
        word = _Word(gap, text, kind, _WORDS[kind][small] if kind else "")
        last = words[-1] if words else word
        if kind and (last.kind, last.value) == (kind, word.value) and not last.text.lower().endswith(text.lower()):
            words[-1] = replace(last, text=f"{last.text}{gap}{text}")  # LAX_4ch says one thing
        else:
            words.append(word)
    return words


def _meant(words: Sequence[_Word], kind: str) -> list[int]:
    """The places of the words of a kind that count."""
    kinds = [word.kind for word in words]

    def score(place: int) -> int:
        beside = any(
            near not in ("", kind) for near in (*kinds[max(place - 1, 0) : place], *kinds[place + 1 : place + 2])
        )
        return beside + (all(kinds[: place + 1]) or all(kinds[place:]))

    places = [place for place, found in enumerate(kinds) if found == kind]
    best = max(map(score, places), default=0)
    return [place for place in places if score(place) == best]


def other_view(name: str) -> str:
    """The words by which a name says that it is of a view that RVQC does not segment; "" in others."""
    found = _OTHER_VIEW.search(name)
    return found[0] if found else ""


def shown(text: str | os.PathLike) -> str:
    """A path, or a sentence with one, as UTF-8: bytes of a name that are none, as old archives leave them, become U+FFFD."""
    return os.fsencode(text).decode("utf-8", "replace")


def not_utf8(path: str | os.PathLike) -> str:
    """What is wrong with a path that no result can name, because it is not UTF-8, and what to do; "" for every other."""
    path = Path(path)
    wrong = next((part for part in (*reversed(path.parents), path) if shown(part) != str(part)), None)
    return f"{shown(wrong)} has a name that is not UTF-8; rename it." if wrong else ""
