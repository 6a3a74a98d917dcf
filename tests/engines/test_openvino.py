"""The OpenVINO engine: the exported model is the model, adapters stay apart, sampling is what its name says."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from arriero.constraint import Choice, Text
from arriero.engines.openvino import OpenVINOEngine, adapter_scale, cache, engine, exported
from arriero.engines.openvino.adapter import adapter_weights, matrices
from arriero.engines.openvino.paged import Cached, PagedModel, Part
from arriero.engines.openvino.sampler import Sampler
from arriero.engines.openvino.worker import Worker
from arriero.engines.process.process import Process
from arriero.engines.process.worker import Inbox
from arriero.engines.registry import EngineOptions
from arriero.errors import ArrieroError, EngineError, MemoryLimitError, UnsupportedError, UsageError
from arriero.messages import Sampling
from tests.conftest import build_model, build_tokenizer
from tests.engines.warpers import warpers

PLAIN = Sampling(top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0)
GREEDY = Sampling(temperature=0.0).over(PLAIN)
PROMPT = [1, 4, 110, 111, 2, 5]
LONG = [1, *(6 + (7 * n * n) % 250 for n in range(200))]
END = 2


@pytest.fixture
def make():
    """Build engines that are closed at the end; in float32, so that answers can be compared exactly."""
    made = []

    def build(model_dir, stop=(END,), precision="float32", **options):
        made.append(OpenVINOEngine(model_dir, stop, EngineOptions(precision=precision, **options)))
        return made[-1]

    yield build
    for one in made:
        one.close()


class InProcess:
    """What the worker process does, here: a round at a time, with what it says of each request in `said`."""

    def __init__(self, model_dir):
        self.said = []
        commands, pipe = os.pipe()
        self.pipe = os.fdopen(pipe, "w")
        self.worker = Worker(Inbox(commands), self.said.extend)
        self.give("load", **engine.described(model_dir, exported(model_dir, "float32"), "float32"))

    def give(self, do, **arguments):
        print(json.dumps({"do": do, **arguments}), file=self.pipe, flush=True)

    def put(self, number, prompt=PROMPT, count=8, key=0):
        config = {"apply_chat_template": False, "max_new_tokens": count, "eos_token_id": END}
        self.give("put", key=key, kind="library", number=number, ids=prompt, config=config, stop_token_ids=[END])

    def until(self, *event):
        """Rounds until this is said."""
        while not any(said[: len(event)] == event for said in self.said):
            self.worker.round()

    def ids(self, number):
        return [token for kind, of, *rest in self.said if (kind, of) == ("ids", number) for token in rest[0]]

    def pipeline(self, key=0):
        return self.worker._pipelines[key, "library"]._pipeline


def ids(engine, sampling=GREEDY, prompt=PROMPT, count=24, **options):
    return list(engine.submit(prompt, sampling, max_new_tokens=count, **options))


def loaded(engine, adapters):
    """Handles by the adapters' names; None is the base model."""
    return {None: None, **{name: engine.load_adapter(directory) for name, directory in adapters.items()}}


def reference(model, prompt_ids, generated):
    """Log-probabilities (generated, vocabulary) that a torch model gives along an answer."""
    with torch.inference_mode():
        logits = model(torch.tensor([prompt_ids + generated])).logits[0, len(prompt_ids) - 1 : -1]
    return logits.float().log_softmax(-1)


# --- the export

