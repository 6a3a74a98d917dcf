"""The reference engine: equal to transformers' own generate and PEFT, whatever runs at the same time."""

from __future__ import annotations

import gc
import json
import random
import shutil
import threading
import weakref
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from arriero.constraint import Choice, JsonSchema, Series, Text
from arriero.engines.registry import EngineOptions
from arriero.engines.transformers import TransformersEngine, scheduler
from arriero.engines.transformers.forward import rounded
from arriero.errors import EngineError, MemoryLimitError, NotFoundError, UnsupportedError, UsageError
from arriero.messages import Sampling
from tests.conftest import build_tokenizer

PLAIN = Sampling(top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0)
GREEDY = Sampling(temperature=0.0).over(PLAIN)
PROMPT = [1, 4, 110, 111, 2, 5]
END = 2


def prompts(count, longest=60, seed=0):
    """Prompts of many lengths, and how much is to follow each."""
    rng = random.Random(seed)
    lengths = [rng.choice([1, 2, 9, 25, longest]) for _ in range(count)]
    return [([rng.randrange(3, 262) for _ in range(n)], rng.choice([1, 2, 7, 30])) for n in lengths]


def generated(model, prompt_ids, limit, **options):
    """What transformers itself answers."""
    ids = torch.tensor([prompt_ids])
    options = {"do_sample": False, "eos_token_id": END, "pad_token_id": 0, "max_new_tokens": limit, **options}
    return model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt_ids) :].tolist()


@pytest.fixture(scope="module")
def model(model_dir):
    return AutoModelForCausalLM.from_pretrained(model_dir).eval()


@pytest.fixture
def make():
    """Build engines that are closed at the end."""
    made = []

    def build(model_dir, stop=(END,), **options):
        made.append(TransformersEngine(model_dir, stop, EngineOptions(**options)))
        return made[-1]

    yield build
    for engine in made:
        engine.close()


@pytest.fixture
def engine(make, model_dir):
    return make(model_dir)


def model_in(engine):
    """The model inside, for hooks that stop it at a known place."""
    return engine._thread.scheduler._forward._model


# --- the same ids as generate


KINDS = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},  # positions are learned, and must be right
    "gemma2": {"sliding_window": 16, "query_pre_attn_scalar": 8, "head_dim": 8},  # every other layer sees 16 tokens
    "mamba": {"state_size": 4},  # no attention at all
    "jamba": {"mamba_d_state": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2},  # a hybrid
    "bloom": {"n_layer": 2, "n_head": 4},  # takes no positions
}
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def random_model(directory, kind, **changes):
    """A model of a kind, stored in `directory` too."""
    from transformers import AutoConfig

    torch.manual_seed(0)
    settings = {**({} if kind == "gpt2" else SIZES), **KINDS.get(kind, {}), **changes}
    config = AutoConfig.for_model(kind, vocab_size=262, eos_token_id=END, pad_token_id=0, **settings)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(3)
    model.save_pretrained(directory)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_cache_answers_as_generate_does(make, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "CHUNK", 16)
    model = random_model(tmp_path, kind)
    wanted = prompts(8, longest=40)
    engine = make(tmp_path, precision="float32")
    answers = [engine.submit(ids, GREEDY, max_new_tokens=limit) for ids, limit in wanted]
    assert [list(answer) for answer in answers] == [generated(model, *each) for each in wanted]
    assert ("not batched" in engine.description) == (kind != "gpt2")


def test_padding_stays_inside_a_sliding_window(make, tmp_path):
    """64 positions are padded to 72 elsewhere; here the first seven would fall out of the last one's sight."""
    model = random_model(tmp_path, "gemma2", sliding_window=65)
    engine = make(tmp_path, precision="float32")
    rng = random.Random(0)
    wanted = [[rng.randrange(3, 262) for _ in range(63)] for _ in range(20)]
    answers = [engine.submit(ids, GREEDY, max_new_tokens=2) for ids in wanted]
    assert [list(answer) for answer in answers] == [generated(model, ids, 2) for ids in wanted]


