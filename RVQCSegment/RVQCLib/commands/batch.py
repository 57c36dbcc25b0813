"""`rvqc batch`: a folder of studies."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from RVQCLib.commands.common import (
    Progress,
    asked_to_stop,
    bundle_options,
    bundle_path,
    candidates_option,
    command,
    jobs_option,
    quantifier_option,
    say,
    say_json,
)
from RVQCLib.files import RVQCError


def add(commands: Any) -> None:
    parser = command(
        commands,
        "batch",
        run,
        "Segment a folder of studies and judge every mask; one table and one page of all.",
        "rvqc batch studies -o results --jobs 2",
    )
    parser.add_argument("folder", help="a folder with a file or a folder for each study")
    parser.add_argument(
        "-o", "--output", required=True, help="folder for the results, cohort.csv, cohort.html, run.json"
    )
    bundle_options(parser)
    parser.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep results whose images, bundle and options are unchanged, masks edited by hand among them (the default), or "
        "make all anew; what was edited and cannot be kept is moved to the folder 'edited' in the output folder",
    )
    jobs_option(parser, "processes side by side on this machine")
    parser.add_argument(
        "--part",
        type=_part,
        default="1/1",
        metavar="i/n",
        help="only every n-th study from the i-th on, for array jobs",
    )
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="a Dask scheduler to work on instead of this machine, such as tcp://host:8786",
    )
    parser.add_argument(
        "--fences",
        default="reference",
        choices=("reference", "cohort"),
        help="which fences judge; reference: those of the bundle; cohort: those of these studies, as in the paper, from 20 stacks on",
    )
    quantifier_option(parser)
    candidates_option(parser)
    parser.add_argument("--only", nargs="+", metavar="STUDY", help="only these studies of the folder")


def _part(text: str) -> tuple[int, int]:
    try:
        i, n = map(int, text.split("/"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is no part; give i/n, such as 1/8") from error
    return i, n


def run(args: argparse.Namespace) -> dict[str, Any]:
    from RVQCLib.cohort import segment_cohort
    from RVQCLib.cohort_files import in_words
    from RVQCLib.quality import QCOptions

    with asked_to_stop() as cancelled:
        answer = segment_cohort(
            args.folder,
            bundle_path(args),
            args.output,
            options=QCOptions(fences=args.fences, quantifier=args.quantifier),
            device=args.device,
            jobs=args.jobs,
            resume=args.resume,
            part=args.part,
            scheduler=args.scheduler,
            candidates=args.candidates,
            names=args.only,
            allow=args.allow,
            progress=Progress(),
            cancelled=cancelled,
        )
    if not args.json:
        for line in in_words(answer):
            say(line)
        out = Path(args.output)
        say(f"Worst first in {out / 'cohort.csv'}; open {out / 'cohort.html'}")
    chosen = answer["chosen"]  # other runs may have done more of the folder
    if chosen["failed"] and chosen["failed"] == chosen["studies"]:
        if args.json:
            say_json(answer)
        raise RVQCError(
            f"No study could be segmented, {chosen['failed']} failed; cohort.csv in {args.output} says why."
        )
    return answer