SIZES = {
    "vocab_size": 262,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": END,
    "pad_token_id": 0,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
KINDS = {
    "llama": {"rope_parameters": LLAMA3_ROPE},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "mistral": {"sliding_window": None},
    "gemma": {"head_dim": 16},
    "phi3": {"sliding_window": None},
}


def build(kind, directory, dtype=torch.float32, **changes):
    """A tiny random model of a kind on disk, with weights large enough to care for its input."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SIZES, **KINDS[kind], **changes}))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4)
    model.to(dtype).save_pretrained(directory)
    build_tokenizer().save_pretrained(directory)
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_model_gives_the_probabilities_of_the_model(kind, make, home, tmp_path):
    model = build(kind, tmp_path / kind)
    generation = make(tmp_path / kind).submit(LONG, GREEDY, max_new_tokens=40, logprobs=0)
    generated = list(generation)
    expected = reference(model, LONG, generated)
    assert generated == expected.argmax(-1).tolist()
    found = torch.tensor([each.logprob for each in generation.logprobs])
    assert (found - expected[range(len(generated)), generated]).abs().max() < 1e-3
    if kind == "llama":  # and a rope without its scaling would have been noticed
        plain = build(kind, tmp_path / "plain", rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
        assert (reference(plain, LONG, generated) - expected).abs().max() > 0.1


@pytest.mark.parametrize(("precision", "most"), [("bfloat16", 0.02), ("int8", 0.1), ("int4", 0.8)])
def test_a_precision_is_as_near_as_its_bits(precision, most, make, model_dir):
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    generation = make(model_dir, precision=precision).submit(LONG, GREEDY, max_new_tokens=40, logprobs=0)
    generated = list(generation)
    expected = reference(model, LONG, generated)[range(len(generated)), generated]
    off = (torch.tensor([each.logprob for each in generation.logprobs]) - expected).abs().mean()
    assert off < most
    if precision.startswith("int"):
        assert off > 1e-3, "the weights are not of the precision that was asked for"
    assert exported(model_dir, precision).name.endswith(f"-{precision}")


def test_an_unknown_precision_is_refused_by_name(model_dir):
    with pytest.raises(UnsupportedError, match="precision fp8"):
        OpenVINOEngine(model_dir, (END,), EngineOptions(precision="fp8"))


def test_a_changed_config_or_tokenizer_is_exported_again(home, model_dir, tmp_path):
    """The cache's name once covered the weights only."""
    before = exported(model_dir)
    assert exported(model_dir) == before
    changed = tmp_path / model_dir.name
    shutil.copytree(model_dir, changed)
    config = json.loads((changed / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 3.0}
    (changed / "config.json").write_text(json.dumps(config))
    second = exported(changed)
    assert second != before
    (changed / "tokenizer.json").write_text((changed / "tokenizer.json").read_text() + " ")
    assert exported(changed) not in (before, second)


def test_an_export_draws_nothing_where_there_is_no_terminal(home, model_dir, capfd):
    """`arriero serve --log-json` promises one JSON object on each line; nncf's progress bar came between them."""
    exported(model_dir, "int8")
    assert "Compression" not in "".join(capfd.readouterr())


def test_two_exports_at_once_make_one_and_leave_nothing_else(home, model_dir, caplog):
    caplog.set_level("INFO")
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(exported(model_dir))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 2
    assert found[0] == found[1]
    assert sum(message.startswith("exported in") for message in caplog.messages) == 1
    assert [path for path in found[0].parent.iterdir() if path.is_dir()] == [found[0]]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("no space left on device")])
def test_an_interrupted_export_leaves_nothing_and_the_next_one_clears_up(home, model_dir, monkeypatch, error):
    import openvino

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(openvino, "save_model", fail)
        with pytest.raises((KeyboardInterrupt, EngineError)):
            exported(model_dir)
    root = home / "cache" / "openvino"
    assert [path for path in root.iterdir() if path.is_dir()] == []
    done = exported(model_dir)
    killed = root / f"{done.name}.abc"
    shutil.copytree(done, killed)
    shutil.rmtree(done)
    assert exported(model_dir) == done
    assert [path for path in root.iterdir() if path.is_dir()] == [done]


def test_openvino_sends_no_statistics():
    modules = "arriero.engines.openvino.worker, arriero.engines.openvino.export"
    code = f"import {modules}, sys; print(sys.modules['openvino_telemetry'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"


# --- adapters