def test_many_at_once_answer_as_each_alone(make, model_dir, model):
    """Rows join and leave a running batch at every step, and prompts are longer than one call reads."""
    stop = tuple(range(2, 20))
    engine = make(model_dir, stop=stop)
    wanted = [*prompts(60, longest=60), *prompts(10, longest=700, seed=1)]
    answers = [engine.submit(ids, GREEDY, max_new_tokens=limit) for ids, limit in wanted]
    expected = [generated(model, *each, eos_token_id=list(stop)) for each in wanted]
    assert [list(answer) for answer in answers] == expected
    alone = [list(engine.submit(ids, GREEDY, max_new_tokens=limit)) for ids, limit in wanted[:8]]
    assert alone == expected[:8]
    reasons = ["stop" if ids[-1] in stop else "length" for ids in expected]
    assert [answer.finish_reason for answer in answers] == reasons
    assert {"stop", "length"} == set(reasons)


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
    with pytest.raises(UnsupportedError, match="precision int4"):
        make(model_dir, precision="int4")


def test_float16_is_not_computed_on_a_cpu(make, model_dir, tmp_path):
    copied = shutil.copytree(model_dir, tmp_path / "half")
    AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float16).save_pretrained(copied)
    assert "float16" in (copied / "config.json").read_text()
    assert make(copied).description in ("transformers, cpu, bfloat16", "transformers, cpu, float32")


# --- choosing


def test_penalties_on_prompt_and_answer_are_those_of_generate(engine, model):
    for penalty in (1.3, 0.7):
        chosen = Sampling(repetition_penalty=penalty).over(GREEDY)
        answer = list(engine.submit(PROMPT, chosen, max_new_tokens=20))
        assert answer == generated(model, PROMPT, 20, repetition_penalty=penalty)
    assert answer != generated(model, PROMPT, 20)


def logits_of(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, -1]


def test_presence_frequency_and_bias_count_the_answer_only(engine, model):
    """Against the formula of OpenAI's API reference, written out."""
    chosen = Sampling(presence_penalty=1.5, frequency_penalty=0.75, logit_bias=((77, 9.0), (78, -100.0))).over(GREEDY)
    expected: list[int] = []
    for _ in range(25):
        logits = logits_of(model, PROMPT + expected)
        logits[77] += 9
        logits[78] -= 100
        for token in set(expected):
            logits[token] -= 0.75 * expected.count(token) + 1.5
        expected.append(int(logits.argmax()))
        if expected[-1] == END:
            break
    others = [engine.submit(PROMPT, GREEDY, max_new_tokens=20) for _ in range(2)]
    assert list(engine.submit(PROMPT, chosen, max_new_tokens=25)) == expected
    assert [list(other) for other in others] == [generated(model, PROMPT, 20)] * 2
    assert 77 in expected


@pytest.mark.parametrize(
    "shape", [{}, {"top_k": 5}, {"top_p": 0.7}, {"min_p": 0.2}, {"temperature": 0.5, "top_k": 40, "top_p": 0.9}]
)
def test_draws_follow_the_distribution_of_generate(engine, model, shape):
    chosen = Sampling(**{"temperature": 1.5, **shape}).over(PLAIN)
    count = 600
    answers = [
        engine.submit(PROMPT, Sampling(seed=seed).over(chosen), max_new_tokens=1, logprobs=0) for seed in range(count)
    ]
    drawn = torch.bincount(torch.tensor([next(iter(answer)) for answer in answers]), minlength=262) / count
    ids = torch.tensor([PROMPT])
    settings = {"top_k": 0, "temperature": 1.5, **shape}
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        max_new_tokens=1,
        output_scores=True,
        return_dict_in_generate=True,
        pad_token_id=0,
        **settings,
    )
    expected = out.scores[0][0].softmax(-1)
    assert not drawn[expected == 0].any()
    likely = expected > 0.02
    deviation = (expected * (1 - expected) / count).sqrt()
    assert ((drawn - expected).abs() < 4.5 * deviation)[likely].all()
    assert likely.sum() > 2


