"""`rvqc ablation`: what selection and refinement add to one network (Fig. 3)."""

from __future__ import annotations

import argparse
from typing import Any

from RVQCLib.commands.common import Progress, bundle_path, command, comparison_options, say


def add(commands: Any) -> None:
    parser = command(
        commands,
        "ablation",
        run,
        "Say what selection by QC and refinement add to one network (Fig. 3).",
        "rvqc ablation acdc/training --split test --refined my-refined-bundle -o ablation",
        "The best network alone, {M} with QC, and refined: Dice and HD with paired intervals.",
    )
    comparison_options(parser, "folder for ablation.json and ablation.csv", "seed of the bootstrap intervals")
    parser.add_argument("--refined", help="folder of the bundle that 'rvqc refine' made of --bundle")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from RVQCLib.ablation import ablation

    summary = ablation(
        args.data,
        bundle_path(args),
        args.output,
        refined=args.refined,
        part=args.split,
        device=args.device,
        allow=args.allow,
        seed=args.seed,
        jobs=args.jobs,
        report=Progress(),
    )
    if not args.json:
        for view, methods in summary["views"].items():
            for method, found in methods.items():
                say(f"{view} {method} (n {found['n_stacks']}): {_in_words(found)}")
        say(f"Brackets: 95 % over patients, difference to the single network. {summary['note']}".rstrip())
    return summary


def _in_words(found: dict[str, Any]) -> str:
    """RV Dice and HD, each with the difference to the single network."""
    words = []
    for name, measure, digits in (("Dice", "dice", 3), ("HD mm", "hd_mm", 1)):
        own, less = found["RV"][measure], found["minus_single"]["RV"][measure]
        gap = f"{less['mean']:+.{digits}f} [{less['low']:+.{digits}f}, {less['high']:+.{digits}f}]"
        words.append(f"RV {name} {own['mean']:.{digits}f}, {gap}")
    return "; ".join(words)
