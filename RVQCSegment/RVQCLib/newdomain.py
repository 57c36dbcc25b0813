"""The unlabelled studies of a refinement: segmented before and after, flagged, and judged which mask is kept.

Under ``WORK/studies/<study>/`` lie ``before/`` and ``after/`` (each as `result.write_result` writes a study) and
``decision.json``. What lies there is never written again, so that a mask that was edited by hand stays.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from RVQCLib.acceptance import Acceptance, accept, comparable
from RVQCLib.bundle import Bundle, ViewModels
from RVQCLib.calibration import opinion
from RVQCLib.distributed import Crew
from RVQCLib.files import Cancelled, RVQCError, read_json, whole_folder, write_json
from RVQCLib.images import image_sha256
from RVQCLib.inference import choose, propose_stack
from RVQCLib.pipeline import segment_study
from RVQCLib.recipes import RefinementConfig
from RVQCLib.result import write_result
from RVQCLib.selection import Reference
from RVQCLib.stack import Stack, Study
from RVQCLib.study import StudySource
from RVQCLib.teachers import Flagged, flagged_stack

log = logging.getLogger(__name__)

Report = Callable[[dict[str, Any]], None]


@dataclass
class NewDomain:
    """The studies of a folder without labels.

    Parameters
    ----------
    folder
        ``WORK/studies``.
    crew
        The processes that refine together, of which the leader segments; the others read what it wrote.
    """

    sources: Sequence[StudySource]
    folder: Path
    device: str
    crew: Crew = field(default_factory=Crew)
    report: Report = lambda event: None
    cancelled: Callable[[], bool] = lambda: False
    failed: dict[str, str] = field(default_factory=dict)
    _before: dict[str, dict[str, Any]] = field(default_factory=dict)

    def segment_before(self, bundle: Bundle) -> None:
        """Segment every study with the bundle as it is; what an earlier run left is read again.

        A study that cannot be read, or whose images are others since, is left out and listed in `failed`. What the leader wrote is
        what every process goes by, study by study, so that none waits for long.
        """
        for number, source in enumerate(self.sources, start=1):
            if self.crew.led(partial(self._begin, source, bundle), self.device):
                self._before[source.name] = read_json(self._written(source))
            else:
                self.failed.setdefault(source.name, f"{source.name} was left out by the process that leads.")
            self._tell(source.name, "before", number)

    def _begin(self, source: StudySource, bundle: Bundle) -> bool:
        """Whether the masks of a study with the bundle as it is are there, from now or from an earlier run."""
        try:
            if self._written(source).exists():
                _check_left(self._written(source), source)
            else:
                self._segment(source, bundle, "before")
        except RVQCError as error:
            self._fail(source.name, "before", str(error))
            return False
        return True

    def _written(self, source: StudySource) -> Path:
        return self.folder / source.name / "before" / "quality.json"

    def _segment(self, source: StudySource, bundle: Bundle, moment: str) -> dict[str, Any]:
        # The same frames as before, as one mask is to be compared with the other.
        cines = self._before.get(source.name, {}).get("cine", ())
        frames = {cine["view"]: (cine["ed"], cine["es"]) for cine in cines}
        result = segment_study(source.load(), bundle, frames=frames, device=self.device, cancelled=self.cancelled)
        write_result(result, self.folder / source.name, folder_name=moment)
        return result.to_json()

    def images(self) -> set[str]:
        """SHA-256 of the images that were segmented before."""
        return {stack["image"]["sha256"] for content in self._before.values() for stack in content["stacks"]} - {""}

    def flagged(self, view: str, config: RefinementConfig) -> list[tuple[str, str]]:
        """(study, phase) of every stack of the view that asks for refinement."""
        return [
            (study, stack["phase"])
            for study, content in sorted(self._before.items())
            for stack in content["stacks"]
            if stack["view"] == view and is_flagged(stack, config.recipe.doubted)
        ]

    def load(self, chosen: Sequence[tuple[str, str]], view: str, models: ViewModels, source_size: int) -> list[Flagged]:
        """The stacks `chosen`, ready to learn from. Those of a study that is gone by now are left out, and it is in `failed`."""
        by_name = {source.name: source for source in self.sources}
        result = []
        for name in dict.fromkeys(study for study, _ in chosen):
            try:
                study = self._study(by_name[name])
            except RVQCError as error:  # it was there when it was segmented
                self._fail(name, "refine", str(error))
                continue
            for stack in study.stacks:
                if self.cancelled():
                    raise Cancelled
                if stack.view == view and (name, stack.phase) in chosen:
                    result.append(_ready(name, stack, models, source_size))
        return result

    def _study(self, source: StudySource) -> Study:
        """The study with the frames of a cine that were ED and ES before."""
        study = source.load()
        for picked in self._before[source.name]["cine"]:
            study = study.with_phases(picked["view"], ed=picked["ed"], es=picked["es"])
        return study

    def segment_after(self, bundle: Bundle | None, config: RefinementConfig) -> list[dict[str, Any]]:
        """Segment every study with the new bundle (None: nothing has changed) and decide whose new mask is kept.

        A study that cannot be read any more keeps its old masks; it is in `failed` and has no decision.
        """
        decisions = []
        for number, source in enumerate((s for s in self.sources if s.name in self._before), start=1):
            home = self.folder / source.name
            written = home / "after" / "quality.json"
            if bundle is None and not written.exists():  # what is there may have been edited by hand since
                with whole_folder(home / "after") as folder:
                    shutil.copytree(home / "before", folder, dirs_exist_ok=True)
            try:
                content = read_json(written) if written.exists() else self._segment(source, bundle, "after")  # type: ignore[arg-type]
            except RVQCError as error:
                self._fail(source.name, "after", str(error))
                continue
            self.failed.pop(source.name, None)  # one that could not be learnt from, but is there again
            decision = decide(self._before[source.name], content, config)
            write_json(home / "decision.json", decision)
            decisions.append(decision)
            self._tell(source.name, "after", number)
        return decisions

    def _fail(self, study: str, moment: str, reason: str) -> None:
        self.failed[study] = reason
        log.warning("%s is left out: %s", study, reason)
        if self.crew.leads:
            self.report({"event": "left out", "study": study, "moment": moment, "message": reason})

    def _tell(self, study: str, moment: str, number: int) -> None:
        """Report that a study is done, the `number`-th of those of before or after; for after, those left out before are done too."""
        done = number if moment == "before" else number + len(self.sources) - len(self._before)
        event = {"event": "segment", "study": study, "moment": moment, "done": done, "total": len(self.sources)}
        if self.crew.leads:
            self.report(event)


def drawn(flagged: Sequence[tuple[str, str]], config: RefinementConfig) -> list[tuple[str, str]]:
    """Those that are learnt from: `most_stacks` at most, drawn by the seed."""
    keep = np.random.default_rng(config.seed).permutation(len(flagged))[: config.most_stacks]
    return [flagged[k] for k in sorted(keep.tolist())]


def _check_left(written: Path, source: StudySource) -> None:
    """Raise RVQCError where the quality.json that an earlier run left of a study is not of the images that lie there now."""
    content = read_json(written)
    known = {stack["image"]["sha256"] for stack in content["stacks"]} - {""}
    files = {file for _, (file, _) in source.image_files}
    try:
        now = {image_sha256(file) for file in files}
    except OSError:  # said when it is to be read
        return
    if not known <= now:
        raise RVQCError(
            f"{source.name} has other images than when {written.parent} was made; restore them, or choose another --work."
        )


def is_flagged(stack: dict[str, Any], doubted: bool) -> bool:
    """Whether a stack's entry of quality.json asks for refinement: out of distribution, or with `doubted` not trusted."""
    return bool(stack["ood"] or (doubted and stack["verdict"] != "trusted"))


