"""Answers over real base weights in 4 bits, on a CPU: what an adapter was trained over is what it answers over."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from arriero import chat, hub
from arriero.engines.registry import EngineOptions, find
from arriero.engines.select import as_trained, load_engine
from arriero.errors import EngineError, UsageError
from arriero.hub import four_bits
from arriero.messages import Sampling
from arriero.prompt import Contract
from tests.conftest import build_model, train_tiny
from tests.engines.transformers.support import lora

HELLO = [{"role": "user", "content": "who 1?"}]


@pytest.fixture(scope="module")
def adapter(rows_file, model_dir, tmp_path_factory):
    """Trained over a base in 4 bits."""
    pytest.importorskip("bitsandbytes")
    return train_tiny(rows_file, model_dir, tmp_path_factory.mktemp("runs") / "quarter", load_in_4bit=True)


@pytest.fixture(autouse=True)
def in_float32(monkeypatch):
    """Weights in 4 bits, computed with in float32, so that answers are the same to the last token."""
    monkeypatch.setattr("arriero.engines.transformers.engine.fast_bfloat16", lambda: False)


def answer(asked):
    sampling = Sampling(temperature=0.0).over(asked.defaults)
    ids = asked.render(HELLO)
    return list(asked.engine.submit(ids, sampling, max_new_tokens=16, adapter=asked.adapter))


def expected(model_dir, prompt, adapter=None, *, in_4bit=True):
    """What transformers and PEFT answer."""
    model = hub.load_weights(model_dir, in_4bit=in_4bit, dtype=torch.float32)
    model = (model if adapter is None else hub.load_adapter(model, adapter)).eval()
    ids = torch.tensor([prompt])
    return model.generate(ids, max_new_tokens=16, do_sample=False, pad_token_id=0)[0, len(prompt) :].tolist()


def test_an_adapter_trained_over_4_bits_answers_over_4_bits(home, adapter, model_dir, caplog):
    """It was answered over full weights, without a word."""
    caplog.set_level("INFO")
    asked = chat.load(model_dir, adapter=adapter, engine="transformers")
    assert Contract.load(adapter).base_in_4bit
    assert asked.engine.in_4bit
    assert asked.engine.description == "transformers, cpu, float32 over quantised weights"
    assert "precision: int4, as quarter was trained" in caplog.text
    assert "answers over" not in caplog.text
    base = asked.with_adapter(None, system="Be Killa.")
    prompt = asked.render(HELLO)
    answers = [answer(each) for each in (asked, base, asked, base)]
    asked.engine.close()
    assert answers[0] == answers[2] == expected(model_dir, prompt, adapter)
    assert answers[1] == answers[3] == expected(model_dir, prompt)
    assert answers[0] != expected(model_dir, prompt, adapter, in_4bit=False), "or this test shows nothing"


@pytest.mark.parametrize(("engine", "precision"), [("transformers", "float32"), ("openvino", "auto")])
def test_other_weights_are_told_once(home, adapter, model_dir, caplog, engine, precision):
    asked = chat.load(model_dir, adapter=adapter, engine=engine, precision=precision)
    asked.engine.close()
    told = [record.message for record in caplog.records if "was trained over a base in 4 bits" in record.message]
    assert len(told) == 1
    assert "--engine transformers --precision int4" in told[0]


def test_an_adapter_beside_it_that_was_trained_over_all_bits_is_told(home, adapter, trained_adapter, model_dir, caplog):
    asked = chat.load(model_dir, adapter=adapter, engine="transformers", room_for=[trained_adapter])
    assert "answers over" not in caplog.text
    other = asked.with_adapter(trained_adapter)
    assert "killa was trained over a base with all its bits, and answers over one in 4 bits" in caplog.text
    prompt = other.render(HELLO)
    assert answer(other) == expected(model_dir, prompt, trained_adapter)
    asked.engine.close()


def test_without_bitsandbytes_it_answers_over_full_weights_and_says_so(home, adapter, model_dir, caplog, monkeypatch):
    monkeypatch.setattr(four_bits, "installed", lambda: False)
    asked = chat.load(model_dir, adapter=adapter, engine="transformers")
    asked.engine.close()
    assert not asked.engine.in_4bit
    assert 'pip install "arriero[4bit]"' in caplog.text
    with pytest.raises(UsageError, match="bitsandbytes is not installed"):
        chat.load(model_dir, engine="transformers", precision="int4")


def test_only_auto_is_decided_by_the_adapter(adapter, trained_adapter):
    entry = find("transformers")
    for options, wanted in (
        (EngineOptions(room_for=[adapter]), "int4"),
        (EngineOptions(room_for=[adapter], precision="bfloat16"), "bfloat16"),
        (EngineOptions(room_for=[trained_adapter, adapter]), "auto"),
        (EngineOptions(), "auto"),
    ):
        assert as_trained(entry, None, options).precision == wanted
    plugged = importlib.util.find_spec("vllm_bnb_plugin") is not None
    assert as_trained(find("vllm"), None, EngineOptions(room_for=[adapter])).precision == (
        "int4" if plugged else "auto"
    )
    assert as_trained(find("openvino"), None, EngineOptions(room_for=[adapter])).precision == "auto"


def test_a_base_that_is_stored_in_4_bits_answers(home, model_dir, tmp_path, adapter):
    base = hub.load_weights(model_dir, in_4bit=True, dtype=torch.float32)
    base.save_pretrained(tmp_path / "stored")
    for file in model_dir.glob("*token*"):
        (tmp_path / "stored" / file.name).write_bytes(file.read_bytes())
    engine = load_engine(tmp_path / "stored", [2])
    assert engine.name == "transformers", "the others cannot export it"
    asked = [1, 4, 110, 111, 2, 5]
    sampling = Sampling(temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0)
    sampling = Sampling(presence_penalty=0.0, frequency_penalty=0.0).over(sampling)
    answered = list(engine.submit(asked, sampling, max_new_tokens=16))
    engine.close()
    assert answered == expected(model_dir, asked)


@pytest.mark.slow
def test_in_a_process_of_its_own(home, adapter, model_dir):
    """There computing in what this machine is fast at."""
    asked = chat.load(model_dir, adapter=adapter, engine="transformers", process=True)
    assert asked.engine.in_4bit
    assert asked.engine.description.endswith("over quantised weights")
    here = answer(asked)
    asked.engine.close()
    assert len(here) > 1


@pytest.fixture
def packing(monkeypatch, tmp_path_factory):
    """A model with layers that bitsandbytes' kernel takes, on a CPU that has it."""
    if not pytest.importorskip("bitsandbytes").functional.has_avx512bf16():
        pytest.skip("bitsandbytes has no kernel of its own for this CPU")
    monkeypatch.setattr("arriero.engines.transformers.engine.fast_bfloat16", lambda: True)
    return build_model(tmp_path_factory.mktemp("models") / "wide", size=64)


