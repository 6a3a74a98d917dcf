"""Checkpoints: everything that the rest of a run depends on, written so that a half of one is never seen.

    checkpoint-N/adapter_model.safetensors, adapter_config.json, arriero.json: an adapter directory, as that of a run
    checkpoint-N/optimizer.safetensors  the optimizer's tensors, by parameter; torch's generators in each worker
    checkpoint-N/state.json             the rest: schedule, optimizer settings, Python's and numpy's generators, plan
    checkpoint-N/trainer_state.json     the Trainer's own: step, epoch, best evaluation, history

A checkpoint is written under another name, put onto the disk, and renamed; older ones go after that. Tensors are in
safetensors and everything else in JSON: nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from arriero.errors import ArrieroError

PREFIX = "checkpoint-"
PARTIAL, REMOVED = ".partial", ".removed"
STATE = "state.json"
OPTIMIZER = "optimizer.safetensors"


def by_step(checkpoints: Path) -> dict[int, Path]:
    """Checkpoints by optimizer step, ascending."""
    steps = {int(path.name.removeprefix(PREFIX)): path for path in checkpoints.glob(f"{PREFIX}*")}
    return dict(sorted(steps.items()))


def write(checkpoints: Path, step: int, fill: Callable[[Path], None]) -> Path:
    """Make the checkpoint of `step`: `fill` puts its files into a directory. Whole or absent, whatever happens.

    Raises ArrieroError where the disk is full or cannot be written; earlier checkpoints stay as they are.
    """
    partial, final = checkpoints / PARTIAL, checkpoints / f"{PREFIX}{step}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        fill(partial)
        for path in (*partial.iterdir(), partial):
            onto_disk(path)
        _remove(final)  # the same step again, after an evaluation
        partial.replace(final)
        onto_disk(checkpoints)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        last = max(by_step(checkpoints), default=None)
        kept = "there is no earlier one" if last is None else f"that of step {last} is kept"
        raise ArrieroError(
            f"the checkpoint of step {step} could not be written: {error}; {kept}",
            hint="free some space, then run the same command with --resume",
        ) from error
    return final


def rotate(checkpoints: Path, limit: int, best: int | None) -> None:
    """Remove the oldest checkpoints until `limit` are left, not counting that of step `best`."""
    for _, path in [item for item in by_step(checkpoints).items() if item[0] != best][:-limit]:
        _remove(path)


def _remove(path: Path) -> None:
    """Take a checkpoint away at once: under its name there is never a half of one."""
    gone = path.with_name(REMOVED)
    shutil.rmtree(gone, ignore_errors=True)
    if path.exists():
        path.replace(gone)
        shutil.rmtree(gone)


def onto_disk(path: Path) -> None:
    """Have what a file holds, or a directory lists, outlast a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True, slots=True)
class RandomState:
    """Where a worker's random generators are; those of Python and numpy as JSON has them."""

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]

    @classmethod
    def now(cls) -> RandomState:
        """That of this process."""
        tensors = {"torch": torch.get_rng_state()}
        if torch.cuda.is_available():
            tensors["cuda"] = torch.cuda.get_rng_state()
        version, keys, *rest = np.random.get_state(legacy=True)
        return cls(tensors, {"python": random.getstate(), "numpy": [version, np.asarray(keys).tolist(), *rest]})


def save_state(
    folder: Path, optimizer: torch.optim.Optimizer, state: dict[str, Any], randoms: Sequence[RandomState]
) -> None:
    """Write the optimizer and the random states of all workers into `folder`, and `state` (JSON) beside them."""
    described = optimizer.state_dict()
    tensors = {
        f"random.{rank}.{name}": tensor for rank, one in enumerate(randoms) for name, tensor in one.tensors.items()
    }
    numbers: dict[str, Any] = {}
    for index, values in described["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value.contiguous()
            else:
                numbers[f"{index}.{name}"] = value
    save_file(tensors, folder / OPTIMIZER)
    document = {
        **state,
        "optimizer": {"groups": described["param_groups"], "numbers": numbers},
        "random": [one.numbers for one in randoms],
    }
    (folder / STATE).write_text(json.dumps(document), encoding="utf-8")


def is_evaluated(folder: Path) -> bool:
    """Whether a checkpoint was written after the evaluation of its step."""
    state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    return any("eval_loss" in entry and entry["step"] == state["global_step"] for entry in state["log_history"])


def load_optimizer(folder: Path, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put the optimizer's state back; returns the JSON that `save_state` was given."""
    document = read_state(folder)
    state: dict[int, dict[str, Any]] = {}
    values: dict[str, Any] = {**load_file(folder / OPTIMIZER), **document["optimizer"]["numbers"]}
    for key, value in values.items():
        index, _, name = key.partition(".")
        if index != "random":
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": document["optimizer"]["groups"]})
    return document


def load_random(folder: Path, rank: int) -> None:
    """Put the states of a worker's random generators back; one that there was not before takes those of another."""
    tensors, states = load_file(folder / OPTIMIZER), read_state(folder)["random"]
    rank %= len(states)
    saved = states[rank]
    torch.set_rng_state(tensors[f"random.{rank}.torch"])
    if f"random.{rank}.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors[f"random.{rank}.cuda"])
    version, internal, gauss = saved["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = saved["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))


def read_state(folder: Path) -> dict[str, Any]:
    """The JSON of a checkpoint."""
    document: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
    return document
