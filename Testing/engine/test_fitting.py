"""Fitting one network: it learns, it is deterministic, and a killed run ends where an unbroken one does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from RVQCLib import checkpoints, fitting
from RVQCLib.augmentation import AugmentationConfig
from RVQCLib.checkpoints import read_checkpoint
from RVQCLib.dataset import Example
from RVQCLib.files import Cancelled, RVQCError
from RVQCLib.fitting import (
    RunConfig,
    Snapshot,
    _State,
    build_like,
    keep_best,
    native_precision,
    read_snapshots,
    train_network,
    validation_dice,
)
from RVQCLib.networks import build

GENTLE = AugmentationConfig(
    rotation_degrees=10, scale=(0.9, 1.1), shift_pixels=2, elastic_pixels=0.5, dihedral=0,
    remap=0, relabel=0, gamma=0.1, bias=0.1, blur=0.1, noise=0.1, ghost=0,
)  # fmt: skip
TASKS = {
    "BN1": ("segmenter", "BN1", {"width": 4, "stages": 3}),
    "BN2": ("segmenter", "BN2", {"width": 4, "stages": 3}),  # its dropout draws from torch's own generator
    "R": ("qc", "AE", {"width": 4, "latent": 8}),
    "locator": ("locator", "BN1", {"width": 4, "stages": 3, "classes": 2}),
}


def run(name: str = "BN1", **changes: Any) -> RunConfig:
    task, network, parameters = TASKS[name]
    values = {"epochs": 2, "batch": 8, "learning_rate": 0.01, "average": 0.9, "size": 32, "augmentation": GENTLE}
    return RunConfig(task=task, network=network, parameters=parameters, **{**values, **changes})


def discs(count: int, size: int, seed: int) -> list[Example]:
    """Stacks of two slices: an LV disc in a MYO ring beside an RV disc, each tissue with its own brightness."""
    generator = np.random.default_rng(seed)
    r, c = np.mgrid[:size, :size] - (size - 1) / 2
    examples = []
    for number in range(count):
        labels = np.zeros((2, size, size), np.uint8)
        for one in labels:
            y, x = generator.uniform(-2, 2, 2)
            one[np.hypot(r - y, c - x + 7) < 6] = 3
            one[np.hypot(r - y, c - x - 2) < 7] = 2
            one[np.hypot(r - y, c - x - 2) < 4.5] = 1
        images = np.array([0.4, 0.95, 0.1, 0.7])[labels] + generator.normal(0, 0.02, labels.shape)
        pixels = np.clip(images, 0, 1).astype(np.float16)
        examples.append(Example(f"p{number}", "NOR", "SA_ED", pixels, labels, (8.0, 4.0, 4.0)))
    return examples


TRAIN, VALIDATION = discs(8, 40, 0), discs(2, 32, 1)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def after_steps(count: int) -> Callable[[], bool]:
    """A `cancelled` that says so when it has been asked `count` times."""
    asked = iter(range(count))
    return lambda: next(asked, None) is None


def same(one: Sequence[Snapshot], two: Sequence[Snapshot]) -> bool:
    return len(one) == len(two) and all(
        (a.epoch, a.score, a.dice) == (b.epoch, b.score, b.dice)
        and a.weights.keys() == b.weights.keys()
        and all(torch.equal(a.weights[k], b.weights[k]) for k in a.weights)
        for a, b in zip(one, two, strict=True)
    )


def test_a_segmenter_learns(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    parameters = {"width": 8, "stages": 3, "norm": "batch"}
    config = replace(run(epochs=8, batch=4, learning_rate=0.02), parameters=parameters)
    kept = train_network(config, TRAIN, VALIDATION, checkpoint=tmp_path / "c.safetensors", report=events.append)
    assert [e["epoch"] for e in events] == list(range(1, 9))
    assert events[-1]["loss"] < 0.5 * events[0]["loss"]
    assert kept[0].score > 0.5
    assert kept[0].score == max(np.mean(list(e["validation_dice"].values())) for e in events)
    assert {"task", "network", "seed", "epoch", "epochs", "loss", "validation_dice", "seconds_left"} <= events[0].keys()
    assert set(events[0]["validation_dice"]) == {"LV", "MYO", "RV"}
    assert events[-1]["seconds_left"] == 0 < events[0]["seconds_left"]
    model = build(config.network, config.parameters)
    model.load_state_dict(kept[0].weights)
    assert validation_dice(model.eval(), VALIDATION, config, device="cpu") == kept[0].dice


def test_r_learns_to_reconstruct(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    config = run("R", epochs=6, batch=4, learning_rate=0.02, corruption=0.0)
    train_network(config, TRAIN, VALIDATION, checkpoint=tmp_path / "c.safetensors", report=events.append)
    assert events[-1]["loss"] < 0.8 * events[0]["loss"]


@pytest.mark.parametrize("name", TASKS)
def test_killed_and_continued_is_as_if_never_stopped(tmp_path: Path, name: str) -> None:
    """The same seed gives the same weights, bit for bit; killed in the middle of epoch 2 and continued in a process whose
    random numbers are elsewhere, too."""
    config = run(name, epochs=3, keep=2)
    whole = train_network(config, TRAIN, VALIDATION, checkpoint=tmp_path / "whole.safetensors")
    torch.manual_seed(12345)
    broken = tmp_path / "broken.safetensors"
    with pytest.raises(Cancelled):
        train_network(config, TRAIN, VALIDATION, checkpoint=broken, cancelled=after_steps(3))
    with safe_open(broken, "pt") as stored:
        assert '"epoch": 1' in stored.metadata()["state"]
    torch.manual_seed(54321)
    events: list[dict[str, Any]] = []
    continued = train_network(config, TRAIN, VALIDATION, checkpoint=broken, report=events.append)
    assert [e["epoch"] for e in events] == [2, 3]
    assert same(whole, continued)
    a, b = load_file(tmp_path / "whole.safetensors"), load_file(broken)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_another_seed_is_another_network(tmp_path: Path) -> None:
    one, two = (
        train_network(run(epochs=1, seed=s), TRAIN, VALIDATION, checkpoint=tmp_path / f"{s}.safetensors")
        for s in (0, 1)
    )
    assert not same(one, two)


def test_a_finished_run_is_only_read(tmp_path: Path) -> None:
    checkpoint = tmp_path / "c.safetensors"
    first = train_network(run(), TRAIN, VALIDATION, checkpoint=checkpoint)
    written = checkpoint.read_bytes()
    again = train_network(run(), TRAIN, VALIDATION, checkpoint=checkpoint, cancelled=lambda: True)
    assert same(first, again) and checkpoint.read_bytes() == written


@pytest.mark.parametrize("epochs", [0, 2])
def test_the_checkpoint_holds_what_is_returned(tmp_path: Path, epochs: int) -> None:
    config, checkpoint = run(epochs=epochs, keep=2), tmp_path / "c.safetensors"
    start = build(config.network, config.parameters).state_dict()
    kept = train_network(config, TRAIN, VALIDATION, checkpoint=checkpoint, start=start)
    assert kept and same(kept, read_snapshots(checkpoint))


def test_a_checkpoint_without_random_state_is_continued(tmp_path: Path) -> None:
    """Checkpoints from before that state was stored; without dropout nothing depends on it."""
    checkpoint = tmp_path / "c.safetensors"
    whole = train_network(run(), TRAIN, VALIDATION, checkpoint=tmp_path / "whole.safetensors")
    with pytest.raises(Cancelled):
        train_network(run(), TRAIN, VALIDATION, checkpoint=checkpoint, cancelled=after_steps(2))
    with safe_open(checkpoint, "pt") as stored:
        metadata = stored.metadata()
    tensors = {k: v for k, v in load_file(checkpoint).items() if not k.startswith("random/")}
    save_file(tensors, checkpoint, metadata)
    assert same(whole, train_network(run(), TRAIN, VALIDATION, checkpoint=checkpoint))


def test_a_checkpoint_from_before_a_setting_is_continued_where_that_has_its_default(tmp_path: Path) -> None:
    checkpoint = tmp_path / "c.safetensors"
    config = run(epochs=1, augmentation=AugmentationConfig(noise=0.0))
    first = train_network(config, TRAIN, VALIDATION, checkpoint=checkpoint)
    with safe_open(checkpoint, "pt") as stored:
        state = json.loads(stored.metadata()["state"])
    del state["config"]["start"], state["config"]["augmentation"]["ghost"]
    save_file(load_file(checkpoint), checkpoint, {"state": json.dumps(state)})
    assert same(first, train_network(config, TRAIN, VALIDATION, checkpoint=checkpoint))
    del state["config"]["augmentation"]["noise"]
    save_file(load_file(checkpoint), checkpoint, {"state": json.dumps(state)})
    with pytest.raises(RVQCError, match="checkpoint of another configuration"):
        train_network(config, TRAIN, VALIDATION, checkpoint=checkpoint)


@pytest.fixture(scope="module")
def one_epoch(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The checkpoint of a finished run of one epoch."""
    checkpoint = tmp_path_factory.mktemp("one_epoch") / "c.safetensors"
    train_network(run(epochs=1), TRAIN, VALIDATION, checkpoint=checkpoint)
    return checkpoint.read_bytes()


