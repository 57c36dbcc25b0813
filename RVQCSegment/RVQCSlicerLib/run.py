"""One QC run of a study: nodes are written, the worker judges them, its answer comes into the scene as a `Result`."""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import slicer

from RVQCLib.files import RVQCError
from RVQCLib.stack import PHASES, VIEWS
from RVQCSlicerLib import overlays, scene
from RVQCSlicerLib.hierarchy import INSTANCES, patient_of, place_beside
from RVQCSlicerLib.parameters import Parameters
from RVQCSlicerLib.process import Outcome, WorkerProcess
from RVQCSlicerLib.results import MADE, Result, remove, results_in_scene
from RVQCSlicerLib.steps import Steps
from RVQCSlicerLib.viewer import one_picture
from RVQCSlicerLib.words import short

FORBIDDEN = r'[/\\:*?"<>|]'
"""Signs that the name of a study cannot have, because its folder cannot on every system."""


@dataclass(frozen=True)
class Cine:
    """A sequence node with the frames (from 0) that are ED and ES, None to have both found."""

    sequence: slicer.vtkMRMLSequenceNode
    ed: int | None = None
    es: int | None = None


@dataclass(frozen=True)
class Request:
    """What to judge: volumes by stack ("SA_ED"), cines by view, and where the result's folder is written."""

    study: str
    out: str
    volumes: dict[str, slicer.vtkMRMLScalarVolumeNode] = field(default_factory=dict)
    cines: dict[str, Cine] = field(default_factory=dict)
    bundle: str = ""
    device: str = "auto"

    def check(self) -> None:
        """Raise RVQCError (`scene.Transformed` where hardening helps) for what cannot be judged."""
        if not self.volumes and not self.cines:
            raise RVQCError("No image is chosen; choose a volume or a cine, or load a study.")
        if not self.study.strip() or re.search(FORBIDDEN, self.study) or self.study.startswith("."):
            raise RVQCError(
                f"{self.study!r} cannot name a study's folder; give a name of letters, digits, spaces, - and _."
            )
        for key, volume in self.volumes.items():
            scene.check_volume(volume, short(key))
            _refuse_one_slice(volume, short(key))
        for view, cine in self.cines.items():
            frames = scene.frames_of(cine.sequence, view)
            _refuse_one_slice(frames[0], view, cine.sequence.GetName())
            if (cine.ed is None) != (cine.es is None):
                raise RVQCError(f"Only one of ED and ES is chosen in the {view} cine; choose both frames or neither.")
            if cine.ed is not None and max(cine.ed, cine.es) >= len(frames):
                raise RVQCError(f"The {view} cine has {len(frames)} frames; choose ED and ES among them.")
        self._check_together()
        scene.refuse_transforms([*self.volumes.values()])

    def _check_together(self) -> None:
        """Raise RVQCError where the images cannot be of one examination."""
        patients = {patient_of(node) for node in (*self.volumes.values(), *(c.sequence for c in self.cines.values()))}
        if len(patients - {""}) > 1:
            raise RVQCError(
                f"The images are of the patients {', '.join(sorted(patients - {''}))}; choose those of one."
            )
        for one, two in combinations(self.volumes, 2):
            if self.volumes[one] is self.volumes[two]:
                name = self.volumes[one].GetName()
                raise RVQCError(
                    f"{name} is chosen for {short(one)} and for {short(two)}; choose another image for one."
                )
        for view in VIEWS:
            ed, es = (self.volumes.get(f"{view}_{phase}") for phase in PHASES)
            if ed is not None and es is not None and not scene.fit_together(ed, es):
                raise RVQCError(
                    f"{view} ED has {scene.grid_in_words(ed)}, but {view} ES has {scene.grid_in_words(es)}; choose two images "
                    "of one examination."
                )


