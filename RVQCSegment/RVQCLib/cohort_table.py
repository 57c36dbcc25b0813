"""`cohort.csv`: one row a stack of a batch, and one for a study that has none because it failed."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from RVQCLib.files import RVQCError, append_line, whole_file
from RVQCLib.overall import VERDICTS, stack_reasons, stack_verdict
from RVQCLib.quality import Fences, QCOptions, Scores, is_ood
from RVQCLib.stack import STRUCTURES

TABLE = "cohort.csv"
MEASURES = ("predicted_dice", "lower_bound_90", "pDC", "pHD_mm", "agreement", "volume_ml")
COLUMNS = (
    *("study", "view", "phase", "verdict", "ood", "edited", "reasons", "checks"),
    *(f"{structure}_{measure}" for structure in STRUCTURES for measure in MEASURES),
    *("n_slices", "flagged_slices", "outside_reference", "outside_cohort"),
    *("mask", "image_sha256", "mask_sha256", "seconds", "error"),
)
"""Distances in mm, volumes in ml, none of a single slice; ``outside_…`` names the structures of which every candidate is
beyond those fences, or ``none``, and is empty where no such fences are known; ``flagged_slices`` count from 1; ``checks``
are of the whole study, and ``verdict`` and ``reasons`` count those that speak against the stack's view (`overall`); ``ood``
is of the stack alone.
``edited`` says what a person changed since; verdict, numbers and ``mask_sha256`` are those of the mask that RVQC wrote."""
_FORMULA = re.compile(r"'*[=+\-@]")
"""How a text begins that Excel would run: ``'`` is put before it, and taken away when it is read."""
_NUMBERS = {column for column in COLUMNS if column.startswith(tuple(f"{s}_" for s in STRUCTURES))}
_NUMBERS |= {"n_slices", "seconds"}


def table_rows(record: Mapping[str, Any], options: QCOptions) -> list[dict[str, Any]]:
    """The rows of one study's record."""
    common = {"study": record["study"], "seconds": record["seconds"], "error": record["error"]}
    common["edited"] = edited_words(record)
    if record["state"] == "failed":
        return [{**common, "verdict": "failed", "reasons": record["error"]}]
    hashes = {(entry["view"], entry["phase"]): entry["sha256"] for entry in record["inputs"]}
    rows = []
    for stack in record["stacks"]:
        view, phase = stack["view"], stack["phase"]
        measures = {
            f"{structure}_{measure}": stack["structures"][structure][measure]
            for structure in STRUCTURES
            for measure in MEASURES
        }
        if stack["n_slices"] == 1:  # one slice has an area, no volume
            measures |= {f"{structure}_volume_ml": None for structure in STRUCTURES}
        rows.append(
            {
                **{key: stack[key] for key in ("view", "phase", "ood", "mask", "n_slices")},
                **common,
                **measures,
                "verdict": stack_verdict(stack, record["checks"]),
                "reasons": "; ".join(stack_reasons(stack, record["checks"])),
                "checks": "; ".join(record["checks"]),
                "flagged_slices": " ".join(str(part["index"] + 1) for part in stack["slices"]),
                "outside_reference": outside(stack, "reference", options),
                "outside_cohort": outside(stack, "cohort", options),
                "image_sha256": hashes.get((view, phase), hashes.get((view, ""), "")),
                "mask_sha256": record["outputs"].get(stack["mask"], ""),
            }
        )
    return rows


def edited_words(record: Mapping[str, Any]) -> str:
    """What a person edited in a study's results, and where earlier edits are, in sentences; "" for nothing."""
    said = []
    if names := record.get("edited"):
        files = ", ".join(names[:3]) + (" and more" if len(names) > 3 else "")
        said.append(f"Edited by hand, so kept as it is ({files}); verdict and numbers are of the mask that RVQC wrote.")
    if record.get("set_aside"):
        said.append(f"What was edited by hand before is in {', '.join(record['set_aside'])}.")
    return " ".join(said)


def outside(stack: Mapping[str, Any], kind: str, options: QCOptions) -> str:
    """The structures that the ``reference`` or ``cohort`` fences of a stack put out of distribution, in words."""
    table = stack["fences"].get(kind)
    if not table:
        return ""
    scores = Scores.of(stack)
    found = [
        structure
        for k, structure in enumerate(STRUCTURES)
        if is_ood(
            scores.stack_pDC[:, k], scores.stack_pHD[:, k], Fences.from_json(table[structure]), options.quantifier
        )
    ]
    return " ".join(found) or "none"


def worst_first(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """A sort key: failed, then out of distribution, to look at, trusted; within them the lowest predicted RV Dice first."""
    verdict = row["verdict"]
    dice = row.get("RV_predicted_dice")
    dice = row.get("RV_pDC") if dice is None else dice
    place = -1 if verdict not in VERDICTS else len(VERDICTS) - 1 - VERDICTS.index(verdict)
    return (place, -1.0 if dice is None else dice, row["study"], row.get("view") or "", row.get("phase") or "")


def write_table(out: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write ``cohort.csv`` whole, in the order of `rows`. By its first bytes Excel knows that it is UTF-8."""
    with whole_file(out / TABLE) as part, part.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(_plain, rows))


def append_rows(out: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows to ``cohort.csv``, which is begun where there is none."""
    if not (out / TABLE).is_file():
        write_table(out, ())
    stream = io.StringIO()
    csv.DictWriter(stream, COLUMNS, lineterminator="\n").writerows(map(_plain, rows))
    append_line(out / TABLE, stream.getvalue().removesuffix("\n"))


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Values as text that no spreadsheet runs; one row is one line."""
    return {key: _text(key, value) if isinstance(value, str) else value for key, value in row.items()}


def _text(key: str, value: str) -> str:
    text = value if key == "study" else " ".join(value.split())
    return f"'{text}" if _FORMULA.match(text) else text


def read_table(out: str | Path) -> list[dict[str, Any]]:
    """The rows of ``cohort.csv``, worst first once the batch has ended: numbers as float, ``ood`` as bool, empty as None.

    While a batch runs, a study that is done again is in the file with its old rows first; the last are read.

    Raises
    ------
    RVQCError
        There is no table, or it cannot be read.
    """
    path = Path(out) / TABLE
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = [{key: _value(key, text) for key, text in row.items()} for row in csv.DictReader(stream)]
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        raise RVQCError(f"{path} cannot be read as a table ({error}); run 'rvqc batch' again with --resume.") from error
    last = {row.get("study"): row.get("seconds") for row in rows}  # all rows of one time of a study have its seconds
    rows = [row for row in rows if row.get("seconds") == last[row.get("study")]]
    return list({tuple(row.get(key) for key in ("study", "view", "phase")): row for row in rows}.values())


def _value(key: str, text: str | None) -> Any:
    if not text:
        return None
    if key in _NUMBERS:
        return float(text)
    if key == "ood":
        return text == "True"
    return text[1:] if text[0] == "'" and _FORMULA.match(text) else text