@pytest.mark.parametrize(
    "change", [{"epochs": 3}, {"seed": 1}, {"learning_rate": 0.02}, {"augmentation": AugmentationConfig()}]
)
def test_another_configuration_is_refused(one_epoch: bytes, tmp_path: Path, change: dict[str, Any]) -> None:
    checkpoint = tmp_path / "c.safetensors"
    checkpoint.write_bytes(one_epoch)
    with pytest.raises(RVQCError, match=f"{checkpoint} is a checkpoint of another configuration; remove it"):
        train_network(run(**{"epochs": 1, **change}), TRAIN, VALIDATION, checkpoint=checkpoint)


@pytest.mark.parametrize("spoil", [lambda b: b[:100], lambda b: b"", lambda b: b"\0" * len(b)])
def test_a_damaged_checkpoint_is_refused_in_a_sentence(
    one_epoch: bytes, tmp_path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    checkpoint = tmp_path / "c.safetensors"
    checkpoint.write_bytes(spoil(one_epoch))
    with pytest.raises(RVQCError, match=f"{checkpoint} is no whole checkpoint.*remove it"):
        train_network(run(epochs=1), TRAIN, VALIDATION, checkpoint=checkpoint)


def test_a_checkpoint_that_was_read_can_be_replaced(one_epoch: bytes, tmp_path: Path) -> None:
    """On Windows it could not while tensors are views of it."""
    maps, checkpoint = Path("/proc/self/maps"), tmp_path / "c.safetensors"
    if not maps.exists():
        pytest.skip("only Linux tells what is mapped")
    checkpoint.write_bytes(one_epoch)
    meta, tensors = read_checkpoint(checkpoint)
    assert meta["epoch"] == 1 and tensors and str(checkpoint) not in maps.read_text()


def test_weights_that_are_no_checkpoint_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "c.safetensors")
    with pytest.raises(RVQCError, match="no whole checkpoint"):
        train_network(run(), TRAIN, VALIDATION, checkpoint=tmp_path / "c.safetensors")