def test_a_seed_gives_the_same_answer_whatever_else_runs(engine):
    chosen = Sampling(temperature=1.3, top_p=0.95, seed=11).over(PLAIN)
    alone = list(engine.submit(PROMPT, chosen, max_new_tokens=30))
    crowd = [engine.submit(ids, Sampling(temperature=2.0).over(PLAIN), max_new_tokens=n) for ids, n in prompts(12)]
    amid = engine.submit(PROMPT, chosen, max_new_tokens=30)
    assert list(amid) == alone
    assert len({tuple(engine.submit(PROMPT, Sampling(seed=n).over(chosen), max_new_tokens=9)) for n in range(5)}) > 1
    for each in crowd:
        list(each)


def test_logprobs_are_the_models_own(engine, model):
    """Before penalties, bias, temperature and grammar."""
    chosen = Sampling(temperature=0.7, top_k=3, repetition_penalty=1.4, logit_bias=((90, 5.0),), seed=3).over(PLAIN)
    other = engine.submit(PROMPT[:3], GREEDY, max_new_tokens=15)
    answer = engine.submit(PROMPT, chosen, max_new_tokens=12, logprobs=4, constraint=JsonSchema({"type": "string"}))
    ids = list(answer)
    assert [entry.token_id for entry in answer.logprobs] == ids
    for at, entry in enumerate(answer.logprobs):
        expected = logits_of(model, PROMPT + ids[:at]).log_softmax(-1)
        assert entry.logprob == pytest.approx(float(expected[ids[at]]), abs=1e-4)
        values, best = expected.topk(4)
        assert [token for token, _ in entry.top] == best.tolist()
        assert [value for _, value in entry.top] == pytest.approx(values.tolist(), abs=1e-4)
    assert len(list(other)) > 0
    assert other.logprobs == []
    none = engine.submit(PROMPT, GREEDY, max_new_tokens=2, logprobs=0)
    list(none)
    assert [entry.top for entry in none.logprobs] == [(), ()]


# --- grammar

CALL = {"type": "object", "properties": {"n": {"enum": [1, 22]}}, "required": ["n"], "additionalProperties": False}
TOOL = Series((Text('<call "\\\n'), JsonSchema(CALL), Text("</骆驼>")))


def text_of(ids):
    return build_tokenizer().decode(ids, skip_special_tokens=True)


def test_an_answer_fits_its_constraint_and_ends(engine):
    """Random weights would never write it by themselves; many constraints and free answers share the batch."""
    wild = Sampling(temperature=2.0).over(PLAIN)
    free = [engine.submit(PROMPT, wild, max_new_tokens=40) for _ in range(3)]
    constraint = Choice((TOOL, JsonSchema({"type": "array", "items": {"type": "boolean"}, "maxItems": 3})))
    answers = [
        engine.submit(PROMPT, Sampling(seed=seed).over(wild), max_new_tokens=200, constraint=constraint)
        for seed in range(12)
    ]
    texts = [text_of(list(answer)) for answer in answers]
    assert {answer.finish_reason for answer in answers} == {"stop"}
    for text in texts:
        if text.startswith("<"):
            assert text.startswith('<call "\\\n')
            assert text.endswith("</骆驼>")
            assert json.loads(text[8:-5])["n"] in (1, 22)
        else:
            assert all(isinstance(value, bool) for value in json.loads(text))
    assert len({text[0] for text in texts}) == 2
    assert [len(list(each)) > 0 for each in free] == [True] * 3


def test_white_space_in_json_ends(engine):
    """A weak model can prefer blank lines to all else."""
    blank = Sampling(logit_bias=((6 + ord("\n"), 100.0),)).over(GREEDY)
    answer = engine.submit(PROMPT, blank, max_new_tokens=240, constraint=JsonSchema(CALL))
    assert json.loads(text_of(list(answer)))["n"] in (1, 22)
    assert answer.finish_reason == "stop"


