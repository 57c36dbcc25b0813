"""The checkpoint of a network that learns: one safetensors file of all that its next epoch needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from RVQCLib.files import RVQCError, same_settings, whole_file


def write_checkpoint(path: Path, meta: Mapping[str, Any], **parts: Mapping[str, Tensor]) -> None:
    """Write a checkpoint, whole: `meta` as JSON, and the tensors of every part as ``part/name``."""
    tensors = {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}
    with whole_file(path) as file:
        # Clones, because safetensors refuses tensors that share memory.
        stored = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        save_file(stored, file, metadata={"state": json.dumps(meta)})


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a checkpoint says of itself, and its tensors, on the CPU.

    Raises
    ------
    RVQCError
        It is damaged, or no checkpoint.
    """
    try:
        with safe_open(path, "pt") as stored:
            # Clones, because Windows does not replace a file of which tensors are views.
            tensors = {key: stored.get_tensor(key).clone() for key in stored.keys()}  # noqa: SIM118
            return json.loads(stored.metadata()["state"]), tensors
    except (SafetensorError, OSError, TypeError, KeyError, json.JSONDecodeError) as error:
        raise RVQCError(f"{path} is no whole checkpoint of RVQC ({error}); remove it to train anew.") from error


def read_own(
    path: Path, config: Mapping[str, Any], defaults: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """`read_checkpoint`, where its ``config`` is this one, as `files.same_settings` compares them.

    Raises
    ------
    RVQCError
        It is damaged, no checkpoint, or that of another configuration.
    """
    meta, tensors = read_checkpoint(path)
    if not same_settings(meta["config"], config, defaults):
        raise RVQCError(f"{path} is a checkpoint of another configuration; remove it or choose another --work.")
    return meta, tensors


def under(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors of one part, by the rest of their names."""
    return {k.removeprefix(part + "/"): v for k, v in tensors.items() if k.startswith(part + "/")}


def moments(optimizer: Optimizer) -> dict[str, Tensor]:
    """What an optimizer remembers of every parameter, as ``index/name``."""
    remembered = optimizer.state_dict()["state"]
    return {f"{index}/{name}": value for index, values in remembered.items() for name, value in values.items()}


def restore_moments(optimizer: Optimizer, stored: Mapping[str, Tensor]) -> None:
    """Let an optimizer remember what `moments` returned, and nothing else."""
    states = optimizer.state_dict() | {"state": {}}
    for key, value in stored.items():
        index, _, name = key.partition("/")
        states["state"].setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(states)


def random_states(device: str) -> dict[str, Tensor]:
    """The states of torch's own generators, which dropout draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.startswith("cuda"):
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random(states: Mapping[str, Tensor], device: str) -> None:
    """Put torch's own generators back into what `random_states` returned."""
    if "cpu" in states:
        torch.set_rng_state(states["cpu"])
    if "cuda" in states and device.startswith("cuda"):
        torch.cuda.set_rng_state(states["cuda"], device)
