"""`rvqc reviews`: what reviewers decided, and how far they agree."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from RVQCLib.commands.common import command, say
from RVQCLib.files import RVQCError


def add(commands: Any) -> None:
    parser = command(
        commands,
        "reviews",
        run,
        "Summarize the decisions of reviewers and their agreement.",
        "rvqc reviews results",
        computes=False,
    )
    parser.add_argument(
        "path", help="folder with reviews.jsonl (the panel's results, a batch, OUT.refinement), or that file"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    from RVQCLib.reviews import damaged_lines, read_reviews, summarize

    path = Path(args.path) / "reviews.jsonl" if Path(args.path).is_dir() else Path(args.path)
    if not path.is_file():
        raise RVQCError(f"{path} does not exist; review a study first, or name the folder of a reviewed batch.")
    answer = {**summarize(read_reviews(path)), "damaged_lines": list(damaged_lines(path))}
    if answer["damaged_lines"] and not answer["n_reviews"]:
        raise RVQCError(f"{path} holds no review; name the folder of a reviewed batch, or its reviews.jsonl.")
    if not args.json:
        _say(answer)
    return answer


def _say(answer: dict[str, Any]) -> None:
    say(f"{answer['n_reviews']} reviews of {answer['n_masks']} masks")
    for name, counts in answer["reviewers"].items():
        say(f"{name}: {', '.join(f'{n} {decision}' for decision, n in counts.items() if n)}")
    for pair in answer["agreement"]:
        kappa = "not defined here" if pair["kappa"] is None else f"{pair['kappa']:.2f}"
        same = round((pair["agree"] or 0) * pair["n"])
        say(f"{' and '.join(pair['reviewers'])}: same decision on {same} of {pair['n']}, Cohen's kappa {kappa}")
    for stack in answer["disputed"]:
        words = ", ".join(f"{name} {decision}" for name, decision in stack["decisions"].items())
        say(f"disputed {stack['study']} {stack['view']} {stack['phase']}: {words}")
    if answer["damaged_lines"]:
        say(f"lines that are no reviews: {', '.join(map(str, answer['damaged_lines']))}")
