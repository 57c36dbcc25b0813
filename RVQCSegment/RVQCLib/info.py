"""What a bundle, a training, a study or a result is, in words, JSON, and a plot of the training log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from RVQCLib.bundle import Bundle, load_bundle, pools
from RVQCLib.charts import axis, points
from RVQCLib.cohort_files import in_words as batch_in_words
from RVQCLib.files import RVQCError, read_json, whole_file
from RVQCLib.result import in_words
from RVQCLib.study import StudySource, find_studies


def describe(path: Path, *, plot: str | None = None) -> tuple[dict[str, Any], str]:
    """JSON and text about a bundle, the work folder of a training, a study, a folder of studies, a result, a folder of results or a
    batch.

    With `plot`, the training log is drawn into that SVG file: loss and mean validation Dice by epoch, a curve a run.

    Raises
    ------
    RVQCError
        There is nothing that RVQC knows, or a plot was asked for and there is no training log.
    """
    if not path.exists():
        raise RVQCError(f"{path} does not exist; give a bundle, a study or a folder of studies.")
    logs = sorted(path.glob("*/training.jsonl")) if (path / "bundle.json").is_file() else sorted(path.glob("*.jsonl"))
    if plot is not None:
        _plot(logs, path, Path(plot))
    if (path / "bundle.json").is_file():
        return _bundle(load_bundle(path))
    if (path / "training.json").is_file():
        return _training(logs)
    if (path / "quality.json").is_file():
        return _result(read_json(path / "quality.json"))
    if (path / "run.json").is_file():
        return _batch(read_json(path / "run.json"))
    if results := [_result(read_json(file)) for file in sorted(path.glob("*/quality.json"))]:
        return {"kind": "results", "results": [one for one, _ in results]}, "\n".join(text for _, text in results)
    return _studies(find_studies(path))


def _bundle(bundle: Bundle) -> tuple[dict[str, Any], str]:
    lines = [f"bundle {bundle.name} ({bundle.hash[:12]}), made {bundle.description['created']}"]
    lines += [f"license: {bundle.description['license']}", f"use: {bundle.description['intended_use']}"]
    lines += [f"caution, {view}: {text}" for view, text in bundle.cautions.items()]
    for view, part in bundle.description["views"].items():
        for number, entry in enumerate(part["segmenters"], start=1):
            scores = ", ".join(f"{k} {v:.3f}" for k, v in entry["validation_dice"].items())
            lines.append(
                f"{view} candidate {number}: {entry['network']} epoch {entry['epoch']}, validation Dice {scores}"
            )
        ceiling = ", ".join(f"{k} {v:.3f}" for k, v in part["qc"]["ceiling"].items())
        lines.append(f"{view} QC module: reconstructs true masks with Dice {ceiling} (its ceiling)")
        lines.append(f"{view} calibration: {_said(part.get('calibration'))}")
        for later in pools(part)[1:]:
            epochs = [f"{entry['refined']['epoch']}" if "refined" in entry else "no" for entry in later["segmenters"]]
            lines.append(
                f"{view} refined candidates, for stacks that those cannot be trusted with: after {', '.join(epochs)} epochs"
            )
            lines.append(f"{view} calibration of the refined ones: {_said(later.get('calibration'))}")
    return {"kind": "bundle", "hash": bundle.hash, **bundle.description}, "\n".join(lines)


def _said(calibration: dict[str, Any] | None) -> str:
    return f"{calibration['n_stacks']} stacks, {calibration['date']}" if calibration else "none"


def _training(logs: list[Path]) -> tuple[dict[str, Any], str]:
    last = {log.stem: _read(log)[-1] for log in logs}
    lines = [
        f"{name}: epoch {event['epoch']} of {event['epochs']}, loss {event['loss']:.3f}, validation Dice "
        + ", ".join(f"{k} {v:.3f}" for k, v in event["validation_dice"].items())
        for name, event in last.items()
    ]
    return {"kind": "training", "runs": last}, "\n".join(lines) or "This training has not finished an epoch yet."


def _result(content: dict[str, Any]) -> tuple[dict[str, Any], str]:
    bundle = content["bundle"]
    lines = [f"result of {content['date']} by the bundle {bundle['name']} ({bundle['hash'][:12]})", *in_words(content)]
    return {"kind": "result", **content}, "\n".join(lines)


def _batch(content: dict[str, Any]) -> tuple[dict[str, Any], str]:
    bundle = content["bundle"]
    head = f"batch of {content['folder']}, begun {content['started']}, by the bundle {bundle['name']} ({bundle['hash'][:12]})"
    return {"kind": "batch", **content}, "\n".join([head, *batch_in_words(content)])


def _studies(sources: list[StudySource]) -> tuple[dict[str, Any], str]:
    studies = []
    for source in sources:
        studies.append(
            {
                "study": source.name,
                "layout": source.layout,
                "group": source.group,
                "vendor": source.vendor,
                "images": sorted("_".join(key) for key in source.images),
                "labels": sorted("_".join(key) for key in source.labels),
                "problems": list(source.problems),
            }
        )
    lines = [
        f"{s['study']} ({s['layout']}{', ' + s['group'] if s['group'] else ''}): {' '.join(s['images'])}"
        + (f"; labels {' '.join(s['labels'])}" if s["labels"] else "")
        + (f"; {' '.join(s['problems'])}" if s["problems"] else "")
        for s in studies
    ]
    return {"kind": "studies", "studies": studies}, "\n".join(lines)


def _read(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def _plot(logs: list[Path], path: Path, target: Path) -> None:
    events = [event for log in logs for event in _read(log)]
    if not events:
        raise RVQCError(f"{path} holds no training log to plot; give a bundle that 'rvqc train' wrote.")
    curves: dict[str, list[tuple[float, float]]] = {}
    for event in events:
        dice = sum(event["validation_dice"].values()) / len(event["validation_dice"])
        run = event.get("run", event["task"])
        curves.setdefault(f"{run} validation Dice", []).append((event["epoch"], dice))
        curves.setdefault(f"{run} loss", []).append((event["epoch"], event["loss"]))
    with whole_file(target) as part:
        part.write_text(_chart(curves), encoding="utf-8")


_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")


def _chart(curves: dict[str, list[tuple[float, float]]]) -> str:
    """An SVG of all curves over the epochs: Dice solid, loss dashed, a colour a run."""
    last = max(x for curve in curves.values() for x, _ in curve)
    horizontal, vertical = axis(0, last, 50, 600), axis(0, 2.0, 360, 20)
    runs = sorted({name.split()[0] for name in curves})
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 820 400" font-family="sans-serif" font-size="12">']
    for tick in horizontal.ticks:
        parts.append(f'<text x="{horizontal.at(tick)}" y="378" text-anchor="middle">{tick:g}</text>')
    for tick in vertical.ticks:
        y = vertical.at(tick)
        parts.append(
            f'<line x1="50" x2="600" y1="{y}" y2="{y}" stroke="#ddd"/><text x="44" y="{y}" text-anchor="end">{tick:g}</text>'
        )
    parts.append('<text x="325" y="396" text-anchor="middle">epoch (solid: validation Dice, dashed: loss)</text>')
    for name, curve in curves.items():
        colour = _COLOURS[runs.index(name.split()[0]) % len(_COLOURS)]
        dash = ' stroke-dasharray="5 4"' if name.endswith("loss") else ""
        line = points(horizontal, vertical, [x for x, _ in curve], [min(y, 2.0) for _, y in curve])
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.8"{dash}/>')
    for row, run in enumerate(runs):
        colour = _COLOURS[row % len(_COLOURS)]
        parts.append(
            f'<text x="612" y="{34 + 18 * row}" fill="{colour}">{run}: Dice {curves[run + " validation Dice"][-1][1]:.3f}</text>'
        )
    return "".join([*parts, "</svg>"])
