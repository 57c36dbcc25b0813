"""The manifest of a batch: what every study was made from and what became of it, appended to as results come.

``OUT/.run/part-1-of-1.jsonl`` is the journal, one line a study that was worked on; ``run.json`` is written from it. The
last line of a study counts. Parts of an array job keep a journal each, so that none waits for another.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from RVQCLib.edits import OUTPUTS, check_name, edited_files, is_whole, set_aside
from RVQCLib.files import RVQCError, append_line, read_json, whole_file
from RVQCLib.images import image_sha256
from RVQCLib.layouts import StudySource
from RVQCLib.options import QCOptions

RUN, JOURNALS = "run.json", ".run"
_HALF = re.compile(r"(\.old-)?\.part-(?P<study>.+)-[a-z0-9_]{8}", re.DOTALL)

log = logging.getLogger(__name__)


def settings_hash(bundle_hash: str, options: QCOptions, candidates: bool) -> str:
    """A hash of all but the images that a study's result depends on."""
    content = [bundle_hash, options.to_json(), candidates]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def input_hashes(source: StudySource) -> list[dict[str, Any]]:
    """What a study is read from: view, phase, frame of a cine, file and its SHA-256 (of a DICOM series, of all files).

    Raises
    ------
    RVQCError
        A file that the scan of the folder found is gone or cannot be read.
    """
    inputs = []
    for (view, phase), (path, frame) in source.image_files:
        try:
            digest = image_sha256(path)
        except OSError as error:
            raise RVQCError(f"{path} was found but cannot be read now ({error.strerror}); restore it.") from error
        inputs.append({"view": view, "phase": phase, "frame": frame, "file": str(path), "sha256": digest})
    return inputs


def same_inputs(ours: Iterable[Mapping[str, Any]], theirs: Iterable[Mapping[str, Any]]) -> bool:
    """Whether two lists of `input_hashes` name the same images, wherever they lie."""
    keys = ("view", "phase", "frame", "sha256")
    return [[entry[k] for k in keys] for entry in ours] == [[entry[k] for k in keys] for entry in theirs]


def edited_since(folder: Path, record: Mapping[str, Any], options: QCOptions) -> tuple[str, ...] | None:
    """What somebody edited in a study's result since `record` was made; None where the result is not whole.

    It is whole where quality.json can be read, is that of the record and was judged by `options`, the page is there, and
    every mask is, as it was written or as somebody left it.
    """
    try:
        quality, outputs = read_json(folder / "quality.json"), record["outputs"]
        ours = quality["bundle"] == record["bundle"] and quality.get(OUTPUTS, outputs) == outputs
        # Other options can make the same masks, and a run with them may have come between.
        ours = ours and quality["options"] == options.to_json()
        if not ours or not (folder / "report.html").is_file() or not all((folder / n).is_file() for n in outputs):
            return None
        edited = edited_files(folder, outputs)
        unlike = [name for name in outputs if name in edited or not (folder / name).stat().st_size]
        return edited if all(is_whole(folder / name) for name in unlike) else None
    except (RVQCError, OSError, KeyError, TypeError, AttributeError):
        return None


def discard(out: Path, study: str) -> str:
    """Remove a study's result and what killed workers left of it; what somebody edited is moved aside instead.

    Returns
    -------
    A sentence where an earlier result is still there, else "".
    """
    try:
        check_name(study)
    except RVQCError as error:
        log.warning("%s stays where it is: %s", out / study, error)
        return ""  # people's work or a table, no result
    try:
        set_aside(out / study)
    except OSError as error:
        return f"{out / study} was edited by hand and cannot be moved ({error.strerror or error}); it is of an earlier run."
    shutil.rmtree(out / study, ignore_errors=True)
    discard_parts(out, study)
    return f"{out / study} could not be removed; it is of an earlier run." if (out / study).exists() else ""


def discard_parts(out: Path, *studies: str) -> None:
    """Remove the half-written folders of studies that killed workers left (see `files.whole_folder`)."""
    for path in out.iterdir() if out.is_dir() else ():
        if (half := _HALF.fullmatch(path.name)) and half["study"] in studies:
            shutil.rmtree(path, ignore_errors=True)