def test_a_checkpoint_appears_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills while the second epoch is written: the first stays, nothing lies beside it."""
    checkpoint, config = tmp_path / "c.safetensors", run()
    real = checkpoints.save_file
    written: list[bytes] = []

    def save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        assert path != checkpoint
        real(tensors, path, metadata=metadata)
        if written:
            path.write_bytes(path.read_bytes()[:1000])
            raise OSError(28, "No space left on device")
        written.append(path.read_bytes())

    monkeypatch.setattr(checkpoints, "save_file", save)
    with pytest.raises(OSError, match="No space"):
        train_network(config, TRAIN, VALIDATION, checkpoint=checkpoint)
    assert checkpoint.read_bytes() == written[0]
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_cancelled_before_the_first_epoch_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        train_network(run(), TRAIN, VALIDATION, checkpoint=tmp_path / "c.safetensors", cancelled=lambda: True)
    assert not list(tmp_path.iterdir())


def test_the_average_of_the_weights_by_hand(tmp_path: Path) -> None:
    """One step: the decay is the smaller of 0.9 and 1/10, so a tenth of the start and nine of where the step led."""
    config = run(epochs=1, batch=100)
    train_network(config, TRAIN, VALIDATION, checkpoint=tmp_path / "c.safetensors")
    stored = load_file(tmp_path / "c.safetensors")
    torch.manual_seed(config.seed)
    for name, start in build(config.network, config.parameters).state_dict().items():
        reached, average = stored[f"model/{name}"], stored[f"average/{name}"]
        torch.testing.assert_close(average, 0.1 * start + 0.9 * reached)
        assert torch.equal(stored[f"snapshot/0/{name}"], average)


def snapshots(*scores: float) -> list[Snapshot]:
    return [Snapshot(epoch, score, {}, {}) for epoch, score in enumerate(scores, start=1)]


@pytest.mark.parametrize(
    ("scores", "keep", "spread", "epochs"),
    [
        ((0.1, 0.5, 0.3), 1, 1, [2]),
        ((0.1, 0.5, 0.3), 2, 1, [2, 3]),
        ((0.1, 0.5, 0.3), 5, 1, [2, 3, 1]),
        ((0.1, 0.5, 0.4, 0.3, 0.2), 2, 2, [2, 3]),  # windows of epochs 1 2, 3 4, 5
        ((0.1, 0.5, 0.4, 0.3, 0.6), 9, 2, [5, 2, 3]),
        ((0.1, 0.5, 0.4, 0.3, 0.2), 3, 3, [2, 4]),  # windows of epochs 1 2 3, 4 5
        ((0.5, 0.5, 0.5), 2, 1, [1, 2]),  # a tie goes to the earlier
        ((), 3, 1, []),
    ],
)
def test_the_best_are_kept(scores: tuple, keep: int, spread: int, epochs: list[int]) -> None:
    assert [s.epoch for s in keep_best(snapshots(*scores), keep, spread)] == epochs
    assert [s.epoch for s in keep_best(snapshots(*scores)[::-1], keep, spread)] == epochs


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4]), min_size=1, max_size=30), st.integers(1, 4), st.integers(1, 5))
def test_what_is_dropped_on_the_way_is_never_missed(scores: list[float], keep: int, spread: int) -> None:
    """Pruned after every epoch, as a run does, the same are kept as of all epochs at the end."""
    kept: list[Snapshot] = []
    for snapshot in snapshots(*scores):
        kept = keep_best([*kept, snapshot], keep, spread)
    assert kept == keep_best(snapshots(*scores), keep, spread)


def test_r_without_corruption_is_the_plain_autoencoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any) -> None:
        raise AssertionError("a mask was corrupted")

    monkeypatch.setattr(fitting, "corrupt_slice", forbidden)
    plain = run("R", epochs=1, corruption=0.0)
    train_network(plain, TRAIN, VALIDATION, checkpoint=tmp_path / "plain.safetensors")
    with pytest.raises(AssertionError, match="corrupted"):
        train_network(replace(plain, corruption=1.0), TRAIN, VALIDATION, checkpoint=tmp_path / "other.safetensors")


def test_corrupted_masks_are_pulled_back_to_the_true_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What R is shown is corrupted in the configured share; what it is asked for never is."""
    shown, asked = [], []
    monkeypatch.setattr(fitting, "corrupt_slice", lambda mask, generator, strength: np.zeros_like(mask))
    real_hot, real_loss = fitting.one_hot, fitting.reconstruction_loss
    monkeypatch.setattr(fitting, "one_hot", lambda labels: shown.append(labels.clone()) or real_hot(labels))
    monkeypatch.setattr(
        fitting, "reconstruction_loss", lambda out, labels: asked.append(labels.clone()) or real_loss(out, labels)
    )
    config = run("R", epochs=6, corruption=0.25, average=0.0)
    train_network(config, TRAIN, VALIDATION[:1], checkpoint=tmp_path / "c.safetensors")
    assert all(labels.flatten(1).any(1).all() for labels in asked)
    masks = torch.cat([labels for labels in shown if len(labels) == 8])  # without the validation's stacks of two
    assert len(masks) == 6 * 16
    empty = ~(masks > 0).flatten(1).any(1)
    assert 0.1 < empty.float().mean() < 0.45


