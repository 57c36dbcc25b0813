"""The tables of M&Ms-2 and M&Ms-1: disease and vendor of a study, however a spreadsheet left them."""

from __future__ import annotations

import csv
import logging
import os
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Table:
    """A data set's table: its file, as `Path.glob` names it, its columns, and how far above the studies it may lie."""

    file: str
    code: str
    disease: str
    vendor: str
    above: int


MNMS2 = Table("dataset_information.csv", "SUBJECT_CODE", "DISEASE", "VENDOR", above=1)
MNMS1 = Table("*M&Ms_Dataset_[Ii]nformation*.csv", "EXTERNAL CODE", "PATHOLOGY", "VENDORNAME", above=2)


@dataclass(frozen=True)
class Subject:
    """What the table says of a study, and in `problem` why the disease is not known; "" where it is."""

    disease: str = ""
    vendor: str = ""
    problem: str = ""


def find_subject(folder: str | os.PathLike, study: str, kind: Table = MNMS2) -> Subject:
    """Disease and vendor of a study whose files lie in `folder`, from the table in the folder of all studies or beside that."""
    folder = Path(os.path.abspath(folder))
    home = folder.parent if _number(folder.name) == _number(study) else folder
    places = (home, *home.parents[: kind.above])
    table = next((path for place in places for path in sorted(place.glob(kind.file)) if path.is_file()), None)
    if table is None:
        needed = f"put {kind.file}, with its {kind.code} and {kind.disease}, into {home} or beside it"
        return Subject(problem=f"No disease of study {study} is known; {needed}.")
    try:
        columns, *rows = _rows(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        log.warning("%s cannot be read (%s); disease and vendor stay unknown", table, error)
        return Subject(problem=f"{table} cannot be read, so no disease is known; restore it.")
    if missing := [name for name in (kind.code, kind.disease) if name not in columns]:
        return Subject(
            problem=f"{table} has no column {missing[0]} in its first line, so no disease is known; restore it."
        )
    told = next((row for row in rows if _number(row[columns.index(kind.code)]) == _number(study)), None)
    if told is None:
        return Subject(problem=f"{table} has no line of study {study}, so its disease is not known; add it.")
    disease, vendor = (told[columns.index(name)] if name in columns else "" for name in (kind.disease, kind.vendor))
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
