"""One run at a time in a folder: refused in one sentence, free the moment the holder is gone, however it went."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import NAMES, REPOSITORY

from RVQCLib import locks
from RVQCLib.cohort import segment_cohort
from RVQCLib.files import RVQCError
from RVQCLib.locks import LOCK, check_free, sole_part, sole_run
from RVQCLib.refinement import RefinementConfig, refine_bundle
from RVQCLib.training import TrainingConfig, train_bundle
from RVQCRefineLib.run_folder import RunFolder

HOLD = """
import sys
from pathlib import Path
from RVQCLib.locks import sole_run
with sole_run(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen]]:
    """A lock file, and the process that holds it."""
    path = tmp_path / "new folder" / "run.lock"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, cwd=REPOSITORY / "RVQCSegment", **pipes) as process:
        assert process.stdout.readline() == "held\n"
        yield path, process
        process.kill()


def test_who_holds_it_is_one_sentence(held: tuple[Path, subprocess.Popen]) -> None:
    path, process = held
    said = rf"^The folder is being worked on by .+ on .+ \(process {process.pid}\) since 20\d\d-\d\d-\d\d \d\d:\d\d UTC; wait until .*\.$"
    for _ in range(2):
        with pytest.raises(RVQCError, match=said), sole_run(path, "The folder"):
            pytest.fail("two at once")
        with pytest.raises(RVQCError, match=said):
            check_free(path, "The folder")
    assert json.loads(path.read_text())["pid"] == process.pid


@pytest.mark.parametrize("end", [signal.SIGKILL, None])
def test_it_is_free_the_moment_the_holder_is_gone(held: tuple[Path, subprocess.Popen], end: int | None) -> None:
    path, process = held
    process.send_signal(end) if end else process.stdin.close()
    process.wait()
    check_free(path, "it")
    with sole_run(path, "it"), pytest.raises(RVQCError, match=f"process {os.getpid()}"):
        check_free(path, "it")
    check_free(path, "it")
    assert path.read_bytes() == b""


def written(path: Path, *, host: str, seconds_ago: float) -> Path:
    path.write_text(json.dumps({"host": host, "pid": 1, "user": "anna", "since": "2026-01-02T03:04:05+00:00"}))
    os.utime(path, (time.time() - seconds_ago,) * 2)
    return path


def test_another_machine_is_known_by_its_touch(tmp_path: Path) -> None:
    fresh = written(tmp_path / "fresh", host="elsewhere", seconds_ago=5)
    with pytest.raises(RVQCError, match=r"by anna on elsewhere \(process 1\) since 2026-01-02 03:04 UTC"):
        check_free(fresh, "it")
    check_free(written(tmp_path / "old", host="elsewhere", seconds_ago=locks.STALE_S + 5), "it")
    check_free(written(tmp_path / "own", host=locks.platform.node(), seconds_ago=5), "it")  # its lock was free


def test_without_locks_of_the_system_the_touch_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    monkeypatch.setattr(locks, "BEAT_S", 0.02)
    path = tmp_path / "lock"
    with sole_run(path, "it"):
        os.utime(path, (0, 0))
        ends = time.monotonic() + 10
        while path.stat().st_mtime < 1 and time.monotonic() < ends:
            time.sleep(0.01)
        with pytest.raises(RVQCError, match="being worked on"):
            check_free(path, "it")
    check_free(path, "it")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no shared locks")
def test_who_looks_is_not_taken_for_the_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of an array job that start together all look at the lock of an earlier plain run."""
    with sole_part(tmp_path, (1, 1), "it"):
        pass
    unlock, looked = locks._unlock, []

    def another_looks(descriptor: int) -> None:
        if not looked:
            looked.append(descriptor)
            check_free(tmp_path / "part-1-of-1.lock", "it")
        unlock(descriptor)

    monkeypatch.setattr(locks, "_unlock", another_looks)
    check_free(tmp_path / "part-1-of-1.lock", "it")
    with sole_run(tmp_path / "part-1-of-1.lock", "it"), pytest.raises(RVQCError, match="being worked on"):
        check_free(tmp_path / "part-1-of-1.lock", "it")


def test_parts_that_share_things_exclude_each_other(tmp_path: Path) -> None:
    def both(first: tuple[int, int], second: tuple[int, int]) -> bool:
        try:
            with sole_part(tmp_path, first, "it"), sole_part(tmp_path, second, "it"):
                return True
        except RVQCError:
            return False

    assert both((1, 2), (2, 2)) and both((1, 4), (3, 4)) and both((1, 2), (2, 4))
    assert not both((1, 1), (2, 3)) and not both((1, 2), (3, 4)) and not both((1, 2), (1, 2))
    assert not both((1, 2), (2, 3))  # the third thing is in both
    assert both((2, 2), (1, 2))  # what was refused is free again


def test_two_batches_at_once_are_one(batch: Callable, studies: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    refused = []

    def again(event: dict[str, Any]) -> None:
        if event["event"] == "study" and event["done"] == 1:
            for part in ((1, 1), (2, 2)):
                with pytest.raises(RVQCError) as said:
                    segment_cohort(studies, tiny_bundle, tmp_path / "out", device="cpu", part=part)
                refused.append(str(said.value))

    assert batch(progress=again, names=NAMES[:2])["state"] == "incomplete"
    assert [text.split(" is being worked on by ")[0] for text in refused] == [
        str(tmp_path / "out"),
        f"Part 2 of 2 of {tmp_path / 'out'}",
    ]
    assert batch(names=NAMES[:2])["summary"]["n_studies"] == 2


def test_two_refinements_of_one_folder_are_one(tiny_acdc: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    work = tmp_path / "new.refinement"
    with sole_run(work / LOCK, str(work)):
        with pytest.raises(RVQCError, match=r"new\.refinement is being worked on by"):
            refine_bundle(tiny_acdc, tiny_bundle, tmp_path / "new", RefinementConfig(mode="none"), device="cpu")
        with pytest.raises(RVQCError, match=r"new\.refinement is being worked on by"):
            RunFolder(work).check_free()
    assert [path.name for path in work.iterdir()] == [LOCK]
    RunFolder(work).check_free()


def test_two_trainings_of_one_folder_are_one(tiny_acdc: Path, tmp_path: Path) -> None:
    work = tmp_path / "new.training"
    with sole_run(work / LOCK, str(work)):
        with pytest.raises(RVQCError, match=r"new\.training is being worked on by .+; wait until that has ended"):
            train_bundle(tiny_acdc, tmp_path / "new", TrainingConfig(epochs=1), device="cpu")
        assert [path.name for path in work.iterdir()] == [LOCK]
