"""A study as a whole: the worst of its stacks' verdicts, and what no stack shows alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from RVQCLib.stack import VIEWS

VERDICTS = ("trusted", "look", "ood")
"""From good to bad."""


def worst(verdicts: Iterable[str], checks: Iterable[str] = (), view: str = "") -> str:
    """The worst of some verdicts, "" of none; ``look`` at least where the checks of their study speak against it.

    They do (`against`) where its anatomy is none that a heart has (where ED and ES are exchanged, each stack is as good as
    ever, but the ejection fraction is negative), and where the bundle has a caution for the view.

    Parameters
    ----------
    checks : The study's sentences, ``checks`` of quality.json.
    view : Whose checks count, "" for those of every view.
    """
    odd = ["look"] if against(checks, view) else []
    return max([*verdicts, *odd], key=VERDICTS.index, default="")


def against(checks: Iterable[str], view: str = "") -> list[str]:
    """The checks of a study for which `worst` says ``look``: odd anatomy, a caution of the bundle."""
    begins = (f"anatomy: {view}", *(f"{one}: " for one in ([view] if view else VIEWS)))
    return [check for check in checks if check.startswith(begins)]


def stack_verdict(stack: Mapping[str, Any], checks: Sequence[str]) -> str:
    """A stack's verdict; ``look`` at best where the checks of its study speak against its view."""
    return worst([stack["verdict"]], checks, stack["view"])


def stack_reasons(stack: Mapping[str, Any], checks: Sequence[str]) -> list[str]:
    """Why a stack has its `stack_verdict`: its own reasons, and the checks of its study where they decide it."""
    decide = stack_verdict(stack, checks) != stack["verdict"]
    return [*stack["reasons"], *(against(checks, stack["view"]) if decide else ())]
