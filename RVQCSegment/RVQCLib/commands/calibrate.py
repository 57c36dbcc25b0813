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
        "Set a bundle's fences and its map to Dice from labelled studies.",
        "rvqc calibrate my-bundle --data acdc/training --split validation",
    )
    parser.add_argument("bundle", help="folder of the bundle; its calibration is replaced")
    parser.add_argument("--data", required=True, help="labelled studies that its training never saw")
    parser.add_argument(
        "--split", default="validation", choices=("all", "validation", "test"), help="part of the split"
    )
    parser.add_argument("--view", action="append", default=[], help="only this view; by default all of the bundle")
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
