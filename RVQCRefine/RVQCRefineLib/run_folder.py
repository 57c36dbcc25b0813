"""A refinement as it lies on the disk: what was asked for, what happened, what came of it. No Slicer, no torch.

For a bundle that is to be written to OUT, everything else lies in ``OUT.refinement/``, where the engine keeps its
checkpoints and every study's masks. The dialog adds ``request.json`` (what was asked for), ``events.jsonl`` (what
happened, one line each, only ever appended to), ``reviews.jsonl`` and ``accepted/``. Whatever the dialog shows comes from
these files, so that a restart shows the same.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from RVQCLib.files import RVQCError, append_line, read_json, write_json
from RVQCLib.locks import LOCK, check_free

SCHEMA = 1
ENDING = ".refinement"
REQUEST, EVENTS, REVIEWS, ACCEPTED, CLAIM, RESULT = (
    *("request.json", "events.jsonl", "reviews.jsonl", "accepted", "claim.json", "refinement.json"),
)
LIFE = ("started", "paused", "cancelled", "failed", "stopped", "done")
"""Events that say where a run stands; the last one counts."""


def now() -> str:
    """The time as ISO 8601 in UTC, to the millisecond."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class Request:
    """What a refinement was asked for.

    Parameters
    ----------
    folder
        Of the unlabelled studies.
    studies
        Those that were found there, as the worker's job "scan" answers.
    left_out
        Names of studies that are not to be used.
    bundle, bundle_name
        Folder and name of the bundle to refine; an empty folder is the bundle that comes with RVQC.
    out
        Folder of the new bundle.
    labelled
        Folder of labelled studies for L_SUP and the guard; empty for none.
    config
        Fields of the engine's RefinementConfig that are given; the others have the engine's defaults.
    """

    folder: str
    studies: tuple[dict[str, Any], ...]
    out: str
    left_out: tuple[str, ...] = ()
    bundle: str = ""
    bundle_name: str = ""
    labelled: str = ""
    device: str = "auto"
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Names of the studies that are used: those that can be read and were not left out."""
        return [s["study"] for s in self.studies if s["study"] not in self.left_out and not s["problems"]]

    def arguments(self) -> dict[str, Any]:
        """Arguments of the worker's job "refine"."""
        given = {"bundle": self.bundle or None, "labelled": self.labelled or None, "work": str(work_of(self.out))}
        return {
            **{"unlabelled": self.folder, "out": self.out, "config": self.config, "device": self.device},
            **{"names": self.names, **given},
        }

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return {"schema": SCHEMA, **json.loads(json.dumps(asdict(self)))}

    @staticmethod
    def from_json(content: Mapping[str, Any], path: Path) -> Request:
        """The inverse of `to_json`; `path` is named in errors.

        Raises
        ------
        RVQCError
            The content is of another schema or lacks an entry.
        """
        if not isinstance(content, Mapping) or content.get("schema") != SCHEMA:
            raise RVQCError(f"{path} is not a request that this RVQC reads; update RVQC, or start the run again.")
        values = {key: value for key, value in content.items() if key != "schema"}
        try:
            return Request(**{**values, "studies": tuple(values["studies"]), "left_out": tuple(values["left_out"])})
        except (KeyError, TypeError) as error:
            raise RVQCError(f"{path} lacks or garbles {error}; start the run again in another folder.") from error


def work_of(out: str | Path) -> Path:
    """The folder of a run whose new bundle goes to `out`."""
    return Path(f"{out}{ENDING}")


def free_name(folder: str | Path, bundle_name: str) -> Path:
    """A path beside the folder of studies for a new bundle, where nothing is yet."""
    base = Path(folder).resolve().parent / f"{bundle_name}-refined"
    number = 2
    path = base
    while path.exists() or work_of(path).exists():
        path = base.with_name(f"{base.name}-{number}")
        number += 1
    return path


@dataclass(frozen=True)
class RunFolder:
    """A run on the disk. `path` is ``OUT.refinement``."""

    path: Path

    @staticmethod
    def create(request: Request) -> RunFolder:
        """Make the folder of a run, or take up the one that is there for the very same request.

        Raises
        ------
        RVQCError
            The folder holds a run that was asked for otherwise, or lies among the studies.
        OSError
            The folder cannot be written.
        """
        run = RunFolder(work_of(request.out))
        if Path(request.out).resolve().is_relative_to(Path(request.folder).resolve()):
            raise RVQCError(
                f"{request.out} lies in the folder of the studies, so its masks would be taken for studies; choose another."
            )
        if run.path.exists() and (not run.has_request or run.request() != request):
            raise RVQCError(
                f"{run.path} holds another run; choose another place for the new bundle, or open that run to go on with it."
            )
        run.path.mkdir(parents=True, exist_ok=True)
        write_json(run.path / REQUEST, request.to_json())
        return run

    @staticmethod
    def open(path: str | Path) -> RunFolder:
        """The run at `path`, which may be its folder or that of its new bundle; of the dialog or of ``rvqc refine``.

        Raises
        ------
        RVQCError
            There is no run.
        """
        for folder in (Path(path), work_of(path)):
            if (folder / REQUEST).is_file() or (folder / CLAIM).is_file():
                return RunFolder(folder)
        raise RVQCError(f"{path} holds no refinement; give a folder whose name ends in {ENDING}.")

    @property
    def out(self) -> Path:
        """The folder of the new bundle, whether it is there or not."""
        return self.path.with_name(self.path.name.removesuffix(ENDING))

    def check_free(self) -> None:
        """Raise an RVQCError that says who works on this run, where somebody does, in whatever application."""
        check_free(self.path / LOCK, str(self.path))

    @property
    def has_request(self) -> bool:
        """Whether the dialog began this run, so that it can go on with it; the command leaves no request."""
        return (self.path / REQUEST).is_file()

    def request(self) -> Request:
        """What was asked for. Raises RVQCError where that cannot be read."""
        path = self.path / REQUEST
        return Request.from_json(read_json(path), path)

    def log(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Append an event with its time; returns it as it was written.

        Raises
        ------
        OSError
            The log cannot be written; it is as before.
        """
        entry = {"time": now(), **{key: value for key, value in event.items() if key != "id"}}
        append_line(self.path / EVENTS, json.dumps(entry, ensure_ascii=False))
        return entry

    def events(self) -> list[dict[str, Any]]:
        """Everything that happened, in order; a torn line is passed over."""
        path = self.path / EVENTS
        if not path.is_file():
            return []
        return [event for line in path.read_bytes().split(b"\n") if (event := _event(line)) is not None]

    def result(self) -> dict[str, Any] | None:
        """The content of ``refinement.json`` of the new bundle, None while it is not there."""
        path = self.out / RESULT
        return read_json(path) if path.is_file() else None

    def unread(self) -> dict[str, str]:
        """Studies that could not be read, and why: as the result says, or until there is one the log."""
        if (result := self.result()) is not None:
            return {entry["study"]: entry["reason"] for entry in result["failed"]}
        return {event["study"]: event["message"] for event in self.events() if event["event"] == "left out"}

    def studies(self) -> list[str]:
        """Names of the studies that were segmented at least once."""
        home = self.path / "studies"
        return (
            sorted(f.name for f in home.iterdir() if (f / "before" / "quality.json").is_file()) if home.is_dir() else []
        )

    def has_studies(self) -> bool:
        """Whether at least one study was segmented; unlike `studies` it looks no further than the first."""
        home = self.path / "studies"
        return home.is_dir() and any((study / "before" / "quality.json").is_file() for study in home.iterdir())


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
        return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None
    except ValueError:
        return None
