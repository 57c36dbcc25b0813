"""The ``rvqc`` command.

stdout belongs to the result (text, or JSON with ``--json``); progress and messages go to stderr: a bar with the time left
on a terminal, JSON lines elsewhere. Exit codes: 0 done, 1 failed, 2 bad input, 3 cancelled.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from RVQCLib import __version__
from RVQCLib.files import Cancelled, RVQCError

DONE, FAILED, BAD_INPUT, CANCELLED = 0, 1, 2, 3

log = logging.getLogger(__name__)


class Progress:
    """Events of a running job on stderr: one live line on a terminal, one JSON object a line elsewhere.

    An event is a dict; ``done`` and ``total`` (or ``epoch`` and ``epochs``) make the bar, the rest is shown beside it.
    """

    def __init__(self, stream: Any = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._started = time.monotonic()

    def __call__(self, event: dict[str, Any]) -> None:
        if not self._live:
            self._stream.write(json.dumps(event) + "\n")
        else:
            self._stream.write(f"\r\x1b[K{self._line(event)}")
            if event.get("done", event.get("epoch")) == event.get("total", event.get("epochs")):
                self._stream.write("\n")
        self._stream.flush()

    def _line(self, event: dict[str, Any]) -> str:
        done, total = event.get("done", event.get("epoch", 0)), event.get("total", event.get("epochs", 1))
        elapsed = time.monotonic() - self._started
        left = event.get("seconds_left", elapsed / done * (total - done) if done else 0.0)
        bar = ("=" * round(20 * done / max(total, 1))).ljust(20)
        hidden = {"done", "total", "epoch", "epochs", "seconds_left", "event"}
        words = " ".join(_short(key, value) for key, value in event.items() if key not in hidden)
        return f"[{bar}] {done}/{total} {int(left) // 60}:{int(left) % 60:02d} left  {words}"[:160]


def _short(key: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{key} {value:.3f}"
    if isinstance(value, dict):
        return " ".join(_short(k, v) for k, v in value.items())
    return str(value) if isinstance(value, str) else f"{key} {value}"


def _segment(args: argparse.Namespace) -> dict[str, Any]:
    from RVQCLib.bundle import load_bundle
    from RVQCLib.pipeline import segment_study
    from RVQCLib.quality import QCOptions
    from RVQCLib.result import write_result
    from RVQCLib.study import read_study

    study = read_study(args.study)
    bundle = load_bundle(_bundle_path(args), allow=args.allow)
    options = QCOptions(quantifier=args.quantifier)
    result = segment_study(study, bundle, options=options, device=args.device, progress=Progress())
    folder = write_result(result, args.output, candidates=args.candidates, report=not args.no_report)
    answer = result.to_json()
    if args.json:
        return answer
    for stack in answer["stacks"]:
        reasons = "; ".join(stack["reasons"]) or "nothing unusual"
        _say(f"{answer['study']} {stack['view']} {stack['phase']}: {stack['verdict']} ({reasons})")
    _say(f"Written to {folder}; open {folder / 'report.html'}" if not args.no_report else f"Written to {folder}")
    return answer


def _evaluate(args: argparse.Namespace) -> dict[str, Any]:
    from RVQCLib.evaluation import evaluate

    summary = evaluate(
        args.data,
        _bundle_path(args),
        args.output,
        part=args.split,
        device=args.device,
        allow=args.allow,
        seed=args.seed,
        qc=args.qc,
        severities=args.severities,
        report=Progress(),
    )
    if not args.json:
        for structure, measures in summary["structures"].items():
            words = ", ".join(f"{k} {v['mean']:.3f} [{v['low']:.3f}, {v['high']:.3f}]" for k, v in measures.items())
            _say(f"{structure}: {words}")
        for level in ("stack", "slice") if args.qc else ():
            said = {k: v for k, v in summary["qc"][level]["combined"].items() if isinstance(v, float)}
            _say(f"QC per {level}: " + (", ".join(f"{k} {v:.3f}" for k, v in said.items()) or "not calibrated"))
        _say(f"{summary['n_stacks']} stacks; tables and page in {args.output}")
    return summary


def _train(args: argparse.Namespace) -> dict[str, Any]:
    from RVQCLib.training import Terms, TrainingConfig, train_bundle

    config = TrainingConfig(
        view=args.view,
        networks=tuple(args.network),
        width=args.width,
        m_best=args.m_best,
        consensus=not args.no_consensus,
        epochs=args.epochs,
        qc_epochs=args.qc_epochs,
        locator_epochs=args.locator_epochs,
        corruption=0.0 if args.plain_qc else 0.7,
        seed=args.seed,
        precision=args.precision,
    )
    description = train_bundle(
        args.data,
        args.out,
        config,
        name=args.name,
        device=args.device,
        allow=args.allow,
        jobs=args.jobs,
        work=args.work,
        terms=Terms(**{k: v for k in ("license", "citation") if (v := getattr(args, k))}),
        report=Progress(),
    )
    if not args.json:
        _say(f"The bundle {description['name']} is in {args.out}")
    return description


def _calibrate(args: argparse.Namespace) -> dict[str, Any]:
    from RVQCLib.calibration import calibrate_bundle

    answer = calibrate_bundle(
        args.bundle, args.data, part=args.split, device=args.device, allow=args.allow, report=Progress()
    )
    if not args.json:
        for view, calibration in answer.items():
            _say(f"{view}: calibrated on {calibration['n_stacks']} stacks of {calibration['n_studies']} studies")
    return answer


def _info(args: argparse.Namespace) -> dict[str, Any]:
    from RVQCLib.info import describe

    answer, text = describe(Path(args.path), plot=args.plot)
    if not args.json:
        _say(text)
    return answer


def _phantom(args: argparse.Namespace) -> dict[str, Any]:
    from RVQCLib.phantom import write_phantom

    studies = write_phantom(args.output, args.n, args.seed, dilated_rv=args.dilated_rv)
    if not args.json:
        _say(f"{args.n} phantom studies are in {args.output}")
    return {"folder": str(args.output), "studies": [str(study) for study in studies or []]}


def _demo(args: argparse.Namespace) -> dict[str, Any]:
    from RVQCLib.demo import run_demo

    answer, text = run_demo(Path(args.output), _bundle_path(args), device=args.device, progress=Progress())
    if not args.json:
        _say(text)
    return answer


def _bundle_path(args: argparse.Namespace) -> Path:
    from RVQCLib.bundle import shipped_bundle

    return Path(args.bundle) if args.bundle else shipped_bundle()


def _say(text: str) -> None:
    print(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rvqc",
        description="Segment the right ventricle in cine MR, judge every mask, refine. Research use only, not a medical device.",
    )
    parser.add_argument("--version", action="version", version=f"rvqc {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_add_segment, _add_evaluate, _add_train, _add_calibrate, _add_info, _add_phantom, _add_demo):
        add(commands)
    return parser


def _command(
    commands: Any, name: str, function: Callable[[argparse.Namespace], dict[str, Any]], help_: str, example: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=help_,
        description=help_,
        epilog=f"example: {example}",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.set_defaults(function=function)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "mps", "cpu"), help="where to compute")
    parser.add_argument("--verbose", action="store_true", help="say more on stderr")
    return parser


def _bundle_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", help="folder of a bundle; without it, the shipped one")
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="MODULE:FACTORY",
        help="a network from outside RVQC that you trust, by name",
    )


def _add_segment(commands: Any) -> None:
    parser = _command(
        commands, "segment", _segment, "Segment one study and judge its masks.", "rvqc segment patient001 -o results"
    )
    parser.add_argument("study", help="a file or a folder of one study (M&Ms-2, ACDC, plain)")
    parser.add_argument("-o", "--output", required=True, help="where the study's folder is written")
    _bundle_options(parser)
    parser.add_argument("--candidates", action="store_true", help="write every candidate's mask too")
    parser.add_argument("--no-report", action="store_true", help="leave out report.html")
    parser.add_argument("--quantifier", default="paper", choices=("paper", "authors"), help="rule for OoD")


def _add_evaluate(commands: Any) -> None:
    parser = _command(
        commands,
        "evaluate",
        _evaluate,
        "Compare with true masks: Dice, HD, HD95 per stack and group, and how good the QC is.",
        "rvqc evaluate acdc/training --split test --qc -o evaluation",
    )
    parser.add_argument("data", help="a folder of labelled studies")
    parser.add_argument("-o", "--output", required=True, help="folder for summary.json, stacks.csv, evaluation.html")
    _bundle_options(parser)
    parser.add_argument(
        "--split",
        default="all",
        choices=("all", "train", "validation", "test"),
        help="the part of the bundle's recorded split to use; all uses every study found",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the intervals, and of the shifts of --qc")
    parser.add_argument("--qc", action="store_true", help="judge the QC too, on the images as they are and shifted")
    parser.add_argument(
        "--severities",
        type=int,
        nargs="+",
        default=[1, 3, 5],
        choices=range(1, 6),
        metavar="1..5",
        help="of the shifts of --qc",
    )


def _add_train(commands: Any) -> None:
    parser = _command(
        commands,
        "train",
        _train,
        "Train candidates, QC module and locator: a new bundle.",
        "rvqc train acdc/training --view SA --out my-bundle",
    )
    parser.add_argument("data", help="a folder of labelled studies")
    parser.add_argument("--view", default="SA", choices=("SA", "LA"), help="view to train")
    parser.add_argument("--out", required=True, help="folder of the new bundle")
    parser.add_argument("--name", default="", help="name of the bundle; without it, that of its folder")
    parser.add_argument("--network", nargs="+", default=["BN1", "BN2"], help="one run each: BN1, BN2, module:factory")
    parser.add_argument(
        "--width", type=int, default=16, help="channels of the first stage; 32 (BN1) and 48 (BN2) are full"
    )
    parser.add_argument("--m-best", type=int, default=3, help="candidates that are kept")
    parser.add_argument("--no-consensus", action="store_true", help="leave the mean of the candidates out of the pool")
    parser.add_argument("--epochs", type=int, default=40, help="epochs of every candidate run")
    parser.add_argument("--qc-epochs", type=int, default=60, help="epochs of the QC module")
    parser.add_argument("--locator-epochs", type=int, default=12, help="epochs of the locator")
    parser.add_argument("--plain-qc", action="store_true", help="train R on true masks only, as the paper does")
    parser.add_argument("--seed", type=int, default=0, help="seed of split and training")
    parser.add_argument(
        "--precision", default="auto", choices=("auto", "float32", "bfloat16"), help="of the forward pass"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, each with its share of the cores")
    parser.add_argument("--license", help="what the licence of the data asks of the bundle's users, in words")
    parser.add_argument("--citation", help="what to cite when the bundle is used")
    parser.add_argument("--work", help="folder of the checkpoints; the same folder resumes; without it, OUT.training")
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="MODULE:FACTORY",
        help="a network from outside RVQC that you trust, by name",
    )


def _add_calibrate(commands: Any) -> None:
    parser = _command(
        commands,
        "calibrate",
        _calibrate,
        "Set a bundle's fences and its map to Dice from labelled studies.",
        "rvqc calibrate my-bundle --data acdc/training --split validation",
    )
    parser.add_argument("bundle", help="folder of the bundle; its calibration is replaced")
    parser.add_argument("--data", required=True, help="labelled studies that its training never saw")
    parser.add_argument(
        "--split", default="validation", choices=("all", "validation", "test"), help="part of the split"
    )
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="MODULE:FACTORY",
        help="a network from outside RVQC that you trust, by name",
    )


def _add_info(commands: Any) -> None:
    parser = _command(commands, "info", _info, "Say what a bundle or a study is.", "rvqc info my-bundle --plot log.svg")
    parser.add_argument("path", help="a bundle, a study or a folder of studies")
    parser.add_argument("--plot", help="write the training log of a bundle, or of a running training, as an SVG")


def _add_phantom(commands: Any) -> None:
    parser = _command(
        commands,
        "phantom",
        _phantom,
        "Write synthetic studies with true masks, in the M&Ms-2 layout.",
        "rvqc phantom phantoms -n 4 --seed 1",
    )
    parser.add_argument("output", help="folder to write to")
    parser.add_argument("-n", type=int, default=2, help="how many studies")
    parser.add_argument("--seed", type=int, default=0, help="seed of anatomy and contrast")
    parser.add_argument("--dilated-rv", action="store_true", help="dilated right ventricles")


def _add_demo(commands: Any) -> None:
    parser = _command(
        commands, "demo", _demo, "Run the main job on two synthetic studies, one sound and one damaged.", "rvqc demo"
    )
    parser.add_argument("-o", "--output", default="demo", help="folder to write to")
    _bundle_options(parser)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments`; returns the exit code."""
    args = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO if args.verbose else logging.WARNING, format="%(levelname)s %(message)s")
    try:
        answer = args.function(args)
    except RVQCError as error:
        return _fail(str(error), BAD_INPUT)
    except (Cancelled, KeyboardInterrupt):
        return _fail("Cancelled; nothing half-written is left.", CANCELLED)
    except OSError as error:
        return _fail(
            f"{error.filename or getattr(args, 'output', 'A file')} could not be read or written ({error.strerror or error}).",
            FAILED,
        )
    except Exception as error:
        log.debug("Unexpected", exc_info=True)
        return _fail(f"Something went wrong inside RVQC ({type(error).__name__}: {error}); run with --verbose.", FAILED)
    if args.json:
        print(json.dumps(answer, allow_nan=False))
    return DONE


def _fail(sentence: str, code: int) -> int:
    sys.stderr.write(f"rvqc: {sentence}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
