"""`rvqc phantom`: synthetic studies with true masks."""

from __future__ import annotations

import argparse
from typing import Any

from RVQCLib.commands.common import command, say


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


def run(args: argparse.Namespace) -> dict[str, Any]:
    from RVQCLib.phantom import write_phantom

    studies = write_phantom(args.output, args.n, args.seed, dilated_rv=args.dilated_rv)
    if not args.json:
        say(f"{args.n} phantom studies are in {args.output}")
    return {"folder": str(args.output), "studies": [str(study) for study in studies or []]}