def lora(model_dir, directory, seed, **options):
    """A random adapter whose effect is large."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **options})
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32), config)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(directory)
    return directory, model.eval()


@pytest.fixture(scope="module")
def adapters(model_dir, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    return {name: lora(model_dir, root / name, seed)[0] for seed, name in enumerate("ab")}


@pytest.fixture(scope="module")
def alone(model_dir, adapters):
    """What a fresh engine answers with no adapter and with each."""
    answers = {}
    for name in (None, *adapters):
        made = OpenVINOEngine(model_dir, (END,), EngineOptions(precision="float32"))
        handle = made.load_adapter(adapters[name]) if name else None
        answers[name] = [ids(made, prompt=prompt, adapter=handle) for prompt in (PROMPT, LONG)]
        made.close()
    assert len({str(answer) for answer in answers.values()}) == 3
    return answers


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], "all-linear"])
def test_an_adapter_answers_as_with_peft(targets, make, model_dir, tmp_path):
    directory, model = lora(model_dir, tmp_path / "adapter", 3, target_modules=targets, use_rslora=True)
    one = make(model_dir)
    generated = ids(one, adapter=one.load_adapter(directory), count=40)
    assert generated == reference(model, PROMPT, generated).argmax(-1).tolist()


def test_base_and_adapters_stay_apart_one_after_the_other_and_at_once(make, model_dir, adapters, alone):
    one = make(model_dir)
    handles = loaded(one, adapters)
    turns = [None, "a", None, "b", "a"]
    for name in turns:
        assert [ids(one, prompt=prompt, adapter=handles[name]) for prompt in (PROMPT, LONG)] == alone[name]
    names = turns * 4
    at_once = [
        [one.submit(prompt, GREEDY, max_new_tokens=24, adapter=handles[name]) for prompt in (PROMPT, LONG)]
        for name in names
    ]
    for name, generations in zip(names, at_once, strict=True):
        assert [list(generation) for generation in generations] == alone[name]


@pytest.mark.slow
def test_with_8_bits_too_one_after_the_other(make, model_dir, adapters):
    fresh = {}
    for name in (None, "a", "b"):
        made = make(model_dir, precision="int8")
        fresh[name] = ids(made, adapter=loaded(made, adapters)[name])
    one = make(model_dir, precision="int8")
    handles = loaded(one, adapters)
    for name in (None, "a", None, "b", "a"):
        assert ids(one, adapter=handles[name]) == fresh[name]


def test_the_base_model_beside_adapters_is_loaded_when_it_is_first_asked_for(make, model_dir, adapters, alone):
    one = make(model_dir, room_for=list(adapters.values()))
    handles = loaded(one, adapters)
    file = exported(model_dir, "float32") / "openvino_model.bin"
    kept = file.rename(file.with_suffix(".kept"))
    try:
        with pytest.raises(EngineError, match="OpenVINO cannot load"):
            ids(one)
        assert ids(one, adapter=handles["a"]) == alone["a"][0]
    finally:
        kept.rename(file)
    assert ids(one) == alone[None][0], "one failure is not for ever"


def test_two_directories_of_the_same_name_are_two_adapters(make, model_dir, adapters, alone, tmp_path):
    """The last part of the directory was once the adapter's name, and the second took the first one's place."""
    one = make(model_dir)
    for name in "ab":
        shutil.copytree(adapters[name], tmp_path / name / "best")
    handles = {name: one.load_adapter(tmp_path / name / "best") for name in "ab"}
    for name in "abab":
        assert ids(one, adapter=handles[name]) == alone[name][0]


def test_an_adapter_that_is_let_go_of_ends_what_it_began_and_is_freed(make, model_dir, adapters, alone):
    one = make(model_dir)
    handle = one.load_adapter(adapters["a"])
    whole = ids(one, adapter=handle, count=200)
    begun = [one.submit(PROMPT, GREEDY, max_new_tokens=200, adapter=handle) for _ in range(8)]
    handle = one.load_adapter(adapters["b"])
    gc.collect()
    assert list(one._adapters) == [handle]
    assert ids(one, adapter=handle) == alone["b"][0]
    assert [list(generation) for generation in begun] == [whole] * 8


def test_an_adapter_of_another_engine_is_refused(make, model_dir, adapters, alone):
    one, other = make(model_dir), make(model_dir)
    handle = other.load_adapter(adapters["a"])
    with pytest.raises(UsageError, match="was loaded by another engine"):
        ids(one, adapter=handle)
    assert ids(one) == alone[None][0]


def test_weights_that_have_changed_on_disk_are_not_taken_for_those_that_were_loaded(
    make, model_dir, adapters, alone, tmp_path
):
    """A worker that had died was once given whatever lay in the directory by then, under the old prompt."""
    directory = shutil.copytree(adapters["a"], tmp_path / "best")
    one = make(model_dir)
    handle = one.load_adapter(directory)
    assert ids(one, adapter=handle) == alone["a"][0]
    shutil.rmtree(directory)
    shutil.copytree(adapters["b"], directory)
    assert ids(one, adapter=handle) == alone["a"][0], "it is in memory"
    kill(one)
    with pytest.raises(EngineError, match="has changed since it was loaded"):
        ids(one, adapter=handle)
    assert ids(one, adapter=one.load_adapter(directory)) == alone["b"][0]


def test_a_retired_pipeline_finishes_what_was_begun_and_is_freed(model_dir):
    here = InProcess(model_dir)
    for key in (0, 1):
        here.give("open", key=key, adapter=None, now=False)
    here.put(1)
    here.give("retire", key=0)
    here.give("retire", key=1)
    here.until("end", 1)
    assert len(here.ids(1)) == 8
    assert here.worker._pipelines == {}


def test_an_adapter_that_cannot_be_loaded_changes_nothing(make, model_dir, adapters, alone, tmp_path):
    one = make(model_dir)
    handle = one.load_adapter(adapters["a"])
    broken = tmp_path / "broken"
    shutil.copytree(adapters["b"], broken)
    (broken / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(ArrieroError, match="broken"):
        one.load_adapter(broken)
    assert ids(one, adapter=handle) == alone["a"][0]


@pytest.mark.parametrize(
    "rename",
    [
        ("self_attn.q_proj", "attention.wq"),
        ("lora_A.weight", "lora_embedding_A"),
        ("model.layers.0.mlp.up_proj", "lm_head"),
    ],
)
def test_matrices_that_openvino_would_skip_are_an_error(rename, model_dir, adapters, tmp_path):
    """It only prints a line, and the base model answers; so it does with one for lm_head."""
    from safetensors.torch import load_file, save_file

    other = tmp_path / "other"
    shutil.copytree(adapters["a"], other)
    tensors = load_file(other / "adapter_model.safetensors")
    save_file({name.replace(*rename): value for name, value in tensors.items()}, other / "adapter_model.safetensors")
    with pytest.raises(EngineError, match=r"other layers, such as base_model.*" + rename[1]):
        adapter_weights(other, exported(model_dir))
    assert adapter_weights(adapters["a"], exported(model_dir))


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"peft_type": "LORA", "r": 8, "lora_alpha": 32}, 4.0),
        ({"peft_type": "LORA", "r": 16, "lora_alpha": 8, "use_rslora": True}, 2.0),
    ],
)
def test_the_scale_of_an_adapter(tmp_path, config, scale):
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert adapter_scale(tmp_path) == scale


@pytest.mark.parametrize(
    "feature",
    [{"use_dora": True}, {"rank_pattern": {"q": 2}}, {"modules_to_save": ["lm_head"]}, {"peft_type": "IA3"}, {"r": 0}],
)
def test_what_openvino_does_not_do_is_refused_by_name(tmp_path, feature):
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 32, **feature}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(EngineError, match="|".join([*feature, *map(str, feature.values())])):
        adapter_scale(tmp_path)


# --- sampling


@pytest.fixture(scope="module")
def shared(model_dir):
    made = OpenVINOEngine(model_dir, (END,), EngineOptions(precision="float32"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def model(model_dir):
    return AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()


@pytest.mark.parametrize("penalty", [0.7, 1.3])
def test_the_repetition_penalty_covers_prompt_and_answer_as_in_transformers(penalty, shared, model):
    options = {"do_sample": False, "max_new_tokens": 40, "eos_token_id": END, "pad_token_id": 0}
    prompt = torch.tensor([PROMPT])
    expected = model.generate(prompt, attention_mask=prompt > 0, repetition_penalty=penalty, **options)[
        0, len(PROMPT) :
    ]
    assert ids(shared, Sampling(temperature=0.0, repetition_penalty=penalty).over(PLAIN), count=40) == expected.tolist()


@pytest.mark.parametrize("option", [{"top_k": 7}, {"top_p": 0.3}, {"min_p": 0.4}, {}])
def test_sampling_draws_what_a_filter_keeps_and_nothing_else(option, shared, model):
    with torch.inference_mode():
        chances = (model(torch.tensor([PROMPT])).logits[0, -1] / 1.5).softmax(-1)
    ordered, order = chances.sort(descending=True)
    before = ordered.cumsum(0) - ordered
    kept = torch.ones_like(ordered, dtype=torch.bool)
    kept[option.get("top_k", len(kept)) :] = False
    kept &= (before < option.get("top_p", 1.1)) & (ordered >= option.get("min_p", 0) * ordered[0])
    sampling = [Sampling(temperature=1.5, seed=seed, **option).over(PLAIN) for seed in range(400)]
    drawn = [shared.submit(PROMPT, each, max_new_tokens=1) for each in sampling]
    counts = torch.bincount(torch.tensor([next(iter(each)) for each in drawn]), minlength=262)[order] / 400
    expected = ordered * kept / (ordered * kept).sum()
    assert counts[~kept].sum() == 0
    assert (counts - expected).abs().sum() / 2 < 0.3  # total variation; of 400 draws about 0.1 to 0.25 by chance


def test_a_seed_gives_the_same_answer_alone_and_beside_others(shared):
    sampling = Sampling(temperature=1.5, seed=0).over(PLAIN)
    alone = ids(shared, sampling, count=40)
    others = [
        shared.submit(LONG[: 20 + n], Sampling(temperature=1.5, seed=n).over(PLAIN), max_new_tokens=60)
        for n in range(8)
    ]
    assert [ids(shared, sampling, count=40) for _ in range(2)] == [alone] * 2
    assert len({tuple(other) for other in others}) == 8
    assert len({tuple(ids(shared, Sampling(temperature=1.5).over(PLAIN))) for _ in range(4)}) == 4


def test_log_probabilities_are_the_models_own(shared, model):
    """Neither temperature nor filters nor penalties change them."""
    sampling = Sampling(temperature=2.0, top_k=5, repetition_penalty=1.3, seed=3).over(PLAIN)
    generation = shared.submit(PROMPT, sampling, max_new_tokens=20, logprobs=0)
    generated = list(generation)
    assert [each.token_id for each in generation.logprobs] == generated
    expected = reference(model, PROMPT, generated)[range(len(generated)), generated]
    assert (torch.tensor([each.logprob for each in generation.logprobs]) - expected).abs().max() < 1e-3
    assert shared.submit(PROMPT, GREEDY, max_new_tokens=2).logprobs == []


# --- the loop of our own, for what the library's sampler lacks


def logits_after(model, prompt_ids):
    with torch.inference_mode():
        return model(torch.tensor([prompt_ids])).logits[0, -1]


@pytest.mark.parametrize("sampling", [{}, {"repetition_penalty": 1.3}])
def test_the_loop_answers_as_the_library_does(sampling, shared):
    """`logprobs=1` goes through the loop; long prompts are read in chunks, and others go on beside them."""
    chosen = Sampling(**sampling).over(GREEDY)
    begun = [shared.submit(LONG[:length], chosen, max_new_tokens=40, logprobs=1) for length in (3, 64, 200)]
    for length, generation in zip((3, 64, 200), begun, strict=True):
        assert list(generation) == ids(shared, chosen, LONG[:length], count=40)


@pytest.mark.parametrize(
    "options",
    [
        {"presence_penalty": 1.5},
        {"frequency_penalty": 0.7, "presence_penalty": 0.3},
        {"frequency_penalty": -2.0},
        {"logit_bias": ((83, -100.0), (7, 4.0))},
    ],
)
def test_penalties_and_bias_are_added_whatever_the_sign_of_the_logit(options, shared, model):
    """GenAI's own penalties raise logits that are below 0, which is why they are not used."""
    sampling = Sampling(**options).over(GREEDY)
    expected = []
    for _ in range(30):
        logits = logits_after(model, PROMPT + expected).clone()
        for token, bias in sampling.logit_bias:
            logits[token] += bias
        for token in set(expected):
            logits[token] -= sampling.presence_penalty + sampling.frequency_penalty * expected.count(token)
        expected.append(int(logits.argmax()))
    assert ids(shared, sampling, count=30) == expected[: expected.index(END) + 1 if END in expected else None]
    assert expected != ids(shared, count=30)


