"""What the dialog is about: a scan of a folder, a run, and the worker process that does both. No widgets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from RVQCLib.files import RVQCError
from RVQCLib.manifest import read_run
from RVQCRefineLib.progress import Progress, progress_of
from RVQCRefineLib.rows import Row, batch_rows, is_batch, rows_of, unread_of
from RVQCRefineLib.run_folder import Request, RunFolder
from RVQCSlicerLib.process import Outcome, WorkerProcess


class Session:
    """The scan, the run, and what is told of them. It lives as long as the module, whether the dialog is shown or not.

    Parameters
    ----------
    say
        Is called with a sentence and a log when something went wrong.
    """

    def __init__(self, worker: WorkerProcess, say: Callable[[str, str], None]) -> None:
        self.worker = worker
        self._say = say
        self._listeners: list[Callable[[str], None]] = []
        self._job = self._scan_job = 0
        self._ending = ""
        self._log_lost = False
        self.folder = ""
        self.studies: list[dict[str, Any]] | None = None
        self.left_out: set[str] = set()
        self.run: RunFolder | None = None
        self.request: Request | None = None
        self.batch: Path | None = None
        self.events: list[dict[str, Any]] = []
        self.progress = Progress()

    def listen(self, listener: Callable[[str], None]) -> None:
        """Have `listener` called with what has changed: "scan", "ticks", "run" (another one, or its state) or "progress"."""
        self._listeners.append(listener)

    def tell(self, what: str) -> None:
        """Tell all listeners."""
        for listener in self._listeners:
            listener(what)

    @property
    def live(self) -> bool:
        """Whether the run is going on in this application."""
        return self._job != 0

    @property
    def scanning(self) -> bool:
        """Whether a folder is being looked through."""
        return self._scan_job != 0

    @property
    def state(self) -> str:
        """The state of the run as in `Progress.state`; "pausing" or "cancelling" until the worker has stopped."""
        if self.live and self._ending:
            return {"paused": "pausing", "cancelled": "cancelling"}.get(self._ending, "cancelling")
        return "running" if self.live else self.progress.state

    @property
    def home(self) -> Path | None:
        """The folder of the run or batch that is shown, with its reviews."""
        return self.run.path if self.run else self.batch

    def rows(self) -> list[Row]:
        """What there is to review, worst first. Raises RVQCError where a file cannot be read."""
        if self.run is not None:
            return rows_of(self.run)
        return batch_rows(self.batch) if self.batch is not None else []

    @property
    def can_resume(self) -> bool:
        """Whether there is something to go on with: the run has not ended, or studies were left out and it is not adopted."""
        if self.run is None or self.live:
            return False
        return self.state != "done" or (not self.progress.adopted and self.request is not None and bool(self.unread()))

    def unread(self) -> dict[str, str]:
        """Studies of the run or batch that have no result, and why, as its files say."""
        return self.run.unread() if self.run else unread_of(self.batch) if self.batch else {}

    @property
    def usable(self) -> list[str]:
        """Names of the studies that were found, can be read and are not left out."""
        studies = self.studies or []
        return [s["study"] for s in studies if not s["problems"] and s["study"] not in self.left_out]

    # The folder ----------------------------------------------------------------------------------------------------

    def scan(self, folder: str) -> None:
        """Look through a folder in the worker; an earlier scan is forgotten."""
        if self.live:
            return
        if self._scan_job:
            self.worker.cancel(self._scan_job)
        self.folder, self.studies, self.left_out = folder, None, set()
        number = self.worker.submit("scan", {"folder": folder}, done=lambda outcome: self._scanned(folder, outcome))
        self._scan_job = number
        self.tell("scan")

    def _scanned(self, folder: str, outcome: Outcome) -> None:
        if folder != self.folder:
            return
        self._scan_job = 0
        if outcome.kind == "result":
            self.studies = outcome.result["studies"]
        elif outcome.kind != "cancelled":
            self._say(outcome.message, outcome.log)
        self.tell("scan")

    def tick(self, study: str, used: bool) -> None:
        """Use a study, or leave it out."""
        (self.left_out.discard if used else self.left_out.add)(study)
        self.tell("ticks")

    # The run -------------------------------------------------------------------------------------------------------

    def start(self, request: Request) -> None:
        """Begin a run. Raises RVQCError or OSError where its folder is taken or cannot be written."""
        self.run, self.request = RunFolder.create(request), request
        self.progress, self.events = progress_of(self.run), self.run.events()
        self.tell("run")
        self.resume()

    def open(self, path: str) -> None:
        """Show a run from the disk. Raises RVQCError where there is none, or one is going on."""
        if self.live:
            raise RVQCError(f"{self.run.path} is being worked on; pause it before another run is opened.")
        if is_batch(path):
            self._open_batch(Path(path))
            return
        run = RunFolder.open(path)
        progress, request = progress_of(run), run.request() if run.has_request else None
        self.run, self.request, self.progress, self.events = run, request, progress, run.events()
        self.batch = None
        self.folder = request.folder if request else ""
        self.studies = list(request.studies) if request else None
        self.left_out = set(request.left_out) if request else set()
        for what in ("scan", "run"):
            self.tell(what)

    def _open_batch(self, out: Path) -> None:
        """Show the results of ``rvqc batch``: there is nothing to run, only to review."""
        done = [study for study in read_run(out)["studies"] if study["state"] != "failed"]
        self.forget()
        self.batch = out
        self.folder, self.left_out = str(out), set()
        self.studies = [{"study": s["study"], "images": s["inputs"], "problems": []} for s in done]
        for what in ("scan", "run"):
            self.tell(what)

    def forget(self) -> None:
        """Make room for a new run; the folder and the ticks stay."""
        if not self.live:
            self.run = self.request = self.batch = None
            self.progress, self.events = Progress(), []
            self.tell("run")

    def resume(self) -> None:
        """Go on with the run, from its last checkpoint.

        Raises
        ------
        RVQCError
            The dialog did not begin it, or somebody works on it.
        """
        if self.run is None or self.live:
            return
        if self.request is None:
            raise RVQCError(f"{self.run.path} was begun by 'rvqc refine'; the same command again goes on with it.")
        self.run.check_free()
        arguments = self.request.arguments()
        self._log({"event": "started"})
        self._ending, self._log_lost = "", False
        self._job = self.worker.submit("refine", arguments, done=self._ended, progress=self._on_event)
        self.tell("run")

    def pause(self) -> None:
        """Stop at the next step; what is done is kept, and the worker stays warm."""
        self._end("paused")

    def cancel(self) -> None:
        """Stop at the next step and end the worker, so that the GPU is free; what is done is kept."""
        self._end("cancelled")

    def shut(self) -> None:
        """The application closes, or the module is reloaded."""
        self._ending = "stopped" if self.live else ""
        self.worker.stop()
        self._listeners.clear()

    def _end(self, how: str) -> None:
        if self.live and not self._ending:
            self._ending = how
            self.worker.cancel(self._job)
            self.tell("run")

    def _on_event(self, event: dict[str, Any]) -> None:
        self._log(event)
        self.tell("progress")

    def _log(self, event: dict[str, Any]) -> None:
        """Write an event down and follow it; where it cannot be written, the run goes on and that is said once."""
        try:
            entry = self.run.log(event)
        except OSError as error:
            if not self._log_lost:
                self._say(f"{self.run.path} cannot be written ({error.strerror}); the run goes on without its log.", "")
            self._log_lost = True
            return
        self.events.append(entry)
        self.progress = self.progress.after(entry)

    def _ended(self, outcome: Outcome) -> None:
        ending = self._ending or "cancelled"
        self._job, self._ending = 0, ""
        if outcome.kind == "result":
            self._log({"event": "done"})
        elif outcome.kind == "cancelled":
            self._log({"event": ending})
        else:
            self._log({"event": "failed", "message": outcome.message})
            self._say(f"{outcome.message} What is done is kept; Resume goes on from there.", outcome.log)
        if ending == "cancelled" or outcome.kind == "result":
            self.worker.stop()
        self._read()
        self.tell("run")

    def reread(self) -> None:
        """Follow what was added to the log by somebody else."""
        self.events = self.run.events() if self.run is not None else []
        self._read()

    def _read(self) -> None:
        try:
            self.progress = progress_of(self.run)
        except RVQCError as error:
            self._say(str(error), "")
