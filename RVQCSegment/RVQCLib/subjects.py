"""The table of M&Ms-2, dataset_information.csv: disease and vendor of a study, however a spreadsheet left it."""

from __future__ import annotations

import csv
import logging
import os
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

TABLE = "dataset_information.csv"
_CODE, _DISEASE, _VENDOR = "SUBJECT_CODE", "DISEASE", "VENDOR"


@dataclass(frozen=True)
class Subject:
    """What the table says of a study, and in `problem` why the disease is not known; "" where it is."""

    disease: str = ""
    vendor: str = ""
    problem: str = ""


def find_subject(folder: str | os.PathLike, study: str) -> Subject:
    """Disease and vendor of a study whose files lie in `folder`, from the table in the folder of all studies or beside that."""
    folder = Path(os.path.abspath(folder))
    home = folder.parent if _number(folder.name) == _number(study) else folder
    table = next((path for path in (home / TABLE, home.parent / TABLE) if path.is_file()), None)
    if table is None:
        needed = f"put {TABLE}, with its {_CODE} and {_DISEASE}, into {home} or beside it"
        return Subject(problem=f"No disease of study {study} is known; {needed}.")
    try:
        columns, *rows = _rows(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        log.warning("%s cannot be read (%s); disease and vendor stay unknown", table, error)
        return Subject(problem=f"{table} cannot be read, so no disease is known; restore it.")
    if missing := [name for name in (_CODE, _DISEASE) if name not in columns]:
        return Subject(
            problem=f"{table} has no column {missing[0]} in its first line, so no disease is known; restore it."
        )
    told = next((row for row in rows if _number(row[columns.index(_CODE)]) == _number(study)), None)
    if told is None:
        return Subject(problem=f"{table} has no line of study {study}, so its disease is not known; add it.")
    disease, vendor = (told[columns.index(name)] if name in columns else "" for name in (_DISEASE, _VENDOR))
    return Subject(disease, vendor, "" if disease else f"{table} names no disease of study {study}; add it.")


def _rows(table: Path) -> list[list[str]]:
    """All rows, the names of the columns first; Excel separates by ; or tabs and writes cp1252 where its locale does."""
    content = table.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252")
    lines = text.splitlines() or [""]
    separator = max(",;\t", key=lines[0].count)
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator, skipinitialspace=True)]
    columns = [name.upper() for name in rows[0]] if rows else []
    return [columns, *(row + [""] * len(columns) for row in rows[1:])]  # short lines are filled up


def _number(code: str) -> int | str:
    """A code as its number, however it is written (002, 2, 2.0); what is none stays."""
    try:
        return int(float(code))
    except (ValueError, OverflowError):
        return code