@pytest.mark.parametrize("option", [{"top_k": 7}, {"top_p": 0.3}, {"min_p": 0.4}, {"top_k": 9, "top_p": 0.6}, {}])
def test_the_sampler_draws_what_a_filter_keeps_and_nothing_else(option, model):
    logits = logits_after(model, PROMPT)
    expected = warpers(1.5, option.get("top_k"), option.get("top_p"), option.get("min_p"))(None, logits[None]).softmax(
        -1
    )[0]
    sampler = Sampler(PROMPT, Sampling(temperature=1.5, seed=0, **option).over(PLAIN), None)
    drawn = torch.tensor([sampler.sample(logits.numpy()) for _ in range(4000)])
    counts = torch.bincount(drawn, minlength=262) / 4000
    assert counts[expected == 0].sum() == 0
    assert (counts - expected).abs().sum() / 2 < 0.1  # total variation


def test_a_seed_gives_the_same_answer_in_the_loop_too(shared):
    def begin(seed):
        chosen = Sampling(temperature=1.5, seed=seed, logit_bias=((7, 1.0),)).over(PLAIN)
        return shared.submit(PROMPT, chosen, max_new_tokens=40)

    alone = list(begin(0))
    crowd = [begin(seed) for seed in (0, 1, 2, 0)]
    answers = [list(generation) for generation in crowd]
    assert answers[0] == answers[3] == alone
    assert len(set(map(tuple, answers))) == 3


