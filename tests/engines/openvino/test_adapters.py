"""Adapters: as with PEFT, apart from each other and from the base model, refused where they would be wrong."""

from __future__ import annotations

import gc
import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from arriero.engines.openvino import adapter_scale, exported
from arriero.engines.openvino.adapter import adapter_weights, matrices
from arriero.errors import ArrieroError, EngineError, UsageError
from tests.conftest import build_model
from tests.engines.openvino.support import (
    GREEDY,
    LONG,
    PROMPT,
    ids,
    kill,
    loaded,
    lora,
    reference,
)


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


def test_a_retired_pipeline_finishes_what_was_begun_and_is_freed(in_process):
    here = in_process()
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


def test_an_adapter_in_16_bits_is_read_as_it_is(tmp_path):
    values = torch.randn(3, 5).to(torch.bfloat16)
    names = [f"base_model.model.model.layers.0.self_attn.q_proj.lora_{part}.weight" for part in "AB"]
    save_file({names[0]: values, names[1]: values.T.contiguous().half()}, tmp_path / "adapter.safetensors")
    ((layer, (a, b)),) = matrices(tmp_path / "adapter.safetensors").items()
    assert layer == "model.layers.0.self_attn.q_proj"
    assert torch.equal(torch.from_numpy(a), values.float())
    assert torch.equal(torch.from_numpy(b), values.T.half().float())


def test_an_adapter_fits_a_model_stored_in_16_bits(make, model_dir, tmp_path):
    """Such models' layers have other names in the graph: every adapter of the default model was once refused."""
    stored = build_model(tmp_path / "model")
    AutoModelForCausalLM.from_pretrained(stored).to(torch.bfloat16).save_pretrained(stored)
    directory, model = lora(stored, tmp_path / "adapter", 3, target_modules="all-linear")
    one = make(stored, precision="bfloat16")
    generated = ids(one, adapter=one.load_adapter(directory), count=24)
    assert generated == reference(model.float(), PROMPT, generated).argmax(-1).tolist()
    assert generated != ids(one, count=24)
