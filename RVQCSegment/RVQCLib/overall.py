"""A study as a whole: the worst of its stacks' verdicts, and what no stack shows alone."""

from __future__ import annotations

from collections.abc import Iterable

VERDICTS = ("trusted", "look", "ood")
"""From good to bad."""


def worst(verdicts: Iterable[str], checks: Iterable[str] = (), view: str = "") -> str:
    """The worst of some verdicts, "" of none; ``look`` at least where their study's anatomy is none that a heart has.

    Where ED and ES are exchanged, each stack is as good as ever, but the ejection fraction is negative.

    Parameters
    ----------
    checks : The study's sentences, ``checks`` of quality.json.
    view : Whose anatomy counts, "" for that of every view.
    """
    odd = any(check.startswith(f"anatomy: {view}") for check in checks)
    return max([*verdicts, *(["look"] if odd else [])], key=VERDICTS.index, default="")
