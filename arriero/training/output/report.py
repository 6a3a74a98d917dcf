"""What report.json says of a run: figures, options, plan, data, and what the model said before and says after."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any

from arriero.data import Report
from arriero.hardware import machine
from arriero.prompt import Contract, Renderer
from arriero.training.adapter.completions import GreedyCompletion, greedy_completions
from arriero.training.adapter.measure import measure
from arriero.training.examples import Examples
from arriero.training.options import TrainOptions
from arriero.training.output.directory import TrainReport
from arriero.training.setup.step_setup import StepSetup

log = logging.getLogger(__name__)
ELSEWHERE = ("dropped", "examples", "lengths", "template", "system")  # of the data's report: not repeated here
ANSWER_TOKENS = 96  # most tokens of an answer in the report


@dataclass(frozen=True, slots=True)
class RunContext:
    """What a run is about, known before it begins."""

    contract: Contract
    renderer: Renderer
    examples: Examples
    options: TrainOptions
    data: Report


def describe(context: RunContext, setup: StepSetup, report: TrainReport, state: Any) -> dict[str, Any]:
    """The document but for `compare`; `state` is the Trainer's."""
    contract, plan, seen = context.contract, setup.steps.plan, asdict(context.data)
    best = None if state.best_global_step is None else {"step": state.best_global_step, "eval_loss": state.best_metric}
    dropped = [asdict(drop) for drop in context.examples.dropped]
    return {
        "result": asdict(report),
        "model": contract.base_model,
        "base_fingerprint": contract.base_fingerprint,
        "base_in_4bit": contract.base_in_4bit,
        "system": contract.system,
        "versions": dict(contract.versions),
        "machine": machine(),
        "held_out": context.examples.held_out_rows,
        "dropped": dropped,
        "options": asdict(context.options),
        "plan": {
            "prefix_sharing": "on" if plan.mode.share else "off",
            **{name: value for name, value in asdict(plan).items() if name != "mode"},
            "mode": plan.mode.name,
            "mode_reason": plan.mode.reason,
            "checkpointing": plan.checkpointing,
            "fast": dict(setup.steps.kernels.counts),
            "precision": str(setup.steps.base.dtype).removeprefix("torch."),
        },
        "verify": None if setup.verification is None else asdict(setup.verification),
        "data": {
            **{name: value for name, value in seen.items() if name not in ELSEWHERE},
            "dropped_count": len(dropped),
            "key": context.examples.loaded.key,
        },
        "best": best,
    }


def compare(model: Any, context: RunContext) -> dict[str, Any]:
    """Held-out figures of base and adapter, and their answers to a few held-out prompts."""
    examples = context.examples
    if not examples.held_out:
        return {"evaluation": None, "answers": []}
    stops = context.renderer.stop_token_ids
    chosen = _distinct(examples, context.options.report_answers)
    if chosen:
        log.info("answering %d held-out prompts for the report, before and after", len(chosen))
    prompts = [examples.held_out[index].ids[: examples.held_out[index].loss_spans[-1][0]] for index in chosen]

    def both() -> tuple[dict[str, Any], list[GreedyCompletion]]:
        figures = asdict(measure(model, examples.held_out, stops))
        return figures, greedy_completions(
            model, context.renderer, prompts, stops, max_new_tokens=ANSWER_TOKENS
        ) if prompts else []

    after, said_after = both()
    with model.disable_adapter():
        before, said_before = both()
    conversations = [examples.loaded.conversation(examples.held_out_row_ids[index]) for index in chosen]
    return {
        "evaluation": {"base": before, "adapter": after},
        "answers": [
            {
                "prompt": [asdict(message) for message in conversation.messages[:-1]],
                "expected": conversation.messages[-1].content,
                "before": asdict(old),
                "after": asdict(new),
            }
            for conversation, old, new in zip(conversations, said_before, said_after, strict=True)
        ],
    }


def _distinct(examples: Examples, most: int) -> list[int]:
    """The last examples of the first held-out conversations with different prompts."""
    last = {row_id: index for index, row_id in enumerate(examples.held_out_row_ids)}
    seen: dict[tuple[int, ...], int] = {}
    for row_id, index in last.items():
        example = examples.held_out[index]
        if len(seen) < most and examples.loaded.conversation(row_id).messages:
            seen.setdefault(example.ids[: example.loss_spans[-1][0]], index)
    return list(seen.values())