def test_alternatives_are_the_models_own(shared, model):
    chosen = Sampling(temperature=2.0, presence_penalty=1.0, seed=3).over(PLAIN)
    generation = shared.submit(PROMPT, chosen, max_new_tokens=20, logprobs=4)
    generated = list(generation)
    expected = reference(model, PROMPT, generated)
    for row, (token, entry) in enumerate(zip(generated, generation.logprobs, strict=True)):
        values, best = expected[row].topk(4)
        assert entry.token_id == token
        assert entry.logprob == pytest.approx(float(expected[row, token]), abs=1e-3)
        assert [other for other, _ in entry.top] == best.tolist()
        assert [value for _, value in entry.top] == pytest.approx(values.tolist(), abs=1e-3)


def test_the_loop_keeps_base_and_adapters_apart(make, model_dir, adapters, alone):
    one = make(model_dir)
    handles = loaded(one, adapters)
    begun = {
        name: [one.submit(PROMPT, GREEDY, max_new_tokens=24, adapter=handle, logprobs=top) for top in (1, None, 1)]
        for name, handle in handles.items()
    }
    for name, generations in begun.items():
        assert [list(generation) for generation in generations] == [alone[name][0]] * 3


def test_an_adapter_in_16_bits_is_read_as_it_is(tmp_path):
    values = torch.randn(3, 5).to(torch.bfloat16)
    names = [f"base_model.model.model.layers.0.self_attn.q_proj.lora_{part}.weight" for part in "AB"]
    save_file({names[0]: values, names[1]: values.T.contiguous().half()}, tmp_path / "adapter.safetensors")
    ((layer, (a, b)),) = matrices(tmp_path / "adapter.safetensors").items()
    assert layer == "model.layers.0.self_attn.q_proj"
    assert torch.equal(torch.from_numpy(a), values.float())
    assert torch.equal(torch.from_numpy(b), values.T.half().float())


