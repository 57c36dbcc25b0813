"""Tasks on the workers of a Dask cluster that see the same paths; needs the extra ``rvqc[cluster]``."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from RVQCLib.files import Cancelled, RunError, RVQCError
from RVQCLib.processes import Outcome, Task, Work

if TYPE_CHECKING:
    from distributed import Client, Future

log = logging.getLogger(__name__)

CONNECT_S = 10.0
POLL_S = 0.3
LOOK_S = 2.0
"""How often the list of workers is asked for, to name those that are gone."""
AHEAD = 2
"""Tasks a worker thread has at a time, so that none waits for the next; more would only fill memory."""


def run_cluster(
    work: Work, tasks: Iterable[Task], address: str, cancelled: Callable[[], bool], stop: Callable[[], bool]
) -> Iterator[Outcome]:
    """Tasks on the cluster whose scheduler listens at `address` (``tcp://host:8786``), outcomes as they come.

    A task whose worker dies is given to another by the scheduler, up to its own limit (``allowed-failures``).

    Parameters
    ----------
    stop
        Is asked on the workers; a bound method of something that they can import.

    Raises
    ------
    RVQCError
        distributed is not installed, nobody answers at `address`, or the cluster has no worker.
    Cancelled
        `cancelled` returned True; tasks that run end on their own, at the next time that they ask `stop`.
    RunError
        A worker's device does not work, or it finds another bundle.
    """
    with _connect(address) as client:
        yield from _run(client, work, iter(tasks), cancelled, stop)


def _connect(address: str) -> Client:
    try:
        from distributed import Client
        from distributed.comm import get_address_host_port
    except ImportError as error:
        raise RVQCError("--scheduler needs the package distributed; install rvqc[cluster].") from error
    try:
        get_address_host_port(address)  # a client that cannot read it would complain again when it is cleared away
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise RVQCError(f"No Dask scheduler answers at {address} ({error}); check the address.") from error
    if not client.scheduler_info()["workers"]:
        client.close()
        raise RVQCError(f"The Dask scheduler at {address} has no workers; start some ('dask worker {address}').")
    return client


def _run(
    client: Client, work: Work, tasks: Iterator[Task], cancelled: Callable[[], bool], stop: Callable[[], bool]
) -> Iterator[Outcome]:
    from distributed import wait

    known: dict[str, Any] = {}
    pending: dict[Future, Task] = {}
    looked = 0.0
    while True:
        if cancelled():
            client.cancel(list(pending))
            raise Cancelled
        if time.monotonic() - looked > LOOK_S:
            known, looked = _look(client, known), time.monotonic()
        while len(pending) < AHEAD * max(1, sum(known.values())) and (task := next(tasks, None)) is not None:
            pending[client.submit(_do, work, task, stop, pure=False)] = task
        if not pending:
            _look(client, known)
            return
        try:
            with client.as_current():
                ready = wait(list(pending), timeout=POLL_S, return_when="FIRST_COMPLETED").done
        except TimeoutError:
            continue
        for future in ready:
            yield _outcome(future, pending.pop(future))


def _look(client: Client, known: dict[str, int]) -> dict[str, int]:
    """Threads by worker; workers that are gone since are named."""
    found = {address: worker["nthreads"] for address, worker in client.scheduler_info()["workers"].items()}
    for address in known.keys() - found.keys():
        log.warning("The worker at %s is gone; its studies go to the others.", address)
    return found


def _outcome(future: Future, task: Task) -> Outcome:
    from distributed import KilledWorker

    error = future.exception()
    if isinstance(error, (Cancelled, RunError)):
        raise error
    if isinstance(error, KilledWorker):
        last = getattr(error.last_worker, "address", error.last_worker)
        return task, None, f"Every worker died at it, the last at {last}; memory may be short."
    if error is not None:
        return task, None, f"The cluster could not do it ({type(error).__name__}: {error})."
    return task, future.result(), ""


def _do(work: Work, task: Task, stop: Callable[[], bool]) -> Any:
    if stop():
        raise Cancelled
    return work(task, stop)
