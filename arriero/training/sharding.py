"""Base weights sharded among workers (FSDP2): each keeps a shard, and gathers a layer while it is computed.

    weights    shard of layer 0 | shard of layer 1 | … | shard of the rest     of the frozen base, in each worker
    LoRA       whole in every worker, gradients exchanged by DDP
    forward    gather layer 0 -> compute -> let go -> gather layer 1 …          backward: the same from the end

What is trained is a hundredth of the weights, so that sharding it too would save next to nothing; whole, it is
saved, resumed, clipped and verified by the very code of a run without sharding. Every gathering takes all workers:
they have to make the same passes through the model. (Zhao et al. 2023: PyTorch FSDP)
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers.modeling_layers import GradientCheckpointingLayer

from arriero.errors import UsageError
from arriero.hardware import gpus
from arriero.training import compat, workers

log = logging.getLogger(__name__)
SHARE = 0.5  # of a GPU's memory that the weights may take before auto shards them
AT_ONCE = 2  # layers that are whole at a time: one is gathered while another is computed


def chosen(wish: Literal["auto", "on", "off"], weight_bytes: Callable[[], int], *, four_bits: bool = False) -> bool:
    """Whether to shard weights of `weight_bytes`, the same in every worker; announced where that was "auto".

    Raises UsageError where it is wished ("on") and impossible.
    """
    reasons = {
        "there is one worker, so nothing to shard among": workers.count() == 1,
        f"torch {torch.__version__} cannot leave parameters out of it": "ignored_params"
        not in inspect.signature(fully_shard).parameters,
        "weights in 4 bits are not sharded": four_bits,
    }
    obstacle = next((reason for reason, holds in reasons.items() if holds), None)
    if wish == "on" and obstacle is not None:
        raise UsageError(
            f"--shard on: {obstacle}", hint="torchrun --nproc_per_node N -m arriero.cli train …, or --shard auto"
        )
    if wish != "auto" or obstacle is not None:
        return wish == "on"
    size = weight_bytes() if gpus() else 0
    # workers have to agree: sharding gathers in all of them at once
    if not workers.anywhere(bool(size) and size > SHARE * _memory()):
        return False
    log.info("sharding: %.0f GB of weights would leave a GPU too little room for the rest", size / 1e9)
    return True


def _memory() -> int:
    """Bytes of this worker's GPU."""
    return int(torch.cuda.get_device_properties(workers.local_rank()).total_memory)


def shard(model: Any) -> None:
    """Shard the frozen weights of `model` (PEFT's, on the CPU); all of it is then where it is trained."""
    base = model.get_base_model()
    trained = {weight for weight in model.parameters() if weight.requires_grad}
    mesh = init_device_mesh("cuda" if gpus() else "cpu", (workers.count(),))
    for layer in base.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            fully_shard(layer, mesh=mesh, ignored_params=trained)
    # embeddings, last norm and head stay gathered: the loss multiplies by the head after the forward pass
    fully_shard(base, mesh=mesh, ignored_params=trained, reshard_after_forward=False)
    for weight in trained:
        # ignored_params stay where they were; FSDP has moved the others only
        weight.data = weight.data.to(base.device)
    log.info("sharding: base weights are sharded among %d workers", workers.count())


def is_sharded(model: nn.Module) -> bool:
    """Whether weights of `model` are sharded."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def exchanging(model: nn.Module) -> DistributedDataParallel:
    """A sharded model whose workers exchange the gradients of what is whole in all of them."""
    sharded = [name for name, weight in model.named_parameters() if isinstance(weight, DTensor)]
    # DDP would make all workers' parts those of worker 0
    compat.leave_out_of_ddp(model, sharded)
    return DistributedDataParallel(model)


@contextmanager
def gathered(model: nn.Module, modules: Iterable[nn.Module]) -> Iterator[None]:
    """Within the block, weights of these modules of `model` are whole, for calls that do not come through the model."""
    selected = set(modules)
    holders = [
        module
        for module in model.modules()
        if isinstance(module, FSDPModule) and not selected.isdisjoint(module.modules())
    ]
    for holder in holders:
        holder.unshard()
    try:
        yield
    finally:
        for holder in holders:
            holder.reshard()


def gathered_bytes(model: nn.Module) -> int:
    """Memory of the layers that are whole at a time; 0 without sharding."""
    layers = [module for module in model.modules() if isinstance(module, FSDPModule)][1:]  # the first is the rest
    sizes = [sum(weight.nbytes for weight in layer.parameters() if isinstance(weight, DTensor)) for layer in layers]
    return AT_ONCE * max(sizes, default=0)
