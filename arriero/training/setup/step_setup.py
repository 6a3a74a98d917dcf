"""From a model and a step's examples to `Steps`: mode, pieces, plan and proof, announced with reasons."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from arriero.hardware import free_memory
from arriero.prompt import Rendered
from arriero.training.attention import UnsupportedAttentionError
from arriero.training.kernels import Kernels
from arriero.training.options import TrainOptions
from arriero.training.planning import mode as modes
from arriero.training.planning.plan import Cost, Need, Plan, make, measure
from arriero.training.setup.verify import Verification, verify
from arriero.training.steps import Steps

log = logging.getLogger(__name__)
PROBE_TOKENS = 512


@dataclass(frozen=True, slots=True)
class StepSetup:
    """How a run computes, and what the check of its first step said (None: not asked for)."""

    steps: Steps
    verification: Verification | None


def set_up(model: Any, step: Sequence[Rendered], longest: int, options: TrainOptions, plan: Plan | None) -> StepSetup:
    """Decide how `model` (PEFT's) computes steps like `step`; `plan` is an earlier decision to keep to.

    `longest` is the longest example in tokens. Raises UsageError where sharing is demanded and impossible.
    """
    model.train()
    kernels = Kernels(model)
    if plan is None:
        chosen = modes.choose(model.get_base_model(), options.prefix_sharing, longest)
        chosen, cost = _measured(model, kernels, chosen, step)
        recompute = options.recompute if model.get_base_model().supports_gradient_checkpointing else "off"
        need = Need(longest, sum(len(example.ids) for example in step), options.row_tokens, recompute)
        plan = make(chosen, cost, need, model.device.type, free_memory())
    steps = Steps(model, plan, kernels)
    _announce(steps, options)
    if not options.verify:
        return StepSetup(steps, None)
    try:
        verification = verify(steps, step)
    except torch.OutOfMemoryError:
        log.warning("the first step could not be checked: the plain computation does not fit into memory")
        return StepSetup(steps, None)
    if not verification.passed:
        log.warning(
            "the first step's gradients differ by %.2g from the plain computation (loss by %.2g; rounding explains "
            "%.2g): falling back to padded batches with the model's own code",
            verification.gradient_difference,
            verification.loss_difference,
            verification.tolerance,
        )
        padded = modes.Mode("padded", "the check of the first step failed", own_attention=False)
        steps = Steps(model, replace(plan, mode=padded), Kernels(None))
        return StepSetup(steps, replace(verification, fell_back=True))
    log.info(
        "checked the first step against the plain computation: gradients %.1e apart", verification.gradient_difference
    )
    return StepSetup(steps, verification)


def _measured(model: Any, kernels: Kernels, mode: modes.Mode, step: Sequence[Rendered]) -> tuple[modes.Mode, Cost]:
    """What a token costs; a mode that the model turns out not to support gives way to padding."""
    some = sorted(step, key=lambda example: len(example.ids), reverse=True)
    tokens = [sum(len(example.ids) for example in some[: count + 1]) for count in range(len(some))]
    some = some[: max(1, sum(total <= PROBE_TOKENS for total in tokens))]
    layers = model.config.get_text_config().num_hidden_layers
    while True:
        steps = Steps(model, Plan(mode, 1 << 30, layers), kernels)
        try:
            with steps.active():
                return mode, measure(model, partial(steps.loss, some), steps.computed(some))
        except UnsupportedAttentionError as error:
            mode = modes.Mode("padded", str(error), own_attention=False)


def _announce(steps: Steps, options: TrainOptions) -> None:
    plan = steps.plan
    words = {
        "shared": "packed rows, common prefixes computed once",
        "packed": "packed rows",
        "padded": "padded batches",
    }
    log.info("computing %s: %s", words[plan.mode.name], plan.mode.reason)
    log.info(
        "memory: rows of up to %d tokens, recomputation %s; %s (%.1f of %.1f GB free)",
        plan.row_tokens,
        plan.checkpointing if plan.checkpointing != "some" else f"of {plan.recomputed} of {plan.layers} layers",
        plan.reason,
        plan.estimated_bytes / 1e9,
        plan.available_bytes / 1e9,
    )
    if options.dropout and plan.mode.share:
        log.info("dropout: the examples of a row share one mask over their common prefix, instead of drawing one each")
