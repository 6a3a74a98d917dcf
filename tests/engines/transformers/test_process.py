"""The transformers engine in a process of its own answers as it does in this one, over deaths of the process too."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import shutil
import signal
import subprocess
import sys

import psutil
import pytest

from arriero.constraint import Choice, JsonSchema, Text
from arriero.engines import EngineOptions, load_engine
from arriero.engines.registry import DEFAULT_OPTIONS
from arriero.engines.transformers.process import TransformersProcess
from arriero.engines.transformers.worker import load_same
from arriero.errors import EngineError, EngineLostError, NotFoundError, UnsupportedError, UsageError
from arriero.messages import Sampling
from arriero.prompt import resolve

PLAIN = Sampling(top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0)
GREEDY = Sampling(temperature=0.0).over(PLAIN)
ENDLESS = Sampling(logit_bias=((2, -100.0),)).over(GREEDY)
PROMPT = [1, 4, 110, 111, 2, 5]


@pytest.fixture(scope="module")
def both(model_dir):
    """The engine here and in a process of its own, in this order."""
    made = [
        load_engine(model_dir, (2,), "transformers", EngineOptions(precision="float32", process=apart))
        for apart in (False, True)
    ]
    yield made
    for engine in made:
        engine.close()


@pytest.fixture(scope="module")
def apart(both):
    return both[1]


def told(generation):
    """All that a reader gets."""
    ids = list(generation)
    return ids, generation.finish_reason, generation.logprobs, generation.prompt_logprobs


def asked(seed):
    """A request of its own kind: any length, greedy or not, with any of the features."""
    rng = random.Random(seed)
    prompt = [rng.randrange(3, 262) for _ in range(rng.choice([1, 9, 60]))]
    sampling = rng.choice(
        [
            GREEDY,
            ENDLESS,
            Sampling(temperature=1.3, top_p=0.9, seed=seed).over(PLAIN),
            Sampling(repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.2).over(GREEDY),
        ]
    )
    extras = [{}, {"logprobs": 0}, {"logprobs": 3, "prompt_logprobs": True}]
    extras += [{"constraint": Choice((Text("yes"), JsonSchema({"type": "boolean"})))}]
    return prompt, sampling, {"max_new_tokens": rng.choice([1, 7, 30]), **rng.choice(extras)}


@pytest.mark.parametrize("deterministic", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_it_answers_as_in_this_process(deterministic, both, model_dir):
    """Ids, reasons, log-probabilities of answers and prompts, seeds, constraints, many at once."""
    engines = both
    if deterministic:
        options = EngineOptions(precision="float32", deterministic=True)
        engines = [TransformersProcess(model_dir, (2,), options), both[0]]
        assert "not batched" in engines[0].description
    requests = [asked(seed) for seed in range(40)]
    here, there = (
        [told(one) for one in [engine.submit(ids, sampling, **extras) for ids, sampling, extras in requests]]
        for engine in engines
    )
    for one, other in zip(here, there, strict=True):
        assert one[:2] == other[:2]
        for ours, theirs in zip(one[2] + one[3], other[2] + other[3], strict=True):
            assert ours.token_id == theirs.token_id
            assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-4)
            assert [token for token, _ in ours.top] == [token for token, _ in theirs.top]
    assert {each[1] for each in here} == {"stop", "length"}
    if deterministic:
        engines[0].close()
    else:
        assert both[0].description == both[1].description


def test_scoring_alone_and_what_is_refused(both, tmp_path):
    scores = [
        told(engine.submit(PROMPT, GREEDY, max_new_tokens=0, logprobs=0, prompt_logprobs=True)) for engine in both
    ]
    assert scores[0][:2] == scores[1][:2] == ([], "length")
    assert [entry.token_id for entry in scores[1][3]] == PROMPT[1:]
    for engine in both:
        with pytest.raises(UsageError, match="the prompt has the token id 262, but the model's ids go from 0 to 261"):
            engine.submit([262], GREEDY, max_new_tokens=1)
        with pytest.raises(UsageError, match="the schema cannot be used: Unknown format"):
            engine.submit(PROMPT, GREEDY, max_new_tokens=1, constraint=JsonSchema({"format": "foo"}))
        with pytest.raises(NotFoundError):
            engine.load_adapter(tmp_path / "nowhere")


def test_cancelling_reaches_the_process(apart):
    """More tokens than there is time for, if it did not."""
    generations = [apart.submit(PROMPT, ENDLESS, max_new_tokens=10**6) for _ in range(3)]
    stream = iter(generations[0])
    next(stream)
    for generation in generations:
        generation.cancel()
    for generation in generations:
        assert len(list(generation)) < 10**6
        assert generation.finish_reason == "cancelled"


def test_it_starts_again_with_its_adapters_where_it_died(both, model_dir, trained_adapter, other_adapter, tmp_path):
    directory = shutil.copytree(trained_adapter, tmp_path / "best")
    here, there = both
    expected = list(here.submit(PROMPT, GREEDY, max_new_tokens=20, adapter=here.load_adapter(directory)))
    base = list(here.submit(PROMPT, GREEDY, max_new_tokens=20))
    assert expected != base
    adapter, changed = there.load_adapter(directory), there.load_adapter(other_adapter)
    begun = [there.submit(PROMPT, ENDLESS, max_new_tokens=10**6, adapter=one) for one in (None, adapter)]
    assert all(next(iter(each)) for each in begun)
    os.kill(there._link.process.pid, signal.SIGKILL)
    for each in begun:
        with pytest.raises(EngineLostError, match=r"engine's process was ended by signal 9 \(Killed\)"):
            list(each)
    with (other_adapter / "adapter_model.safetensors").open("ab") as file:
        file.write(b"\0")
    answers = [there.submit(PROMPT, GREEDY, max_new_tokens=20, adapter=one) for one in (adapter, None, changed)]
    assert [list(each) for each in answers[:2]] == [expected, base]
    with pytest.raises(EngineError, match="has changed since it was loaded"):
        list(answers[2])


@pytest.fixture
def other_adapter(trained_adapter, tmp_path):
    return shutil.copytree(trained_adapter, tmp_path / "other")


def test_an_adapter_that_is_let_go_of_ends_what_it_began_and_is_freed(both, trained_adapter):
    here, there = both
    expected = list(here.submit(PROMPT, ENDLESS, max_new_tokens=100, adapter=here.load_adapter(trained_adapter)))
    handle = there.load_adapter(trained_adapter)
    begun = there.submit(PROMPT, ENDLESS, max_new_tokens=100, adapter=handle)
    del handle
    gc.collect()
    assert list(there._adapters) == []
    assert list(begun) == expected
    assert list(there.submit(PROMPT, GREEDY, max_new_tokens=5)) == list(here.submit(PROMPT, GREEDY, max_new_tokens=5))


@pytest.mark.slow
@pytest.mark.model
def test_the_embedded_model_answers_greedily_as_in_this_process(embedded_model):
    renderer = resolve(embedded_model).renderer
    asked = ["What is the capital of France?", "Count to five.", "Hello!", "Write a line about llamas." * 8]
    prompts = [renderer.prompt([{"role": "user", "content": text}]) for text in asked]
    answers = []
    for apart in (False, True):
        options = EngineOptions(precision="float32", process=apart)
        engine = load_engine(embedded_model, renderer.stop_token_ids, "transformers", options)
        try:
            begun = [engine.submit(prompt, GREEDY, max_new_tokens=24) for prompt in prompts]
            answers.append([list(each) for each in begun])
        finally:
            engine.close()
    assert answers[0] == answers[1]


def test_files_that_have_changed_are_not_taken_for_the_model_that_was_loaded(model_dir):
    """A worker that is started anew loads whatever lies there by then."""
    with pytest.raises(EngineError, match="tiny has changed since it was loaded"):
        load_same(model_dir, {}, (2,), DEFAULT_OPTIONS)


@pytest.mark.slow
def test_what_cannot_be_loaded_is_the_same_error_as_in_this_process(model_dir):
    with pytest.raises(UnsupportedError, match="precision int8") as raised:
        TransformersProcess(model_dir, (2,), EngineOptions(precision="int8"))
    assert raised.value.feature == "precision int8"
    assert raised.value.hint == "use --engine openvino"


SCRIPT = """
import os, sys
from arriero.chat import load
chat = load(sys.argv[1], engine="transformers", precision="float32", process=True)
begun = chat.engine.submit([1, 4, 5], chat.defaults, max_new_tokens=200)
next(iter(begun))
assert "torch" not in sys.modules
print(chat.engine._link.process.pid, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), 9)", "chat.close()"])
def test_a_script_without_a_guard_leaves_no_process_behind_and_has_no_torch(end, model_dir):
    command = [sys.executable, "-c", SCRIPT + end, model_dir]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == (-9 if "kill" in end else 0), done.stderr
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(done.stdout)).wait(30)
    assert done.stderr == ""
