"""The vLLM engine over the real vLLM, held against transformers and PEFT in float32.

Where there is no vLLM, all of this is skipped; benchmarks/vllm_engine.sh makes an environment with it, for a CPU too.
"""

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

from arriero.constraint import Choice, JsonSchema, Series, Text
from arriero.engines import Adapter, EngineOptions, load_engine
from arriero.errors import ArrieroError, ContextLengthError, EngineError, NotFoundError, UnsupportedError, UsageError
from arriero.messages import Sampling
from arriero.prompt import Renderer, load_tokenizer, stop_token_ids
from tests.conftest import build_tokenizer

pytest.importorskip("vllm", reason="there is no vLLM here: benchmarks/vllm_engine.sh")
pytestmark = [pytest.mark.slow, pytest.mark.model, pytest.mark.timeout(400)]

GREEDY = Sampling(
    temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0
)
RANDOM = replace(GREEDY, temperature=1.0, top_p=0.95, top_k=50)
QUESTIONS = ["What is the capital of France?", "Name three animals.", "Write a haiku. 你是谁？"]
WHO = (None, "a", "b")
LENGTH = 24


@pytest.fixture(scope="module")
def renderer(embedded_model):
    tokenizer = load_tokenizer(embedded_model)
    return Renderer(tokenizer, stop_token_ids(tokenizer, embedded_model))


@pytest.fixture(scope="module")
def prompts(renderer):
    """The last one is longer than the blocks, 128 tokens each, in which vLLM caches keys and values."""
    found = [renderer.prompt([{"role": "user", "content": question}]) for question in QUESTIONS]
    return [*found, [*range(1000, 1300), *found[1]]]


@pytest.fixture(scope="module")
def lora(embedded_model, tmp_path_factory):
    """Make a PEFT adapter with random weights: `lora(seed, r=8, …)` is its directory."""
    import torch
    from peft import LoraConfig, get_peft_model

    from arriero import hub

    def make(seed: int, model_dir: Path = embedded_model, **options) -> Path:
        chosen = {"r": 8, "lora_alpha": 6, "target_modules": "all-linear", "init_lora_weights": False, **options}
        model = hub.load_weights(model_dir, dtype=torch.float32)
        torch.manual_seed(seed)
        model = get_peft_model(model, LoraConfig(**chosen))
        directory = tmp_path_factory.mktemp("adapters") / "adapter"
        model.save_pretrained(directory)
        return directory

    return make


@pytest.fixture(scope="module")
def adapters(lora):
    """Two adapters, of different rank and scale; b has a layer of its own rank."""
    return {
        "a": lora(1),
        "b": lora(2, r=4, lora_alpha=5, use_rslora=True, rank_pattern={"layers.3.mlp.up_proj": 12}),
    }


@pytest.fixture(scope="module")
def reference(embedded_model, adapters):
    """What transformers and PEFT compute in float32: `reference(who)` is a model with `generate`."""
    import torch

    from arriero import hub

    def load(who):
        model = hub.load_weights(embedded_model, dtype=torch.float32)
        return hub.load_adapter(model, adapters[who]).eval() if who else model.eval()

    return load


@pytest.fixture(scope="module")
def expected(reference, prompts, renderer):
    """(who, question's index) -> the greedy answer of a model that has answered nothing else."""
    import torch
    from transformers import GenerationConfig

    answers = {}
    for who in WHO:
        model = reference(who)
        config = GenerationConfig(max_new_tokens=LENGTH, eos_token_id=list(renderer.stop_token_ids), pad_token_id=0)
        for index, prompt in enumerate(prompts):
            output = model.generate(input_ids=torch.tensor([prompt]), generation_config=config)
            answers[who, index] = output[0, len(prompt) :].tolist()
    for index in range(len(prompts)):
        assert len({tuple(answers[who, index]) for who in WHO}) == 3, "the adapters must make a difference"
    return answers


@pytest.fixture(scope="module")
def engine(embedded_model, renderer, adapters):
    options = EngineOptions(precision="float32", room_for=list(adapters.values()))
    made = load_engine(embedded_model, renderer.stop_token_ids, "vllm", options)
    yield made
    made.close()