@pytest.mark.parametrize(
    ("schema", "reason"),
    [({"not": {"type": "null"}}, 'Unimplemented keys: \\["not"\\]'), ({"format": "foo"}, "Unknown format: foo")],
)
def test_a_schema_that_cannot_be_done_is_refused_at_once(engine, schema, reason):
    with pytest.raises(UsageError, match=f"^the schema cannot be used: {reason}$"):
        engine.submit(PROMPT, GREEDY, max_new_tokens=5, constraint=Series((Text("x"), JsonSchema(schema))))


# --- adapters


def lora(model_dir, directory, seed=0, **settings):
    """A random adapter that changes the answers."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    settings = {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "down_proj"], **settings}
    base = AutoModelForCausalLM.from_pretrained(model_dir)
    made = get_peft_model(base, LoraConfig(init_lora_weights=False, task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "modules_to_save" in name or "lora_magnitude" in name:
                weight.mul_(1.7)
    made.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def adapters(model_dir, tmp_path_factory):
    """Adapters on different layers, of different kinds, by name."""
    path = tmp_path_factory.mktemp("adapters")
    return {
        "plain": lora(model_dir, path / "plain"),
        "dora": lora(model_dir, path / "dora", 1, use_dora=True, use_rslora=True, target_modules=["v_proj", "up_proj"]),
        "head": lora(model_dir, path / "head", 2, modules_to_save=["lm_head"], rank_pattern={"q_proj": 2}),
    }


@pytest.fixture(scope="module")
def expected(model, model_dir, adapters):
    """What a fresh model with each adapter answers by PEFT; None is the base model."""
    from peft import PeftModel

    found = {None: generated(model, PROMPT, 30)}
    for name, directory in adapters.items():
        fresh = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_dir), directory)
        found[name] = generated(fresh.eval().base_model.model, PROMPT, 30)
    assert len(set(map(tuple, found.values()))) == 4
    return found


def loaded(engine, adapters):
    """Handles by the adapters' names; None is the base model."""
    return {None: None, **{name: engine.load_adapter(directory) for name, directory in adapters.items()}}


def answer(engine, adapter, limit=30):
    return engine.submit(PROMPT, GREEDY, max_new_tokens=limit, adapter=adapter)


def test_adapters_are_isolated_one_after_the_other_and_at_once(make, model_dir, adapters, expected):
    engine = make(model_dir)
    handles = loaded(engine, adapters)
    order = [None, "plain", None, "dora", "plain", "head", None, "head", "dora", "plain"]
    for name in order:
        assert list(answer(engine, handles[name])) == expected[name], name
    running = [(name, answer(engine, handles[name])) for name in order * 3]
    for name, generation in running:
        assert list(generation) == expected[name], name


def gated(engine, calls):
    """Hold the model back before its call of that number until `release` is set; `reached` tells when it waits."""
    reached, release, seen = threading.Event(), threading.Event(), []

    def hook(_, __, given):
        seen.append(tuple(given["input_ids"].shape))
        if len(seen) == calls:
            reached.set()
            release.wait(30)

    model_in(engine).register_forward_pre_hook(hook, with_kwargs=True)
    return reached, release, seen


def test_two_directories_of_the_same_name_are_two_adapters(make, model_dir, adapters, expected, tmp_path):
    """The last part of the directory was once the adapter's name, and the second took the first one's place."""
    engine = make(model_dir)
    for name in ("plain", "dora"):
        shutil.copytree(adapters[name], tmp_path / name / "best")
    handles = {name: engine.load_adapter(tmp_path / name / "best") for name in ("plain", "dora")}
    for name in ("plain", "dora", "plain"):
        assert list(answer(engine, handles[name])) == expected[name]


