"""The ``rvqc`` command.

stdout belongs to the result (text, or JSON with ``--json``); progress and messages go to stderr: progress as a bar with the time
left on a terminal and as JSON lines elsewhere, messages as text, the last of them a sentence about what went wrong. Exit codes: 0 done, 1 failed, 2 bad input, 3 cancelled.
"""

from __future__ import annotations

import argparse
import io
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from RVQCLib import __version__
from RVQCLib.commands import (
    ablation,
    batch,
    calibrate,
    demo,
    evaluate,
    info,
    mms2,
    phantom,
    refine,
    reformat,
    reviews,
    segment,
    train,
)
from RVQCLib.commands.common import Help, say_json
from RVQCLib.files import Cancelled, RVQCError

DONE, FAILED, BAD_INPUT, CANCELLED = 0, 1, 2, 3
COMMANDS = (segment, batch, evaluate, ablation, train, refine, calibrate, reviews, info, mms2, phantom, reformat, demo)

log = logging.getLogger(__name__)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rvqc",
        description="Segment the right ventricle in cine MR, judge every mask, refine. Research use only, not a medical device.",
        epilog="Begin with 'rvqc demo'; 'rvqc COMMAND --help' says more, with an example. "
        "Exit codes: 0 done, 1 failed, 2 bad input, 3 cancelled.",
        formatter_class=Help,
    )
    parser.add_argument("-V", "--version", action="version", version=f"rvqc {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments`; returns the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a pipe or an old terminal that cannot show every letter of a name
        sys.stdout.reconfigure(errors="backslashreplace")
    args = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO if args.verbose else logging.WARNING, format="%(levelname)s %(message)s")
    try:
        with _ended_like_by_the_keyboard():
            answer = args.function(args)
        if args.json and answer is not None:  # of many processes one answers
            say_json(answer)
    except BrokenPipeError:  # who read has seen enough
        sys.stdout = None
    except RVQCError as error:
        return _fail(str(error), BAD_INPUT)
    except (Cancelled, KeyboardInterrupt):
        return _fail("Cancelled; nothing half-written is left.", CANCELLED)
    except OSError as error:
        log.info("Not read or not written", exc_info=True)
        return _fail(
            f"{error.filename or getattr(args, 'output', 'A file')} could not be read or written ({error.strerror or error}).",
            FAILED,
        )
    except Exception as error:
        log.info("Unexpected", exc_info=True)
        return _fail(f"Something went wrong inside RVQC ({type(error).__name__}: {error}); run with --verbose.", FAILED)
    return DONE


@contextmanager
def _ended_like_by_the_keyboard() -> Iterator[None]:
    """SIGTERM, by which schedulers and containers end a program, is Ctrl+C: what is half-written goes, the exit code is 3."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(sentence: str, code: int) -> int:
    sys.stderr.write(f"rvqc: {sentence}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