def test_a_constraint_holds_in_the_loop(shared):
    sampling = Sampling(temperature=1.0, seed=1, presence_penalty=0.5).over(PLAIN)
    constraint = Choice((Text("yes"), Text("no")))
    answer = ids(shared, sampling, constraint=constraint)
    assert bytes(token - 6 for token in answer[:-1]) in (b"yes", b"no")
    assert answer[-1] == END


def test_a_bias_of_a_token_that_the_model_lacks_fails_alone(shared):
    with pytest.raises(UsageError, match="logit_bias names the token 999"):
        ids(shared, Sampling(logit_bias=((999, 1.0),)).over(GREEDY))
    with pytest.raises(UsageError, match="no tokens"):
        ids(shared, prompt=[], logprobs=1)
    assert len(ids(shared, logprobs=1)) == 24


def test_the_cache_of_the_loop_grows_and_is_given_back(model_dir, shared):
    """More than what it has at the beginning, 16 blocks of 32; cancelled ones give theirs back too."""
    paged = PagedModel(exported(model_dir, "float32") / cache.MODEL, engine.PROPERTIES["float32"])
    long, short = Cached(), Cached()
    (first,) = [each.copy() for each in paged.forward([Part(short, PROMPT)])]
    for start in range(0, 200, 50):
        paged.forward([Part(Cached(), LONG[:190]), Part(long, LONG[start : start + 50])])
    assert paged._total > 16
    again = paged.forward([Part(long, LONG[200:]), Part(Cached(), PROMPT)])[1]
    assert again.argmax() == first.argmax()
    assert abs(again - first).max() < 1e-4
    here = InProcess(model_dir)
    here.give("open", key=0, adapter=None, now=False)
    config = engine.loop_config(GREEDY, 40, 1, prompt_logprobs=False)
    for number in range(1, 5):
        here.give("put", key=0, kind="loop", number=number, ids=LONG, config=config, stop_token_ids=[END])
    here.until("ids", 4)
    loop = here.worker._pipelines[0, "loop"]
    assert loop._pipeline._total > 16
    for number in range(1, 5):
        here.give("cancel", number=number)
    here.worker.round()
    assert [here.said.count(("end", number, "cancelled")) for number in range(1, 5)] == [1] * 4
    assert len(loop._pipeline._free) == loop._pipeline._total == 16


def test_a_loop_that_failed_is_built_again(model_dir):
    here = InProcess(model_dir)
    here.give("open", key=0, adapter=None, now=False)
    config = engine.loop_config(GREEDY, 4, 1, prompt_logprobs=False)
    request = {"key": 0, "kind": "loop", "ids": PROMPT, "config": config, "stop_token_ids": [END]}
    here.give("put", number=1, **request)
    here.until("end", 1)

    class Full:
        def forward(self, parts):
            raise MemoryError

    here.worker._pipelines[0, "loop"]._pipeline = Full()
    here.give("put", number=2, **request)
    here.until("fail", 2, "MemoryLimitError")
    here.give("put", number=3, **request)
    here.until("end", 3)
    assert here.ids(3) == here.ids(1)


# --- stopping, and running out of something


def test_a_long_prompt_can_be_cancelled_while_it_is_read(model_dir, monkeypatch):
    monkeypatch.setitem(engine.SCHEDULER, "max_num_batched_tokens", 1)  # so that reading takes 200 steps
    here = InProcess(model_dir)
    here.give("open", key=0, adapter=None, now=True)
    here.until("open", 0)
    here.put(1, LONG)
    here.worker.round()
    assert here.pipeline().get_metrics().scheduled_requests == 1
    here.give("cancel", number=1)
    here.worker.round()
    assert here.said == [("open", 0), ("end", 1, "cancelled")]
    here.put(2, PROMPT)
    here.until("end", 2)
    assert here.pipeline().get_metrics().requests <= 1, "the library still holds it"


def test_a_request_that_waits_for_the_model_can_be_cancelled(model_dir):
    here = InProcess(model_dir)
    here.give("open", key=0, adapter=None, now=False)
    here.put(1)
    here.give("cancel", number=1)
    here.worker.round()
    assert here.said == [("end", 1, "cancelled")]


