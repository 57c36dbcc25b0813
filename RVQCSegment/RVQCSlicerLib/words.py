"""The words, signs and colours that the parts of the panel share; the report uses the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

VIEWS = {"SA": "Short axis", "LA": "Long axis"}
PHASES = {"ED": "end-diastole", "ES": "end-systole"}


@dataclass(frozen=True)
class Verdict:
    """How a verdict is said: in words, by a sign, and in colours; `icon` is a file in Resources/Icons."""

    title: str
    sign: str
    ink: str
    wash: str
    line: str
    icon: str


VERDICTS = {
    "trusted": Verdict("Trusted", "\N{CHECK MARK}", "#0b5c8f", "#e6f1f8", "#0b5c8f", "verdict-trusted.png"),
    "look": Verdict(
        "Look at it", "\N{BLACK UP-POINTING TRIANGLE}", "#7a4a00", "#fff3d6", "#e0a100", "verdict-look.png"
    ),
    "ood": Verdict("Out of distribution", "\N{MULTIPLICATION X}", "#8c1141", "#fbe8ef", "#8c1141", "verdict-ood.png"),
}
NOT_JUDGED = Verdict("Not judged", "\N{EN DASH}", "#566270", "#f5f7f9", "#aeb8c2", "")


def split(key: str) -> tuple[str, str]:
    """View and phase of a stack's key: ("SA", "ED") of "SA_ED"."""
    view, _, phase = key.partition("_")
    return view, phase


def place(key: str) -> str:
    """A stack in words: "Short axis, end-diastole"."""
    view, phase = split(key)
    return f"{VIEWS.get(view, view)}, {PHASES.get(phase, phase)}"


def short(key: str) -> str:
    """A stack in few letters: "SA ED"."""
    return " ".join(split(key))


def failure_of(stack: Mapping[str, Any]) -> str:
    """What is wrong with a stack's mask as a whole, such as that it has no RV; "" for nothing."""
    return "; ".join(stack.get("evidence", {}).get("failed", ()))


def number(value: float | None, digits: int = 2, unit: str = "") -> str:
    """A number with its unit, a dash where there is none."""
    return f"{value:.{digits}f}{chr(160) + unit if unit else ''}" if value is not None else "\N{EN DASH}"
