"""`rvqc train`: labelled studies to a bundle."""

from __future__ import annotations

import argparse
from typing import Any

from RVQCLib.commands.common import (
    Progress,
    allow_option,
    check_field,
    command,
    jobs_option,
    network_options,
    network_parameters,
    say,
    seed_option,
)
from RVQCLib.files import RVQCError, check_apart, check_folder


def add(commands: Any) -> None:
    parser = command(
        commands,
        "train",
        run,
        "Train a bundle from labelled studies, or one more view of a bundle.",
        "rvqc train acdc/training --view SA --out my-bundle",
        "Candidate networks, QC module and locator are trained on one part of the studies, chosen and calibrated on another. "
        "The same command again goes on where it ended.",
    )
    parser.add_argument("data", help="a folder of studies with true masks (M&Ms-2 or ACDC: …_gt)")
    parser.add_argument(
        "--more",
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="more studies with true masks, of any view, that are only learnt from: none of them chooses, calibrates or tests",
    )
    parser.add_argument("--view", default="SA", choices=("SA", "LA"), help="view to train: short axis or long axis")
    parser.add_argument(
        "-o", "--out", required=True, help="folder of the new bundle; a bundle of another view gets this view added"
    )
    parser.add_argument("--name", default="", help="name of the bundle; without it, that of its folder")
    parser.add_argument(
        "--network",
        nargs="+",
        default=["BN1", "BN2"],
        help="candidate networks, a training run each: BN1, BN2, package.module:factory; one may be named twice",
    )
    parser.add_argument(
        "--width", type=int, default=16, help="channels of the first stage of BN1 and BN2; their authors' are 32 and 48"
    )
    network_options(parser)
    parser.add_argument(
        "--no-consensus", action="store_true", help="do not let the mean of the candidates be one more candidate"
    )
    parser.add_argument("--epochs", type=int, default=40, help="epochs of every candidate network")
    parser.add_argument(
        "--from",
        dest="start",
        metavar="BUNDLE",
        help="begin from the networks of this bundle, which must be of the same make; with 0 epochs they are taken over as they are",
    )
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="the highest learning rate of the schedule")
    parser.add_argument(
        "--upright",
        action=argparse.BooleanOptionalAction,
        help="turn images by their direction cosines so that the patient's left is right and anterior is up; "
        "without either, LA images are turned",
    )
    parser.add_argument(
        "--validation",
        type=float,
        default=0.2,
        help="share of the studies, 0 to 1, to choose networks and calibrate by",
    )
    parser.add_argument(
        "--test", type=float, default=0.2, help="share of the studies, 0 to 1, that is not read and left for a test"
    )
    parser.add_argument(
        "--leave-out",
        nargs="+",
        default=[],
        metavar="GROUP",
        help="groups (pathologies), or single studies, that are for the test only",
    )
    parser.add_argument("--plain-qc", action="store_true", help="train R on true masks only, as the paper does")
    seed_option(parser, "seed of split and training")
    jobs_option(parser, "networks that are trained side by side, each with its share of the cores")
    parser.add_argument("--license", help="what the licence of the data asks of the bundle's users, in words")
    parser.add_argument("--citation", help="what to cite when the bundle is used")
    parser.add_argument("--caution", help="what the bundle's users are told about this view with every result")
    parser.add_argument(
        "--work", help="folder of checkpoints and logs, from which the same command goes on; without it, OUT.training"
    )
    allow_option(parser)


def _check_shares(args: argparse.Namespace) -> None:
    if min(args.validation, args.test) < 0 or args.validation + args.test >= 1:
        raise RVQCError("--validation and --test leave nothing to train on; give shares whose sum is below 1.")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from RVQCLib.slices import Sampling
    from RVQCLib.training import Terms, TrainingConfig, train_bundle

    check_field(args)
    _check_shares(args)
    for out in filter(None, (args.out, args.work)):
        check_apart(out, args.data)
        check_folder(out)
    config = TrainingConfig(
        view=args.view,
        networks=tuple(args.network),
        width=args.width,
        parameters=network_parameters(args.set, args.network),
        m_best=args.m_best,
        consensus=not args.no_consensus,
        epochs=args.epochs,
        qc_epochs=args.qc_epochs,
        locator_epochs=args.locator_epochs,
        corruption=0.0 if args.plain_qc else 0.7,
        learning_rate=args.learning_rate,
        seed=args.seed,
        precision=args.precision,
        validation=args.validation,
        test=args.test,
        leave_out=tuple(args.leave_out),
        source_size=args.size * 3 // 2,
        sampling=Sampling(
            spacing_mm=args.spacing,
            size=args.size,
            upright=args.view == "LA" if args.upright is None else args.upright,
        ),
    )
    description = train_bundle(
        args.data,
        args.out,
        config,
        more=args.more,
        name=args.name,
        start=args.start,
        device=args.device,
        allow=args.allow,
        jobs=args.jobs,
        work=args.work,
        terms=Terms(**{k: v for k in ("license", "citation", "caution") if (v := getattr(args, k))}),
        report=Progress(),
    )
    if not args.json:
        say(f"The bundle {description['name']} is in {args.out}")
    return description
