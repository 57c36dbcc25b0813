"""`rvqc phantom`: synthetic studies with true masks."""

from __future__ import annotations

import argparse
from typing import Any

from RVQCLib.commands.common import command, say
from RVQCLib.files import RVQCError


def add(commands: Any) -> None:
    parser = command(
        commands,
        "phantom",
        run,
        "Write synthetic studies with true masks, in the M&Ms-2 layout.",
        "rvqc phantom phantoms -n 4 --seed 1",
    )
    parser.add_argument("output", help="folder to write to")
    parser.add_argument("-n", type=int, default=2, help="how many studies")
    parser.add_argument("--seed", type=int, default=0, help="seed of anatomy and contrast")
    parser.add_argument("--dilated-rv", action="store_true", help="dilated right ventricles")
    parser.add_argument("--views", nargs="+", default=["SA", "LA"], choices=("SA", "LA"), help="views to write")
    parser.add_argument(
        "--variety",
        type=float,
        default=0.0,
        help="for training: hearts, planes and scanners far beyond the plausible; 1 is what LA networks are trained on",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    from RVQCLib.phantom import write_phantom

    if not 0 <= args.variety <= 2:
        raise RVQCError(f"--variety is {args.variety:g}; give a number from 0 to 2.")
    studies = write_phantom(
        args.output, args.n, args.seed, dilated_rv=args.dilated_rv, views=tuple(args.views), variety=args.variety
    )
    if not args.json:
        say(f"{args.n} phantom studies are in {args.output}")
    return {"folder": str(args.output), "studies": [str(study) for study in studies or []]}
