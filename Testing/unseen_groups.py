"""Leave one group out: how the RV of a pathology is segmented by networks that never saw it, as in the paper's Table 1.

For every group a bundle is trained without it and judges all of its patients; one more is trained on all groups. The patients
of a group that are in the test part of both are compared, stack by stack. Leaving a group out also leaves fewer patients to
learn from, so the difference is that of both. Intervals resample patients, over all seeds. What is finished is not done
again, a training that was killed goes on.

    python Testing/unseen_groups.py ACDC/training --out unseen_groups
    python Testing/unseen_groups.py ACDC/training --groups RV HCM --seeds 0 1 2 --width 32 --device cuda
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from RVQCLib.evaluation import interval
from RVQCLib.study import find_studies
from RVQCLib.training import TrainingConfig, train_bundle
from trials import cell, claim, config_of, judged_rows, tell, trial_options, write_found

MEASURES = {"RV_dice": ("RV Dice", 3), "RV_hd_mm": ("RV HD, mm", 1)}
Rows = dict[tuple[str, ...], dict[str, str]]


def judge(args: argparse.Namespace, seed: int, leave_out: str = "") -> Rows:
    """The stacks of the test part by (seed, study, view, phase), judged by a bundle that never saw the group `leave_out`."""
    home = Path(args.out) / f"seed{seed}" / (f"without-{leave_out}" if leave_out else "all-groups")
    how: dict[str, Any] = {"device": args.device, "jobs": args.jobs, "report": tell}
    if not (home / "bundle" / "bundle.json").is_file():
        config = config_of(
            args, seed, parameters={"BN1": {"stages": args.stages}}, leave_out=(leave_out,) if leave_out else ()
        )
        train_bundle(args.data, home / "bundle", config, **how)
    return judged_rows(args.data, home / "bundle", home / "evaluation", seed, **how)


def compare(unseen: Rows, seen: Rows, group: str, *, resamples: int = 1000) -> dict[str, Any]:
    """One group: by networks that never saw it, by those that did, and the paired difference where both judged."""
    own, known = ({key: row for key, row in rows.items() if row["group"] == group} for rows in (unseen, seen))
    both = sorted(set(own) & set(known))
    found: dict[str, Any] = {"group": group, "n_stacks": len(own), "n_paired": len(both)}
    for measure in MEASURES:

        def mean(values: Sequence[float], keys: Sequence[tuple[str, ...]]) -> dict[str, float] | None:
            patients = [study for _, study, _, _ in keys]
            return interval(values, patients, seed=0, resamples=resamples) if keys else None

        found[measure] = {
            "unseen": mean([float(row[measure]) for row in own.values()], list(own)),
            "seen": mean([float(known[key][measure]) for key in both], both),
            "difference": mean([float(own[key][measure]) - float(known[key][measure]) for key in both], both),
        }
    return found


def as_markdown(groups: Sequence[dict[str, Any]], seeds: Sequence[int]) -> str:
    """The table for people."""
    names = [f"{name}: unseen | seen | difference, paired" for name, _ in MEASURES.values()]
    text = [f"Seeds {list(seeds)}; n counts stacks: all that are unseen, and those that are compared.", ""]
    text += [f"| group | n | {' | '.join(names)} |", "|" + "---|" * 8]
    for found in groups:
        cells = [found["group"], f"{found['n_stacks']}, {found['n_paired']}"]
        for measure, (_, digits) in MEASURES.items():
            for key in ("unseen", "seen", "difference"):
                value = found[measure][key]
                cells.append(cell(value, digits, "+" if key == "difference" else "") if value else "–")
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what is missing; write ``unseen.json`` and ``unseen.md`` after every group."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    trial_options(parser, "unseen_groups", qc_epochs=TrainingConfig.qc_epochs)
    parser.add_argument("--groups", nargs="+", help="only these; without it, every group of the data")
    args = parser.parse_args(arguments)
    settings = claim(args)
    seen: Rows = {}
    for seed in args.seeds:
        seen |= judge(args, seed)
    groups = []
    for group in args.groups or sorted({source.group for source in find_studies(args.data) if source.group}):
        unseen: Rows = {}
        for seed in args.seeds:
            unseen |= judge(args, seed, group)
        groups.append(compare(unseen, seen, group))
        found = {"settings": settings, "seeds": args.seeds, "groups": groups}
        write_found(args.out, "unseen", found, as_markdown(groups, args.seeds))
    sys.stdout.write(as_markdown(groups, args.seeds))


if __name__ == "__main__":
    main()
