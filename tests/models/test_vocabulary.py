"""A tokenizer with more tokens than the model has embeddings for: refused with both numbers, or trained and kept."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from arriero import chat, hub
from arriero.constraint import Text
from arriero.engines import EngineOptions, load_engine, select_engine
from arriero.engines.transformers.adapters import Adapters
from arriero.errors import ArrieroError, EngineError
from arriero.prompt import resolve
from arriero.server.models import Models
from arriero.training.adapter.evaluate import evaluate
from arriero.training.adapter.merge import merge
from tests.conftest import build_tokenizer, train_tiny
from tests.models.test_kinds import END, GREEDY, PROMPT, greedy
from tests.training.architectures import tiny

ROWS, TOKENS = 262, 264


def wide(directory, *, tied=False, image=False):
    """A tiny model whose tokenizer has two tokens more; or only one, and that for images."""
    tiny("llama", vocab_size=ROWS, max_position_embeddings=256, tie_word_embeddings=tied).save_pretrained(directory)
    tokenizer = build_tokenizer()
    if image:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]}, replace_extra_special_tokens=False)
        tokenizer.init_kwargs["image_token"] = "<image>"
    else:
        tokenizer.add_tokens(["<call>", "<end>"])
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def wide_dir(tmp_path_factory):
    return wide(tmp_path_factory.mktemp("wide") / "wide")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Rows that have the new tokens in questions and answers."""
    file = tmp_path_factory.mktemp("rows") / "rows.json"
    file.write_text(json.dumps([{"instruction": f"<call> {at}", "output": "<end>" * (1 + at % 3)} for at in range(8)]))
    return file


@pytest.fixture(scope="module", params=["tied", "untied"])
def grown(request, tmp_path_factory, rows):
    """A model and an adapter that has embeddings for the tokens that it lacks."""
    model_dir = wide(tmp_path_factory.mktemp("grown") / "wide", tied=request.param == "tied")
    options = {"resize_embeddings": True, "epochs": 20, "learning_rate": 0.02}  # a higher one makes much of rounding
    return model_dir, train_tiny(rows, model_dir, model_dir.with_name("run"), **options)


def opened(what, model_dir, rows, tmp_path):
    if what == "train":
        train_tiny(rows, model_dir, tmp_path / "run")
    elif what == "evaluate":
        evaluate(rows, model=model_dir)
    else:
        chat.load(model_dir, engine=what)


@pytest.mark.parametrize("what", ["train", "evaluate", "transformers", "openvino", "auto"])
def test_more_tokens_than_embeddings_are_refused_with_both_numbers(what, wide_dir, rows, tmp_path):
    """Training ended in an IndexError of torch, and OpenVINO answered nonsense."""
    with pytest.raises(ArrieroError, match=r"has 264 tokens, but its embedding only 262: '<call>'") as caught:
        opened(what, wide_dir, rows, tmp_path)
    assert "--resize-embeddings" in caught.value.hint


EVERY = ["transformers", pytest.param("openvino", marks=pytest.mark.slow)]


@pytest.mark.parametrize("engine", EVERY)
def test_a_token_for_images_needs_no_embedding(engine, tmp_path, home):
    """Gemma 3's models that read text only have one, and answer, with a grammar too."""
    model_dir = wide(tmp_path / "image", image=True)
    assert len(resolve(model_dir).renderer.tokenizer) == ROWS + 1
    loaded = load_engine(model_dir, [END], engine, EngineOptions(precision="float32"))
    try:
        generation = loaded.submit(PROMPT, GREEDY, max_new_tokens=8, constraint=Text("yes"))
        assert resolve(model_dir).renderer.tokenizer.decode(list(generation), skip_special_tokens=True) == "yes"
    finally:
        loaded.close()


def test_new_rows_are_trained_and_answer_as_plain_peft_does(grown):
    model_dir, adapter = grown
    expected = greedy(plain(model_dir, adapter))
    loaded = load_engine(model_dir, [END], "transformers", EngineOptions(precision="float32"))
    try:
        base = list(loaded.submit(PROMPT, GREEDY, max_new_tokens=8))
        handle = loaded.load_adapter(adapter)
        prompt = [*PROMPT, ROWS, 5]
        assert list(loaded.submit(PROMPT, GREEDY, max_new_tokens=8, adapter=handle)) == expected
        answer = list(loaded.submit(prompt, GREEDY, max_new_tokens=8, adapter=handle))
        assert answer == greedy(plain(model_dir, adapter), prompt)
        assert max(answer) >= ROWS, "or the new tokens are never answered"
        assert list(loaded.submit(PROMPT, GREEDY, max_new_tokens=8)) == base, "the base model is as it was"
    finally:
        loaded.close()


def plain(model_dir, adapter):
    """What PEFT and transformers make of it by themselves."""
    from peft import PeftModel

    base = AutoModelForCausalLM.from_pretrained(model_dir)
    base.resize_token_embeddings(TOKENS, mean_resizing=False)
    return PeftModel.from_pretrained(base, adapter)