def test_cancelling_reaches_the_worker(shared):
    """More steps than there is time for, if it did not; on a busy machine some tries may come too late."""
    for _ in range(20):
        begun = [shared.submit(PROMPT, Sampling(seed=n).over(GREEDY), max_new_tokens=200) for n in range(4)]
        begun[0].cancel()
        begun[1].cancel()
        assert list(begun[0]) == list(begun[0])
        assert list(begun[1]) == list(begun[1])
        if begun[0].finish_reason == begun[1].finish_reason == "cancelled":
            break
    assert begun[0].finish_reason == begun[1].finish_reason == "cancelled"
    for generation in begun[2:]:
        assert list(generation)
        generation.cancel()  # too late
        assert generation.finish_reason in ("stop", "length")


def test_cancelled_before_it_began(shared):
    """A thread writes the commands; on a busy machine it may write some of them only when the worker goes on."""
    worker = shared._link.process.pid
    for _ in range(20):
        os.kill(worker, signal.SIGSTOP)
        try:
            generations = [shared.submit(LONG, GREEDY, max_new_tokens=40) for _ in range(3)]
            for generation in generations:
                generation.cancel()
        finally:
            os.kill(worker, signal.SIGCONT)
        endings = [(list(generation), generation.finish_reason) for generation in generations]
        if endings == [([], "cancelled")] * 3:
            break
    assert endings == [([], "cancelled")] * 3


def test_keys_and_values_that_do_not_fit_are_a_typed_error(make, model_dir, monkeypatch):
    monkeypatch.setitem(engine.SCHEDULER, "num_kv_blocks", 4)  # of 32 tokens
    one = make(model_dir)
    with pytest.raises(MemoryLimitError, match="not enough memory"):
        list(one.submit(LONG, GREEDY, max_new_tokens=40))
    assert len(ids(one)) == 24


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("std::bad_alloc"), "MemoryLimitError"),
        (RuntimeError("step failed"), "EngineError"),
        (MemoryError(), "MemoryLimitError"),
    ],
)
def test_a_pipeline_that_failed_is_built_again(error, expected, model_dir):
    """After a failed step the library's own state is undefined."""

    class Failing:
        def __init__(self, real):
            self.add_request, self.has_non_finished_requests = real.add_request, real.has_non_finished_requests

        def step(self):
            raise error

    here = InProcess(model_dir)
    here.give("open", key=0, adapter=None, now=True)
    here.until("open", 0)
    here.worker._pipelines[0, "library"]._pipeline = Failing(here.pipeline())
    here.put(1)
    here.put(2)
    here.until("fail", 2)
    assert [said[:3] for said in here.said[1:]] == [("fail", 1, expected), ("fail", 2, expected)]
    here.put(3)
    here.until("end", 3)
    assert len(here.ids(3)) == 8


def test_memory_stays_flat(model_dir):
    """The library keeps nothing of a finished request, and its cache does not grow."""
    here = InProcess(model_dir)
    here.give("open", key=0, adapter=None, now=True)
    sizes = []
    for numbers in (range(n, n + 25) for n in range(0, 100, 25)):
        for number in numbers:
            here.put(number, LONG)
            if number % 2:
                here.give("cancel", number=number)
        for number in numbers:
            here.until("end", number)
        sizes.append(here.pipeline().get_metrics().kv_cache_size_in_bytes)
    assert sizes[1:] == [sizes[-1]] * 3
    assert here.pipeline().get_metrics().requests <= 1


# --- the process that computes


def test_where_the_process_dies_its_answers_fail_and_the_next_request_starts_another(
    make, model_dir, adapters, alone, caplog
):
    one = make(model_dir)
    handles = loaded(one, adapters)
    begun = [one.submit(PROMPT, GREEDY, max_new_tokens=200, adapter=handles[name]) for name in ("a", "b", None)]
    next(iter(begun[0]))
    os.kill(one._link.process.pid, signal.SIGSTOP)  # so that it cannot finish first
    begun.append(one.submit(PROMPT, GREEDY, max_new_tokens=200))
    os.kill(one._link.process.pid, signal.SIGKILL)
    for generation in begun:
        with pytest.raises(EngineError, match=r"OpenVINO's process was ended by signal 9 \(Killed\)"):
            list(generation)
    for name in ("b", None, "a"):
        assert ids(one, adapter=handles[name]) == alone[name][0]
    assert "and with it 4 answers; the next request starts it again" in caplog.text


def test_loading_and_letting_go_of_adapters_over_a_death(make, model_dir, adapters, alone):
    one = make(model_dir)
    first = one.load_adapter(adapters["a"])
    kill(one)
    second = one.load_adapter(adapters["b"])
    kill(one)
    del first
    assert ids(one, adapter=second) == alone["b"][0]
    kill(one)
    one.close()
    with pytest.raises(EngineError, match="closed"):
        ids(one)


def kill(engine):
    engine._link.process._process.kill()
    engine._link.process._reader.join()


