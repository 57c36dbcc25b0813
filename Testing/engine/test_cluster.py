"""A batch on a Dask cluster: a real scheduler and two workers on this machine, one of them killed half-way."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, schematic_study, write_acdc

from RVQCLib.cohort import read_run, read_table, segment_cohort
from RVQCLib.files import Cancelled, RVQCError

NAMES = [f"patient{number:03d}" for number in range(1, 9)]

if importlib.util.find_spec("distributed") is None:
    pytest.skip("distributed is not installed (pip install rvqc[cluster])", allow_module_level=True)


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    folder = tmp_path / "studies"
    folder.mkdir()
    for number, name in enumerate(NAMES, start=1):
        write_acdc(schematic_study(name, number, views=("SA",)), folder)
    return folder


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """The address of a scheduler, and its two workers' processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "RVQCSegment"), "OMP_NUM_THREADS": "1"}
    options = {"env": environment, "cwd": tmp_path, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    dask = [sys.executable, "-m", "distributed.cli"]
    place = ["--host", "127.0.0.1", "--port", address.rsplit(":", 1)[1]]
    one = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--death-timeout", "60", "--local-directory", "."]
    processes = [subprocess.Popen([*_module(dask, "dask_scheduler"), *place, "--no-dashboard"], **options)]
    processes += [subprocess.Popen([*_module(dask, "dask_worker"), address, *one], **options) for _ in range(2)]
    try:
        _wait_for_workers(address)
        yield address, processes[1:]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _module(dask: list[str], name: str) -> list[str]:
    return [*dask[:-1], f"{dask[-1]}.{name}"]


def _wait_for_workers(address: str) -> None:
    from distributed import Client

    with Client(address, timeout=60, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)


def test_a_worker_killed_half_way_costs_no_study(
    studies: Path, tiny_bundle: Path, tmp_path: Path, cluster: tuple, caplog: pytest.LogCaptureFixture
) -> None:
    address, workers = cluster
    events: list[dict[str, Any]] = []

    def progress(event: dict[str, Any]) -> None:
        events.append(event)
        if event["event"] == "study" and event["done"] == 3:
            workers[0].send_signal(signal.SIGKILL)

    arguments = {"device": "cpu", "scheduler": address, "progress": progress}
    answer = segment_cohort(studies, tiny_bundle, tmp_path / "out", **arguments)
    assert workers[0].poll() == -signal.SIGKILL and workers[1].poll() is None
    assert answer["state"] == "done" and answer["summary"]["studies"]["failed"] == 0
    assert "is gone; its studies go to the others" in caplog.text
    assert len(read_table(tmp_path / "out")) == 2 * len(NAMES)
    used = {record["worker"].rsplit(":", 1)[1] for record in read_run(tmp_path / "out")["studies"]}
    assert str(workers[1].pid) in used <= {str(worker.pid) for worker in workers}
    alone = segment_cohort(studies, tiny_bundle, tmp_path / "alone", device="cpu", names=NAMES[:1])
    assert alone["summary"]["n_studies"] == 1
    for mask in (tmp_path / "alone" / NAMES[0]).glob("*.nii.gz"):
        assert mask.read_bytes() == (tmp_path / "out" / NAMES[0] / mask.name).read_bytes()


def test_cancel_leaves_a_batch_that_resumes(studies: Path, tiny_bundle: Path, tmp_path: Path, cluster: tuple) -> None:
    address, _ = cluster
    events: list[dict[str, Any]] = []
    asked: list[float] = []

    def cancelled() -> bool:
        if len(events) >= 2:
            asked.append(time.monotonic())
        return bool(asked)

    arguments = {"device": "cpu", "scheduler": address}
    with pytest.raises(Cancelled):
        segment_cohort(studies, tiny_bundle, tmp_path / "out", cancelled=cancelled, progress=events.append, **arguments)
    assert time.monotonic() - asked[0] < 3.0
    done = [event["study"] for event in events]
    events.clear()
    answer = segment_cohort(studies, tiny_bundle, tmp_path / "out", progress=events.append, **arguments)
    assert answer["state"] == "done"
    assert {e["study"] for e in events if e.get("state") == "kept"} == set(done)


def test_nobody_at_the_address_is_one_sentence(
    studies: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from RVQCLib import cluster as room

    monkeypatch.setattr(room, "CONNECT_S", 0.5)
    with pytest.raises(RVQCError, match=r"No Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        segment_cohort(studies, tiny_bundle, tmp_path / "out", device="cpu", scheduler="tcp://127.0.0.1:9")
    monkeypatch.setattr(
        "distributed.Client", None
    )  # whose own complaint would come when it is cleared away, seconds later
    with pytest.raises(RVQCError, match=r"No Dask scheduler answers at foo \(missing port number in address 'foo'\)"):
        segment_cohort(studies, tiny_bundle, tmp_path / "out", device="cpu", scheduler="foo")
