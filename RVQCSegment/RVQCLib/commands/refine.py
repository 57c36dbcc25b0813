"""`rvqc refine`: unlabelled studies and a bundle to a better bundle, or to the same one and the reason why."""

from __future__ import annotations

import argparse
from typing import Any

from RVQCLib.commands.common import (
    Progress,
    allow_option,
    bundle_path,
    command,
    mode_option,
    precision_option,
    say,
    seed_option,
)
from RVQCLib.files import check_apart, check_folder


def add(commands: Any) -> None:
    parser = command(
        commands,
        "refine",
        run,
        "Learn from studies that could not be trusted, without their labels: a new bundle.",
        "rvqc refine new-hospital --bundle my-bundle --labelled acdc/training --out refined",
        "The same command again goes on where it ended. On several GPUs: torchrun --nproc-per-node N -m RVQCLib.cli refine …",
    )
    parser.add_argument("unlabelled", help="a folder of studies; true masks in it are not read")
    parser.add_argument(
        "--bundle", help="folder of the bundle to refine; without it, the shipped one; it is never changed"
    )
    parser.add_argument(
        "--labelled",
        help="folder of studies with true masks, some to learn from as well (L_SUP), some to guard by; without it, only the "
        "agreement of the candidates guards",
    )
    parser.add_argument("-o", "--out", required=True, help="folder of the new bundle")
    parser.add_argument("--name", default="", help="name of the new bundle; without it, that of its folder")
    mode_option(parser)
    parser.add_argument("--epochs", type=int, default=6, help="the most epochs of a candidate (the paper's K_semi)")
    parser.add_argument("--steps", type=int, default=40, help="the most steps of an epoch, each on one batch")
    parser.add_argument("--batch", type=int, default=16, help="slices of a step, over all processes; an even number")
    parser.add_argument(
        "--margin",
        type=float,
        default=0.005,
        help="how far the mean Dice (0 to 1) of the guard set may fall when the whole new bundle segments it, before all is taken back",
    )
    seed_option(parser, "seed of everything that is drawn")
    precision_option(parser)
    parser.add_argument("--names", "--only", nargs="+", metavar="STUDY", help="only these studies of the folder")
    parser.add_argument("--work", help="folder of checkpoints and masks; without it, OUT.refinement")
    parser.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on with what an earlier run of the same command left in the work folder (the default), or refuse such a folder",
    )
    parser.add_argument(
        "--no-calibration",
        action="store_true",
        help="do not calibrate the new networks; they keep the old calibration, its lower bounds twice as far away",
    )
    allow_option(parser)


def run(args: argparse.Namespace) -> dict[str, Any] | None:
    from RVQCLib.distributed import crew, joined
    from RVQCLib.refinement import RefinementConfig, refine_bundle

    config = RefinementConfig(
        mode=args.mode,
        epochs=args.epochs,
        steps=args.steps,
        batch=args.batch,
        margin=args.margin,
        seed=args.seed,
        precision=args.precision,
        recalibrate=not args.no_calibration,
    )
    for out in filter(None, (args.out, args.work)):
        check_apart(out, args.unlabelled)
        check_folder(out)
    progress = Progress()
    if not args.labelled and config.recipe.supervised:
        progress({"event": "warning", "message": "No labelled data: L_SUP is missing, only agreement guards."})
    with joined(args.device) as device:
        result = refine_bundle(
            args.unlabelled,
            bundle_path(args),
            args.out,
            config,
            labelled=args.labelled,
            device=device,
            allow=args.allow,
            work=args.work,
            names=args.names,
            name=args.name,
            resume=args.resume,
            report=progress,
        )
        leads = crew().leads
    if leads and not args.json:
        _say(result, args.out)
    return result if leads else None


def _say(result: dict[str, Any], out: str) -> None:
    studies = result["studies"]
    flagged = sum(study["flagged_before"] for study in studies)
    still, accepted = (sum(s[key] for s in studies) for key in ("flagged_after", "accepted"))
    guard = result["guard"]
    say(
        f"{len(studies)} studies, {flagged} flagged before, {still} after; RVQC proposes the new masks of {accepted} studies."
    )
    if guard["before"] is not None:
        say(f"Guard ({guard['of']}): {guard['before']:.3f} before, {guard['after']:.3f} after.")
    say(f"Stopped because: {result['stopped_because']}. Calibration: {result['calibration']}.")
    say(f"{len(result['changed'])} networks changed; the bundle is in {out}")
