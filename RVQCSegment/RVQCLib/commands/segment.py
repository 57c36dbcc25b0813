"""`rvqc segment`: one study, from a path to masks and their judgement."""

from __future__ import annotations

import argparse
from typing import Any

from RVQCLib.commands.common import (
    Progress,
    bundle_options,
    bundle_path,
    candidates_option,
    command,
    quantifier_option,
    say,
)


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
        help="folder in which the study's own folder is written; an earlier result of it there is replaced",
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
    from RVQCLib.result import write_result
    from RVQCLib.study import read_study

    study = read_study(args.study)
    bundle = load_bundle(bundle_path(args), allow=args.allow)
    options = QCOptions(quantifier=args.quantifier)
    result = segment_study(study, bundle, options=options, device=args.device, progress=Progress())
    folder = write_result(result, args.output, candidates=args.candidates, report=not args.no_report)
    answer = read_json(folder / "quality.json")
    if args.json:
        return answer
    for stack in answer["stacks"]:
        reasons = "; ".join(stack["reasons"]) or "nothing unusual"
        say(f"{answer['study']} {stack['view']} {stack['phase']}: {stack['verdict']} ({reasons})")
    say(f"Written to {folder}; open {folder / 'report.html'}" if not args.no_report else f"Written to {folder}")
    return answer
