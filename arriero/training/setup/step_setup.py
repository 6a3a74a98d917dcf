"""From a model and a step's examples to `Steps`: mode, pieces, plan and proof, announced with reasons."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from arriero.errors import ArrieroError
from arriero.hardware import free_memory
from arriero.prompt import Rendered
from arriero.training import workers
from arriero.training.attention import UnsupportedAttentionError
from arriero.training.kernels import Kernels
from arriero.training.kernels.probing import filled
from arriero.training.kernels.varlen import newest_flash
from arriero.training.options import TrainOptions
from arriero.training.planning import mode as modes
from arriero.training.planning.plan import Cost, Need, Plan, kept_bytes, make
from arriero.training.setup.graph_setup import add_graphs
from arriero.training.setup.trace import Sample, Trace, trace
from arriero.training.setup.verify import Reference, Verification, failed, reference, samples, verify
from arriero.training.steps import Steps

log = logging.getLogger(__name__)
UNBOUNDED = 1 << 30  # tokens of a row


@dataclass(frozen=True, slots=True)
class StepSetup:
    """How a run computes, and what the check of its first step said (None: not asked for, or there was no memory)."""

    steps: Steps
    verification: Verification | None


def set_up(model: Any, step: Sequence[Rendered], longest: int, options: TrainOptions, plan: Plan | None) -> StepSetup:
    """Decide how `model` (PEFT's) computes steps like `step`; `plan` is an earlier decision to keep to.

    `longest` is the longest example in tokens. Leaves parameters, gradients and random state as they were. Raises
    UsageError where sharing or graphs are demanded and impossible.
    """
    model.train()
    if model.device.type == "cuda":
        log.info("attention: %s", newest_flash(torch.cuda.get_device_capability(model.device)[0]))
    if plan is not None and not plan.fused:
        return StepSetup(Steps(model, plan, Kernels(None)), Verification(where=plan.mode.reason, fell_back=True))
    mode = plan.mode if plan is not None else modes.choose(model.get_base_model(), options.prefix_sharing, longest)
    tried = samples(step, model)
    with filled(model):
        plain = _reference(model, tried) if options.verify else None
        steps, traces, per_token = _traced(model, mode, tried, plain)
        verification = verify(model, tried, plain, traces)
    if plan is None:
        recompute = options.recompute if model.get_base_model().supports_gradient_checkpointing else "off"
        need = Need(longest, sum(len(example.ids) for example in step), options.row_tokens, recompute)
        if options.dropout:
            per_token = max(per_token, _kept_per_token(steps, tried[0]))
        cost = Cost.of_model(model, int(per_token))
        plan = make(steps.plan.mode, cost, need, model.device.type, free_memory())
    # a step is split alike in all workers, by the plan that every one of them can keep to
    plan = min(workers.gathered(plan if steps.plan.fused else plan.plainly(steps.plan.mode.reason)), key=_size)
    steps.apply(plan)
    if not steps.plan.fused and options.verify:
        verification = Verification(where=steps.plan.mode.reason, fell_back=True)
    _announce(steps, options)
    setup = _checked(steps, verification)
    add_graphs(steps, options)
    return setup


def _size(plan: Plan) -> tuple[bool, int, int]:
    """Smaller plans go first."""
    return plan.fused, plan.row_tokens, -plan.recomputed


def _reference(model: Any, tried: Sequence[Sample]) -> Reference | None:
    try:
        with _own_code():
            return reference(model, tried)
    except torch.OutOfMemoryError:
        log.warning("the first step cannot be checked: the plain computation does not fit into memory")
        return None


@contextmanager
def _own_code() -> Iterator[None]:
    """What is computed here has nothing of ours in it: whatever it raises is reported as the model's fault."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        message = str(error).partition("\n")[0]
        raise ArrieroError(
            f"the model cannot compute the first step: its own code raises {type(error).__name__}: {message}",
            hint="see whether its config.json fits its weights: arriero models verify, or download it again",
        ) from error


def _traced(
    model: Any, mode: modes.Mode, tried: Sequence[Sample], plain: Reference | None
) -> tuple[Steps, list[Trace], float]:
    """Steps that `model` supports, what they compute for the samples, and the bytes that a token keeps by that.

    No traces where only the plain way works.
    """
    layers = model.config.get_text_config().num_hidden_layers
    steps = Steps(model, Plan(mode, UNBOUNDED, layers), Kernels(model))
    while True:
        traces, per_token = list[Trace](), 0.0
        try:
            for number, sample in enumerate(tried):
                states = plain.traces[number].given if plain is not None else None
                with kept_bytes(model) as kept:
                    traces.append(trace(steps, sample, states, backward=plain is not None))
                whole = sum(kept.values()) / traces[-1].tokens * layers / (sample.depth or layers)
                per_token = max(per_token, whole)
        except UnsupportedAttentionError as error:
            steps.apply(Plan(modes.Mode("padded", str(error), own_attention=False), UNBOUNDED, layers))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a model does that a fused piece or packed row is not made for
            if steps.fused:
                model.zero_grad(set_to_none=True)
                steps.fall_back(error)
            with _own_code():
                return steps, [], _kept_per_token(steps, tried[0])
        else:
            return steps, traces, per_token


def _kept_per_token(steps: Steps, sample: Sample) -> float:
    """Bytes, by a pass of its own: where the check has had none, or had no dropout, whose masks are kept."""
    with steps.active(), kept_bytes(steps.model) as kept:
        steps.loss(sample.examples)
    return sum(kept.values()) / steps.computed(sample.examples)


def _checked(steps: Steps, verification: Verification | None) -> StepSetup:
    """The steps, or the plain ones where the check found a fault."""
    if verification is None or verification.fell_back:
        return StepSetup(steps, verification)
    if verification.passed:
        log.info(
            "checked the first step against the plain computation: gradients %.1e apart, at most %.1f times what "
            "rounding explains",
            verification.gradient_difference,
            verification.worst,
        )
        return StepSetup(steps, verification)
    log.warning(
        "the first step differs from the plain computation (%s: %.3g times what rounding explains; gradients %.2g "
        "apart; gradient between examples %.2g): falling back to padded batches with the model's own code",
        verification.where,
        verification.worst,
        verification.gradient_difference,
        verification.leaked,
    )
    steps.apply(steps.plan.plainly("the check of the first step failed"))
    return StepSetup(steps, failed(verification))


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