def test_an_adapter_that_is_let_go_of_ends_what_it_began(make, model_dir, adapters, expected):
    engine = make(model_dir)
    handle = engine.load_adapter(adapters["plain"])
    reached, release, _ = gated(engine, 5)
    in_flight = answer(engine, handle)
    assert reached.wait(30)
    waiting = answer(engine, handle)
    held = weakref.ref(handle)
    del handle
    threading.Timer(0, release.set).start()
    assert list(answer(engine, engine.load_adapter(adapters["dora"]))) == expected["dora"]
    assert list(in_flight) == list(waiting) == expected["plain"]
    assert list(answer(engine, None)) == expected[None], "and by now the request is gone, too"
    gc.collect()
    assert held() is None
    assert list(answer(engine, engine.load_adapter(adapters["head"]))) == expected["head"]


def test_an_adapter_of_another_engine_is_refused(make, model_dir, adapters, expected):
    engine, other = make(model_dir), make(model_dir)
    with pytest.raises(UsageError, match="was loaded by another engine"):
        answer(engine, other.load_adapter(adapters["plain"]))
    assert list(answer(engine, None)) == expected[None]


def test_adapters_that_nobody_holds_leave_the_model(make, model_dir, adapters, expected):
    engine = make(model_dir)
    parameters = [name for name, _ in model_in(engine).named_parameters()]
    for name in ("plain", "head", "plain"):
        assert list(answer(engine, engine.load_adapter(adapters[name]))) == expected[name]
    assert list(answer(engine, None)) == expected[None]
    gc.collect()
    engine._thread.ask(lambda: None)  # what was queued before is done
    assert [name for name, _ in model_in(engine).named_parameters()] == parameters


@pytest.mark.parametrize("others", [[], ["plain"]])
def test_an_adapter_that_cannot_be_loaded_changes_nothing(
    make, model_dir, other_model_dir, adapters, expected, tmp_path, others
):
    wrong = lora(other_model_dir, tmp_path / "wrong", r=2)
    config = json.loads((wrong / "adapter_config.json").read_text())
    (wrong / "adapter_config.json").write_text(json.dumps({**config, "r": 3}))
    engine = make(model_dir)
    handles = loaded(engine, {name: adapters[name] for name in others})
    with pytest.raises(Exception, match="cannot be loaded"):
        engine.load_adapter(wrong)
    with pytest.raises(NotFoundError):
        engine.load_adapter(tmp_path / "nowhere")
    for name in [None, *others]:
        assert list(answer(engine, handles[name])) == expected[name]


@pytest.mark.parametrize(
    ("setting", "value"),
    [("bias", "all"), ("init_lora_weights", "pissa"), ("num_virtual_tokens", 8), ("layer_replication", [[0, 2]])],
)
def test_an_adapter_that_would_change_the_base_model_is_refused_by_name(engine, adapters, tmp_path, setting, value):
    config = json.loads((adapters["plain"] / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, setting: value}))
    with pytest.raises(EngineError, match="peft_type" if setting == "num_virtual_tokens" else setting):
        engine.load_adapter(tmp_path)


# --- running


