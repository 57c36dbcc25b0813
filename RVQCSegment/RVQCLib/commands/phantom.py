"""`rvqc phantom`: synthetic studies with true masks."""

from __future__ import annotations

import argparse
from typing import Any

from RVQCLib.commands.common import command, say, seed_option
from RVQCLib.files import RVQCError, check_empty


def add(commands: Any) -> None:
    parser = command(
        commands,
        "phantom",
        run,
        "Write synthetic studies with true masks, in the M&Ms-2 layout.",
        "rvqc phantom phantoms -n 4 --seed 1",
        computes=False,
    )
    parser.add_argument("output", help="a new folder to write to")
    parser.add_argument("-n", type=int, default=2, help="how many studies")
    seed_option(parser, "seed of anatomy and contrast")
    parser.add_argument("--dilated-rv", action="store_true", help="only hearts with a dilated right ventricle")
    parser.add_argument(
        "--unseen-from",
        type=int,
        metavar="N",
        help="deal diseases as M&Ms-2 does: DRV (the dilated right ventricle, RV in the challenge's table) and TRI only from "
        "study N on (161 of 360 in the challenge)",
    )
    parser.add_argument("--views", nargs="+", default=["SA", "LA"], choices=("SA", "LA"), help="views to write")
    parser.add_argument(
        "--variety",
        type=float,
        default=0.0,
        help="0 to 2: how far hearts, planes and scanners go beyond the usual; 1, beyond the plausible, is for training",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    from RVQCLib.phantom import challenge_diseases, write_phantom

    if not 0 <= args.variety <= 2:
        raise RVQCError(f"--variety is {args.variety:g}; give a number from 0 to 2.")
    if args.unseen_from is not None and not 1 < args.unseen_from <= args.n:
        raise RVQCError(f"--unseen-from is {args.unseen_from}; give a number from 2 to -n, which is {args.n}.")
    check_empty(args.output, "phantoms")
    plan = {"diseases": challenge_diseases(args.n, unseen_from=args.unseen_from)} if args.unseen_from else {}
    studies = write_phantom(
        args.output,
        args.n,
        args.seed,
        dilated_rv=args.dilated_rv,
        views=tuple(args.views),
        variety=args.variety,
        **plan,
    )
    if not args.json:
        say(f"{args.n} phantom studies are in {args.output}")
    return {"folder": str(args.output), "studies": [str(study) for study in studies or []]}