class Run:
    """A run that has begun. Ends by `done` with a `Result`, or with an `Outcome` that says why there is none.

    Whatever ends it early, the scene is as before and the job's files are gone.
    """

    def __init__(
        self,
        request: Request,
        worker: WorkerProcess,
        *,
        done: Callable[[Result | Outcome], None],
        progress: Callable[[dict[str, Any]], None],
    ) -> None:
        request.check()
        worker.occupy(f"The QC run of {request.study}")
        self._request, self._worker = request, worker
        self._done, self._progress = done, progress
        self._job = 0
        self._folder = Path(tempfile.mkdtemp(prefix="rvqc-", dir=slicer.app.temporaryPath))
        self._arguments: dict[str, Any] = {"name": request.study, "out": request.out, "device": request.device}
        self._steps: Steps | None = Steps(self._write(), self._written)
        self._finished = False

    def cancel(self, why: str = "Cancelled; the scene is as before.") -> None:
        """Stop; `done` hears of it at once, the worker within two seconds."""
        if self._job:
            self._worker.cancel(self._job)
        if self._steps is not None:
            self._steps.stop()
        self._finish(Outcome("cancelled", message=why))

    def _finish(self, end: Result | Outcome) -> None:
        if not self._finished:
            self._finished = True
            self._worker.release()
            shutil.rmtree(self._folder, ignore_errors=True)
            self._done(end)

    def _write(self) -> Iterator[None]:
        images, cines, origins = {}, {}, {}
        for key, volume in self._request.volumes.items():
            path = self._folder / f"{key}.mha"
            yield from scene.write_frames([volume], path)
            images[key], origins[key] = str(path), scene.file_of(volume)
        for view, cine in self._request.cines.items():
            path = self._folder / f"{view}_cine.mha"
            yield from scene.write_frames(scene.frames_of(cine.sequence, view), path)
            found = {} if cine.ed is None else {"ed": cine.ed, "es": cine.es}
            cines[view], origins[view] = {"file": str(path), **found}, scene.file_of(cine.sequence)
        origins = {key: path for key, path in origins.items() if path}
        self._arguments.update(images=images, cine=cines, origins=origins)
        if self._request.bundle:
            self._arguments["bundle"] = self._request.bundle

    def _written(self, error: Exception | None) -> None:
        if error is not None:
            self._finish(_outcome_of(error))
            return
        self._job = self._worker.submit("segment", self._arguments, done=self._judged, progress=self._tell)

    def _tell(self, event: dict[str, Any]) -> None:
        if not self._finished:
            self._progress(event)

    def _judged(self, outcome: Outcome) -> None:
        self._job = 0
        if self._finished:
            return
        if outcome.kind != "result":
            self._finish(outcome)
            return
        self._result: Result | None = None
        self._made: list[slicer.vtkMRMLNode] = []
        self._progress({"event": "show"})
        self._steps = Steps(self._fill_at_once(outcome.result), self._filled)

    def _fill_at_once(self, answer: dict[str, Any]) -> Iterator[None]:
        with one_picture():
            yield from self._fill(answer)

    def _fill(self, answer: dict[str, Any]) -> Iterator[None]:
        """Bring the answer into the scene; closed or failing halfway, it takes its own nodes out again."""
        quality, complete = answer["quality"], False
        earlier = [result for result in results_in_scene() if result.study == quality["study"]]
        try:
            result = self._result = Result.create(quality, answer["folder"])
            self._made.append(result.node)
            for key in result.stacks:
                result.set("volume", key, self._volume(key, quality))
            for view, cine in self._request.cines.items():
                result.set("cine", view, cine.sequence)
            for key in result.stacks:
                for _ in overlays.build(result, key):
                    yield
                yield
            complete = True
        finally:
            if complete:
                remove(node for old in earlier for node in old.own_nodes())
            elif self._result is not None:
                remove([*self._result.own_nodes(), *self._made])

    def _volume(self, key: str, quality: dict[str, Any]) -> slicer.vtkMRMLVolumeNode:
        """The volume of a stack; for one from a cine a new node, so that it can lie behind the overlay."""
        view, _, phase = key.partition("_")
        cine = self._request.cines.get(view)
        if cine is None:
            volume = self._request.volumes[key]
            if volume.GetScene() is None:
                raise RVQCError(
                    f"The volume of {short(key)} was removed while QC ran; its masks are in {self._request.out}, "
                    "load the study again to see them."
                )
            return volume
        found = {entry["view"]: entry for entry in quality["cine"]}.get(view) or {"ed": cine.ed, "es": cine.es}
        frame = scene.frames_of(cine.sequence, view)[found[phase.lower()]]
        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"{self._request.study} {short(key)}")
        self._made.append(volume)
        slicer.util.updateVolumeFromArray(volume, slicer.util.arrayFromVolume(frame))
        scene.place_volume(volume, scene.geometry_of(frame))
        volume.SetAttribute(MADE, "a cine")
        volume.SetAttribute(INSTANCES, frame.GetAttribute(INSTANCES))
        volume.CreateDefaultDisplayNodes()
        place_beside(volume, cine.sequence)
        return volume

    def _filled(self, error: Exception | None) -> None:
        self._finish(self._result if error is None else _outcome_of(error))


