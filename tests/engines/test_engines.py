"""Both engines: what they refuse, how they end, and that a model directory cannot run code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import jsonschema
import pytest

from arriero.chat import load
from arriero.constraint import JsonSchema, Series, Text
from arriero.engines import EngineOptions, load_engine
from arriero.errors import ArrieroError, EngineError
from arriero.messages import Sampling
from arriero.prompt import resolve
from tests.conftest import build_tokenizer

PLAIN = Sampling(top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0)
GREEDY = Sampling(temperature=0.0).over(PLAIN)
RANDOM = Sampling(temperature=1.0, top_p=0.9, top_k=20, repetition_penalty=1.1, seed=7).over(PLAIN)
PROMPT = [1, 4, 110, 111, 2, 5]
ENGINES = ["transformers", "openvino"]


@pytest.fixture(scope="module", params=ENGINES)
def engine(request, model_dir):
    made = load_engine(model_dir, (2,), engine=request.param)
    yield made
    made.close()


def ids(engine, sampling, count=12):
    generation = engine.submit(PROMPT, sampling, max_new_tokens=count)
    return list(generation)


def test_the_same_seed_gives_the_same_answer_and_another_one_another(engine):
    assert ids(engine, RANDOM) == ids(engine, RANDOM)
    others = {tuple(ids(engine, Sampling(temperature=2.0, seed=n).over(PLAIN))) for n in range(4)}
    assert len(others) > 1


def test_top_p_0_is_greedy(engine):
    """OpenVINO refuses it, and the refusal once hung this request and all that waited with it."""
    narrow = Sampling(temperature=1.0, top_p=0.0).over(PLAIN)
    assert ids(engine, narrow) == ids(engine, GREEDY)


def expected_scores(model_dir, adapter, ids):
    """Hugging Face's own log-probabilities of all ids but the first: (ids - 1, vocabulary)."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    with torch.inference_mode():
        return model.eval()(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)


def check_scores(generation, ids, expected):
    best = expected.topk(2).indices.tolist()
    assert [entry.token_id for entry in generation.prompt_logprobs] == ids[1:]
    for row, entry in enumerate(generation.prompt_logprobs):
        assert entry.logprob == pytest.approx(float(expected[row, entry.token_id]), abs=1e-3)
        assert [token for token, _ in entry.top] == best[row]


@pytest.mark.parametrize("name", ENGINES)
def test_a_prompts_log_probabilities_are_hugging_faces(name, model_dir, trained_adapter):
    """Of several prompts of different lengths at once, with and without an answer, for base and adapter."""
    long = [1, *(6 + (7 * n * n) % 250 for n in range(200))]
    made = load_engine(model_dir, (2,), engine=name, options=EngineOptions(precision="float32"))
    try:
        for directory in (None, trained_adapter):
            handle = None if directory is None else made.load_adapter(directory)
            options = {"adapter": handle, "logprobs": 2, "prompt_logprobs": True}
            prompts = [long, PROMPT, long[:70], [1]]
            begun = [made.submit(prompt, GREEDY, max_new_tokens=n % 2, **options) for n, prompt in enumerate(prompts)]
            for number, (prompt, generation) in enumerate(zip(prompts, begun, strict=True)):
                assert len(list(generation)) == number % 2
                assert generation.finish_reason in ("length", "stop")
                check_scores(generation, prompt, expected_scores(model_dir, directory, prompt))
        plain = made.submit(PROMPT, GREEDY, max_new_tokens=2, logprobs=1)
        assert list(plain)
        assert plain.prompt_logprobs == []
    finally:
        made.close()


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize("name", ENGINES)
def test_the_embedded_models_scores_are_hugging_faces(name, embedded_model):
    found = resolve(embedded_model)
    ids = found.renderer.tokenizer.encode("The capital of France is Paris, and that of Peru is Lima. " * 40)
    options = EngineOptions(precision="float32")
    made = load_engine(embedded_model, found.renderer.stop_token_ids, engine=name, options=options)
    try:
        generation = made.submit(ids, GREEDY, max_new_tokens=0, logprobs=0, prompt_logprobs=True)
        assert list(generation) == []
    finally:
        made.close()
    expected = expected_scores(embedded_model, None, ids)
    scores = [entry.logprob for entry in generation.prompt_logprobs]
    assert scores == pytest.approx(expected[range(len(ids) - 1), ids[1:]].tolist(), abs=1e-3)


def test_a_request_the_pipeline_refuses_fails_alone(engine):
    good = [engine.submit(PROMPT, GREEDY, max_new_tokens=5) for _ in range(3)]
    with pytest.raises(ArrieroError):
        list(engine.submit([], GREEDY, max_new_tokens=5))
    assert [len(list(generation)) for generation in good] == [5, 5, 5]


def test_cancelling_ends_the_stream(engine):
    """On a busy machine the reader may get its turn only after the whole answer."""
    for _ in range(20):
        generation = engine.submit(PROMPT, GREEDY, max_new_tokens=200)
        stream = iter(generation)
        next(stream)
        generation.cancel()
        list(stream)
        if generation.finish_reason != "length":
            break
    assert generation.finish_reason in ("cancelled", "stop")
    assert ids(engine, GREEDY, 3), "the engine goes on"