@pytest.fixture(scope="module")
def handles(engine, adapters):
    return {None: None, **{name: engine.load_adapter(directory) for name, directory in adapters.items()}}


def submit(engine, prompt, sampling=GREEDY, count=LENGTH, **options):
    return engine.submit(prompt, sampling, max_new_tokens=count, **options)


def test_greedy_answers_are_those_of_the_reference(engine, prompts, expected, handles):
    found = {key: list(submit(engine, prompts[key[1]], adapter=handles[key[0]])) for key in expected}
    assert found == expected


def test_adapters_side_by_side_answer_as_each_alone(engine, prompts, expected, handles):
    """Twice at once, so that base and adapters share steps of the model, and keys and values are found in the cache."""
    jobs = [key for _ in range(2) for key in expected]
    running = [(key, submit(engine, prompts[key[1]], adapter=handles[key[0]])) for key in jobs]
    assert all(list(generation) == expected[key] for key, generation in running)
    for who in (None, "a", None, "b", "a", None):
        assert list(submit(engine, prompts[3], adapter=handles[who])) == expected[who, 3]


def test_stop_and_length_are_told_apart(engine, prompts, expected, renderer):
    ended = submit(engine, prompts[0], count=LENGTH)
    assert list(ended)[-1] in renderer.stop_token_ids
    assert ended.finish_reason == "stop"
    cut = submit(engine, prompts[0], count=3)
    assert list(cut) == expected[None, 0][:3]
    assert (cut.finish_reason, cut.prompt_tokens, cut.completion_tokens) == ("length", len(prompts[0]), 3)


async def test_an_event_loop_reads_it_too(engine, prompts, expected):
    assert [token async for token in submit(engine, prompts[1])] == expected[None, 1]


def test_the_same_seed_gives_the_same_answer_in_any_company(engine, prompts):
    seeded = replace(RANDOM, seed=7)
    alone = list(submit(engine, prompts[1], seeded))
    company = [submit(engine, prompts[1], replace(RANDOM, seed=seed)) for seed in (1, 7, 2, 7, 3)]
    first, *others = [list(generation) for generation in company]
    assert others[0] == others[2] == alone
    assert len({tuple(answer) for answer in (first, *others)}) == 4
    unseeded = {tuple(submit(engine, prompts[1], RANDOM)) for _ in range(4)}
    assert len(unseeded) == 4


@pytest.mark.parametrize("narrow", [{"top_p": 0.0}, {"top_k": 1}, {"min_p": 1.0}])
def test_a_single_candidate_is_the_greedy_one(engine, prompts, expected, narrow):
    assert list(submit(engine, prompts[1], replace(RANDOM, **narrow))) == expected[None, 1]


def test_a_bias_forbids_and_forces(engine, prompts, expected):
    banned = expected[None, 1][0]
    assert banned not in list(submit(engine, prompts[1], replace(GREEDY, logit_bias=((banned, -100.0),))))
    assert list(submit(engine, prompts[1], replace(GREEDY, logit_bias=((77, 100.0),)), 5)) == [77] * 5


def test_penalties_are_those_of_the_reference(engine, prompts, expected, reference, renderer):
    """Repetition counts prompt and answer, presence and frequency the answer only."""
    import torch
    from transformers import GenerationConfig, LogitsProcessor

    class Penalties(LogitsProcessor):
        def __init__(self, presence_penalty=0.0, frequency_penalty=0.0):
            self.presence, self.frequency = presence_penalty, frequency_penalty

        def __call__(self, ids, scores):
            counts = torch.bincount(ids[0, len(prompts[1]) :], minlength=scores.shape[-1])
            return scores - self.presence * (counts > 0) - self.frequency * counts

    model, ends = reference(None), list(renderer.stop_token_ids)
    for own, ours in (
        ({"repetition_penalty": 1.3}, {}),
        ({}, {"presence_penalty": 2.0}),
        ({}, {"frequency_penalty": 2.0}),
    ):
        config = GenerationConfig(max_new_tokens=LENGTH, eos_token_id=ends, pad_token_id=0, **own)
        ids = torch.tensor([prompts[1]])
        output = model.generate(input_ids=ids, generation_config=config, logits_processor=[Penalties(**ours)])
        found = list(submit(engine, prompts[1], replace(GREEDY, **own, **ours)))
        assert found == output[0, len(prompts[1]) :].tolist()
        assert found != expected[None, 1]


