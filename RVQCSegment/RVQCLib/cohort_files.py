"""What a batch as a whole leaves behind: the fences of the cohort, `run.json`, `cohort.csv`, `cohort.html`.

All are made from the journal, one record at a time; of every stack only its scores and its place in the order are kept.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from RVQCLib.cohort_page import CohortPage, Row
from RVQCLib.cohort_table import table_rows, worst_first, write_table
from RVQCLib.manifest import Journal, write_run
from RVQCLib.overall import VERDICTS, stack_verdict, worst
from RVQCLib.quality import Fences, QCOptions, Scores, cohort_fences, rejudge

Cohort = dict[str, tuple[dict[str, Fences] | None, str]]
"""By stack (``SA_ED``): the fences of the cohort by structure, None from too few stacks, and the sentence about it."""


def fences_of(journal: Journal) -> Cohort:
    """The fences of the judged stacks themselves, by view and phase."""
    scores: dict[str, list[Scores]] = defaultdict(list)
    for record in journal.records():
        for stack in record["stacks"]:
            scores[f"{stack['view']}_{stack['phase']}"].append(Scores.of(stack))
    return {name: cohort_fences(found) for name, found in scores.items()}


def with_cohort(record: Mapping[str, Any], cohort: Cohort, options: QCOptions) -> dict[str, Any]:
    """A record whose stacks name the cohort's fences, and are judged by them where the options say so."""
    stacks = [rejudge(stack, *cohort[f"{stack['view']}_{stack['phase']}"], options) for stack in record["stacks"]]
    return {**record, "stacks": stacks}


def study_verdict(record: Mapping[str, Any]) -> str:
    """``failed``, or the worst verdict of a study's stacks and of its anatomy."""
    if record["state"] == "failed":
        return "failed"
    return worst((stack["verdict"] for stack in record["stacks"]), record["checks"])


@dataclass(frozen=True)
class CohortFiles:
    """Writes the files of one batch from its journal; rows of the studies `due` are appended to the table when done."""

    out: Path
    journal: Journal
    options: QCOptions
    due: Collection[str] = ()

    def write(self, header: Mapping[str, Any]) -> dict[str, Any]:
        """Write all three.

        Returns
        -------
        The content of ``run.json`` without its studies.

        Raises
        ------
        OSError
            One cannot be written; each is as before or whole.
        """
        cohort = fences_of(self.journal)
        made_by = sorted({record["version"] for record in self.journal.records() if record.get("version")})
        told = {"result_versions": made_by, "summary": self._summary(cohort), "fences": self._fences(cohort)}
        header = {**header, **told}
        order = self._order(cohort)
        write_table(self.out, (row for row, _, _ in self._rows(order, cohort) if row["study"] not in self.due))
        CohortPage(header, self.options).write(self.out, self._rows(order, cohort))
        write_run(self.out, header, self._records(cohort))
        return header

    def _records(self, cohort: Cohort) -> Iterator[dict[str, Any]]:
        return (with_cohort(record, cohort, self.options) for record in self.journal.records())

    def _order(self, cohort: Cohort) -> list[tuple[str, int]]:
        """Study and place of every row, worst first."""
        keys = []
        for record in self._records(cohort):
            rows = table_rows(record, self.options)
            keys += [(worst_first(row), record["study"], place) for place, row in enumerate(rows)]
        return [(study, place) for _, study, place in sorted(keys)]

    def _rows(self, order: list[tuple[str, int]], cohort: Cohort) -> Iterator[Row]:
        """Every row of the table with its study's record and its stack in it, which a failed study has none of."""
        for study, place in order:
            if (record := self.journal.find(study)) is not None:
                record = with_cohort(record, cohort, self.options)
                stacks = record["stacks"] or [None]
                yield table_rows(record, self.options)[place], record, stacks[place]

    def _summary(self, cohort: Cohort) -> dict[str, Any]:
        studies: Counter[str] = Counter()
        stacks: Counter[str] = Counter()
        seconds, edited = 0.0, 0
        for record in self._records(cohort):
            studies[study_verdict(record)] += 1
            stacks.update(stack_verdict(stack, record["checks"]) for stack in record["stacks"])
            seconds += record["seconds"]
            edited += bool(record.get("edited"))
        return {
            "n_studies": studies.total(),
            "n_stacks": stacks.total(),
            "studies": {verdict: studies[verdict] for verdict in ("failed", *VERDICTS[::-1])},
            "stacks": {verdict: stacks[verdict] for verdict in VERDICTS[::-1]},
            "edited": edited,
            "seconds": round(seconds, 1),
        }

    def _fences(self, cohort: Cohort) -> dict[str, Any]:
        """By stack: the fences of the cohort, and the distinct tables of reference ones that judged its rows, the commonest
        first and alone as ``reference``: the second networks of a refined bundle have their own."""
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for record in self.journal.records():
            for stack in record["stacks"]:
                if table := stack["fences"]["reference"]:
                    counts[f"{stack['view']}_{stack['phase']}"][json.dumps(table, sort_keys=True)] += 1
        references = {
            name: [json.loads(text) for text, _ in sorted(found.items(), key=lambda one: (-one[1], one[0]))]
            for name, found in counts.items()
        }
        return {
            name: {
                "reference": next(iter(references.get(name, ())), None),
                "references": references.get(name, []),
                "cohort": None if table is None else {s: limits.to_json() for s, limits in table.items()},
                "note": note,
            }
            for name, (table, note) in sorted(cohort.items())
        }


def in_words(content: Mapping[str, Any]) -> list[str]:
    """What a content of ``run.json`` says of its batch, a line each."""
    summary = content["summary"]
    words = {"failed": "failed", "ood": "out of distribution", "look": "to look at", "trusted": "trusted"}
    counts = ", ".join(
        f"{n} {words[verdict]}" for verdict, n in summary["studies"].items() if n or verdict == "trusted"
    )
    lines = [
        f"{counted(summary['n_studies'], 'study', 'studies')} ({counted(summary['n_stacks'], 'stack', 'stacks')}): {counts}"
    ]
    if summary["edited"]:
        lines.append(
            f"Edited by hand and kept so: {counted(summary['edited'], 'study', 'studies')}; see 'edited' in cohort.csv"
        )
    lines += [f"Caution, {caution}" for caution in content["cautions"]]
    if content["options"]["fences"] == "cohort":
        lines += [f"{name.replace('_', ' ')}: {fences['note']}" for name, fences in content["fences"].items()]
    if content["state"] != "done":
        lines.append(
            f"Still to be done in the folder: {counted(content['n_found'] - summary['n_studies'], 'study', 'studies')}"
        )
    return lines


def counted(number: int, one: str, many: str) -> str:
    """``1 study``, ``2 studies``."""
    return f"{number} {one if number == 1 else many}"
