"""Each architecture from training to merged model: as plain PEFT learns and answers, in float32, or refused by name."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from arriero import hub
from arriero.engines import EngineOptions, load_engine
from arriero.errors import EngineError
from arriero.messages import Sampling
from arriero.training.adapter.merge import merge
from arriero.training.kernels import Kernels
from arriero.training.lora import with_lora
from arriero.training.options import TrainOptions
from arriero.training.planning.mode import Mode
from arriero.training.planning.plan import Plan
from arriero.training.setup.step_setup import set_up
from arriero.training.steps import Steps
from tests.conftest import train_tiny
from tests.models.kinds import KINDS, build
from tests.models.table import record, write
from tests.training.test_exactness import GROUP
from tests.training.test_kernels import by_name, taken

PLAIN = Sampling(top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0)
GREEDY = Sampling(temperature=0.0).over(PLAIN)
PROMPT, COUNT, END = [1, 4, 110, 111, 2, 5], 8, 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_does_what_the_table_says(kind, tmp_path, home, rows_file):
    model_dir = build(kind, tmp_path / kind)
    row, why = learns(model_dir)
    adapter = train_tiny(rows_file, model_dir, tmp_path / "run", epochs=2)
    check = hub.read_json(adapter / "report.json")["verify"]
    assert not check["fell_back"], check
    answers = {None: greedy(hub.load_weights(model_dir)), adapter: greedy(tuned(model_dir, adapter))}
    assert answers[None] != answers[adapter], "or the answers below show nothing"
    for name in ("transformers", "openvino"):
        reason = answers_as(name, model_dir, answers)
        row[name] = "no" if reason else "yes"
        why += [f"{name}: {reason}"] if reason else []
    receipt = merge(adapter, tmp_path / "merged", model=model_dir)
    assert receipt.max_logit_difference < 1e-4
    assert greedy(hub.load_weights(tmp_path / "merged")) == answers[adapter]
    measured = row | {"merge": "yes", "why": "; ".join(why)}
    assert "\n" not in measured["why"], "a sentence for each"
    if os.environ.get("ARRIERO_RECORD"):
        write(kind, measured)
    assert measured == record()[kind]


def learns(model_dir):
    """Which modes compute what plain PEFT does, example by example; and why not the others."""
    model = with_lora(model_dir, TrainOptions(rank=4), torch.float32)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    loss, gradients = by_name(model.train(), GROUP)
    row, why = {}, []
    for name in ("shared", "packed", "padded"):
        steps = steps_in(model, name)
        row[name] = "yes" if steps.plan.mode.name == name else "no"
        if row[name] == "no":
            why = [steps.plan.mode.reason]
            continue
        assert steps.backward(GROUP).loss.item() == pytest.approx(loss, rel=1e-5)
        ours = taken(model)
        assert ours.keys() == gradients.keys(), "a matrix of the language model that learns nothing, or another one"
        apart = sum((ours[name] - own).norm() ** 2 for name, own in gradients.items()) ** 0.5
        assert apart <= 1e-4 * sum(own.norm() ** 2 for own in gradients.values()) ** 0.5
    return row, why


def steps_in(model, name):
    """The steps that a run would compute with sharing or without; or in padded batches, whatever it would choose."""
    if name == "padded":
        return Steps(model, Plan(Mode("padded", "", own_attention=False), 64, 2), Kernels(model))
    options = TrainOptions(verify=False, prefix_sharing="auto" if name == "shared" else "off")
    return set_up(model, GROUP, 10, options, None).steps


def tuned(model_dir, adapter):
    """Plain PEFT, in the model's own code."""
    from peft import PeftModel

    return PeftModel.from_pretrained(hub.load_weights(model_dir), adapter)


@torch.no_grad()
def greedy(model, prompt=PROMPT):
    """The argmax again and again, of the whole text each time."""
    ids = list(prompt)
    while len(ids) < len(prompt) + COUNT and END not in ids[len(prompt) :]:
        ids.append(int(model.eval()(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def answers_as(name, model_dir, answers):
    """Why an engine refuses the model; None where it answers as expected, base and adapter."""
    try:
        engine = load_engine(model_dir, [END], name, EngineOptions(precision="float32"))
    except EngineError as refused:
        return refused.message.partition(": ")[2].partition(" over ")[0]
    try:
        for directory, expected in answers.items():
            handle = None if directory is None else engine.load_adapter(directory)
            assert list(engine.submit(PROMPT, GREEDY, max_new_tokens=COUNT, adapter=handle)) == expected
    finally:
        engine.close()
    return None