def test_log_probabilities_are_the_models(engine, prompts, reference):
    import torch

    generation = submit(engine, prompts[1], replace(RANDOM, seed=3), logprobs=4)
    ids = list(generation)
    with torch.inference_mode():
        logits = reference(None)(torch.tensor([prompts[1] + ids])).logits[0, len(prompts[1]) - 1 : -1]
    true = torch.log_softmax(logits.float(), -1)
    assert [found.token_id for found in generation.logprobs] == ids
    for found, row in zip(generation.logprobs, true, strict=True):
        values, tokens = row.topk(4)
        assert found.logprob == pytest.approx(row[found.token_id].item(), abs=1e-3)
        assert [token for token, _ in found.top] == tokens.tolist()
        assert [value for _, value in found.top] == pytest.approx(values.tolist(), abs=1e-3)
    plain = submit(engine, prompts[1], logprobs=0, count=2)
    assert [found.top for _, found in zip(plain, plain.logprobs, strict=True)] == [(), ()]
    assert submit(engine, prompts[1], count=2).logprobs == []


CALL = {
    "type": "object",
    "properties": {
        "name": {"const": "weather"},
        "days": {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 70},  # bounded, or -777… goes on and on
    },
    "required": ["name", "days"],
    "additionalProperties": False,
}
COLOUR = {"enum": ["red", "green", {"grey": 1}]}


@pytest.mark.parametrize("who", WHO)
def test_a_constraint_always_holds(engine, prompts, renderer, handles, who):
    import jsonschema

    either = Choice((Series((Text("<call>\n"), JsonSchema(CALL), Text("</call>"))), JsonSchema(COLOUR), Text("no")))
    wild = [replace(RANDOM, temperature=1.5, seed=seed) for seed in range(12)]
    kinds = set()
    for generation in [submit(engine, prompts[3], one, 250, constraint=either, adapter=handles[who]) for one in wild]:
        *ids, last = list(generation)
        text = renderer.tokenizer.decode(ids)
        assert last in renderer.stop_token_ids, "blanks to the limit: vLLM's llguidance keeps to no whitespace_pattern"
        if text.startswith("<call>"):
            jsonschema.validate(json.loads(text.removeprefix("<call>\n").removesuffix("</call>")), CALL)
        elif text != "no":
            jsonschema.validate(json.loads(text), COLOUR)
        kinds.add(text[:1])
    assert who or len(kinds) > 1


def test_a_schema_nobody_can_do_is_refused_on_the_spot(engine, prompts):
    with pytest.raises(UsageError, match="schema"):
        submit(engine, prompts[0], constraint=JsonSchema({"type": "nonsense"}))


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


# What follows starts vLLM anew, over a model of a kilobyte.


@pytest.fixture(scope="module")
def tiny_dir(tmp_path_factory):
    """A random Llama whose heads have a size that vLLM's kernels know."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 1, "num_key_value_heads": 1}
    config = LlamaConfig(
        vocab_size=262, num_hidden_layers=2, max_position_embeddings=4096, bos_token_id=1, eos_token_id=2, **sizes
    )
    directory = tmp_path_factory.mktemp("models") / "tiny64"
    LlamaForCausalLM(config).save_pretrained(directory)
    build_tokenizer().save_pretrained(directory)
    return directory


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


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_precisions_of_other_engines_are_refused(tiny_dir, precision):
    with pytest.raises(UnsupportedError, match=precision):
        load_engine(tiny_dir, (2,), "vllm", EngineOptions(precision=precision))


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
