"""`rvqc calibrate`: fences and the map to Dice of a bundle."""

from __future__ import annotations

import argparse
from typing import Any

from RVQCLib.commands.common import Progress, allow_option, command, say


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
    allow_option(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from RVQCLib.calibration import calibrate_bundle

    answer = calibrate_bundle(
        args.bundle, args.data, part=args.split, device=args.device, allow=args.allow, report=Progress()
    )
    if not args.json:
        for view, calibration in answer.items():
            say(f"{view}: calibrated on {calibration['n_stacks']} stacks of {calibration['n_studies']} studies")
    return answer