class Constant(nn.Module):
    """Calls everything one class, or gives back a one-hot mask as it is."""

    def __init__(self, label: int | None) -> None:
        super().__init__()
        self.label = label

    def forward(self, inputs: Tensor) -> Tensor:
        if self.label is None:
            return inputs
        logits = torch.zeros(len(inputs), 4, *inputs.shape[2:])
        logits[:, self.label] = 1
        return logits


def test_validation_dice_by_hand() -> None:
    """Two stacks of 2 x 4 pixels: one with 4 RV pixels of 8 and no LV or MYO, one with 2 LV and 6 MYO."""
    first = np.array([[[3, 3, 0, 0], [3, 3, 0, 0]]], np.uint8)
    second = np.array([[[1, 2, 2, 2], [1, 2, 2, 2]]], np.uint8)
    examples = [Example("p", "", "SA_ED", np.zeros(m.shape, np.float16), m, (8, 1, 1)) for m in (first, second)]
    # All RV: stack 1 LV and MYO absent from both (1, 1), RV 2*4/(8+4); stack 2 nothing right.
    dice = validation_dice(Constant(3), examples, run(), device="cpu")
    assert dice == pytest.approx({"LV": (1 + 0) / 2, "MYO": (1 + 0) / 2, "RV": (8 / 12 + 0) / 2})
    assert validation_dice(Constant(None), examples, run("R"), device="cpu") == {"LV": 1.0, "MYO": 1.0, "RV": 1.0}
    # The locator: all heart; 4 of 8 pixels are, then 8 of 8.
    heart = validation_dice(Constant(1), examples, run("locator"), device="cpu")
    assert heart == pytest.approx({"heart": (8 / 12 + 1) / 2})


