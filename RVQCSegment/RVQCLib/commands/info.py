"""`rvqc info`: what a bundle, a study or a result is."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from RVQCLib.commands.common import command, say
from RVQCLib.files import RVQCError, check_file


def add(commands: Any) -> None:
    parser = command(
        commands,
        "info",
        run,
        "Say what a bundle, a training, a study or a result is.",
        "rvqc info my-bundle --plot log.svg",
        computes=False,
    )
    parser.add_argument(
        "path",
        help="a bundle, the work folder of a training, a study or a folder of studies, a study's results or those of a batch",
    )
    parser.add_argument(
        "--plot", metavar="FILE", help="draw the training log of a bundle, or of a running training, into a file .svg"
    )
    parser.add_argument("--card", metavar="FILE", help="write the model card of a bundle into a file .md")
    parser.add_argument(
        "--evaluation",
        nargs="+",
        action="extend",
        default=[],
        metavar="FOLDER",
        help="folders that 'rvqc evaluate' wrote with this bundle, for the results and known failures of --card",
    )
    parser.add_argument(
        "--no-pictures",
        dest="pictures",
        action="store_false",
        help="leave pictures of patients out of --card, where their images may not be given on",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    from RVQCLib.bundle import load_bundle
    from RVQCLib.card import write_card
    from RVQCLib.info import describe

    if args.evaluation and not args.card:
        raise RVQCError("--evaluation is for the model card; give --card FILE too.")
    for file, suffix in ((args.plot, ".svg"), (args.card, ".md")):
        if file:
            check_file(file, suffix)
    if args.card:
        write_card(load_bundle(args.path), args.card, args.evaluation, pictures=args.pictures)
    answer, text = describe(Path(args.path), plot=args.plot)
    if not args.json:
        say(text)
    return answer
