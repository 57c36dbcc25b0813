"""`rvqc segment`: one study, from a path to masks and their judgement."""

from __future__ import annotations

import argparse
from typing import Any

from RVQCLib.commands.common import Progress, bundle_options, bundle_path, command, say


def add(commands: Any) -> None:
    parser = command(
        commands, "segment", run, "Segment one study and judge its masks.", "rvqc segment patient001 -o results"
    )
    parser.add_argument("study", help="a file or a folder of one study (M&Ms-2, ACDC, plain)")
    parser.add_argument("-o", "--output", required=True, help="where the study's folder is written")
    bundle_options(parser)
    parser.add_argument("--candidates", action="store_true", help="write every candidate's mask too")
    parser.add_argument("--no-report", action="store_true", help="leave out report.html")
    parser.add_argument("--quantifier", default="paper", choices=("paper", "authors"), help="rule for OoD")


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
