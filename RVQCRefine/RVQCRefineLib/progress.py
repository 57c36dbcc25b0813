"""How far a run is, told from its log: the state, the step, the time left, and what every epoch brought. No Slicer."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from RVQCRefineLib.run_folder import LIFE, RunFolder

STEPS = ("Segment the studies with the bundle as it is", "Refine the candidates", "Calibrate the new bundle",
         "Segment the studies with the new bundle")  # fmt: skip
_STATES = {
    "started": "running",
    "stopped": "interrupted",
    **{name: name for name in ("paused", "cancelled", "failed", "done")},
}


@dataclass(frozen=True)
class Point:
    """What one epoch of one candidate brought. `guard` is the guard's Dice of the RV, without labels the agreement."""

    candidate: int
    view: str
    epoch: int
    flagged: int
    guard: float | None
    loss: float | None = None


@dataclass(frozen=True)
class Progress:
    """A run so far. `state` is "new", "running", "paused", "cancelled", "failed", "interrupted" or "done".

    `candidate` counts all that are refined, of all views; `step` is the index in `STEPS`, None before the first event.
    """

    state: str = "new"
    step: int | None = None
    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    said: str = ""
    message: str = ""
    points: tuple[Point, ...] = ()
    adopted: bool = False
    _candidates_done: int = 0
    _pace: tuple[str, datetime.datetime, int] | None = field(default=None, repr=False)

    def after(self, event: Mapping[str, Any]) -> Progress:
        """The progress once `event` of the log has happened."""
        name = event["event"]
        if name in LIFE:
            state = replace(self, state=_STATES[name], message=event.get("message", ""), seconds_left=None)
            return replace(state, _candidates_done=0, _pace=None) if name == "started" else state
        if name in ("adopted", "returned"):
            return replace(self, adopted=name == "adopted")
        if name == "segment":
            words = f"{event['study']}: {event['done']} of {event['total']} studies"
            return self._counted(event, 0 if event["moment"] == "before" else 3, words)
        if name == "calibrate":
            words = f"{event['study']} {event['stack'].replace('_', ' ')}: {event['done']} of {event['total']} stacks"
            return self._counted(event, 2, words)
        if name == "epoch":
            return self._epoch(event)
        if name == "candidate":
            return replace(self, step=1, _candidates_done=self._candidates_done + 1, said=_kept(event))
        return self

    def _counted(self, event: Mapping[str, Any], step: int, words: str) -> Progress:
        time = datetime.datetime.fromisoformat(event["time"])
        kind = f"{step}"
        began = self._pace if self._pace and self._pace[0] == kind else (kind, time, event["done"])
        passed = event["done"] - began[2]
        pace = (time - began[1]).total_seconds() / passed if passed else None
        left = None if pace is None else pace * (event["total"] - event["done"])
        return replace(
            self, step=step, done=event["done"], total=event["total"], seconds_left=left, said=words, _pace=began
        )

    def _epoch(self, event: Mapping[str, Any]) -> Progress:
        number, view = self._candidates_done + 1, event.get("view", "")
        guard = event["guard_dice"] if event["guard_dice"] is not None else event["agreement"]
        points = {(p.candidate, p.epoch): p for p in self.points}
        points.setdefault((number, 0), Point(number, view, 0, event["flagged_before"], None))
        points[number, event["epoch"]] = Point(number, view, event["epoch"], event["flagged"], guard, event["loss"])
        place = (event["candidate"] - 1) * event["epochs"] + event["epoch"]
        said = f"candidate {event['candidate']} of {event['candidates']}, epoch {event['epoch']} of {event['epochs']}"
        return replace(
            self, step=1, done=place, total=event["candidates"] * event["epochs"], seconds_left=event["seconds_left"],
            said=f"{view} {said}".strip(), points=tuple(points[key] for key in sorted(points)), _pace=None,
        )  # fmt: skip


def progress_of(run: RunFolder) -> Progress:
    """The progress of a run as its files tell it. Once it is done, the epochs are those that the engine recorded.

    A run whose log ends while it was running, or which the command began, is "interrupted" or, with a result, "done".
    """
    progress = Progress()
    for event in run.events():
        progress = progress.after(event)
    result = run.result()
    if result is not None:
        return replace(progress, state="done", points=tuple(_points(result)), seconds_left=None)
    if progress.state in ("running", "done") or (progress.state == "new" and run.studies()):
        return replace(progress, state="interrupted", seconds_left=None)
    return progress


def _points(result: Mapping[str, Any]) -> Iterable[Point]:
    number = 0
    for view, judged in result["views"].items():
        for candidate in judged["candidates"]:
            number += 1
            for look in candidate["epochs"]:
                guard = look["guard"].get("RV", look["guard"].get("agreement"))
                yield Point(number, view, look["epoch"], look["flagged"], guard)


def _kept(event: Mapping[str, Any]) -> str:
    kept = f"epoch {event['kept_epoch']} is kept" if event["kept_epoch"] else "it stays as it was"
    return f"{event['view']} candidate {event['candidate']} of {event['candidates']} ended: {event['stopped_because']}; {kept}"


def duration(seconds: float | None) -> str:
    """A time in words: "under a minute", "4 min", "2 h 5 min"; "" where it is not known."""
    if seconds is None:
        return ""
    minutes = round(seconds / 60)
    if minutes < 1:
        return "under a minute"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def log_line(event: Mapping[str, Any], zone: datetime.tzinfo | None = None) -> str:
    """An event of the log as one line for people, with the time of `zone`; None for that of this computer."""
    time = f"{datetime.datetime.fromisoformat(event['time']).astimezone(zone):%H:%M:%S}"
    name = event["event"]
    if name in ("segment", "calibrate", "epoch", "candidate"):
        words = Progress().after(event).said
        extra = f"; {_numbers(event)}" if name == "epoch" else ""
        moment = f" ({event['moment']})" if name == "segment" else ""
        return f"{time}  {'calibration: ' if name == 'calibrate' else ''}{words}{moment}{extra}"
    rest = [str(event[key]) for key in ("study", "message", "bundle", "was") if event.get(key)]
    return f"{time}  {name}{': ' if rest else ''}{', '.join(rest)}"


def _numbers(event: Mapping[str, Any]) -> str:
    guard = "guard Dice" if event["guard_dice"] is not None else "agreement"
    value = event["guard_dice"] if event["guard_dice"] is not None else event["agreement"]
    said = f"{event['flagged']} flagged stacks ({event['flagged_before']} before), loss {event['loss']:.3f}"
    return f"{said}, {guard} {value:.3f}" if value is not None else said


def by_candidate(points: Sequence[Point]) -> dict[str, list[Point]]:
    """The points of every candidate by its name, "SA candidate 1"."""
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(f"{point.view} candidate {point.candidate}".strip(), []).append(point)
    return found