@given(st.integers(1, 100_000))
def test_sizes_are_rounded_up_a_little(size):
    assert size <= rounded(size) <= min(size * 9 // 8, size + 63)
    assert rounded(rounded(size)) == rounded(size) <= rounded(size + 1)
    assert len({rounded(each) for each in range(1, 513)}) == 56


def test_a_cpu_meets_few_shapes_whatever_the_lengths(engine, model):
    """Memory grew with every new number of tokens in a call: by 600 MB over 1,000 requests of the embedded model."""
    tokens, columns = set(), set()

    def hook(_, __, given):
        tokens.add(given["input_ids"].numel())
        columns.add(given["attention_mask"].shape[1])

    model_in(engine).register_forward_pre_hook(hook, with_kwargs=True)
    rng = random.Random(0)
    wanted = [([rng.randrange(3, 262) for _ in range(rng.randint(1, 200))], rng.randint(1, 8)) for _ in range(400)]
    for start in range(0, len(wanted), 20):
        part = wanted[start : start + 20]
        answers = [engine.submit(ids, GREEDY, max_new_tokens=limit) for ids, limit in part]
        assert [len(list(answer)) > 0 for answer in answers] == [True] * 20
        assert list(answers[0]) == generated(model, *part[0])
    assert len(tokens) <= 60, sorted(tokens)
    assert len(columns) <= 48, sorted(columns)


def test_cancelling_while_the_prompt_is_read(engine, monkeypatch):
    reached, release, seen = gated(engine, 2)
    generation = engine.submit([7] * 5000, GREEDY, max_new_tokens=5)
    assert reached.wait(30)
    generation.cancel()
    release.set()
    assert list(generation) == []
    assert generation.finish_reason == "cancelled"
    assert seen == [(1, scheduler.CHUNK)] * 2


def test_answers_go_on_between_the_parts_of_a_long_prompt(engine):
    reached, release, seen = gated(engine, 3)
    short = engine.submit(PROMPT, Sampling(logit_bias=((END, -100.0),)).over(GREEDY), max_new_tokens=40)
    assert reached.wait(30)
    long = engine.submit([7] * 2000, GREEDY, max_new_tokens=1)
    release.set()
    assert len(list(short)) == 40
    assert len(list(long)) == 1
    kinds = ["long" if columns > len(PROMPT) else "short" for _, columns in seen]
    at = kinds.index("long")
    assert kinds[at : at + 6] == ["long", "short"] * 3


def test_cancelling_one_of_many_leaves_the_others(engine, model):
    wanted = prompts(9, longest=30)
    answers = [engine.submit(ids, GREEDY, max_new_tokens=30) for ids, _ in wanted]
    endless = engine.submit(PROMPT, Sampling(logit_bias=((END, -100.0),)).over(GREEDY), max_new_tokens=10**6)
    stream = iter(endless)
    next(stream)
    endless.cancel()
    assert len(list(stream)) < 10**6
    assert endless.finish_reason == "cancelled"
    assert [list(answer) for answer in answers] == [generated(model, ids, 30) for ids, _ in wanted]


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), MemoryLimitError, "out of memory while answering"),
        (ZeroDivisionError("oh"), EngineError, "the engine failed: oh"),
    ],
)
def test_a_failing_call_fails_its_own_requests_only(engine, model, raised, kind, message):
    """The prompt that is too much is one call; the answers under way are another."""
    before = engine.submit(PROMPT, GREEDY, max_new_tokens=30)

    def hook(_, __, given):
        if 99 in given["input_ids"] and given["input_ids"].shape[1] > 1:
            raise raised

    model_in(engine).register_forward_pre_hook(hook, with_kwargs=True)
    bad = engine.submit([99] * 600, GREEDY, max_new_tokens=5)
    with pytest.raises(kind, match=message):
        list(bad)
    assert list(before) == list(answer(engine, None)) == generated(model, PROMPT, 30)


def test_weights_that_compute_no_numbers_are_an_error(engine):
    with torch.no_grad():
        model_in(engine).model.norm.weight.fill_(float("nan"))
    for chosen in (GREEDY, Sampling(temperature=1.0).over(PLAIN)):
        with pytest.raises(EngineError, match="no finite numbers"):
            list(engine.submit(PROMPT, chosen, max_new_tokens=5))


def test_an_answer_that_failed_leaves_nothing_in_its_place(engine, model):
    """A mask hides numbers that are left over in a batch, but not those that are none."""
    weights = model_in(engine).get_input_embeddings().weight
    with torch.no_grad():
        weights[99] = float("nan")
    rare = Sampling(logit_bias=((99, 100.0),)).over(GREEDY)
    endless = engine.submit(PROMPT * 3, Sampling(logit_bias=((END, -100.0),)).over(GREEDY), max_new_tokens=10**6)
    next(iter(endless))
    with pytest.raises(EngineError, match="no finite numbers"):
        list(engine.submit(PROMPT, rare, max_new_tokens=5))
    after = list(engine.submit(PROMPT[:3], GREEDY, max_new_tokens=20))
    endless.cancel()
    assert after == generated(model, PROMPT[:3], 20)


