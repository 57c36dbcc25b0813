"""The answer in three seconds: one banner for the study, with a sign, a colour and the reason in words."""

from __future__ import annotations

import os
from html import escape

import qt

from RVQCLib.overall import worst
from RVQCSlicerLib.results import Result, flagged_words
from RVQCSlicerLib.words import NOT_JUDGED, VERDICTS, Verdict, short

MOST_REASONS = 4


class Banner:
    """The worst verdict of a result and why. `icons` is the folder of the verdicts' icons."""

    def __init__(self, icons: str) -> None:
        self._icons = icons
        self.widget = qt.QFrame()
        self.widget.objectName = "RVQCBanner"
        self._icon, self._title, self._reasons = qt.QLabel(), qt.QLabel(), qt.QLabel()
        self._title.objectName = "RVQCBannerTitle"
        self._reasons.objectName = "RVQCBannerReasons"
        self._title.wordWrap = self._reasons.wordWrap = True  # a long name must not make the panel wider
        row, words = qt.QHBoxLayout(self.widget), qt.QVBoxLayout()
        row.addWidget(self._icon, 0, qt.Qt.AlignTop)
        row.addLayout(words, 1)
        words.addWidget(self._title)
        words.addWidget(self._reasons)
        self.show(None)

    @property
    def text(self) -> str:
        """What can be read in it."""
        return f"{self._title.text}\n{self._reasons.text}"

    def show(self, result: Result | None) -> None:
        """Show a result; without one the banner is not there."""
        self.widget.visible = result is not None
        if result is None:
            return
        verdict = worst(map(result.verdict, result.stacks))
        self._paint(VERDICTS.get(verdict, NOT_JUDGED))
        self._title.text = f"{VERDICTS.get(verdict, NOT_JUDGED).title}: {result.study}"
        worst_first = [f"{short(key)}: {_sentence(stack)}" for key, stack in _from_bad_to_good(result)]
        first = any(stack["verdict"] != "trusted" for stack in result.stacks.values())
        lines = [*worst_first[:first], *result.quality["checks"], *worst_first[first:]]
        more = len(lines) - MOST_REASONS
        shown = lines[:MOST_REASONS] + ([f"and {more} more, see the table and the tiles below"] if more > 0 else [])
        self._reasons.text = "<br>".join(map(escape, shown))
        everything = [f"{short(key)}: {reason}" for key, stack in result.stacks.items() for reason in stack["reasons"]]
        self.widget.toolTip = "\n".join(everything)

    def _paint(self, verdict: Verdict) -> None:
        self._icon.setPixmap(qt.QPixmap(os.path.join(self._icons, verdict.icon)))
        self.widget.setStyleSheet(
            f"#RVQCBanner {{ background: {verdict.wash}; border: 2px solid {verdict.line}; border-radius: 6px; }}"
            f"#RVQCBannerTitle {{ color: {verdict.ink}; font-size: 17px; font-weight: 600; }}"
            "#RVQCBannerReasons { color: #1b2530; }"
        )


def _from_bad_to_good(result: Result) -> list[tuple[str, dict]]:
    order = list(VERDICTS)
    return sorted(result.stacks.items(), key=lambda item: -order.index(item[1]["verdict"]))


def _sentence(stack: dict) -> str:
    """The first reason without its numbers, and how many slices are flagged."""
    flagged = flagged_words(stack)
    if not stack["reasons"]:
        return f"nothing unusual as a whole; {flagged}" if flagged else "nothing unusual"
    reason = stack["reasons"][0].partition(" (")[0]
    return f"{reason}; {flagged}" if flagged else reason