def _ready(study: str, stack: Stack, models: ViewModels, source_size: int) -> Flagged:
    calibration = models.calibration
    proposal = propose_stack(stack, models)
    if calibration is None:
        return flagged_stack(study, proposal, np.zeros(3), models, source_size)
    fence = Reference.from_calibration(calibration, stack.phase).stack["RV"]
    quality = opinion(calibration, proposal, choose(proposal, fence, models)).stack
    return flagged_stack(study, proposal, quality, models, source_size)


def decide(before: dict[str, Any], after: dict[str, Any], config: RefinementConfig) -> dict[str, Any]:
    """The entry of a study in refinement.json. A study that was not flagged keeps its masks. Of a flagged one the flagged
    stacks are compared (`acceptance.accept`): its new masks are accepted when one is better and the others are better or the
    same as before."""
    news = {(stack["view"], stack["phase"]): stack for stack in after["stacks"]}
    doubted = config.recipe.doubted
    stacks = []
    for old in before["stacks"]:
        new = news[old["view"], old["phase"]]
        was, one, other = is_flagged(old, doubted), comparable(old), comparable(new)
        verdict = accept(one, other) if was else None
        stacks.append(
            {
                "view": old["view"],
                "phase": old["phase"],
                "flagged_before": was,
                "flagged_after": is_flagged(new, doubted),
                "accepted": bool(verdict and verdict.accepted),
                "same": one["structures"] == other["structures"],
                "reason": _reason(old, new, verdict),
            }
        )
    flagged = [stack for stack in stacks if stack["flagged_before"]]
    return {
        "study": before["study"],
        "flagged_before": bool(flagged),
        "flagged_after": any(stack["flagged_after"] for stack in stacks),
        "accepted": any(s["accepted"] for s in flagged) and all(s["accepted"] or s["same"] for s in flagged),
        "stacks": stacks,
    }


def _reason(old: dict[str, Any], new: dict[str, Any], verdict: Acceptance | None) -> str:
    if verdict is None:
        return "the old mask was not flagged"
    kept = new.get("second_look", {})
    return kept["reason"] if kept and not kept["taken"] else verdict.reason
