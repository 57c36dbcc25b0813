"""A process that takes jobs as JSON lines on stdin and answers on stdout: what the panel and the dialog start.

    {"id": 1, "job": "segment", "study": "patient001", "out": "results"}      one job; `jobs` holds their arguments
    {"cancel": 1}                                                             stop it, whether it runs or waits
    {"id": 2, "job": "quit"}

The first line of stdout is ``{"id": null, "event": "ready", "pid": …}``, so that who started it through a launcher can end it.
Every answer names its job: ``{"id": 1, "event": …}`` as the engine reports progress, then either
``{"id": 1, "event": "result", "result": {…}}`` or ``{"id": 1, "event": "error", "kind", "message", "log"}``, where kind is
``input`` (the message is one sentence to show), ``cancelled`` or ``failed`` (the log is the traceback). Jobs run one after
the other; what they load stays loaded. When stdin ends, the running job is cancelled and the process leaves.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
import os
import queue
import sys
import threading
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TextIO

from RVQCLib.files import Cancelled, RVQCError
from RVQCLib.jobs import JOBS, Opened

GRACE_S = 2.0
"""How long a job may go on after stdin has ended."""


@dataclass(frozen=True)
class _Job:
    id: int
    name: str
    arguments: dict[str, Any]
    cancelled: threading.Event = field(default_factory=threading.Event)


class Worker:
    """Takes lines, runs jobs, writes answers to `answers`. `listen` and `work` belong to different threads."""

    def __init__(self, answers: TextIO) -> None:
        self._answers = answers
        self._writing = threading.Lock()
        self._waiting: queue.Queue[_Job | None] = queue.Queue()
        self._jobs: dict[int, _Job] = {}
        self._opened = Opened()

    def greet(self) -> None:
        """Say that the process is there, and its number."""
        self._say({"id": None, "event": "ready", "pid": os.getpid()})

    def listen(self, lines: Iterable[str]) -> None:
        """Queue the jobs in `lines` and pass on cancels, until the lines end or ``quit`` comes."""
        for line in lines:
            if line.strip() and not self._take(line):
                break
        for job in list(self._jobs.values()):
            job.cancelled.set()
        self._waiting.put(None)

    def _take(self, line: str) -> bool:
        """Queue what one line asks for; False once it is ``quit``."""
        try:
            asked = json.loads(line)
            if "cancel" in asked:
                if asked["cancel"] in self._jobs:
                    self._jobs[asked["cancel"]].cancelled.set()
                return True
            number, name = asked.pop("id"), asked.pop("job")
        except (ValueError, KeyError, AttributeError, TypeError):
            self._fail(
                None, "input", f"The line {line.strip()[:80]!r} is no job; send one JSON object with id and job."
            )
            return True
        if name == "quit":
            return False
        job = _Job(number, name, asked)
        self._jobs[number] = job
        self._waiting.put(job)
        return True

    def work(self) -> None:
        """Run queued jobs until `listen` has ended and the queue is empty."""
        while (job := self._waiting.get()) is not None:
            try:
                self._run(job)
            finally:
                self._jobs.pop(job.id, None)

    def _run(self, job: _Job) -> None:
        try:
            result = self._call(job)
        except Cancelled:
            self._fail(job.id, "cancelled", "Cancelled; nothing was written.")
        except RVQCError as error:
            self._fail(job.id, "input", str(error))
        except ModuleNotFoundError as error:
            self._fail(job.id, "input", f"{error.name} is not installed in {sys.executable}; install what is missing.")
        except OSError as error:
            said = f"{error.filename or 'A file'} could not be read or written ({error.strerror or error})."
            self._fail(job.id, "failed", said, traceback.format_exc())
        except Exception as error:
            first = (str(error).splitlines() or ["no reason given"])[0]
            said = f"Something went wrong inside RVQC ({type(error).__name__}: {first}); the log says more."
            self._fail(job.id, "failed", said, traceback.format_exc())
        else:
            self._say({"id": job.id, "event": "result", "result": result})

    def _call(self, job: _Job) -> dict[str, Any]:
        if job.cancelled.is_set():
            raise Cancelled
        function = JOBS.get(job.name)
        if function is None:
            raise RVQCError(f"There is no job {job.name!r}; ask for one of {', '.join(JOBS)}.")

        def progress(event: dict[str, Any]) -> None:
            self._say({"id": job.id, **event})

        try:
            inspect.signature(function).bind(self._opened, progress, job.cancelled.is_set, **job.arguments)
        except TypeError as error:
            raise RVQCError(f"The job {job.name} was asked for with wrong arguments ({error}).") from error
        return function(self._opened, progress, job.cancelled.is_set, **job.arguments)

    def _fail(self, number: int | None, kind: str, message: str, log: str = "") -> None:
        self._say({"id": number, "event": "error", "kind": kind, "message": message, "log": log})

    def _say(self, answer: dict[str, Any]) -> None:
        line = json.dumps(answer)
        with self._writing, contextlib.suppress(BrokenPipeError):
            self._answers.write(line + "\n")
            self._answers.flush()


def main() -> None:
    """Work until stdin ends."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    # Answers get a stream of their own: what any library prints must not break the lines.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # So do the lines, and stdin is empty from here on: on Windows a library that is loaded later (numpy, torch) looks at
    # descriptor 0, and at the pipe it would wait until the read of the next line ends. Children do not inherit the pipe.
    lines = os.fdopen(os.dup(sys.stdin.fileno()), "r", encoding="utf-8")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), sys.stdin.fileno())
    worker = Worker(answers)
    worker.greet()

    def listen() -> None:
        worker.listen(lines)
        threading.Event().wait(GRACE_S)
        # A forward pass cannot be interrupted, and nobody listens any more. Files appear whole, so none is half-written.
        os._exit(1)

    threading.Thread(target=listen, daemon=True).start()
    worker.work()


if __name__ == "__main__":
    main()