def test_closing_ends_what_runs_and_what_waits(model_dir):
    """transformers once finished everything in its queue first."""
    for name in ENGINES:
        engine = load_engine(model_dir, (2,), engine=name)
        waiting = [engine.submit(PROMPT, GREEDY, max_new_tokens=200) for _ in range(6)]
        engine.close()
        for generation in waiting:
            list(generation)
        assert waiting[-1].finish_reason == "cancelled"
        assert len(list(waiting[-1])) < 200
        with pytest.raises(EngineError, match="closed"):
            engine.submit(PROMPT, GREEDY, max_new_tokens=1)


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize(("name", "precision"), [("openvino", "int8"), ("transformers", "bfloat16")])
def test_a_deterministic_answer_is_the_same_alone_and_in_a_crowd(name, precision, embedded_model):
    """Most greedy answers of the embedded model differ without it: other kernels, and other rounding, for batches."""
    options = EngineOptions(precision=precision, deterministic=True)
    engine = load_engine(embedded_model, (2,), name, options)
    renderer = resolve(embedded_model).renderer
    topics = ["llamas", "the sea at night", "why bread rises", "a walk in the mountains", "rust", "two friends", "tea"]
    prompts = [renderer.prompt([{"role": "user", "content": f"Tell me about {topic}."}]) for topic in topics]
    try:
        alone = [list(engine.submit(prompt, GREEDY, max_new_tokens=32)) for prompt in prompts]
        for order in (prompts, prompts[::-1]):
            crowd = [engine.submit(prompt, GREEDY, max_new_tokens=32) for prompt in order]
            found = [list(generation) for generation in crowd]
            assert found == (alone if order is prompts else alone[::-1])
    finally:
        engine.close()


def test_code_that_comes_with_a_model_is_never_run(model_dir, rows_file, tmp_path):
    """transformers asks on standard input whether to run it, unless it is told not to."""
    evil = tmp_path / "evil"
    shutil.copytree(model_dir, evil)
    witness = tmp_path / "witness"
    (evil / "modeling_evil.py").write_text(f"open({str(witness)!r}, 'w')\n")
    config = json.loads((evil / "config.json").read_text())
    classes = {"AutoConfig": "modeling_evil.EvilConfig", "AutoModelForCausalLM": "modeling_evil.Evil"}
    (evil / "config.json").write_text(json.dumps({**config, "model_type": "evil", "auto_map": classes}))
    verbs = [["ask", "hi", "--engine", name] for name in ENGINES]
    verbs.append(["train", str(rows_file), "--output", str(tmp_path / "o")])
    commands = [[*verb, "--model", str(evil)] for verb in verbs]
    code = f"from arriero.cli.main import main\nprint([main(command) for command in {commands}])"
    done = subprocess.run(
        [sys.executable, "-c", code], input="y\n" * 15, capture_output=True, text=True, check=False, timeout=100
    )
    assert not witness.exists()
    assert done.stdout == "[1, 1, 1]\n", done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ENGINES)
def test_damaged_weights_are_an_error_that_says_so(home, model_dir, trained_adapter, tmp_path, name):
    broken = tmp_path / "broken"
    shutil.copytree(model_dir, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ArrieroError, match="broken cannot be loaded"):
        load(broken, engine=name)
    adapter = tmp_path / "adapter"
    shutil.copytree(trained_adapter, adapter)
    (adapter / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(ArrieroError, match="adapter"):
        load(model_dir, adapter=adapter, engine=name)
    (adapter / "adapter_config.json").write_text("{")
    with pytest.raises(ArrieroError):
        load(model_dir, adapter=adapter, engine=name)


def test_the_context_window_comes_from_the_config_or_is_asked_for(model_dir, tmp_path):
    from arriero import hub

    assert hub.window(model_dir) == 256
    (tmp_path / "config.json").write_text('{"n_positions": 1024}')
    assert hub.window(tmp_path) == 1024
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ArrieroError, match="how many tokens"):
        hub.window(tmp_path)


FORM = {
    "type": "object",
    "properties": {"name": {"const": "weather"}, "days": {"enum": [[1], [1, 2]]}},
    "required": ["name", "days"],
    "additionalProperties": False,
}


def test_a_constrained_answer_never_writes_blanks_to_its_limit(engine):
    """At temperature 1.5 vLLM did: below 1.8 llguidance does not keep to `whitespace_pattern`, and 40 were many."""
    constraint = Series((Text("<call>\n"), JsonSchema(FORM), Text("</call>")))
    blanks = tuple((6 + ord(blank), 100.0) for blank in " \n\t")
    wild = [
        Sampling(temperature=1.5, seed=seed, logit_bias=bias).over(PLAIN) for seed in range(4) for bias in ((), blanks)
    ]
    answers = [engine.submit(PROMPT, one, max_new_tokens=240, constraint=constraint) for one in wild]
    for answer in answers:
        text = build_tokenizer().decode(list(answer), skip_special_tokens=True)
        assert answer.finish_reason == "stop"
        assert max(map(len, re.findall(r"\s+", text))) <= 25
        jsonschema.validate(json.loads(text.removeprefix("<call>\n").removesuffix("</call>")), FORM)
