"""`rvqc demo`: the main job on two synthetic studies."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from RVQCLib.commands.common import Progress, bundle_options, bundle_path, command, say


def add(commands: Any) -> None:
    parser = command(
        commands, "demo", run, "Segment and judge two synthetic studies, one sound and one spoilt.", "rvqc demo"
    )
    parser.add_argument("-o", "--output", default="demo", help="folder to write to")
    bundle_options(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from RVQCLib.demo import run_demo

    answer, text = run_demo(Path(args.output), bundle_path(args), device=args.device, progress=Progress())
    if not args.json:
        say(text)
    return answer
