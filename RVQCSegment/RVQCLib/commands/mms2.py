"""`rvqc mms2`: from the folder of the M&Ms-2 challenge to the paper's tables and an entry."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from RVQCLib.commands.common import (
    Progress,
    check_field,
    command,
    jobs_option,
    mode_option,
    network_options,
    network_parameters,
    say,
    seed_option,
)

FULL = {"BN1": 32, "BN2": 48}
"""Channels of the first stage in the networks that won the challenges which the paper took them from."""


def add(commands: Any) -> None:
    parser = command(
        commands,
        "mms2",
        run,
        "From the folder of the M&Ms-2 challenge to the paper's tables and an entry.",
        "rvqc mms2 MnM2 -o mms2 --width 16 --epochs 40 --jobs 2",
        "Both views are trained, calibrated and refined; every study that no network saw is segmented and judged; then come "
        "Table 1, Figs. 2 and 3, and the challenge's archive. The same command again goes on where it ended.",
    )
    parser.add_argument("folder", help="the challenge's folder: 001/001_SA_ED.nii.gz …, dataset_information.csv")
    parser.add_argument("-o", "--output", required=True, help="folder for everything that is made")
    parser.add_argument("--training", type=int, default=160, help="studies 1 to this number train")
    parser.add_argument(
        "--validation",
        type=int,
        default=40,
        help="so many studies after those are the challenge's validation part; the rest is its test part",
    )
    parser.add_argument(
        "--width", type=int, help="channels of the first stage of BN1 and BN2; without it their authors', 32 and 48"
    )
    network_options(parser)
    parser.add_argument("--epochs", type=int, default=200, help="epochs of every candidate network")
    mode_option(parser)
    parser.add_argument(
        "--refine-epochs", type=int, default=6, help="the most epochs of a candidate's refinement (the paper's K_semi)"
    )
    parser.add_argument(
        "--refine-steps", type=int, default=40, help="the most steps of such an epoch, each on one batch"
    )
    parser.add_argument("--rv-label", type=int, default=3, choices=(1, 3), help="label of the RV in the entry's masks")
    seed_option(parser, "seed of everything that is drawn")
    jobs_option(parser, "processes side by side")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from RVQCLib.mms2 import ChallengeConfig, run_mms2
    from RVQCLib.recipes import RefinementConfig
    from RVQCLib.slices import Sampling
    from RVQCLib.training import TrainingConfig

    check_field(args)
    parameters = network_parameters(args.set, tuple(FULL))
    for network, width in FULL.items():
        parameters[network] = {"width": args.width or width, **parameters.get(network, {})}
    networks = TrainingConfig(
        parameters=parameters,
        m_best=args.m_best,
        epochs=args.epochs,
        qc_epochs=args.qc_epochs,
        locator_epochs=args.locator_epochs,
        seed=args.seed,
        precision=args.precision,
        source_size=args.size * 3 // 2,
        sampling=Sampling(spacing_mm=args.spacing, size=args.size),
    )
    refinement = RefinementConfig(
        mode=args.mode, epochs=args.refine_epochs, steps=args.refine_steps, seed=args.seed, precision=args.precision
    )
    config = ChallengeConfig(networks, args.training, args.validation, refinement, args.rv_label)
    found = run_mms2(args.folder, args.output, config, device=args.device, jobs=args.jobs, report=Progress())
    if not args.json:
        _say(found, Path(args.output))
    return found


def _say(found: dict[str, Any], out: Path) -> None:
    for part, views in (found["tables"] or {"fig2": {}})["fig2"].items():
        for view, row in views.items():
            dice, hd = row["dice"], row["hd_mm"]
            say(
                f"{part} {view}: RV Dice {dice['mean']:.3f} [{dice['low']:.3f}, {dice['high']:.3f}], "
                f"HD {hd['mean']:.2f} mm [{hd['low']:.2f}, {hd['high']:.2f}] (n {row['n']})"
            )
    say(f"Not in training: {', '.join(found['unseen']) or 'no disease'}")
    say(f"Tables in {out / 'tables' / 'tables.md'}" if found["tables"] else f"No tables: {found['note']}")
    say(f"Pages of every study in {out / 'studies' / 'cohort.html'}; the entry is {out / 'submission.zip'}")
    if missing := found["submission"]["missing"]:
        say(f"The entry lacks {len(missing)} masks, {missing[0]} first; cohort.csv says why")
