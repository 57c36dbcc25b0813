"""BN1 of RVQC against MONAI's U-Net of the same size: the same patients, augmentation, budget and locator, in one run.

Both networks are runs of one `rvqc train` (MONAI's through the door for foreign networks), each with its own best epoch on the
validation part; both segment the patients of the test part, which neither saw. MONAI's has no deep supervision, because it
gives its finest output only. Differences are paired stack by stack; their intervals resample patients, over all seeds.

Every seed has a split of its own, so that over the seeds more patients are judged than one test part has. Without options
both have the light width and 40 epochs. A seed that is finished is not done again, a training that was killed goes on. MONAI is among the packages of `pip install rvqc[test]`.

    python Testing/monai_comparison.py ACDC/training --seeds 0 1 2 --out monai_comparison
    python Testing/monai_comparison.py ACDC/training --width 32 --epochs 200 --device cuda --out full
"""

from __future__ import annotations

import argparse
import sys
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from RVQCLib.ablation import SINGLE, ablation
from RVQCLib.networks import build
from RVQCLib.training import train_bundle
from trials import claim, config_of, paired, paired_table, read_rows, tell, trial_options, write_found

OURS, THEIRS = "BN1", "monai.networks.nets:UNet"
METHODS = {f"{SINGLE}, {name}": name for name in (OURS, THEIRS)}
NAME = "MONAI's U-Net"


def parameters_of(network: str, parameters: dict[str, Any]) -> int:
    """How many numbers a network learns."""
    with torch.device("meta"):  # shapes without numbers
        model = build(network, parameters, allow=[THEIRS])
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def monai_like(width: int, stages: int) -> dict[str, Any]:
    """MONAI's U-Net with as many stages as BN1 and, of all widths, the number of parameters nearest to BN1's.

    As in MONAI's tutorials: channels double a stage, two residual units a stage, instance normalization, PReLU.
    """
    size = parameters_of(OURS, {"width": width, "stages": stages})

    def of(first: int) -> dict[str, Any]:
        channels = [min(first * 2**k, first * 16) for k in range(stages)]
        return {
            "spatial_dims": 2,
            "in_channels": 1,
            "out_channels": 4,
            "channels": channels,
            "strides": [2] * (stages - 1),
            "num_res_units": 2,
        }

    widths = range(2, 2 * width + 9)
    least = bisect_left(widths, size, key=lambda first: parameters_of(THEIRS, of(first)))
    nearest = map(of, widths[max(0, least - 1) : least + 1])
    return min(nearest, key=lambda parameters: abs(parameters_of(THEIRS, parameters) - size))


def run(args: argparse.Namespace, seed: int) -> list[dict[str, str]]:
    """Train and judge with one seed: a row a stack and network."""
    home = Path(args.out) / f"seed{seed}"
    table = home / "judged" / "ablation.csv"
    if not table.is_file():
        parameters = {OURS: {"stages": args.stages}, THEIRS: monai_like(args.width, args.stages)}
        config = config_of(args, seed, networks=(OURS, THEIRS), parameters=parameters, m_best=2, consensus=False)
        how: dict[str, Any] = {"device": args.device, "allow": [THEIRS], "jobs": args.jobs, "report": tell}
        if not (home / "bundle" / "bundle.json").is_file():
            train_bundle(args.data, home / "bundle", config, **how)
        ablation(args.data, home / "bundle", table.parent, part="test", **how)
    return [{**row, "seed": str(seed)} for row in read_rows(table) if row["method"] in METHODS]


def compare_rows(rows: Sequence[dict[str, str]], *, resamples: int = 1000) -> dict[str, Any]:
    """`trials.paired` of the rows of `run`: BN1 minus MONAI's."""
    stacks: dict[str, dict[tuple[str, ...], dict[str, str]]] = {OURS: {}, THEIRS: {}}
    for row in rows:
        stacks[METHODS[row["method"]]][row["seed"], row["study"], row["view"], row["phase"]] = row
    return paired(stacks[OURS], stacks[THEIRS], resamples=resamples)


def as_markdown(found: dict[str, Any]) -> str:
    """The table for people."""
    sizes = " and ".join(f"{name} with {n} parameters" for name, n in found["parameters"].items())
    said = f"{sizes}; {found['n_stacks']} stacks of {found['n_patients']} patients, seeds {found['seeds']}."
    return f"{said}\n\n{paired_table(found, OURS, NAME)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the seeds that are missing; write ``comparison.json`` and ``comparison.md`` after every one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    trial_options(parser, "monai_comparison")
    args = parser.parse_args(arguments)
    settings = claim(args)
    ours = {"width": args.width, "stages": args.stages}
    sizes = {OURS: parameters_of(OURS, ours), THEIRS: parameters_of(THEIRS, monai_like(args.width, args.stages))}
    rows: list[dict[str, str]] = []
    for number, seed in enumerate(args.seeds, start=1):
        rows += run(args, seed)
        found = {"settings": settings, "seeds": args.seeds[:number], "parameters": sizes, **compare_rows(rows)}
        write_found(args.out, "comparison", found, as_markdown(found))
    sys.stdout.write(as_markdown(found))


if __name__ == "__main__":
    main()
