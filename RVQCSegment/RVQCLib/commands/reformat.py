"""`rvqc reformat`: the four-chamber view out of labelled short-axis stacks."""

from __future__ import annotations

import argparse
from typing import Any

from RVQCLib.commands.common import command, say, seed_option


def add(commands: Any) -> None:
    parser = command(
        commands,
        "reformat",
        run,
        "Cut labelled SA stacks along the four-chamber plane, to try or train LA networks.",
        "rvqc reformat acdc/training acdc-four-chamber",
        computes=False,
    )
    parser.add_argument("data", help="a folder of studies with labelled short-axis stacks")
    parser.add_argument("output", help="a new folder to write to, in the layout of M&Ms-2")
    parser.add_argument(
        "--planes",
        type=int,
        default=1,
        help="planes of every stack: more than one are for training, the others lie near the first, as further slices",
    )
    seed_option(parser, "seed of the further planes")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from RVQCLib.reformat import write_four_chamber

    studies = write_four_chamber(args.data, args.output, planes=args.planes, seed=args.seed)
    if not args.json:
        say(f"{len(studies)} four-chamber views are in {args.output}; their pixels are as coarse as the slices were")
    return {"folder": str(args.output), "studies": [str(study) for study in studies]}
