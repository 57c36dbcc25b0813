"""`rvqc evaluate`: a bundle against true masks."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from RVQCLib.commands.common import Progress, bundle_path, command, comparison_options, say


def add(commands: Any) -> None:
    parser = command(
        commands,
        "evaluate",
        run,
        "Compare with true masks: Dice, HD and HD95; with --qc, how good the QC is.",
        "rvqc evaluate acdc/training --split test --qc -o evaluation",
    )
    output = "folder for summary.json, stacks.csv, evaluation.html"
    comparison_options(parser, output, "seed of the bootstrap intervals, and of the shifts of --qc")
    parser.add_argument(
        "--qc",
        action="store_true",
        help="judge the QC too, on the images as they are and under shifts: many times as long",
    )
    parser.add_argument(
        "--shifts",
        nargs="+",
        metavar="NAME",
        help="shifts of --qc, several at once with + between (vendor+noise); without it, each that there is",
    )
    parser.add_argument(
        "--severities",
        type=int,
        nargs="+",
        default=[1, 3, 5],
        choices=range(1, 6),
        metavar="1..5",
        help="severities of the shifts of --qc, from 1, hardly seen, to 5, a bad scan",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    from RVQCLib.evaluation import evaluate
    from RVQCLib.qc_statistics import in_words

    summary = evaluate(
        args.data,
        bundle_path(args),
        args.output,
        part=args.split,
        device=args.device,
        allow=args.allow,
        seed=args.seed,
        qc=args.qc,
        severities=args.severities,
        shifts=args.shifts,
        jobs=args.jobs,
        report=Progress(),
    )
    if not args.json:
        for line in _structures(summary):
            say(line)
        for group in summary["unseen_groups"] if "RV" not in summary["absent"] else ():
            found = summary["groups"][f"group {group}"]
            rv = found["RV"]["dice"]
            say(
                f"{group}, never trained on: RV Dice {rv['mean']:.3f} [{rv['low']:.3f}, {rv['high']:.3f}] (n {found['n_stacks']})"
            )
        for of, words in in_words(summary["qc"]) if args.qc else ():
            say(f"QC per {of}: {words or 'not calibrated'}")
        for study, reason in summary["failed"].items():
            say(f"{study} was left out: {reason}")
        say(f"{summary['n_stacks']} stacks; tables and page in {args.output}")
    return summary


def _structures(summary: dict[str, Any]) -> Iterator[str]:
    """A line a structure, and of each view where there are two, as a mean over both would be of neither."""
    from RVQCLib.stack import VIEWS

    groups = summary["groups"]
    views = {f" {view}": groups[f"view {view}"] for view in VIEWS if f"view {view}" in groups}
    for view, found in views.items() if len(views) > 1 else [("", summary["structures"])]:
        for structure in (name for name in summary["structures"] if name not in summary["absent"]):
            words = (f"{k} {v['mean']:.3f} [{v['low']:.3f}, {v['high']:.3f}]" for k, v in found[structure].items())
            yield f"{structure}{view}: {', '.join(words)}"
    for structure, reason in summary["absent"].items():
        yield f"{structure}: {reason}"
