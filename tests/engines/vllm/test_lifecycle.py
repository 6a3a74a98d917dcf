"""Cancelling, adapters, prompts that are scored, a vLLM that dies, scripts that start one."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from arriero.engines import Adapter, EngineOptions, load_engine
from arriero.errors import ArrieroError, ContextLengthError, EngineError, NotFoundError, UnsupportedError, UsageError
from tests.engines.vllm.support import GREEDY, OTHERS_WARNINGS, WHO, submit

pytest.importorskip("vllm", reason="there is no vLLM here: benchmarks/vllm_engine.sh")
pytestmark = [pytest.mark.slow, pytest.mark.model, pytest.mark.timeout(400), OTHERS_WARNINGS]


def test_cancelling_frees_the_work_while_the_prompt_is_read_and_after(engine, prompts, expected):
    long = prompts[0] * 200
    reading = [submit(engine, long[seed:], replace(GREEDY, seed=seed)) for seed in range(8)]
    for generation in reading:
        generation.cancel()
    assert [list(generation) for generation in reading] == [[]] * 8
    writing = submit(engine, prompts[1], replace(GREEDY, logit_bias=((2, -100.0),)), 4000)
    stream = iter(writing)
    next(stream)
    writing.cancel()
    assert sum(1 for _ in stream) < 3998
    assert {generation.finish_reason for generation in (*reading, writing)} == {"cancelled"}
    assert list(submit(engine, prompts[0])) == expected[None, 0]


def test_what_vllm_refuses_fails_alone(engine, prompts, expected):
    bad = [submit(engine, []), submit(engine, prompts[0], replace(GREEDY, logit_bias=((10**6, 1.0),)))]
    good = submit(engine, prompts[0])
    for generation in bad:
        with pytest.raises(UsageError, match="refuses"):
            list(generation)
    assert list(good) == expected[None, 0]
    with pytest.raises(ContextLengthError):
        submit(engine, [5] * 8190, count=3)
    with pytest.raises(UsageError, match="loaded by another engine"):
        submit(engine, prompts[0], adapter=Adapter(Path("c")))


def test_numbers_that_vllm_dies_of_do_not_reach_it(engine, prompts, expected):
    """With CUDA its process died of 1,025 biases; a top_k beyond 64 bits was an error without a word."""
    many = tuple((token, 0.0) for token in range(1025))
    with pytest.raises(UsageError, match=r"at most 1,024 tokens, got 1,025"):
        submit(engine, prompts[0], replace(GREEDY, logit_bias=many))
    assert list(submit(engine, prompts[0], replace(GREEDY, logit_bias=many[1:], top_k=2**70))) == expected[None, 0]


def test_another_adapter_from_the_same_directory_is_another(engine, prompts, expected, adapters, handles, tmp_path):
    """As after another training into the same directory. What is in flight goes on as it began."""
    place = tmp_path / "run"
    shutil.copytree(adapters["a"], place)
    turn = engine.load_adapter(place)
    assert list(submit(engine, prompts[3], adapter=turn)) == expected["a", 3]
    running = submit(engine, prompts[3], adapter=turn)
    stream = iter(running)
    begun = [next(stream)]
    shutil.rmtree(place)
    shutil.copytree(adapters["b"], place)
    old, turn = weakref.ref(turn), engine.load_adapter(place)
    after = [submit(engine, prompts[index], adapter=turn) for index in (3, 1)]
    assert begun + list(stream) == expected["a", 3]
    assert [list(generation) for generation in after] == [expected["b", 3], expected["b", 1]]
    last = submit(engine, prompts[2], adapter=turn)
    del turn
    assert list(last) == expected["b", 2]
    assert list(submit(engine, prompts[3], adapter=handles["a"])) == expected["a", 3]
    gc.collect()
    assert old() is None


def test_adapters_that_vllm_cannot_do_are_refused_and_harm_nobody(
    engine, prompts, expected, handles, lora, tiny_dir, tmp_path
):
    with pytest.raises(EngineError, match="use_dora"):
        engine.load_adapter(lora(3, use_dora=True))
    with pytest.raises(EngineError, match="rank 64, and vLLM was started for adapters up to rank 32"):
        engine.load_adapter(lora(3, r=64))
    with pytest.raises(NotFoundError, match=r"adapter_model\.safetensors"):
        engine.load_adapter(tmp_path)
    with pytest.raises(ArrieroError, match="made for another model"):  # vLLM itself would not notice
        engine.load_adapter(lora(3, tiny_dir))
    broken = lora(3)
    (broken / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(ArrieroError, match="cannot be loaded"):
        engine.load_adapter(broken)
    assert [list(submit(engine, prompts[0], adapter=handles[who])) for who in WHO] == [expected[who, 0] for who in WHO]


def test_a_prompts_log_probabilities(tiny_dir):
    import torch
    from transformers import AutoModelForCausalLM

    prompt = [1, 4, *range(100, 140)]
    model = AutoModelForCausalLM.from_pretrained(tiny_dir, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = model(torch.tensor([prompt])).logits[0, :-1].log_softmax(-1)
    engine = load_engine(tiny_dir, (2,), "vllm", EngineOptions(precision="float32"))
    try:
        for count in (0, 1):
            generation = submit(engine, prompt, GREEDY, count, logprobs=2, prompt_logprobs=True)
            assert len(list(generation)) == count
            assert [entry.token_id for entry in generation.prompt_logprobs] == prompt[1:]
            for row, entry in enumerate(generation.prompt_logprobs):
                assert entry.logprob == pytest.approx(float(expected[row, entry.token_id]), abs=1e-3)
                assert [token for token, _ in entry.top] == expected[row].topk(2).indices.tolist()
    finally:
        engine.close()


def test_when_vllm_dies_everyone_is_told(tiny_dir, lora):
    adapter = lora(0, tiny_dir)
    before = set(multiprocessing.active_children())
    engine = load_engine(tiny_dir, (2,), "vllm")
    try:
        with pytest.raises(EngineError, match="started for no adapters"):
            engine.load_adapter(adapter)
        endless = replace(GREEDY, logit_bias=((2, -100.0),))
        running = [submit(engine, [1, 4, 100 + index], endless, 4000) for index in range(4)]
        streams = [iter(generation) for generation in running]
        for stream in streams:
            next(stream)
        (child,) = set(multiprocessing.active_children()) - before
        child.kill()
        for stream in streams:
            with pytest.raises(EngineError, match="died"):
                list(stream)
        with pytest.raises(EngineError, match="died"):
            list(submit(engine, [1, 4, 5]))
    finally:
        engine.close()
    with pytest.raises(EngineError, match="closed"):
        submit(engine, [1, 4, 5])


SCRIPT = """
import signal, sys
from pathlib import Path
from arriero.engines import load_engine
from arriero.messages import Sampling

