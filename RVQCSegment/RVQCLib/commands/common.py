"""What the commands share: their common options, progress on stderr, the result on stdout."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from RVQCLib.files import RVQCError
from RVQCLib.recipes import MOST_SEEDS, RECIPES


class Progress:
    """Events of a running job on stderr: one live line on a terminal, one JSON object a line elsewhere.

    An event is a dict; ``done`` and ``total`` (or ``epoch`` and ``epochs``) make the bar, the rest is shown beside it. The time
    left is its ``seconds_left``, or what the pace of such events (``event`` and ``moment``) tells since the first of them.
    """

    def __init__(self, stream: Any = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._began: tuple[Any, int, float] | None = None  # of such events as come now the kind, first count and time
        self._gone = False

    def __call__(self, event: dict[str, Any]) -> None:
        if self._gone:
            return
        try:
            self._stream.write(f"\r\x1b[K{self._line(event)}" if self._live else json.dumps(event) + "\n")
            if self._live and event.get("done", event.get("epoch")) == event.get("total", event.get("epochs")):
                self._stream.write("\n")
            self._stream.flush()
        except BrokenPipeError:  # nobody reads any more (| head); the work goes on
            self._gone = True

    def _line(self, event: dict[str, Any]) -> str:
        done, total = event.get("done", event.get("epoch", 0)), event.get("total", event.get("epochs", 1))
        left = event.get("seconds_left", self._seconds_left(event, done, total) if "done" in event else None)
        bar = ("=" * round(20 * done / max(total, 1))).ljust(20)
        hidden = {"done", "total", "epoch", "epochs", "seconds_left", "event"}
        words = " ".join(_short(key, value) for key, value in event.items() if key not in hidden)
        clock = "" if left is None else f" {int(left) // 60}:{int(left) % 60:02d} left"
        return f"[{bar}] {done}/{total}{clock}  {words}"[:160]

    def _seconds_left(self, event: dict[str, Any], done: int, total: int) -> float | None:
        kind, now = (event.get("event"), event.get("moment")), time.monotonic()
        if self._began is None or self._began[0] != kind or done <= self._began[1]:
            self._began = kind, done, now
        _, first, began = self._began
        return (now - began) / (done - first) * (total - done) if done > first else None


def _short(key: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{key} {value:.3f}"
    if isinstance(value, dict):
        return " ".join(_short(k, v) for k, v in value.items())
    return str(value) if isinstance(value, str) else f"{key} {value}"


class Help(argparse.HelpFormatter):
    """Help that names the default of every option that takes a value and has one."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26)

    def _get_help_string(self, action: argparse.Action) -> str:
        told = action.help or ""
        if action.nargs == 0 or action.default in (None, "", [], argparse.SUPPRESS):
            return told.replace(" (default: %(default)s)", "")  # Python 3.11 and 3.12 add it to --x, --no-x themselves
        default = " ".join(map(str, action.default)) if isinstance(action.default, list) else action.default
        return f"{told} (default: {default})"


def command(
    commands: Any,
    name: str,
    function: Callable[[argparse.Namespace], dict[str, Any]],
    help_: str,
    example: str,
    more: str = "",
    *,
    computes: bool = True,
) -> argparse.ArgumentParser:
    """A new command with the options that all have; `function` gets the parsed arguments and returns the JSON result.

    `help_` is one line of the list of commands; the command's own help goes on with `more`. One that `computes` nothing on a
    device takes ``--device`` all the same, so that scripts can give it to all, and its help says so.
    """
    parser = commands.add_parser(
        name,
        help=help_,
        description=f"{help_} {more}".strip(),
        epilog=f"example: {example}",
        formatter_class=Help,
    )
    parser.set_defaults(function=function)
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    parser.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cuda", "mps", "cpu"),
        help="where to compute; auto: on a GPU that works, else on the processor"
        if computes
        else "taken by every command; this one needs no device and works alike with any",
    )
    parser.add_argument(
        "--verbose", action="store_true", help="log more on stderr, and where in the code an error comes from"
    )
    return parser


def bundle_options(parser: argparse.ArgumentParser) -> None:
    """``--bundle`` and ``--allow``."""
    parser.add_argument("--bundle", help="folder of the bundle (networks and calibration); without it, the shipped one")
    allow_option(parser)


def allow_option(parser: argparse.ArgumentParser) -> None:
    """``--allow``: networks from outside RVQC."""
    parser.add_argument(
        "--allow",
        action="append",
        type=_factory,
        default=[],
        metavar="MODULE:FACTORY",
        help="a network from outside RVQC whose code may be run; once for each",
    )


def _factory(text: str) -> str:
    if not all(part.isidentifier() for part in text.replace(":", ".", 1).split(".")) or ":" not in text:
        raise argparse.ArgumentTypeError(
            f"{text} names no network; give module:factory, such as package.module:factory"
        )
    return text


def jobs_option(parser: argparse.ArgumentParser, help_: str = "processes side by side, each with one thread") -> None:
    """``--jobs``: 1 or more."""
    parser.add_argument("--jobs", type=_jobs, default=1, metavar="N", help=help_)


def _jobs(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} processes cannot work; give 1 or more")
    return int(text)


def seed_option(parser: argparse.ArgumentParser, help_: str) -> None:
    """``--seed``: a number that all generators take."""
    parser.add_argument("--seed", type=_seed, default=0, metavar="N", help=help_)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= MOST_SEEDS:
        raise argparse.ArgumentTypeError(f"{text} is no seed; give a whole number from 0 to {MOST_SEEDS - 1}")
    return int(text)


