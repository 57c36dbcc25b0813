"""One candidate while it learns: the losses of every mode by hand, memory that runs out, and what may not change."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from torch import Tensor, nn

from RVQCLib import distributed
from RVQCLib.bundle import ViewModels, load_bundle
from RVQCLib.distributed import Crew, joined
from RVQCLib.files import RVQCError
from RVQCLib.inference import reconstruct
from RVQCLib.learner import Batch, Learner
from RVQCLib.losses import semi_supervised_loss, supervised_loss
from RVQCLib.networks import build
from RVQCLib.recipes import RefinementConfig
from RVQCLib.stack import STRUCTURES
from RVQCLib.teachers import lesson, standing, trust

NETWORKS = {"BN1": {"width": 4, "stages": 3, "norm": "batch"}, "BN2": {"width": 4, "stages": 3}}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models(tiny_bundle: Path) -> ViewModels:
    return load_bundle(tiny_bundle).models("SA", "cpu")


def learner(mode: str = "guarded", network: str = "BN2", **changes: Any) -> tuple[Learner, list[dict[str, Any]]]:
    torch.manual_seed(3)
    events: list[dict[str, Any]] = []
    config = RefinementConfig(**{"mode": mode, "batch": 8, "precision": "float32", **changes})
    return Learner(config, build(network, NETWORKS[network]).eval(), "cpu", events.append), events


def batch(labelled: int = 4, count: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand((count, 1, 32, 32), generator=generator)
    return Batch(images, torch.randint(0, 4, (count, 32, 32), generator=generator).to(torch.uint8), labelled)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_the_guarded_step_sums_labelled_and_taught_slices(models: ViewModels) -> None:
    one, _ = learner("guarded")
    data = batch()
    with torch.no_grad():
        logits = one.model(data.images)
    expected = [supervised_loss(logits[:4], data.labels[:4]), 0.25 * supervised_loss(logits[4:], data.labels[4:])]
    assert one.step(data, 0.25, models) == pytest.approx([float(e) for e in expected], rel=1e-5)


def test_the_paper_s_step_is_eq_2(models: ViewModels) -> None:
    """alpha * L_WGD(y_M, y_R) + L_SUP, with y_R what R makes of the network's own hard mask; BN1 has no dropout."""
    one, _ = learner("paper", "BN1")
    data = batch()
    with torch.no_grad():
        logits = one.model(data.images)
    again = torch.from_numpy(reconstruct(logits[4:].argmax(1).to(torch.uint8).numpy(), models))
    expected = [supervised_loss(logits[:4], data.labels[:4]), semi_supervised_loss(logits[4:], again) / 3]
    assert one.step(data, 1 / 3, models) == pytest.approx([float(e) for e in expected], rel=1e-5)