engine = load_engine(Path(sys.argv[1]), (2,), "vllm")  # not under `if __name__ == "__main__"`
options = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
greedy = Sampling(temperature=0.0, presence_penalty=0.0, frequency_penalty=0.0, logit_bias=((2, -100.0),), **options)
stream = iter(engine.submit([1, 4, 100], greedy, max_new_tokens=400))
next(stream)
try:
    print("begun", flush=True)
    signal.pause()
except KeyboardInterrupt:
    print("interrupted", sum(1 for _ in stream))
"""


@pytest.fixture
def script(tiny_dir, tmp_path):
    """Run SCRIPT in a process group of its own, as a terminal does."""
    file = tmp_path / "script.py"
    file.write_text(SCRIPT)

    def run(**environment):
        return subprocess.Popen(
            [sys.executable, file, tiny_dir],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=os.environ | environment,
        )

    return run


def test_scripts_without_a_guard_ctrl_c_and_standard_output(script):
    """The script is not run again by vLLM's processes, which survive Ctrl-C, print nothing and end with it."""
    process = script()
    assert process.stdout.readline() == "begun\n"
    family = psutil.Process(process.pid).children(recursive=True)
    assert family
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, "interrupted 399\n"), err
    assert "Traceback" not in err
    assert psutil.wait_procs(family, timeout=30)[1] == []


def test_ctrl_c_while_vllm_starts_leaves_nothing_behind(script):
    process = script(VLLM_LOGGING_LEVEL="INFO")
    while "EngineCore" not in (line := process.stderr.readline()):  # its process is there, and loading
        assert line, "it ended without having started vLLM"
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) != (0, "")
    assert "KeyboardInterrupt" in err
    assert psutil.wait_procs(family, timeout=30)[1] == []


def test_a_precision_of_other_engines_is_refused(tiny_dir):
    with pytest.raises(UnsupportedError, match="int8"):
        load_engine(tiny_dir, (2,), "vllm", EngineOptions(precision="int8"))


def test_a_model_that_cannot_be_loaded_is_an_error_that_says_so(tiny_dir, tmp_path):
    strange = tmp_path / "strange"
    shutil.copytree(tiny_dir, strange)
    config = json.loads((strange / "config.json").read_text())
    witness = tmp_path / "witness"
    (strange / "modeling_evil.py").write_text(f"open({str(witness)!r}, 'w')\n")
    classes = {"AutoConfig": "modeling_evil.EvilConfig", "AutoModelForCausalLM": "modeling_evil.Evil"}
    (strange / "config.json").write_text(
        json.dumps({**config, "model_type": "evil", "architectures": ["Evil"], "auto_map": classes})
    )
    with pytest.raises(EngineError, match="vLLM cannot load strange"):
        load_engine(strange, (2,), "vllm")
    assert not witness.exists()