def test_engines_that_cannot_answer_with_new_rows_say_so(grown):
    model_dir, adapter = grown
    options = EngineOptions(room_for=[adapter])
    with pytest.raises(EngineError, match="trainable_token_indices"):
        select_engine("openvino", model_dir, options)
    assert select_engine("auto", model_dir, options).engine == "transformers"


@pytest.mark.parametrize("engine", EVERY)
def test_merging_keeps_new_rows_for_every_engine(engine, grown, tmp_path, home):
    model_dir, adapter = grown
    merged = tmp_path / "merged"
    assert merge(adapter, merged, model=model_dir).max_logit_difference < 1e-4
    shapes = {
        tuple(weight.shape) for name, weight in load_file(merged / "model.safetensors").items() if "embed" in name
    }
    assert shapes == {(TOKENS, 32)}
    assert hub.vocabulary(merged) == TOKENS
    loaded = load_engine(merged, [END], engine, EngineOptions(precision="float32"))
    try:
        assert list(loaded.submit(PROMPT, GREEDY, max_new_tokens=8)) == greedy(plain(model_dir, adapter))
    finally:
        loaded.close()


def test_a_server_leaves_out_the_base_model_that_lacks_tokens(grown, caplog):
    model_dir, adapter = grown
    models = Models(chat.load(model_dir, adapter=adapter, engine="transformers"), name="grown")
    try:
        assert list(models) == ["grown"]
        assert "the base model is not served: the tokenizer of wide has 264 tokens" in caplog.text
        assert models.find("grown").chat.complete([{"role": "user", "content": "<call> 1"}]).usage is not None
    finally:
        models.close()


def test_figures_of_new_rows_beside_a_base_model_without(grown, rows):
    model_dir, adapter = grown
    evaluation = evaluate(rows, model=model_dir, adapter=adapter, precision="float32")
    assert evaluation.nll < evaluation.base.nll


def test_who_keeps_where_the_embeddings_are_is_told_when_they_grow(grown):
    """A captured decode step would have read the memory where they were."""
    model_dir, adapter = grown
    grew = []
    adapters = Adapters(AutoModelForCausalLM.from_pretrained(model_dir), lambda: grew.append(True))
    adapters.load(adapter)
    assert grew == [True]
    adapters.load(adapter)
    assert grew == [True], "there is room now"


def test_a_process_of_its_own_takes_the_new_tokens_too(grown):
    model_dir, adapter = grown
    engine = load_engine(model_dir, [END], "transformers", EngineOptions(precision="float32", process=True))
    try:
        loaded = engine.load_adapter(adapter)
        assert list(engine.submit([5, TOKENS - 1], GREEDY, max_new_tokens=2, adapter=loaded))
    finally:
        engine.close()


def test_nothing_grows_where_nothing_is_missing(model_dir, rows_file, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="arriero")
    adapter = train_tiny(rows_file, model_dir, tmp_path / "run", resize_embeddings=True, epochs=1)
    assert "nothing to do, the tokenizer has 262 tokens and the embedding 262" in caplog.text
    assert hub.adapter_rows(adapter) == 0


def test_a_run_with_new_rows_goes_on_where_it_stopped(tmp_path, rows):
    """Its checkpoints have them."""
    model_dir = wide(tmp_path / "wide")
    options = {"resize_embeddings": True, "epochs": 3, "save_steps": 2, "save_total_limit": 9}
    whole = train_tiny(rows, model_dir, tmp_path / "whole", **options)
    shutil.copytree(whole / "checkpoints", tmp_path / "resumed" / "checkpoints")
    for late in ("checkpoint-4", "checkpoint-6"):
        shutil.rmtree(tmp_path / "resumed" / "checkpoints" / late)
    resumed = train_tiny(rows, model_dir, tmp_path / "resumed", resume=True, **options)
    ours, expected = (load_file(path / "adapter_model.safetensors") for path in (resumed, whole))
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in expected.items())


def test_who_keeps_where_the_embeddings_are_is_told_also_when_the_adapter_cannot_be_loaded(grown, tmp_path):
    """The embeddings had grown by then, and captured decode steps went on with the memory where they were."""
    model_dir, adapter = grown
    wrong = Path(shutil.copytree(adapter, tmp_path / "wrong"))
    config = json.loads((wrong / "adapter_config.json").read_text())
    (wrong / "adapter_config.json").write_text(json.dumps({**config, "r": config["r"] + 1}))
    grew = []
    adapters = Adapters(AutoModelForCausalLM.from_pretrained(model_dir), lambda: grew.append(True))
    with pytest.raises(ArrieroError, match="cannot be loaded"):
        adapters.load(wrong)
    assert adapters.vocabulary == TOKENS
    assert grew == [True]