def test_answers_on_a_cpu_are_those_of_the_packed_weights(home, packing):
    """Unpacked for every product, weights of an 8B's size take ten times as long as in bfloat16."""
    asked = chat.load(packing, engine="transformers", precision="int4")
    prompt = asked.render(HELLO)
    generation = asked.engine.submit(
        prompt, Sampling(temperature=0.0).over(asked.defaults), max_new_tokens=0, prompt_logprobs=True
    )
    list(generation)
    model = asked.engine._thread.scheduler._forward._model
    assert four_bits.is_packed(model)
    asked.engine.close()
    plain = hub.load_weights(packing, in_4bit=True, dtype=torch.bfloat16).eval()
    with torch.no_grad():
        ours, theirs = (each(torch.tensor([prompt])).logits.float() for each in (model, plain))
    assert not four_bits.is_packed(plain)
    assert float((ours - theirs).norm() / theirs.norm()) < 0.05


def test_an_adapter_that_reads_the_base_s_weights_finds_them(home, packing, tmp_path):
    """DoRA takes their norm; packed for the kernel they are other bytes, which it would take for weights."""
    dora = lora(packing, tmp_path / "dora", use_dora=True)
    engine = load_engine(packing, [2], "transformers", EngineOptions(precision="int4"))
    sampling = Sampling(temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0)
    sampling = Sampling(presence_penalty=0.0, frequency_penalty=0.0).over(sampling)
    adapter = engine.load_adapter(dora)
    answered = list(engine.submit([1, 4, 110, 2, 5], sampling, max_new_tokens=8, adapter=adapter))
    assert answered
    assert not four_bits.is_packed(engine._thread.scheduler._forward._model)
    engine.close()
    late = load_engine(packing, [2], "transformers", EngineOptions(precision="int4"))
    list(late.submit([1, 4, 110, 2, 5], sampling, max_new_tokens=2))
    with pytest.raises(EngineError, match="dora reads the base's weights"):
        late.load_adapter(dora)
    late.close()
