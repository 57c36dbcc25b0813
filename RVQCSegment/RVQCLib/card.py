"""A bundle's model card in Markdown, made from ``bundle.json`` and, where given, from what `rvqc evaluate` wrote of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from RVQCLib.bundle import Bundle, pools
from RVQCLib.files import RVQCError, read_json, whole_file, whole_folder
from RVQCLib.qc_statistics import in_words
from RVQCLib.stack import STRUCTURES

_VIEWS = {"SA": "Short axis (SA)", "LA": "Long axis, four chambers (LA)"}
_STRUCTURES = {"RV": "RV cavity", "LV": "LV cavity", "MYO": "LV myocardium"}
_MEASURES = (("dice", "Dice", 3), ("hd_mm", "HD (3-D, mm)", 1), ("hd95_mm", "HD95 (mm)", 1))


@dataclass(frozen=True)
class Measured:
    """What `rvqc evaluate` wrote of a bundle: its summary, and where the card finds the pictures that it names; empty for a
    card without."""

    summary: dict[str, Any]
    folder: Path
    pictures: str


def write_card(
    bundle: Bundle, target: str | Path, evaluations: Sequence[str | Path] = (), *, pictures: bool = True
) -> None:
    """Write the card of `bundle` to `target`, and the pictures of its failures into ``<target>_pictures`` beside it.

    `evaluations` are output folders of `rvqc evaluate` with this bundle. Without `pictures`, for images of patients that
    may not be given on, failures are named only.

    Raises
    ------
    RVQCError
        A folder is no evaluation, or one of another bundle.
    """
    target = Path(target)
    home = target.with_name(f"{target.stem}_pictures")
    measured = [
        read_evaluation(bundle, Path(folder), f"{home.name}/{number}" if pictures else "")
        for number, folder in enumerate(evaluations, start=1)
    ]
    if measured and pictures:
        with whole_folder(home) as folder:
            for one in measured:
                shutil.copytree(one.folder / "worst", folder / Path(one.pictures).name / "worst")
    with whole_file(target) as part:
        part.write_text(card(bundle, measured), encoding="utf-8")


def read_evaluation(bundle: Bundle, folder: Path, pictures: str = "") -> Measured:
    """Read an output folder of `rvqc evaluate`; raises as `write_card`."""
    if not (folder / "summary.json").is_file():
        raise RVQCError(f"{folder} holds no summary.json; name a folder that 'rvqc evaluate' wrote.")
    summary = read_json(folder / "summary.json")
    try:
        of = summary["bundle"]
        missing = [one["picture"] for one in summary["worst"] if not (folder / one["picture"]).is_file()]
    except (KeyError, TypeError) as error:
        raise RVQCError(f"{folder} is no evaluation that a card can be made of (no {error}); evaluate anew.") from error
    if missing:
        raise RVQCError(f"{folder} lacks its picture {missing[0]}; evaluate anew.")
    if of["hash"] != bundle.hash:
        raise RVQCError(
            f"{folder} is the evaluation of another bundle ({of['name']}, {of['hash'][:12]}); evaluate {bundle.path} anew."
        )
    return Measured(summary, folder, pictures)


def card(bundle: Bundle, measured: Sequence[Measured] = ()) -> str:
    """The card as Markdown. What no file says is said to be unknown."""
    lines = [*_head(bundle)]
    for view in bundle.views:
        lines += _view(bundle, view)
    for one in measured:
        lines += [*_results(bundle, one), *_failures(one)]
    if not measured:
        lines += ["## Results and known failures", "", "No evaluation was given when this card was made.", ""]
    return "\n".join(lines)


def _head(bundle: Bundle) -> Iterator[str]:
    said = bundle.description
    yield from (f"# {bundle.name}", "", "*Made by `rvqc info --card` from the bundle's own files.*", "")
    yield from (f"**Intended use.** {said['intended_use']}", "")
    yield from (f"**Licence.** {said['license'].rstrip('.')}.", "")
    if said.get("citation"):
        yield from (f"**Cite.** {said['citation'].rstrip('.')}.", "")
    versions = f"RVQC {said.get('rvqc', 'of unknown version')}, torch {said.get('torch', 'of unknown version')}"
    yield from (f"Made {said['created']} with {versions}; hash `{bundle.hash}`.", "")
    if said.get("parent"):
        yield from (f"{_parent(said['parent'], said['views'].values())}.", "")


def _parent(parent: Any, views: Iterable[Mapping[str, Any]]) -> str:
    """From which bundle this one comes, and how: by a refinement, or by a training that began from its networks."""
    if not isinstance(parent, Mapping):
        return f"Refined from `{parent}`"
    starts = {(view.get("training", {}).get("config") or {}).get("start") for view in views}
    how = "Began from the networks of" if parent.get("hash") in starts - {None} else "Refined from"
    who = f"{parent.get('name', '')} {parent.get('hash', '')}".strip()
    return f"{how} `{who}`"


def _view(bundle: Bundle, view: str) -> Iterator[str]:
    part = bundle.description["views"][view]
    yield from (f"## {_VIEWS.get(view, view)}", "")
    if part.get("caution"):
        yield from (f"**Caution:** {part['caution'].rstrip('.')}.", "")
    yield from (*_data(part), "")
    yield from ("| network | of run | epoch | validation Dice |", "|---|---|---|---|")
    for number, entry in enumerate(part["segmenters"], start=1):
        dice = _values(entry["validation_dice"])
        network = ", ".join([entry["network"], *(f"{name} {value}" for name, value in entry["parameters"].items())])
        yield f"| candidate {number}: {network} | {entry['run']} | {entry['epoch']} | {dice} |"
    ceiling = _values(part["qc"]["ceiling"])
    yield f"| QC module {part['qc']['network']} | {part['qc']['run']} | {part['qc']['epoch']} | {ceiling} (of true masks) |"
    sampling, pool = part["sampling"], "and their mean" if part.get("consensus") else "without their mean"
    field = f"{sampling['size']} x {sampling['size']} pixels of {sampling['spacing_mm']:g} mm"
    yield from ("", f"The candidates, {pool}, are selected from; they see {field} around the heart.", "")
    yield from (_calibration(part.get("calibration")), "")
    for later in pools(part)[1:]:
        changed = [str(k) for k, entry in enumerate(later["segmenters"], start=1) if "refined" in entry]
        yield (
            f"Candidates {', '.join(changed)} were also refined. The refined ones are asked about stacks that the first cannot be "
            "trusted with and that look like those they were refined on; their mask is taken where its predicted Dice is higher "
            "and neither opinion speaks against it."
        )
        yield from (_calibration(later.get("calibration")), "")


def _data(part: Mapping[str, Any]) -> Iterator[str]:
    training = part.get("training", {})
    parts = training.get("split", {})
    counts = ", ".join(f"{len(parts.get(name, ()))} {name}" for name in ("train", "validation", "test"))
    more = (
        f", and only learnt from: {', '.join(f'`{name}`' for name in training['more'])}" if training.get("more") else ""
    )
    folder = f"the folder `{training['data']}`" if "data" in training else "unknown"
    yield f"Data: {folder}{more}; studies: {counts}. The split by name is in `bundle.json`."
    config = training.get("config")
    if config is None:
        return
    groups = [name for name in config.get("leave_out", ()) if name not in parts.get("test", ())]
    if groups:
        yield f"Left out of training: {', '.join(groups)}."
    start = f", from the weights of bundle `{config['start'][:12]}`" if config.get("start") else ""
    corrupted = f"{100 * config['corruption']:g} % of R's inputs were corrupted masks"
    yield (
        f"{config['epochs']} epochs of the candidates{start}, {config['qc_epochs']} of R, seed {config['seed']}, "
        f"{config['precision']}; {corrupted}."
    )


def _calibration(calibration: Mapping[str, Any] | None) -> str:
    if not calibration:
        return "**Not calibrated:** its masks cannot be judged until `rvqc calibrate` was run."
    trust = calibration.get("trust", {}).get("RV", {})
    words = (
        f"Calibrated on {calibration['n_stacks']} stacks of {calibration['n_studies']} studies ({calibration['date']})"
    )
    if trust.get("note"):
        return f"{words}. {trust['note']}"
    if not trust:
        return f"{words}."
    return (
        f"{words}; an RV is trusted from a predicted Dice of {trust['least']:.3f} on, which "
        f"{100 * trust['missed_bad']:.0f} % of the stacks with a Dice below {trust['bad_below']:g} and "
        f"{100 * (trust['good_trusted'] or 0):.0f} % of the others reach."
    )


def _results(bundle: Bundle, one: Measured) -> Iterator[str]:
    summary = one.summary
    part = "all studies found" if summary["part"] == "all" else f"the {summary['part']} part"
    yield from (f"## Results: `{summary['data']}`, {part}", "")
    trainings = [view["training"] for view in bundle.description["views"].values() if "training" in view]
    own = {name for one in trainings for name in (one.get("data"), *one.get("more", ()))}
    if summary["data"] in own:
        yield from ("These studies are of the same data set as those of the training, not of other hospitals.", "")
    if known := summary.get("not_new", {}).get("said"):
        yield from (f"**{known}.**", "")
    yield f"{summary['n_stacks']} stacks of {summary['n_studies']} studies; mean, standard deviation, and in brackets the"
    yield from (f"95 % bootstrap interval over patients (seed {summary['seed']}).", "")
    yield from ("| structure | " + " | ".join(name for _, name, _ in _MEASURES) + " |", "|---|---|---|---|")
    for structure in STRUCTURES:
        yield f"| {_STRUCTURES[structure]} | {_cells(summary['structures'][structure])} |"
    yield from ("", "| the RV by | n | " + " | ".join(name for _, name, _ in _MEASURES) + " |", "|---|---|---|---|---|")
    unseen = set(summary.get("unseen_groups", ()))
    for name, group in summary["groups"].items():
        mark = " (not in training)" if name.removeprefix("group ") in unseen else ""
        yield f"| {name}{mark} | {group['n_stacks']} | {_cells(group['RV'])} |"
    yield from ("", *_qc(summary.get("qc")))


def _qc(qc: Mapping[str, Any] | None) -> Iterator[str]:
    """How good the judgement is, where the evaluation asked; of each view where there are two."""
    for of, said in in_words(qc) if qc else ():
        if said:
            yield from (f"The QC by {of} (predicted Dice, shifted images included): {said}.", "")


def _failures(one: Measured) -> Iterator[str]:
    """The stacks with the lowest RV Dice, and whether the QC saw it."""
    yield from ("## Known failures", "", "The stacks with the lowest RV Dice there, and what the QC said of them:", "")
    yield from ("| stack | group | RV Dice | RV HD (mm) | predicted Dice | verdict |", "|---|---|---|---|---|---|")
    pictures = []
    for row in one.summary["worst"]:
        stack = f"{row['study']} {row['view']} {row['phase']}"
        said = "–" if row["predicted_dice"] is None else f"{row['predicted_dice']:.3f}"
        real = f"{row['RV_dice']:.3f} | {row['RV_hd_mm']:.1f}"
        yield f"| {stack} | {row['group'] or '–'} | {real} | {said} | {row['verdict']} |"
        pictures.append(f"![{stack}: RV Dice {row['RV_dice']:.3f}]({one.pictures}/{row['picture']})")
    if not one.pictures:
        yield ""
        return
    yield from (
        "",
        "In each the slice where found and true RV differ most; blue the true outline, orange the found one:",
        "",
    )
    yield from (*pictures, "")


def _values(dice: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in dice.items())


def _cells(measures: Mapping[str, Mapping[str, float]] | None) -> str:
    """Of a structure that was not measured, dashes."""
    words = [] if measures else ["–"] * len(_MEASURES)
    for key, _, digits in _MEASURES if measures else ():
        m = {name: f"{value:.{digits}f}" for name, value in measures[key].items()}
        words.append(f"{m['mean']} ± {m['sd']} [{m['low']}, {m['high']}]")
    return " | ".join(words)
