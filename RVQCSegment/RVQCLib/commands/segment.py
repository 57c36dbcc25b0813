"""`rvqc segment`: one study, from a path to masks and their judgement."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from RVQCLib.commands.common import (
    Progress,
    bundle_options,
    bundle_path,
    candidates_option,
    command,
    quantifier_option,
    say,
)

if TYPE_CHECKING:
    from RVQCLib.stack import Study


def add(commands: Any) -> None:
    parser = command(
        commands, "segment", run, "Segment one study and judge its masks.", "rvqc segment patient001 -o results"
    )
    parser.add_argument(
        "study",
        help="one study: a file (.nii, .nii.gz, .nrrd, .mha), or a folder (M&Ms-2, ACDC, a DICOM series, plain)",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        help="folder in which the study's own folder is written; an earlier result of the same images there is replaced",
    )
    parser.add_argument(
        "--frames",
        nargs=2,
        type=int,
        metavar=("ED", "ES"),
        help="of a cine: which of its frames, from 1, are ED and ES; without it, they are found",
    )
    bundle_options(parser)
    candidates_option(parser)
    parser.add_argument("--no-report", action="store_true", help="leave out report.html")
    quantifier_option(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from RVQCLib.bundle import load_bundle
    from RVQCLib.files import read_json
    from RVQCLib.pipeline import segment_study
    from RVQCLib.quality import QCOptions
    from RVQCLib.result import in_words, refuse_other_images, write_result
    from RVQCLib.study import read_study

    study = read_study(args.study)
    _check_place(Path(args.output) / study.name, Path(args.study))
    refuse_other_images(study, args.output, {})
    bundle = load_bundle(bundle_path(args), allow=args.allow)
    options = QCOptions(quantifier=args.quantifier)
    frames = _frames(study, args.frames)
    result = segment_study(study, bundle, options=options, frames=frames, device=args.device, progress=Progress())
    folder = write_result(result, args.output, candidates=args.candidates, report=not args.no_report)
    answer = read_json(folder / "quality.json")
    if args.json:
        return answer
    for line in in_words(answer):
        say(line)
    say(f"Written to {folder}; open {folder / 'report.html'}" if not args.no_report else f"Written to {folder}")
    return answer


def _frames(study: Study, named: Sequence[int] | None) -> dict[str, tuple[int, int]]:
    """The frames that ``--frames`` names, from 0, for the one cine of the study."""
    from RVQCLib.files import RVQCError

    if named is None:
        return {}
    if len(study.cines) != 1:
        raise RVQCError(f"{study.name} has {len(study.cines)} cines, and --frames is of one; name the file of a cine.")
    return {study.cines[0][0].view: (named[0] - 1, named[1] - 1)}


def _check_place(target: Path, study: Path) -> None:
    """Refuse to put the result in the place of something else, of the images above all."""
    from RVQCLib.files import RVQCError, check_folder

    check_folder(target.parent)
    if study.resolve().is_relative_to(target.resolve()):
        raise RVQCError(f"{target}, where the result would come, holds the images; name another --output.")
    if target.exists() and not (target / "quality.json").is_file() and (target.is_file() or any(target.iterdir())):
        raise RVQCError(f"{target} exists and is no result of RVQC, so it is not replaced; name another --output.")
