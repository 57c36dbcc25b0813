"""`rvqc calibrate`: fences and the map to Dice of a bundle."""

from __future__ import annotations

import argparse
from typing import Any

from RVQCLib.commands.common import Progress, allow_option, command, jobs_option, say


def add(commands: Any) -> None:
    parser = command(
        commands,
        "calibrate",
        run,
        "Set a bundle's fences and its predicted Dice by labelled studies.",
        "rvqc calibrate my-bundle --data acdc/training --split validation",
    )
    parser.add_argument("bundle", help="folder of the bundle; its calibration is replaced")
    parser.add_argument(
        "--data",
        required=True,
        help="a folder of studies with true masks; those that the bundle was trained on are left out",
    )
    parser.add_argument(
        "--split",
        default="validation",
        choices=("all", "validation", "test"),
        help="which part of the split that the bundle records; all: every study found",
    )
    parser.add_argument(
        "--view",
        action="append",
        default=[],
        metavar="VIEW",
        help="SA or LA, once for each; without it, all of the bundle that the data have true masks of",
    )
    jobs_option(parser)
    allow_option(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from RVQCLib.calibration import calibrate_bundle

    answer = calibrate_bundle(
        args.bundle,
        args.data,
        part=args.split,
        views=args.view,
        device=args.device,
        allow=args.allow,
        jobs=args.jobs,
        report=Progress(),
    )
    if not args.json:
        for view, calibration in answer.items():
            say(f"{view}: calibrated on {calibration['n_stacks']} stacks of {calibration['n_studies']} studies")
            say(f"{view}: {_trust_in_words(calibration['trust']['RV'])}")
    return answer


def _trust_in_words(trust: dict[str, Any]) -> str:
    if trust["note"]:
        return trust["note"]
    shares = f"{100 * trust['missed_bad']:.0f} % of the bad and {100 * (trust['good_trusted'] or 0):.0f} % of the good stacks"
    return f"an RV is trusted from a predicted Dice of {trust['least']:.3f} on, which {shares} reach"
