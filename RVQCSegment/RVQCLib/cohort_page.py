"""`cohort.html`: every stack of a batch on one page that opens from a disk, worst first, to filter and to click on.

Its rows lie in the page as JSON and are drawn by one small script, a screenful at a time, so that thousands open at once.
The page's policy lets no other script run and loads nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from RVQCLib import charts
from RVQCLib.cohort_table import MEASURES
from RVQCLib.files import whole_file
from RVQCLib.overall import VERDICTS, stack_reasons
from RVQCLib.quality import QCOptions
from RVQCLib.report import origin, render
from RVQCLib.stack import STRUCTURES

PAGE = "cohort.html"
BINS = 36
_ROWS = "\N{REPLACEMENT CHARACTER}rows\N{REPLACEMENT CHARACTER}"
_ORIGIN = ("folder", "bundle", "options", "device", "versions", "result_versions", "part", "started", "finished")
Row = tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any] | None]
"""A row of the table, the record of its study, and in it its stack, which a failed study has none of."""


@cache
def _script() -> tuple[str, str]:
    """The page's script and its hash, by which the page's policy knows it."""
    text = (Path(__file__).parent / "templates" / "cohort.js").read_text(encoding="utf-8")
    return text, base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@dataclass
class CohortPage:
    """The page of one batch.

    Parameters
    ----------
    header
        What ``run.json`` holds without its studies.
    """

    header: Mapping[str, Any]
    options: QCOptions
    _values: dict[tuple[str, str], dict[str, array]] = field(default_factory=dict)

    def write(self, out: Path, rows: Iterable[Row]) -> None:
        """Write ``cohort.html`` whole, its `rows` in their order."""
        with whole_file(out / PAGE) as part:
            drawn = part.with_name("rows")
            with drawn.open("w", encoding="utf-8") as stream:
                for number, (row, record, stack) in enumerate(rows):
                    self._count(row)
                    stream.write((",\n" if number else "\n") + _json(self._shown(row, record, stack)))
            before, after = self._frame().split(_ROWS)
            with part.open("w", encoding="utf-8") as page, drawn.open(encoding="utf-8") as stream:
                page.write(before)
                shutil.copyfileobj(stream, page)
                page.write(after)
            drawn.unlink()

    def _count(self, row: Mapping[str, Any]) -> None:
        """Keep a stack's numbers for the charts: eight bytes each."""
        if row["verdict"] not in VERDICTS:
            return
        name = f"{row['view']}_{row['phase']}"
        for structure in STRUCTURES:
            values = self._values.setdefault((name, structure), {k: array("d") for k in ("verdict", "pDC", "pHD_mm")})
            values["verdict"].append(VERDICTS.index(row["verdict"]))
            for measure in ("pDC", "pHD_mm"):
                values[measure].append(row[f"{structure}_{measure}"])

    def _shown(
        self, row: Mapping[str, Any], record: Mapping[str, Any], stack: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """What the page's script draws of one row. The bundle's cautions stand above all rows, not in each."""
        people = [row["edited"]] if row["edited"] else []
        if stack is None:
            failed = {"study": row["study"], "stack": "", "verdict": "failed", "reasons": [row["error"]]}
            return {**failed, "checks": people}
        picture, checks = stack["thumbnail"], record["checks"]
        reasons = [reason for reason in stack_reasons(stack, checks) if reason not in self.header["cautions"]]
        return {
            "study": row["study"],
            "stack": f"{row['view']}_{row['phase']}",
            "verdict": row["verdict"],
            "reasons": reasons,
            "checks": people + [check for check in checks if check not in (*self.header["cautions"], *reasons)],
            "numbers": {s: [_short(row[f"{s}_{measure}"]) for measure in MEASURES] for s in STRUCTURES},
            "fences": self._table_of(stack),
            "outside": [row["outside_reference"], row["outside_cohort"]],
            "slices": row["n_slices"],
            "slice": picture["slice"] + 1,
            "picture": picture["picture"],
            "paths": picture["paths"],
        }

    def _table_of(self, stack: Mapping[str, Any]) -> int | None:
        """Which of the reference fences that the page knows for such stacks are this one's."""
        own, known = stack["fences"]["reference"], self.header["fences"][f"{stack['view']}_{stack['phase']}"]
        return known["references"].index(own) if own else None

    def _frame(self) -> str:
        script, digest = _script()
        names = sorted({name for name, _ in self._values}, key=lambda name: (name[:2] != "SA", name))
        fences = self.header["fences"]
        return render(
            "cohort.html",
            title=Path(self.header["folder"]).name,
            header=self.header,
            summary=self.header["summary"],
            verdicts=("failed", *VERDICTS[::-1]),
            names=[name.split("_") for name in names],
            charts=[
                (structure, [(name.split("_"), self._pair(name, structure)) for name in names])
                for structure in (self.options.primary, *(s for s in STRUCTURES if s != self.options.primary))
            ],
            primary=self.options.primary,
            used=self.options.fences,
            fences=fences,
            page_data=_json({"fences": fences, "measures": MEASURES, "used": self.options.fences}),
            rows=_ROWS,
            script=script,
            digest=digest,
            provenance=list(origin({key: self.header[key] for key in _ORIGIN})),
        )

    def _pair(self, name: str, structure: str) -> list[dict[str, Any]]:
        return [self._chart(name, structure, measure) for measure in ("pDC", "pHD_mm")]

    def _chart(self, name: str, structure: str, measure: str) -> dict[str, Any]:
        """One histogram, stacked by verdict, with the fences that lie on its axis."""
        found = self._values[name, structure]
        values, verdicts = np.array(found[measure]), np.array(found["verdict"])
        key = "th_low" if measure == "pDC" else "th_up"
        told = self.header["fences"][name]
        tables = [("reference", table) for table in told["references"]] + [("cohort", told["cohort"])]
        fences = [(kind, table[structure][key]) for kind, table in tables if table]
        low, high = _range(values, [value for _, value in fences], measure)
        across = charts.axis(low, high, 46, 506, count=6)
        edges = np.linspace(across.low, across.high, BINS + 1)
        inside = np.clip(values, across.low, across.high)
        counts = [np.histogram(inside[verdicts == v], edges)[0] for v in range(len(VERDICTS))]
        up = charts.axis(0, max(float(np.sum(counts, axis=0).max()), 4.0), 150, 26, count=3)
        bars = []
        for b in range(BINS):
            total = 0
            for verdict, count in zip(VERDICTS, counts, strict=True):
                if count[b]:
                    total += int(count[b])
                    ends = {"x": across.at(edges[b]), "to": across.at(edges[b + 1])}
                    text = f"{count[b]} of {edges[b]:.2f} to {edges[b + 1]:.2f}"
                    bars.append(
                        {
                            **ends,
                            "y": up.at(total),
                            "base": up.at(total - int(count[b])),
                            "verdict": verdict,
                            "text": text,
                        }
                    )
        clipped = int(np.sum((values < across.low) | (values > across.high)))
        return {
            "measure": measure,
            "x": across,
            "y": up,
            "bars": bars,
            "fences": fences,
            "n": len(values),
            "clipped": clipped,
        }


def _range(values: np.ndarray, fences: list[float], measure: str) -> tuple[float, float]:
    """Ends of the axis: all but the last hundredth of the values and every fence; what is beyond stands at the end."""
    if measure == "pDC":
        return max(0.0, min([float(np.quantile(values, 0.01)), *fences]) - 0.02), 1.0
    return 0.0, max([float(np.quantile(values, 0.99)), *fences, 1.0]) * 1.1


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _json(content: Any) -> str:
    """JSON that may stand inside a script element."""
    text = json.dumps(content, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")