def network_options(parser: argparse.ArgumentParser) -> None:
    """What networks are made of, what they see, how long the QC module and the locator train, how many candidates stay."""
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NETWORK.PARAMETER=VALUE",
        help="parameters of a network that are not to have their defaults, such as BN1.stages=5; AE is the QC module: "
        "AE.width=24",
    )
    parser.add_argument("--spacing", type=float, default=1.5, help="pixel size that the networks see, in mm")
    parser.add_argument(
        "--size",
        type=int,
        default=128,
        help="width and height that they see, in pixels; a multiple of 32 from 64 on",
    )
    parser.add_argument(
        "--m-best", type=int, default=3, help="how many candidate networks are kept (the paper's m_best)"
    )
    parser.add_argument("--qc-epochs", type=int, default=60, help="epochs of the QC module R")
    parser.add_argument("--locator-epochs", type=int, default=12, help="epochs of the locator, which finds the heart")
    precision_option(parser)


def precision_option(parser: argparse.ArgumentParser) -> None:
    """``--precision``, as `fitting.native_precision` decides it with ``auto``."""
    parser.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "float32", "bfloat16"),
        help="number format of the forward pass in training; auto: bfloat16 where the device computes in it, else "
        "float32",
    )


def mode_option(parser: argparse.ArgumentParser) -> None:
    """``--mode``: the recipes of refinement."""
    parser.add_argument(
        "--mode",
        default="guarded",
        choices=tuple(RECIPES),
        help="how to refine; guarded: labelled slices with the look of the new studies teach a second pool of networks, taken back "
        "where the guard studies get worse; paper: eq. 2 as printed; entropy: TENT, the usual baseline; none: nothing is learnt",
    )


def network_parameters(settings: list[str], networks: Sequence[str]) -> dict[str, dict[str, Any]]:
    """``BN1.stages=5`` … as parameters by network, of `networks` and AE; values are JSON, or else text.

    Raises
    ------
    RVQCError
        A setting names no parameter, or a network that is not trained.
    """
    found: dict[str, dict[str, Any]] = {}
    for setting in settings:
        left, equals, value = setting.partition("=")
        network, dot, name = left.rpartition(".")
        if not (equals and dot and network and name):
            raise RVQCError(f"--set {setting} names no parameter; write it like BN1.stages=5.")
        if network not in (*networks, "AE"):
            raise RVQCError(f"--set {setting} is of no network here; these are {', '.join([*networks, 'AE'])}.")
        try:
            found.setdefault(network, {})[name] = json.loads(value)
        except json.JSONDecodeError:
            found.setdefault(network, {})[name] = value
    return found


def check_field(args: argparse.Namespace) -> None:
    """Raise RVQCError where ``--size`` and ``--spacing`` are none that networks can have."""
    if args.size < 64 or args.size % 32 or not 0.2 <= args.spacing <= 10:
        raise RVQCError(
            f"--size {args.size} and --spacing {args.spacing:g} make no field; give a multiple of 32 from 64, and 0.2 to 10 mm."
        )


def comparison_options(parser: argparse.ArgumentParser, output: str, seed: str) -> None:
    """What commands that compare with true masks share: data, bundle, ``--split``, ``--jobs``; ``-o`` and ``--seed`` in own words."""
    parser.add_argument("data", help="a folder of studies with true masks (M&Ms-2 or ACDC: …_gt)")
    parser.add_argument("-o", "--output", required=True, help=output)
    bundle_options(parser)
    parser.add_argument(
        "--split",
        default="all",
        choices=("all", "train", "validation", "test"),
        help="which part of the split that the bundle records; all: every study found",
    )
    seed_option(parser, seed)
    jobs_option(parser)


def candidates_option(parser: argparse.ArgumentParser) -> None:
    """``--candidates``."""
    parser.add_argument(
        "--candidates", action="store_true", help="write the mask of every candidate too: …_candidate1.nii.gz, …"
    )


def quantifier_option(parser: argparse.ArgumentParser) -> None:
    """``--quantifier``, as `selection.is_ood` takes it."""
    parser.add_argument(
        "--quantifier",
        default="paper",
        choices=("paper", "authors"),
        help="when a stack is out of distribution; paper: every candidate lies outside the fences; authors: the best pDC or "
        "the best pHD of all does, as in their code",
    )


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Yield what says whether Ctrl+C or SIGTERM came, for work that asks it and then tells its workers.

    The first of them is kept for the work to ask; another, or one before it ever asked, ends the work where it is
    (KeyboardInterrupt). A signal that is ignored, as Ctrl+C is by jobs in a shell's background, stays so.
    """
    asks, came = threading.Event(), threading.Event()

    def stop(number: int, frame: Any) -> None:
        if came.is_set() or not asks.is_set():
            raise KeyboardInterrupt
        came.set()

    def cancelled() -> bool:
        asks.set()
        return came.is_set()

    if threading.current_thread() is not threading.main_thread():
        yield cancelled
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    heard = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
    try:
        for number in heard:
            signal.signal(number, stop)
        yield cancelled
    finally:
        for number, handler in heard.items():
            signal.signal(number, handler)


def bundle_path(args: argparse.Namespace) -> Path:
    """The bundle that was named, or the shipped one."""
    from RVQCLib.bundle import shipped_bundle

    return Path(args.bundle) if args.bundle else shipped_bundle()


def say(text: str) -> None:
    """Text for people on stdout."""
    print(text)


def say_json(answer: Any) -> None:
    """The result for machines on stdout."""
    print(json.dumps(answer, allow_nan=False), flush=True)
