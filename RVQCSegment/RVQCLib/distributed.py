"""Many processes, one batch: every process computes its share of a batch, and all take the same step.

The losses of Sec. 2.2 are not sums over slices (L_GD is a ratio over the batch), so the logits are gathered and every
process computes the loss of the whole batch; gradients flow into its own share only, and are then summed. The result is
the step of one process with the whole batch.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from RVQCLib.files import RVQCError
from RVQCLib.inference import choose_device


@dataclass(frozen=True)
class Crew:
    """The processes that work together; alone it is one. Process 0 leads: it alone writes and reports."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def share(self, batch: int) -> slice:
        """This process's part of a batch.

        Raises
        ------
        RVQCError
            The batch cannot be divided evenly.
        """
        if batch % self.size:
            raise RVQCError(f"A batch of {batch} slices cannot be shared by {self.size} processes; change --batch.")
        each = batch // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def gather(self, own: Tensor) -> Tensor:
        """The shares of all processes in order of rank, joined; gradients flow into this process's own only."""
        if self.size == 1:
            return own
        parts = [torch.empty_like(own) for _ in range(self.size)]
        distributed.all_gather(parts, own.detach().contiguous())
        parts[self.rank] = own
        return torch.cat(parts)

    def sum_gradients(self, model: nn.Module) -> None:
        """Add up the gradients of all processes, which makes them those of the whole batch."""
        if self.size > 1:
            for parameter in model.parameters():
                if parameter.grad is not None:
                    distributed.all_reduce(parameter.grad)

    def agree(self, numbers: Sequence[float], device: str) -> list[float]:
        """The leader's numbers, in every process: what is decided by them is decided alike."""
        if self.size == 1:
            return list(numbers)
        place = device if distributed.get_backend() == "nccl" else "cpu"
        values = torch.tensor(numbers, dtype=torch.float64, device=place)
        distributed.broadcast(values, 0)
        return values.tolist()

    def led(self, work: Callable[[], bool], device: str) -> bool:
        """What `work` returns in the leader, who alone does it, in every process. The others wait.

        Raises
        ------
        RVQCError
            In the others, where `work` raises in the leader: nobody waits for one that has ended.
        """
        try:
            answer = [True, work()] if self.leads else [False, False]
        except Exception:
            self.agree([False, False], device)
            raise
        ended, found = self.agree(answer, device)
        if not ended:
            raise RVQCError("The process that leads has failed; its own message says why.")
        return bool(found)

    def wait(self) -> None:
        """Until all processes are here: what the leader wrote before is there to read after."""
        if self.size > 1:
            distributed.barrier()


def crew() -> Crew:
    """The crew that this process belongs to."""
    if distributed.is_available() and distributed.is_initialized():
        return Crew(distributed.get_rank(), distributed.get_world_size())
    return Crew()


@contextmanager
def joined(wanted: str) -> Iterator[str]:
    """Join the crew when torchrun started this process; yields the device of this process: of several GPUs its own.

    Raises
    ------
    RVQCError
        The device that is wanted (see `inference.choose_device`) does not work here, or a process has no GPU of its own.
    """
    if not (distributed.is_available() and distributed.is_torchelastic_launched()):
        yield choose_device(wanted)
        return
    own = _own_device(wanted, distributed.get_node_local_rank())
    gpu = torch.device(own) if own.startswith("cuda") else None
    # The others wait while the leader calibrates, which may take longer than torch's own patience.
    patience = datetime.timedelta(hours=6)
    distributed.init_process_group("nccl" if gpu else "gloo", timeout=patience, device_id=gpu)
    try:
        yield own
    finally:
        distributed.destroy_process_group()


def _own_device(wanted: str, number: int) -> str:
    """The device of process `number` of this machine. All its processes decide alike, or one ends and torchrun with it all."""
    if wanted not in ("auto", "cuda") or not torch.cuda.is_available():
        return choose_device("cpu" if wanted == "auto" else wanted)
    if number >= torch.cuda.device_count():
        raise RVQCError(
            f"torchrun started more processes than this machine has GPUs ({torch.cuda.device_count()}); give it a smaller "
            "--nproc-per-node, or use --device cpu."
        )
    torch.cuda.set_device(number)  # before anything else, or every process would also take memory of GPU 0
    return choose_device(f"cuda:{number}")