def test_an_answer_that_failed_leaves_nothing_to_the_one_that_moves_into_its_place(engine, model):
    """Moved were only so many positions as were in use then; a longer answer that joined later uncovered the rest."""
    with torch.no_grad():
        model_in(engine).get_input_embeddings().weight[99] = float("nan")
    on = Sampling(logit_bias=((END, -100.0),)).over(GREEDY)
    reached, release, _ = gated(engine, 1)
    first = engine.submit(PROMPT, on, max_new_tokens=1)
    assert reached.wait(30)
    bad = engine.submit([7] * 40, Sampling(logit_bias=((99, 100.0),)).over(GREEDY), max_new_tokens=5)
    moved = engine.submit(PROMPT, on, max_new_tokens=120)
    release.set()
    with pytest.raises(EngineError, match="no finite numbers"):
        list(bad)
    longer = engine.submit(PROMPT * 15, on, max_new_tokens=30)
    assert list(moved) == generated(model, PROMPT, 120, min_new_tokens=120)
    assert list(longer) == generated(model, PROMPT * 15, 30, min_new_tokens=30)
    assert len(list(first)) == 1


def test_without_memory_for_more_requests_wait_instead_of_failing(engine, model, monkeypatch):
    monkeypatch.setattr(scheduler, "free_memory", lambda: 0)
    _, _, seen = gated(engine, 0)
    answers = [answer(engine, None, 10) for _ in range(4)]
    assert [list(each) for each in answers] == [generated(model, PROMPT, 10)] * 4
    assert {rows for rows, _ in seen} == {1}


def test_ids_that_the_model_does_not_have_are_refused(engine):
    with pytest.raises(UsageError, match="logit_bias has the token id 262, but the model's ids go from 0 to 261"):
        engine.submit(PROMPT, Sampling(logit_bias=((262, 1.0),)).over(GREEDY), max_new_tokens=1)
    with pytest.raises(UsageError, match="the prompt has the token id -1"):
        engine.submit([1, -1], GREEDY, max_new_tokens=1)
    with pytest.raises(UsageError, match="no tokens"):
        engine.submit([], GREEDY, max_new_tokens=1)


def test_closing_frees_the_model(model_dir):
    engine = TransformersEngine(model_dir, (END,))
    held = weakref.ref(model_in(engine))
    generation = engine.submit(PROMPT, Sampling(logit_bias=((END, -100.0),)).over(GREEDY), max_new_tokens=10**6)
    next(iter(generation))
    engine.close()
    list(generation)
    assert generation.finish_reason == "cancelled"
    gc.collect()
    assert held() is None
    with pytest.raises(EngineError, match="closed"):
        engine.load_adapter(Path("nowhere"))


def test_an_engine_that_nobody_holds_frees_the_model(model_dir):
    """Its own thread held it, so that weights stayed in memory until the process ended."""
    engine = TransformersEngine(model_dir, (END,))
    held, thread, collected = weakref.ref(model_in(engine)), engine._thread, weakref.ref(engine)
    assert list(engine.submit(PROMPT, GREEDY, max_new_tokens=3))
    del engine
    gc.collect()
    assert collected() is None
    thread.join(30)
    gc.collect()
    assert (thread.is_alive(), held()) == (False, None)


def test_an_answer_in_flight_keeps_its_engine(model_dir):
    engine = TransformersEngine(model_dir, (END,))
    whole = list(engine.submit(PROMPT, GREEDY, max_new_tokens=20))
    reached, release, _ = gated(engine, 2)
    generation, collected = engine.submit(PROMPT, GREEDY, max_new_tokens=20), weakref.ref(engine)
    del engine
    assert reached.wait(30)
    gc.collect()
    assert collected() is not None
    release.set()
    assert list(generation) == whole