@pytest.mark.parametrize("when", ["before it is asked", "while it builds"])
def test_a_process_that_dies_over_the_model(when, model_dir):
    process = Process(OpenVINOEngine.worker, OpenVINOEngine.called)
    if when == "before it is asked":
        process._process.kill()
        process._reader.join()
    else:
        os.kill(process.pid, signal.SIGSTOP)
    process.send("load", **engine.described(model_dir, exported(model_dir), "int8"))
    opened = process.open(0, None)
    process._process.kill()
    assert isinstance(opened.exception(30), EngineError)
    assert process.dead


def test_what_the_worker_gets_wrong_ends_it_and_hangs_nobody(make, model_dir, alone):
    one = make(model_dir)
    begun = one.submit(PROMPT, GREEDY, max_new_tokens=200)
    one._link.process.send("nonsense")
    with pytest.raises(EngineError, match="ended with exit code 1"):
        list(begun)
    assert ids(one) == alone[None][0]


def test_closing_ends_the_process_and_an_engine_that_is_let_go_of_ends_its_own(make, model_dir):
    one = make(model_dir)
    begun = one.submit(PROMPT, GREEDY, max_new_tokens=200)
    os.kill(one._link.process.pid, signal.SIGSTOP)  # as one that is in a long step
    one.close()
    assert list(begun) == list(begun)
    assert begun.finish_reason == "cancelled"
    other = OpenVINOEngine(model_dir, (END,), EngineOptions(precision="float32"))
    under_way, pids = other.submit(PROMPT, GREEDY, max_new_tokens=50), (one._link.process.pid, other._link.process.pid)
    del other
    assert len(list(under_way)) > 1, "an engine lives as long as somebody reads"
    assert under_way.finish_reason != "cancelled"
    ending = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    del under_way
    gc.collect()
    for process in ending:
        process.wait(30)


class Last(dict):
    """A command that, once it is written, lets go of the last reference to an engine."""

    def __init__(self, engine, **command):
        super().__init__(command)
        self.held = [engine]

    def items(self):
        self.held.clear()
        return super().items()


def test_an_engine_may_be_collected_on_its_own_threads(model_dir):
    """The finalizer once waited for the reader, which waited for the writer, which ran the finalizer."""
    one = OpenVINOEngine(model_dir, (END,), EngineOptions(precision="float32"))
    process = one._link.process
    process._outbox.put(Last(one, do="cancel", number=1))
    del one
    process._reader.join(30)
    assert not process._reader.is_alive()
    assert process.dead


SCRIPT = """
import os, sys
from pathlib import Path
from arriero.engines.openvino import OpenVINOEngine
from arriero.engines.registry import EngineOptions
from arriero.messages import Sampling
assert not {"torch", "openvino", "openvino_genai"} & sys.modules.keys()
engine = OpenVINOEngine(Path(sys.argv[1]), (2,), EngineOptions(precision="float32"))
sampling = Sampling(temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0)
begun = engine.submit([1, 4, 5], sampling, max_new_tokens=200)
next(iter(begun))
print(engine._link.process.pid, flush=True)
"""


@pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), 9)", "engine.close()"])
def test_a_script_without_a_guard_leaves_no_process_behind(end, model_dir):
    """multiprocessing would run the script once more; and none of ours may stay, however it ends."""
    exported(model_dir, "float32")
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", SCRIPT + end, model_dir]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == (-9 if "kill" in end else 0), done.stderr
    assert done.stderr == ""
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(done.stdout)).wait(30)


def test_the_description_and_the_cache_name_the_precision(shared, model_dir):
    assert shared.description == "openvino, cpu, float32 weights"
    assert (exported(model_dir, "float32") / cache.MODEL).is_file()


def test_an_export_leaves_torch_as_it_was(tmp_path, home):
    """OpenVINO's frontend replaces torch.bmm for 16-bit models; training in the same process once went wrong by it."""
    import torch
    from transformers import LlamaForCausalLM

    before = torch.bmm, torch.baddbmm
    model = build_model(tmp_path / "model")
    LlamaForCausalLM.from_pretrained(model).to(torch.bfloat16).save_pretrained(model)
    exported(model, "int8")
    assert (torch.bmm, torch.baddbmm) == before
    twice = torch.ones(1, 1, 1, dtype=torch.float64)
    assert torch.bmm(twice, twice).dtype == torch.float64


def test_an_adapter_fits_a_model_stored_in_16_bits(make, model_dir, tmp_path):
    """Such models' layers have other names in the graph: every adapter of the default model was once refused."""
    stored = build_model(tmp_path / "model")
    AutoModelForCausalLM.from_pretrained(stored).to(torch.bfloat16).save_pretrained(stored)
    directory, model = lora(stored, tmp_path / "adapter", 3, target_modules="all-linear")
    one = make(stored, precision="bfloat16")
    generated = ids(one, adapter=one.load_adapter(directory), count=24)
    assert generated == reference(model.float(), PROMPT, generated).argmax(-1).tolist()
    assert generated != ids(one, count=24)