def run_and_wait(request: Request, worker: WorkerProcess, progress: Callable[[dict[str, Any]], None]) -> Result:
    """Run and return the `Result`; the application lives meanwhile.

    Raises
    ------
    RVQCError
        The run did not end well; the sentence says why.
    """
    ends: list[Result | Outcome] = []
    Run(request, worker, done=ends.append, progress=progress)
    while not ends:
        slicer.app.processEvents()
        time.sleep(0.002)
    if isinstance(ends[0], Outcome):
        raise RVQCError(ends[0].message)
    return ends[0]


def study_of(nodes: Iterable[slicer.vtkMRMLNode | None]) -> str:
    """A name for a study that can name its folder: the DICOM PatientID of its first node, else the node's name up to "SA ED"
    or "_SA_ED"."""
    first = next((node for node in nodes if node is not None), None)
    if first is None:
        return ""
    name = patient_of(first) or re.split(f"[ _](?:{'|'.join(VIEWS)})[ _]", first.GetName())[0]
    return re.sub(rf"\s*{FORBIDDEN}+\s*", " ", name).strip(" .")


def _refuse_one_slice(image: slicer.vtkMRMLVolumeNode, what: str, name: str = "") -> None:
    """Raise RVQCError for a short axis of one slice: Slicer's DICOM module makes a node of every series, which may be a slice."""
    if what.startswith("SA") and image.GetImageData().GetDimensions()[2] == 1:
        raise RVQCError(
            f"{name or image.GetName()}, chosen for {what}, is one slice and not a short-axis stack; load the folder with "
            "all its slices by “Load study folder…”, which joins a short axis that is a series a slice."
        )


def chosen_images(p: Parameters) -> dict[str, Any]:
    """What the panel has chosen, as arguments of the logic's `runQC`; a cine stands for the volumes of its view."""
    views = [view for view in VIEWS if p.cine(view)]
    cines = {f"{v.lower()}Cine": Cine(p.cine(v), p.frame(f"{v}_ED"), p.frame(f"{v}_ES")) for v in views}
    stacks = [(view, phase) for view in VIEWS if view not in views for phase in PHASES]
    return cines | {f"{view.lower()}{phase}": p.volume(f"{view}_{phase}") for view, phase in stacks}


def _outcome_of(error: Exception) -> Outcome:
    if isinstance(error, RVQCError):
        return Outcome("input", message=str(error))
    log = "".join(traceback.format_exception(error))
    logging.error("RVQC: %s", log)
    said = f"Something went wrong inside RVQC ({type(error).__name__}: {error}); the scene is as before."
    return Outcome("failed", message=said, log=log)
