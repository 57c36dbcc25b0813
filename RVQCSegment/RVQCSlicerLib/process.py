"""The worker process (`RVQCLib.worker`) seen from the panel: started when first needed, warm while the panel is open."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import qt
import slicer

from RVQCLib.files import RVQCError
from RVQCSlicerLib.timers import one_shot

MODULE_FOLDER = Path(__file__).resolve().parents[1]
CANCEL_GRACE_MS = 1500
"""How long a cancelled job may go on before its process is ended; a forward pass cannot be interrupted."""
FLUSH_MS = 20
LOG_CHARACTERS = 100_000


@dataclass(frozen=True)
class Outcome:
    """How a job ended. `kind` is "result", "input" or "failed" (both with a sentence in `message`), or "cancelled"."""

    kind: str
    result: dict[str, Any] = field(default_factory=dict)
    message: str = ""
    log: str = ""


@dataclass(frozen=True)
class _Job:
    progress: Callable[[dict[str, Any]], None]
    done: Callable[[Outcome], None]


class WorkerProcess:
    """One worker. Jobs are answered in order, on the main thread; nothing here ever waits, except `stop`.

    Parameters
    ----------
    program : The Python to start; by default Slicer's own, outside Slicer the running one.
    """

    held = False
    """Whether packages are being installed, in which no worker may load half of them; see `hold`."""

    def __init__(self, program: str | None = None) -> None:
        self._program = program or shutil.which("PythonSlicer") or sys.executable
        self._process: qt.QProcess | None = None
        self._jobs: dict[int, _Job] = {}
        self._next, self._pid = 1, 0
        self._received, self._log = b"", ""
        self._occupied = ""
        self._cancelled: set[int] = set()
        self._grace = one_shot(self._end_if_still_there, CANCEL_GRACE_MS)
        self._refused: list[int] = []
        self._refusal = one_shot(self._refuse)

    @classmethod
    @contextlib.contextmanager
    def hold(cls) -> Iterator[None]:
        """While packages are installed: every job that is asked for, of whichever worker, ends with a sentence."""
        cls.held = True
        try:
            yield
        finally:
            cls.held = False

    def occupy(self, what: str) -> None:
        """Keep the worker for one long piece of work, named in words; `release` gives it back.

        Raises
        ------
        RVQCError
            Another one is going on.
        """
        if self._occupied:
            raise RVQCError(f"{self._occupied} is going on; wait until it has ended, or cancel it.")
        self._occupied = what

    def release(self) -> None:
        """The long piece of work has ended."""
        self._occupied = ""

    @property
    def occupied(self) -> str:
        """The long piece of work that is going on, in words; "" for none."""
        return self._occupied

    @property
    def busy(self) -> bool:
        """Whether a job runs or waits."""
        return bool(self._jobs)

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None

    @property
    def log(self) -> str:
        """What the process wrote beside its answers, the last part of it."""
        return self._log

    def submit(
        self,
        job: str,
        arguments: dict[str, Any],
        *,
        done: Callable[[Outcome], None],
        progress: Callable[[dict[str, Any]], None] = lambda event: None,
    ) -> int:
        """Ask for a job of `RVQCLib.jobs`; returns its number. `done` is called once, whatever happens."""
        number, self._next = self._next, self._next + 1
        self._jobs[number] = _Job(progress, done)
        if self.held:
            self._refused.append(number)
            self._refusal.start()  # not at once: who asks does not know the number yet
            return number
        if self._process is None:
            self._start()
        self._send({"id": number, "job": job, **arguments})
        return number

    def cancel(self, number: int) -> None:
        """Stop a job; where it does not listen in time, the process is ended and the next job starts a new one."""
        if number in self._jobs and number not in self._cancelled:
            self._cancelled.add(number)
            self._send({"cancel": number})
            self._grace.start()

    def stop(self) -> None:
        """End the process and with it what it holds, the GPU too; what was still asked for counts as cancelled."""
        process, self._process = self._process, None
        if process is not None:
            process.closeWriteChannel()
            self._kill(process)
            process.waitForFinished(1000)
            process.deleteLater()
        self._settle(Outcome("cancelled", message="The worker was stopped."))

    def _refuse(self) -> None:
        refused, self._refused = self._refused, []
        for number in refused:
            if number in self._jobs:
                said = "Packages are being installed; wait until that has ended."
                self._jobs.pop(number).done(Outcome("input", message=said))

    def _end_if_still_there(self) -> None:
        if self._cancelled & set(self._jobs):
            self.stop()

    def _start(self) -> None:
        self._received, self._log, self._pid = b"", "", 0
        process = self._process = qt.QProcess()
        process.setWorkingDirectory(str(MODULE_FOLDER))
        process.connect("readyReadStandardOutput()", lambda: self._read(process))
        process.connect("readyReadStandardError()", lambda: self._read_log(process))
        process.connect("finished(int,QProcess::ExitStatus)", lambda code, status: self._ended(process, code))
        process.connect("errorOccurred(QProcess::ProcessError)", lambda error: self._not_started(process, error))
        process.start(self._program, ["-m", "RVQCLib.worker"])

    def _send(self, message: dict[str, Any]) -> None:
        if self._process is not None:
            self._process.write((json.dumps(message) + "\n").encode())
            if self._pid:  # at once, not after the views have been drawn; before it is there, the event loop sends it
                self._process.waitForBytesWritten(FLUSH_MS)

    def _read(self, process: qt.QProcess) -> None:
        if process is not self._process:
            return
        self._received += bytes(process.readAllStandardOutput().data())
        *lines, self._received = self._received.split(b"\n")
        for line in lines:
            if process is not self._process:  # a handler may have stopped it
                return
            try:
                answer = json.loads(line)
            except ValueError:  # something else in the process wrote before the worker took over its output
                self._note(line.decode("utf-8", "replace") + "\n")
            else:
                self._take(answer)

    def _take(self, answer: dict[str, Any]) -> None:
        event, number = answer["event"], answer["id"]
        if event == "ready":
            self._pid = answer["pid"]
        elif number in self._jobs and event == "result":
            self._jobs.pop(number).done(Outcome("result", result=answer["result"]))
        elif number in self._jobs and event == "error":
            log = answer["log"] or self._log
            self._jobs.pop(number).done(Outcome(answer["kind"], message=answer["message"], log=log))
        elif number in self._jobs:
            self._jobs[number].progress(answer)

    def _read_log(self, process: qt.QProcess) -> None:
        if process is not self._process:  # stopped: it speaks a last time while it is deleted, and cannot be read then
            return
        self._note(bytes(process.readAllStandardError().data()).decode("utf-8", "replace"))

    def _note(self, text: str) -> None:
        self._log = (self._log + text)[-LOG_CHARACTERS:]

    def _ended(self, process: qt.QProcess, code: int) -> None:
        if process is not self._process:
            return
        self._read_log(process)
        self._process = None
        said = (
            f"The worker process ended unexpectedly (code {code}), perhaps for want of memory; the scene is as before."
        )
        self._settle(Outcome("failed", message=said, log=self._log or "The process said nothing."))

    def _not_started(self, process: qt.QProcess, error: int) -> None:
        if process is self._process and error == qt.QProcess.FailedToStart:
            self._process = None
            said = f"{self._program} could not be started; repair the installation."
            self._settle(Outcome("failed", message=said, log=said))

    def _settle(self, outcome: Outcome) -> None:
        jobs, self._jobs = self._jobs, {}
        self._grace.stop()
        self._cancelled.clear()
        for job in jobs.values():
            job.done(outcome)

    def _kill(self, process: qt.QProcess) -> None:
        # PythonSlicer is a launcher: without its child's own number, the child would go on.
        if self._pid:
            with contextlib.suppress(OSError):
                os.kill(self._pid, signal.SIGTERM)
        process.kill()


@cache
def application_worker() -> WorkerProcess:
    """The worker that panel, dialog and console share, so that the networks are in memory once; it ends with the application."""
    worker = WorkerProcess()
    slicer.app.connect("aboutToQuit()", worker.stop)
    atexit.register(worker.stop)  # a script may end without the application being told to quit
    return worker