def test_mixed_precision_trains_and_keeps_single_precision_weights(tmp_path: Path) -> None:
    kept = train_network(run(epochs=1, precision="bfloat16"), TRAIN, VALIDATION, checkpoint=tmp_path / "c.safetensors")
    assert all(v.dtype == torch.float32 and v.isfinite().all() for v in kept[0].weights.values())


def test_a_twin_shares_its_weights_and_leaves_the_model_alone() -> None:
    model = build("BN1", TASKS["BN1"][2]).to(memory_format=torch.channels_last)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights = {name: value * 2 for name, value in before.items()}
    twin = build_like(model.train(), weights)
    assert model.training and not twin.training
    for name, value in twin.state_dict().items():
        assert value.data_ptr() == weights[name].data_ptr(), f"{name} was copied"
        assert torch.equal(model.state_dict()[name], before[name])
    packed = build_like(model, {name: value.contiguous() for name, value in weights.items()})
    image = torch.rand(1, 1, 32, 32).to(memory_format=torch.channels_last)
    assert torch.equal(packed(image), twin(image)), "as before a checkpoint, to the bit"


def test_native_precision() -> None:
    assert native_precision("mps") == "float32"
    assert native_precision("cpu") in ("bfloat16", "float32")


def test_a_gpu_that_only_imitates_bfloat16_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """An A100 and a T4 in one machine, each asked for itself."""
    current = ["cuda:0"]

    @contextmanager
    def device(name: str) -> Iterator[None]:
        current.append(name)
        yield
        current.pop()

    def supported(including_emulation: bool = True) -> bool:
        return including_emulation or current[-1] != "cuda:1"

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert [native_precision(name) for name in ("cuda:0", "cuda:1")] == ["bfloat16", "float32"]


def test_fewer_slices_than_a_batch_are_one_step(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    config = run(epochs=1, batch=64)
    train_network(config, TRAIN[:1], VALIDATION, checkpoint=tmp_path / "c.safetensors", report=events.append)
    assert len(events) == 1 and np.isfinite(events[0]["loss"])


def test_the_learning_rate_warms_up_and_falls_to_nothing() -> None:
    state, rates = _State(run(learning_rate=0.01), nn.Linear(1, 1), "cpu"), []
    for progress in (0.0, 0.015, 0.5, 1.0):
        state.set_learning_rate(progress)
        rates.append(state.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.0002, 0.0052, 0.005, 0.0], rel=2e-3, abs=1e-9)


def test_a_steep_step_is_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(1, 1)
    state = _State(run(), model, "cpu")
    monkeypatch.setattr(state, "_loss", lambda *_: 1e4 * (model.weight + model.bias).sum())
    state.step(torch.zeros(1), torch.zeros(1), torch.Generator())
    lengths = [float(parameter.grad.norm()) for parameter in model.parameters()]
    assert lengths == pytest.approx([5 / 2**0.5] * 2, rel=1e-4)
