"""The same ids as transformers' own generate gives, for every kind of KV cache."""

from __future__ import annotations

import random
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from arriero.engines.transformers import scheduler
from arriero.errors import UnsupportedError
from tests.engines.transformers.support import (
    GREEDY,
    KINDS,
    generated,
    model_in,
    prompts,
    random_model,
)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_cache_answers_as_generate_does(make, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "CHUNK", 16)
    model = random_model(tmp_path, kind)
    asked = prompts(8, longest=40)
    engine = make(tmp_path, precision="float32")
    answers = [engine.submit(ids, GREEDY, max_new_tokens=limit) for ids, limit in asked]
    assert [list(answer) for answer in answers] == [generated(model, *each) for each in asked]
    assert ("not batched" in engine.description) == (kind != "gpt2")


def test_padding_stays_inside_a_sliding_window(make, tmp_path):
    """64 positions are padded to 72 elsewhere; here the first seven would fall out of the last one's sight."""
    model = random_model(tmp_path, "gemma2", sliding_window=65)
    engine = make(tmp_path, precision="float32")
    rng = random.Random(0)
    asked = [[rng.randrange(3, 262) for _ in range(63)] for _ in range(20)]
    answers = [engine.submit(ids, GREEDY, max_new_tokens=2) for ids in asked]
    assert [list(answer) for answer in answers] == [generated(model, ids, 2) for ids in asked]


def test_many_at_once_answer_as_each_alone(make, model_dir, model):
    """Sequences join and leave a running batch at every step, and prompts are longer than one chunk of prefill."""
    stop = tuple(range(2, 20))
    engine = make(model_dir, stop=stop)
    asked = [*prompts(60, longest=60), *prompts(10, longest=700, seed=1)]
    answers = [engine.submit(ids, GREEDY, max_new_tokens=limit) for ids, limit in asked]
    expected = [generated(model, *each, eos_token_id=list(stop)) for each in asked]
    assert [list(answer) for answer in answers] == expected
    alone = [list(engine.submit(ids, GREEDY, max_new_tokens=limit)) for ids, limit in asked[:8]]
    assert alone == expected[:8]
    reasons = ["stop" if ids[-1] in stop else "length" for ids in expected]
    assert [answer.finish_reason for answer in answers] == reasons
    assert {"stop", "length"} == set(reasons)


@pytest.mark.slow
@pytest.mark.model
def test_the_embedded_model_answers_as_generate_does(make, embedded_model):
    from arriero.prompt import load_tokenizer

    tokenizer = load_tokenizer(embedded_model)
    asked = ["What is the capital of France?", "Count to five.", "Hello!", "Write a line about llamas." * 8]
    ids = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)["input_ids"]
        for text in asked
    ]
    engine = make(embedded_model, precision="float32")
    answers = [engine.submit(each, GREEDY, max_new_tokens=24) for each in ids]
    model = model_in(engine)
    assert [list(answer) for answer in answers] == [generated(model, each, 24) for each in ids]


def test_precision(make, model_dir):
    assert make(model_dir, precision="bfloat16").description == "transformers, cpu, bfloat16"
    with pytest.raises(UnsupportedError, match="precision int8"):
        make(model_dir, precision="int8")


def test_float16_is_not_computed_on_a_cpu(make, model_dir, tmp_path):
    copied = shutil.copytree(model_dir, tmp_path / "half")
    AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float16).save_pretrained(copied)
    assert "float16" in (copied / "config.json").read_text()
    assert make(copied).description in ("transformers, cpu, bfloat16", "transformers, cpu, float32")
