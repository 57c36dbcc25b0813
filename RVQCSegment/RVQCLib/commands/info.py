"""`rvqc info`: what a bundle or a study is."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from RVQCLib.commands.common import command, say


def add(commands: Any) -> None:
    parser = command(commands, "info", run, "Say what a bundle or a study is.", "rvqc info my-bundle --plot log.svg")
    parser.add_argument("path", help="a bundle, a study or a folder of studies")
    parser.add_argument("--plot", help="write the training log of a bundle, or of a running training, as an SVG")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from RVQCLib.info import describe

    answer, text = describe(Path(args.path), plot=args.plot)
    if not args.json:
        say(text)
    return answer
