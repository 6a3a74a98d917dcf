"""Run by torchrun: gradients of a sharded model beside those of the whole one; rank 0 prints them as JSON."""

from __future__ import annotations

import json
from functools import partial

import torch
from accelerate import PartialState

from arriero.training import sharding, workers
from arriero.training.kernels import Kernels
from arriero.training.options import TrainOptions
from arriero.training.planning import mode
from arriero.training.planning.plan import Plan
from arriero.training.setup.step_setup import set_up
from arriero.training.steps import Steps, Worker
from tests.training.test_exactness import GROUP, build, gradients_of

LAYERS = 2


def steps_of(model, row_tokens, recomputed):
    plan = Plan(mode.Mode("shared", ""), row_tokens, LAYERS, recomputed)
    return Steps(model, plan, Kernels(model))


def bytes_here(model):
    """Of the weights that this worker holds."""
    local = (getattr(weight, "_local_tensor", weight) for weight in model.parameters() if not weight.requires_grad)
    return sum(part.untyped_storage().nbytes() for part in local)


def compared(dtype, row_tokens, recomputed):
    """The whole model's gradients, computed here alone, and those of shards, for a step of several rows."""
    build.cache_clear()
    model = build("Llama", dtype=dtype)
    steps_of(model, row_tokens, recomputed).backward(GROUP)
    whole, bytes_whole = gradients_of(model), bytes_here(model)
    sharding.shard(model)
    checked = set_up(model, GROUP, 10, TrainOptions(), None).verification
    steps = steps_of(model, row_tokens, recomputed)
    steps.wrapped = sharding.exchanging(model)
    steps.backward(GROUP, Worker(workers.rank(), workers.count(), partial(steps.wrapped.no_sync)))
    gradients = gradients_of(model)
    return {
        "apart": float((gradients - whole).norm() / whole.norm()),
        "checked": checked.passed and not checked.fell_back,
        "kernels": dict(steps.kernels.counts),
        "share": bytes_here(model) / bytes_whole,
        "workers": workers.count(),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    PartialState(cpu=True, backend="gloo")
    cases = [(torch.float32, 64, 0), (torch.float32, 14, 0), (torch.float32, 14, LAYERS), (torch.bfloat16, 64, 0)]
    told = [compared(*case) for case in cases]
    if workers.rank() == 0:
        print(json.dumps(told))
    torch.distributed.destroy_process_group()