def test_tent_moves_nothing_but_the_normalization_and_makes_the_network_surer(models: ViewModels) -> None:
    one, _ = learner("entropy", learning_rate=0.01)
    one.set_learning_rate(0.5)
    before, data = state(one.model), batch(labelled=0)
    losses = [one.step(data, 1.0, models)[1] for _ in range(6)]
    assert 0 < losses[-1] < losses[0] <= np.log(4)
    norms = {f"{n}." for n, module in one.model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    for name, value in one.model.state_dict().items():
        moved = not torch.equal(value, before[name])
        assert moved == name.startswith(tuple(norms)), name


def test_guarded_keeps_the_statistics_and_the_paper_s_mode_does_not(models: ViewModels) -> None:
    for mode, kept in (("guarded", True), ("paper", False)):
        one, _ = learner(mode)
        one.set_learning_rate(0.5)
        before = state(one.model)
        one.step(batch(), 0.5, models)
        names = [name for name in before if "running" in name]
        assert names and all(torch.equal(before[name], one.model.state_dict()[name]) == kept for name in names)
        assert not torch.equal(before["encoder.0.0.0.weight"], one.model.state_dict()["encoder.0.0.0.weight"])


def test_the_slow_copy_follows_and_without_guards_it_is_the_model(models: ViewModels) -> None:
    for mode in ("guarded", "paper"):
        one, _ = learner(mode)
        one.set_learning_rate(0.5)
        name = "encoder.0.0.0.weight"
        before = one.average[name].clone()
        one.step(batch(), 0.5, models)
        now = one.model.state_dict()[name]
        share = 2 / 3 if mode == "guarded" else 1.0  # one update: decay 1 / (1 + 2)
        assert torch.allclose(one.average[name], before + share * (now - before), atol=1e-7)


def test_part_of_the_way_lies_between_where_it_started_and_the_slow_copy(models: ViewModels) -> None:
    one, _ = learner()
    one.set_learning_rate(0.5)
    start, name = state(one.model), "encoder.0.0.0.weight"
    one.step(batch(), 0.5, models)
    slow = {key: value.clone() for key, value in one.average.items()}
    found = one.toward(0.25)
    assert not torch.equal(slow[name], start[name])
    assert torch.allclose(found[name], 0.25 * slow[name] + 0.75 * start[name], atol=1e-7)
    assert all(torch.equal(one.toward(1.0)[key], value) for key, value in slow.items())
    assert all(torch.equal(one.average[key], value) for key, value in slow.items())  # nothing moved by looking


def test_a_step_of_labelled_slices_alone_is_supervised(models: ViewModels) -> None:
    one, _ = learner("guarded")
    data = batch(labelled=8)
    with torch.no_grad():
        expected = float(supervised_loss(one.model(data.images), data.labels))
    assert one.step(data, 0.5, models) == pytest.approx([expected, 0.0], rel=1e-5)


class OutOfMemory:
    """A network's stand-in forward pass for which `holds` slices are too many, or which fails on the device."""

    def __init__(self, one: Learner, holds: int, device: str = "", error: RuntimeError | None = None) -> None:
        self.one, self.holds, self.device, self.forward = one, holds, device, one.model.forward
        self.error = error or torch.OutOfMemoryError("CUDA out of memory (injected)")

    def __call__(self, images: Tensor) -> Tensor:
        if len(images) > self.holds or self.one.device == self.device:
            raise self.error
        return self.forward(images)


def test_out_of_memory_halves_what_is_held_and_the_step_stays_the_same(
    models: ViewModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = learner()
    small, events = learner()
    monkeypatch.setattr(small.model, "forward", OutOfMemory(small, 3))
    for one in (whole, small):
        one.set_learning_rate(0.5)
    losses = [one.step(batch(), 0.5, models) for one in (whole, small)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert [(e["event"], e["slices"]) for e in events] == [("memory", 4), ("memory", 2)]
    assert "going on with 2 slices at a time" in events[-1]["message"]
    for name, value in whole.model.state_dict().items():
        assert torch.allclose(value, small.model.state_dict()[name], atol=1e-4), name


def test_out_of_memory_for_one_slice_goes_on_on_the_cpu_and_says_so(
    models: ViewModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = learner()
    small, events = learner()
    small.device = "cpu:0"  # another device by name, which is full
    monkeypatch.setattr(small.model, "forward", OutOfMemory(small, 8, "cpu:0"))
    losses = [one.step(batch(), 0.5, models) for one in (whole, small)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert small.device == "cpu" and "going on on the CPU" in events[-1]["message"]


def test_the_memory_of_the_machine_may_be_full_too_and_other_errors_come_through(
    models: ViewModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError) as full:
        torch.empty(10**15)
    one, events = learner()
    monkeypatch.setattr(one.model, "forward", OutOfMemory(one, 4, error=full.value))
    one.step(batch(), 0.5, models)
    assert [event["slices"] for event in events] == [4]
    monkeypatch.setattr(one.model, "forward", OutOfMemory(one, 0, error=RuntimeError("something else")))
    with pytest.raises(RuntimeError, match="something else"):
        one.step(batch(), 0.5, models)


@pytest.mark.parametrize(
    "said",
    [
        "MPS backend out of memory (MPS allocated: 9.07 GB, max allowed: 9.07 GB). Tried to allocate 256 bytes.",
        "[enforce fail at alloc_cpu.cpp:117] data. DefaultCPUAllocator: not enough memory: you tried to allocate 9113 bytes.",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_a_full_memory_is_known_by_what_is_said_of_it(
    said: str, models: ViewModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, events = learner()
    monkeypatch.setattr(one.model, "forward", OutOfMemory(one, 4, error=RuntimeError(said)))
    one.step(batch(), 0.5, models)
    assert [event["slices"] for event in events] == [4]


def test_a_memory_that_is_full_when_adam_begins_changes_nothing_but_the_chunks(
    models: ViewModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = learner()
    small, events = learner()
    for one in (whole, small):
        one.set_learning_rate(0.5)
    whole.step(batch(), 0.5, models)
    real, asked = torch.zeros_like, []

    def zeros(like: Tensor, **how: Any) -> Tensor:
        asked.append(like)
        if len(asked) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        return real(like, **how)

    monkeypatch.setattr(torch, "zeros_like", zeros)
    small.step(batch(), 0.5, models)
    assert [event["slices"] for event in events] == [4]
    for name, value in whole.model.state_dict().items():
        assert torch.allclose(value, small.model.state_dict()[name], atol=1e-4), name


def test_a_step_of_adam_that_broke_off_is_not_taken_again(models: ViewModels, monkeypatch: pytest.MonkeyPatch) -> None:
    one, events = learner()

    def step() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory (injected)")

    monkeypatch.setattr(one.optimizer, "step", step)
    with pytest.raises(RVQCError, match="full in the middle of a step; give the same command again"):
        one.step(batch(), 0.5, models)
    assert events == [] and one.updates == 0


def test_running_statistics_see_every_chunk_once(models: ViewModels, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a pass that found no memory at its end nor a chunk's second way through the network counts."""
    one, events = learner("paper", "BN1")
    data, network = batch(), one.model.forward
    expected = copy.deepcopy(one.model)
    with torch.no_grad():
        for part in data.images.split(4):
            expected(part)

    def forward(images: Tensor) -> Tensor:
        logits = network(images)
        if len(images) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        return logits

    monkeypatch.setattr(one.model, "forward", forward)
    one.step(data, 0.5, models)
    assert [event["slices"] for event in events] == [4]
    assert any(name.endswith("running_mean") for name, _ in expected.named_buffers())
    for name, value in expected.named_buffers():
        assert torch.allclose(one.model.get_buffer(name), value, atol=1e-6), name


def test_when_nothing_is_left_to_give_the_sentence_says_what_to_do(
    models: ViewModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = learner()
    monkeypatch.setattr(one.model, "forward", OutOfMemory(one, 0))
    with pytest.raises(RVQCError, match="use a smaller --batch"):
        one.step(batch(), 0.5, models)


def test_a_checkpoint_brings_everything_back(models: ViewModels, tmp_path: Path) -> None:
    """Interrupted after two steps and continued elsewhere: the third step is the same. BN2 in the paper's mode drops out."""
    for mode in ("guarded", "paper"):
        path = tmp_path / f"{mode}.safetensors"
        one, _ = learner(mode)
        one.load(path)
        one.set_learning_rate(0.7)
        for _ in range(2):
            one.step(batch(), 0.5, models)
        one.save(path)
        expected = one.step(batch(), 0.5, models)
        torch.manual_seed(99)
        two, _ = learner(mode)
        two.load(path)
        two.set_learning_rate(0.7)
        assert np.array_equal(two.step(batch(), 0.5, models), expected)
        for name, value in one.average.items():
            assert torch.equal(value, two.average[name])
    other, _ = learner("guarded", margin=0.01)
    with pytest.raises(RVQCError, match="another configuration"):
        other.load(tmp_path / "guarded.safetensors")


def test_a_crew_divides_a_batch_evenly_or_refuses() -> None:
    assert [Crew(rank, 4).share(8) for rank in range(4)] == [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8)]
    with pytest.raises(RVQCError, match="8 slices cannot be shared by 3 processes"):
        Crew(0, 3).share(8)


def test_what_one_does_for_all_fails_for_all(tmp_path: Path) -> None:
    """Two processes, joined by gloo; the second would end at once if it did the work."""
    code = (
        "import sys\nfrom torch import distributed\nfrom RVQCLib.distributed import crew\n"
        "rank, file = int(sys.argv[1]), sys.argv[2]\n"
        "distributed.init_process_group('gloo', init_method=file, rank=rank, world_size=2)\n"
        "def work(answer):\n    if rank:\n        sys.exit('not its work')\n    return answer\n"
        "print(crew().led(lambda: work(True), 'cpu'), crew().led(lambda: work(False), 'cpu'))\n"
        "try:\n    crew().led(lambda: [][0], 'cpu')\nexcept Exception as error:\n    print(error)\n"
    )
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY / "RVQCSegment")}
    how: dict[str, Any] = {"env": environment, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([*command, str(rank), (tmp_path / "meet").as_uri()], **how) for rank in (0, 1)]
    said = [process.communicate(timeout=120)[0].splitlines()[-2:] for process in both]  # gloo may say something before
    assert [lines[0] for lines in said] == ["True False"] * 2
    assert "out of range" in said[0][1] and said[1][1].startswith("The process that leads has failed; its own message")


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Joins as process `number` that torchrun started on a machine with so many GPUs; tells what was done, in order."""

    def join(wanted: str, number: int, gpus: int) -> list[Any]:
        done: list[Any] = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "set_device", lambda own: done.append(own))
        monkeypatch.setattr(distributed, "choose_device", lambda name: done.append(name) or name)
        torchrun = {"is_torchelastic_launched": lambda: True, "get_node_local_rank": lambda: number}
        torchrun["init_process_group"] = lambda kind, *, timeout, device_id: done.append((kind, device_id))
        torchrun["destroy_process_group"] = lambda: done.append("left")
        for name, function in torchrun.items():
            monkeypatch.setattr(torch.distributed, name, function)
        with joined(wanted) as device:
            done.append(device)
        return done

    return join


def test_a_process_of_several_touches_no_gpu_but_its_own(launched: Callable[..., list[Any]]) -> None:
    for wanted in ("auto", "cuda"):
        own = ("nccl", torch.device("cuda:1"))
        assert launched(wanted, 1, 2) == [1, "cuda:1", own, "cuda:1", "left"]
        with pytest.raises(RVQCError, match=r"more processes than this machine has GPUs \(1\); give it"):
            launched(wanted, 1, 1)
    for wanted, gpus in (("auto", 0), ("cpu", 2)):
        assert launched(wanted, 1, gpus) == ["cpu", ("gloo", None), "cpu", "left"]


# What is taught ---------------------------------------------------------------------------------------------------------


def heart(size: int = 32) -> np.ndarray:
    labels = np.zeros((3, size, size), np.uint8)
    labels[:, 8:20, 4:14] = 3
    labels[:, 8:20, 14:26] = 2
    labels[:, 11:17, 17:23] = 1
    return labels


def test_trust_is_what_both_opinions_give() -> None:
    mask = heart()
    same = np.stack([mask, mask])
    assert trust(same, mask, mask).tolist() == [1.0, 1.0, 1.0]
    other = mask.copy()
    other[1][mask[1] == 3] = 0  # one candidate has no RV in the middle: agreement (0 + 1 + 1) / 3
    expected = ((1.0 + 2 / 3) / 2 - 0.5) / 0.4
    assert trust(np.stack([mask, other]), mask, mask).tolist() == pytest.approx([1.0, expected, 1.0])
    wrong = mask.copy()
    wrong[2] = 0  # R sees nothing in the last slice: pDC 0
    assert trust(same, mask, wrong).tolist() == [1.0, 1.0, 0.0]


def test_what_nobody_can_see_is_not_taught() -> None:
    gap = heart()
    gap[1] = 0
    assert trust(np.stack([gap, gap]), gap, gap).tolist() == [1.0, 0.0, 1.0]
    empty = np.zeros_like(gap)
    assert trust(np.stack([empty, empty]), empty, empty).tolist() == [0.0, 0.0, 0.0]


def test_r_decides_only_where_the_consensus_is_in_doubt(
    models: ViewModels, monkeypatch: pytest.MonkeyPatch, make_study: Callable
) -> None:
    mask = heart()
    sure = np.eye(4, dtype=np.float32)[mask].transpose(0, 3, 1, 2)
    sure[:, :, 8, 4:14] = np.array([0.45, 0.0, 0.0, 0.55], np.float32)[None, :, None]  # a row of the RV is in doubt
    again = mask.copy()
    again[:, 8:10, 4:14] = 0  # R takes this row away, and the next one, of which the consensus is sure
    monkeypatch.setattr("RVQCLib.teachers.reconstruct", lambda _mask, _models: again)
    taught = lesson(sure, sure[None], mask[None], models, reconstruction=0.3).labels
    assert (taught[:, 8, 4:14] == 0).all() and (taught[:, 9, 4:14] == 3).all()
    assert np.array_equal(lesson(sure, sure[None], mask[None], models, reconstruction=0.0).labels, mask)
    assert STRUCTURES[0] == "RV"


def test_a_stack_without_an_rv_is_flagged_and_counts_nothing(models: ViewModels) -> None:
    seen, lost = np.eye(4, dtype=np.float16)[np.stack([heart(), np.where(heart() == 3, 0, heart())])].transpose(
        0, 1, 4, 2, 3
    )
    stack: Any = SimpleNamespace(spacing_zyx=(8.0, 2.0, 2.0), phase="ED")
    found = [standing([one], [heart()[None]], [stack], models) for one in (seen, lost)]
    assert [one.flagged for one in found] == [0, 1] and [one.agreement for one in found] == [1.0, 0.0]
    assert found[1].trust == 0
