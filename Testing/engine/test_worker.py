"""The worker process: JSON lines in, JSON lines out, cancelled in time, warm from job to job."""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from RVQCLib.bundle import load_bundle
from RVQCLib.files import BundleError, Cancelled, RVQCError, sha256, write_json
from RVQCLib.jobs import Opened, check, segment
from RVQCLib.phantom import write_phantom
from RVQCLib.pipeline import segment_study
from RVQCLib.study import read_study

ENGINE = Path(__file__).resolve().parents[2] / "RVQCSegment"
SMALL = {"spacing": (3.0, 3.0, 10.0), "size": (96, 96)}
PATIENCE_S = 120


class Process:
    """A worker as the panel starts it."""

    def __init__(self, *python: str) -> None:
        command = [sys.executable, *(python or ("-m", "RVQCLib.worker"))]
        self.process = subprocess.Popen(
            command, cwd=ENGINE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        assert self.next() == {"id": None, "event": "ready", "pid": self.process.pid}

    def _read(self) -> None:
        for line in self.process.stdout:
            self._lines.put(line.decode())
        self._lines.put(None)

    def send(self, **message: Any) -> None:
        self.write(json.dumps(message))

    def write(self, line: str) -> None:
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def next(self) -> dict[str, Any]:
        line = self._lines.get(timeout=PATIENCE_S)
        assert line is not None, "the worker left"
        return json.loads(line)

    def until(self, *events: str) -> dict[str, Any]:
        while (answer := self.next())["event"] not in events:
            pass
        return answer

    def run(self, **message: Any) -> dict[str, Any]:
        self.send(**message)
        return self.until("result", "error")

    def end(self) -> int:
        self.process.stdin.close()
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def run(*python: str) -> Process:
        started.append(Process(*python))
        return started[-1]

    yield run
    for worker in started:
        worker.process.kill()
        worker.process.wait()
        worker.process.stdout.close()


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("Zu prüfen")
    return write_phantom(folder, 1, seed=2, **SMALL)[0]


@pytest.fixture(scope="module")
def cine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short-axis cine of 25 frames."""
    study = write_phantom(tmp_path_factory.mktemp("cine"), 1, seed=3, views=("SA",), cine_frames=25, **SMALL)[0]
    return study / f"{study.name}_SA_CINE.nii.gz"


def test_a_study_is_segmented_as_by_the_pipeline(
    start: Callable[..., Process], phantom: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    worker = start()
    arguments = {"study": str(phantom), "bundle": str(tiny_bundle), "out": str(tmp_path), "device": "cpu"}
    worker.send(id=7, job="segment", **arguments)
    answers = []
    while not answers or answers[-1]["event"] not in ("result", "error"):
        answers.append(worker.next())
    assert {answer["id"] for answer in answers} == {7}
    assert [a["event"] for a in answers if a["event"] != "slices"] == ["load", "networks"] + 4 * ["segment"] + [
        "write",
        "result",
    ]
    direct = segment_study(read_study(phantom), load_bundle(tiny_bundle), device="cpu").to_json()
    quality = answers[-1]["result"]["quality"]
    assert quality["stacks"] == direct["stacks"]
    folder = Path(answers[-1]["result"]["folder"])
    assert folder == tmp_path / phantom.name
    assert json.loads((folder / "quality.json").read_text(encoding="utf-8")) == quality
    assert len(list(folder.glob("*_candidate*.nii.gz"))) == 3 * 4 and (folder / "report.html").is_file()
    worker.send(id=8, job="quit")
    assert worker.process.wait(PATIENCE_S) == 0


def test_files_by_stack_and_frames_of_a_cine(phantom: Path, cine: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    images = {"LA_ED": str(phantom / f"{phantom.name}_LA_ED.nii.gz")}
    frames = {"SA": {"file": str(cine), "ed": 0, "es": 9}}
    copy = Path(shutil.copy(cine, tmp_path / "copy of the cine.nii.gz"))
    result = segment(
        Opened(),
        lambda event: None,
        lambda: False,
        name="Müller, A.",
        images=images,
        cine=frames,
        origins={"LA_ED": str(cine), "SA": str(copy)},
        out=str(tmp_path),
        bundle=str(tiny_bundle),
        device="cpu",
        candidates=False,
        report=False,
    )
    assert [(s["view"], s["phase"]) for s in result["quality"]["stacks"]] == [("LA", "ED"), ("SA", "ED"), ("SA", "ES")]
    assert sorted(path.name for path in (tmp_path / "Müller, A.").glob("*A_??.nii.gz")) == [
        "Müller, A._LA_ED.nii.gz",
        "Müller, A._SA_ED.nii.gz",
        "Müller, A._SA_ES.nii.gz",
    ]
    # The cine that is said to be the origin of LA ED does not hold its pixels.
    assert [stack["image"] for stack in result["quality"]["stacks"]] == [
        {"file": images["LA_ED"], "frame": None, "sha256": sha256(images["LA_ED"])},
        {"file": str(copy), "frame": 0, "sha256": sha256(cine)},
        {"file": str(copy), "frame": 9, "sha256": sha256(cine)},
    ]


@pytest.mark.parametrize(("file", "refused"), [("LA_ED", False), ("copy", False), ("LA_ES", True)])
def test_results_of_another_image_are_not_replaced(phantom: Path, tmp_path: Path, file: str, refused: bool) -> None:
    """The cancelled run comes as far as the networks."""
    images = {key: phantom / f"{phantom.name}_{key}.nii.gz" for key in ("LA_ED", "LA_ES")}
    images["copy"] = tmp_path / "copy.nii.gz"
    shutil.copy(images["LA_ES"], images["copy"])
    entry = {"view": "LA", "phase": "ED", "image": {"sha256": sha256(images["LA_ED"])}}
    write_json(tmp_path / "A" / "quality.json", {"study": "A", "stacks": [entry]})
    origins = {"LA_ED": str(images["LA_ED"])} if file == "copy" else {}
    how = {"name": "A", "images": {"LA_ED": str(images[file])}, "origins": origins}
    said = "A holds the results of another image of LA ED; give this study another name or its results another folder"
    with pytest.raises(RVQCError if refused else Cancelled, match=said if refused else None):
        segment(Opened(), lambda event: None, lambda: True, out=str(tmp_path), **how)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": "a"}, "at least one image"),
        ({"name": "a", "images": {"SA": "x.nrrd"}}, "SA is no stack"),
        ({"name": "a", "cine": {"SA": {"file": "x.nrrd", "ed": 3}}}, "only one of ED and ES"),
        ({"name": "a", "cine": {"4CH": {"file": "x.nrrd"}}}, "The cine 4CH"),
    ],
)
def test_what_is_no_study_is_said(arguments: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(RVQCError, match=sentence):
        segment(Opened(), lambda event: None, lambda: False, out=str(tmp_path), **arguments)


def test_cancel_is_heard_within_two_seconds(
    start: Callable[..., Process], cine: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    worker = start()
    job = {"study": str(cine), "bundle": str(tiny_bundle), "out": str(tmp_path), "device": "cpu"}
    worker.send(id=1, job="segment", **job)
    worker.send(id=2, job="segment", **job)
    worker.send(cancel=2)
    worker.until("slices")
    worker.send(cancel=1)
    asked = time.monotonic()
    first = worker.until("error", "result")
    assert time.monotonic() - asked < 2
    second = worker.until("error", "result")
    assert [(a["id"], a["kind"]) for a in (first, second)] == [(1, "cancelled"), (2, "cancelled")]
    assert not list(tmp_path.iterdir())
    assert worker.run(id=3, job="segment", **job)["event"] == "result"
    assert worker.end() == 0


def test_the_worker_leaves_with_the_one_who_started_it(
    start: Callable[..., Process], cine: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    worker = start()
    worker.send(id=1, job="segment", study=str(cine), bundle=str(tiny_bundle), out=str(tmp_path), device="cpu")
    worker.until("slices")
    worker.process.stdin.close()
    assert worker.process.wait(4) in (0, 1) and not list(tmp_path.iterdir())


def test_every_fault_is_one_sentence_and_the_worker_goes_on(
    start: Callable[..., Process], phantom: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    worker = start()
    worker.write("no JSON")
    answer = worker.next()
    assert answer["kind"] == "input" and "'no JSON' is no job" in answer["message"]
    answer = worker.run(id=1, job="dance")
    assert answer["kind"] == "input" and "no job 'dance'" in answer["message"]
    answer = worker.run(id=2, job="segment", study=str(phantom), folder="x")
    assert answer["kind"] == "input" and "wrong arguments" in answer["message"]
    answer = worker.run(id=3, job="segment", study=str(tmp_path / "nothing"), out=str(tmp_path))
    assert answer["kind"] == "input" and "nothing" in answer["message"] and answer["log"] == ""
    (tmp_path / "file").write_text("in the way")
    blocked = {"study": str(phantom), "bundle": str(tiny_bundle), "out": str(tmp_path / "file"), "device": "cpu"}
    answer = worker.run(id=4, job="segment", **blocked)
    assert answer["kind"] == "failed" and str(tmp_path / "file") in answer["message"]
    assert answer["log"].startswith("Traceback") and "\n" not in answer["message"]
    assert worker.run(id=5, job="check", bundle=str(tiny_bundle))["event"] == "result"


def test_a_package_that_is_missing_and_a_bug_are_told_apart(start: Callable[..., Process]) -> None:
    faults = (
        "import RVQCLib.jobs as j, RVQCLib.worker as w\n"
        "def absent(*_): import a_package_that_is_not_there\n"
        "def wrong(*_): print('a library talks'); return 1 / 0\n"
        "j.JOBS.update(absent=absent, wrong=wrong); w.main()"
    )
    worker = start("-c", faults)
    answer = worker.run(id=1, job="absent")
    assert answer["kind"] == "input" and "a_package_that_is_not_there is not installed" in answer["message"]
    answer = worker.run(id=2, job="wrong")
    assert answer["kind"] == "failed" and "ZeroDivisionError" in answer["message"] and "in wrong" in answer["log"]


def test_stdin_is_empty_for_libraries_and_children_while_lines_are_read(start: Callable[..., Process]) -> None:
    """On Windows what looks at the pipe waits for the next line: numpy, torch and SimpleITK while they are loaded."""
    look = (
        "import os, subprocess, sys, RVQCLib.jobs as j, RVQCLib.worker as w\n"
        "def look(*_):\n"
        "    child = [sys.executable, '-c', 'import sys; sys.exit(len(sys.stdin.read()))']\n"
        "    empty = os.path.samestat(os.fstat(0), os.stat(os.devnull))\n"
        "    return {'empty': empty, 'child': subprocess.run(child, timeout=60).returncode}\n"
        "j.JOBS.update(look=look); w.main()"
    )
    worker = start("-c", look)
    assert worker.run(id=1, job="look")["result"] == {"empty": True, "child": 0}
    assert worker.run(id=2, job="look")["event"] == "result"
    worker.send(id=3, job="quit")
    assert worker.process.wait(PATIENCE_S) == 0


def test_check_says_what_is_here(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(bundle: Path) -> dict[str, Any]:
        return check(Opened(), lambda event: None, lambda: False, bundle=str(bundle), device="cpu")

    import torch

    found = ask(tiny_bundle)
    assert found["missing"] == [] and found["problems"] == []
    assert found["packages"]["torch"] == torch.__version__
    assert found["device"]["name"] == "cpu" and found["device"]["memory_gb"] > 0.5
    assert found["bundle"]["hash"] == load_bundle(tiny_bundle).hash and found["bundle"]["views"] == ["SA", "LA"]
    found = ask(tmp_path / "none")
    assert found["bundle"] is None and "is no bundle" in found["problems"][0]
    monkeypatch.setattr("RVQCLib.jobs.PACKAGES", ("torch", "numpy", "a-package-that-is-not-there"))
    found = ask(tiny_bundle)
    assert found["missing"] == ["a-package-that-is-not-there"] and found["device"] is None
    assert found["problems"] == ["a-package-that-is-not-there cannot be found in this Python; install what is missing."]


def test_a_bundle_is_opened_once_and_again_when_it_changes(own_bundle: Path) -> None:
    opened = Opened()
    first = opened.bundle(str(own_bundle))
    assert opened.bundle(str(own_bundle)) is first
    description = own_bundle / "bundle.json"
    description.write_text(description.read_text(encoding="utf-8").replace('"tiny"', '"other"'), encoding="utf-8")
    with pytest.raises(BundleError, match="not as it was written"):
        opened.bundle(str(own_bundle))
