"""Whether rows may be captured as CUDA graphs, and why not."""

from __future__ import annotations

import logging

import torch

from arriero.cuda_graphs import CudaCapture
from arriero.errors import UsageError
from arriero.training import sharding, workers
from arriero.training.graphs import RowGraphs
from arriero.training.graphs.rows import GraphOptions
from arriero.training.kernels.varlen import flash
from arriero.training.options import TrainOptions
from arriero.training.steps import Steps

log = logging.getLogger(__name__)


def add_graphs(steps: Steps, options: TrainOptions) -> None:
    """Give `steps` graphs where they are wanted and can be; announced.

    Raises UsageError where they are demanded and cannot be.
    """
    if options.cuda_graphs == "off":
        return
    reason = obstacle(steps)
    if reason is not None and options.cuda_graphs == "on":
        raise UsageError(f"--cuda-graphs on: {reason}", hint="--cuda-graphs auto")
    kernel = flash()
    if reason is not None or kernel is None:
        if steps.device.type == "cuda":  # elsewhere nobody expects any
            log.info("CUDA graphs left out: %s", reason)
        return
    chosen = GraphOptions(kernel, always=options.cuda_graphs == "on")
    trained = list(steps.trained.values())
    steps.graphs = RowGraphs(steps.weighted_backward, trained, CudaCapture(steps.device), chosen)
    log.info(
        "CUDA graphs: for rows that return%s", "" if chosen.always else " and wait for the launch of their kernels"
    )


def obstacle(steps: Steps) -> str | None:
    """Why rows of this run cannot be captured, None if they may be."""
    modules = list(steps.model.modules())
    mode = steps.plan.mode
    reasons = {
        "examples are computed in padded batches": mode.name == "padded",
        "rows are masked by the model itself": not mode.own_attention,
        "layers are computed again in the backward pass": steps.plan.recomputed > 0,
        "dropout is drawn anew in every step": any(isinstance(one, torch.nn.Dropout) and one.p > 0 for one in modules),
        "base weights are quantised": not all(weight.is_floating_point() for weight in steps.model.parameters()),
        "base weights are sharded among workers": sharding.is_sharded(steps.model),
        "several workers exchange gradients during the backward pass": workers.count() > 1,
        "this machine has no CUDA GPU": steps.device.type != "cuda",
        "the model does not compute in 16 bits": steps.base.dtype not in (torch.bfloat16, torch.float16),
        "this torch has no variable-length attention with a causal window": flash() is None,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)