class Journal:
    """The records of all parts of a batch; only places in files are kept in memory, the records stay on the disk.

    Parameters
    ----------
    settings
        Records of other settings (`settings_hash`) are of another run and are passed over; None takes all.
    found
        The studies that the folder has now; those that it had before are passed over. None takes all.
    """

    def __init__(
        self,
        out: Path,
        part: tuple[int, int] = (1, 1),
        settings: str | None = None,
        found: Collection[str] | None = None,
    ) -> None:
        self._folder = out / JOURNALS
        self._own = self._folder / f"part-{part[0]}-of-{part[1]}.jsonl"
        self._settings, self._found = settings, found
        self._waiting: dict[str, dict[str, Any]] = {}
        self._places: dict[str, tuple[str, Path, int]] = {}
        self._gone: set[str] = set()
        self.scan()

    def scan(self) -> None:
        """Find the records anew, those that other parts have written since among them."""
        self._places.clear()
        for path in sorted(self._folder.glob("part-*.jsonl")):
            for offset, record in _records(path):
                if self._settings not in (None, record["settings"]):
                    continue
                if self._found is not None and record["study"] not in self._found:
                    self._gone.add(record["study"])
                    continue
                known = self._places.get(record["study"])
                if known is None or known[0] <= record["finished"]:
                    self._places[record["study"]] = (record["finished"], path, offset)

    def append(self, record: dict[str, Any]) -> None:
        """Write a record, and those that an earlier full disk kept waiting; on a full disk this one waits as well."""
        self._waiting[record["study"]] = record
        try:
            self.flush()
        except OSError as error:
            log.warning("%s cannot be written (%s); records wait for it.", self._own, error.strerror or error)

    def flush(self) -> None:
        """Write the records that wait.

        Raises
        ------
        OSError
            They cannot be written.
        """
        for study, record in list(self._waiting.items()):
            offset = append_line(self._own, json.dumps(record, allow_nan=False, ensure_ascii=False))
            self._places[study] = (record["finished"], self._own, offset)
            del self._waiting[study]

    def find(self, study: str) -> dict[str, Any] | None:
        """The last record of a study."""
        if study in self._waiting:
            return self._waiting[study]
        if study not in self._places:
            return None
        _, path, offset = self._places[study]
        try:
            with path.open("rb") as stream:
                stream.seek(offset)
                record = json.loads(stream.readline())
        except (OSError, ValueError):  # somebody removed the journal, and another was begun
            return None
        return record if isinstance(record, dict) and record.get("study") == study else None

    @property
    def studies(self) -> list[str]:
        """Names of the studies that have a record, sorted."""
        return sorted({*self._places, *self._waiting})

    @property
    def gone(self) -> list[str]:
        """Names of the studies that have a record and are not in the folder any more, sorted."""
        return sorted(self._gone)

    def records(self, studies: Iterable[str] | None = None) -> Iterator[dict[str, Any]]:
        """The last record of each of `studies`, by default of all by name, one at a time."""
        for study in self.studies if studies is None else studies:
            if (record := self.find(study)) is not None:
                yield record


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Place and content of every whole line of a journal."""
    offset = 0
    with path.open("rb") as stream:
        for line in stream:
            try:
                record = json.loads(line)
                record["study"], record["settings"], record["finished"]
                yield offset, record
            except (ValueError, KeyError, TypeError):
                log.warning("%s has a torn line at byte %d; its study is done again.", path, offset)
            offset += len(line)


def write_run(out: Path, header: Mapping[str, Any], records: Iterable[Mapping[str, Any]]) -> None:
    """Write ``run.json``: the header and every study's record but its pictures, one at a time."""
    with whole_file(out / RUN) as part, part.open("w", encoding="utf-8") as stream:
        head = json.dumps(header, indent=1, allow_nan=False, ensure_ascii=False)
        stream.write(head[: head.rindex("}")].rstrip() + ',\n "studies": [')
        for number, record in enumerate(records):
            slim = {**record, "stacks": [_without_picture(stack) for stack in record.get("stacks", ())]}
            stream.write((",\n  " if number else "\n  ") + json.dumps(slim, allow_nan=False, ensure_ascii=False))
        stream.write("\n ]\n}\n")


def _without_picture(stack: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in stack.items() if key != "thumbnail"}


def read_run(out: str | Path) -> dict[str, Any]:
    """The manifest of a batch: what was asked, with which bundle, and under ``studies`` what became of every study.

    While it runs, or after it was stopped hard, the studies are those that are done so far.

    Raises
    ------
    RVQCError
        `out` holds no batch, or its manifest cannot be read.
    """
    out = Path(out)
    if not (out / RUN).is_file():
        raise RVQCError(f"{out} holds no {RUN}; give the folder that 'rvqc batch' wrote to.")
    run = read_json(out / RUN)
    if run.get("state") == "running":
        journal = Journal(out, settings=run["settings"])
        there = [study for study in journal.studies if study not in run.get("gone", ())]
        slim = ({**r, "stacks": [_without_picture(s) for s in r.get("stacks", ())]} for r in journal.records(there))
        run["studies"] = list(slim)
    return run
