"""Adapters from elsewhere: PEFT's own directories and a Trainer's checkpoints become adapter directories."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

import arriero
from arriero.cli.main import main
from arriero.errors import ArrieroError, ContractError, NotFoundError, UsageError
from arriero.prompt import CONTRACT_FILE, Contract, resolve
from arriero.prompt.adopt import adopt
from arriero.training.adapter.evaluate import evaluate


@pytest.fixture(scope="module")
def checkpoint(model_dir, tmp_path_factory):
    """What transformers' Trainer leaves of a PEFT model that was trained without Arriero."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    output = tmp_path_factory.mktemp("elsewhere")
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "up_proj"]))
    rows = [{"input_ids": [5, 6, 7, 8], "labels": [5, 6, 7, 8], "attention_mask": [1] * 4}] * 4
    arguments = TrainingArguments(
        output_dir=str(output), max_steps=2, learning_rate=0.5, save_steps=2, report_to=[], disable_tqdm=True,
        dataloader_pin_memory=False,
    )  # fmt: skip
    Trainer(model=model, args=arguments, train_dataset=rows).train()
    return output / "checkpoint-2"


@pytest.fixture
def foreign(checkpoint, tmp_path):
    """A copy of it that may be changed."""
    return shutil.copytree(checkpoint, tmp_path / "checkpoint-2")


def change(adapter, **settings):
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def test_an_adopted_checkpoint_answers_as_peft_does(foreign, model_dir):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adopted = adopt(foreign, system="Be Killa.")
    assert (adopted.adapter_dir, adopted.model_dir, adopted.renderer.system) == (foreign, model_dir, "Be Killa.")
    chat = arriero.load(adapter=foreign, engine="transformers", precision="float32")
    question = [{"role": "user", "content": "Who?"}]
    ids = chat.render(question)
    assert "Be Killa." in adopted.renderer.tokenizer.decode(ids)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_dir), foreign)
    expected = model.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)[0, len(ids) :].tolist()
    got = chat.engine.submit(ids, arriero.Sampling(temperature=0.0), max_new_tokens=8, adapter=chat.adapter)
    assert list(got) == expected


def test_an_adopted_adapter_is_measured(foreign, rows_file):
    adopt(foreign)
    measured = evaluate(rows_file, adapter=foreign, precision="float32")
    assert measured.base is not None
    assert measured.nll != measured.base.nll


def test_a_copy_leaves_the_original_alone(checkpoint, model_dir, tmp_path):
    before = {file.name: file.read_bytes() for file in checkpoint.iterdir()}
    assert main(["adopt", str(checkpoint), "--output", str(tmp_path / "mine"), "--json"]) == 0
    assert {file.name: file.read_bytes() for file in checkpoint.iterdir()} == before
    assert resolve(adapter=tmp_path / "mine").model_dir == model_dir
    with pytest.raises(UsageError, match="not an empty directory"):
        adopt(checkpoint, output=tmp_path / "mine")


def test_without_a_contract_the_error_names_the_command(foreign):
    with pytest.raises(NotFoundError) as told:
        resolve(adapter=foreign)
    assert f"arriero adopt {foreign}" in str(told.value.hint)


@pytest.mark.parametrize(
    "name", ["/elsewhere/models/LLM-Research/Meta-Llama-3___1-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"]
)
def test_the_base_is_found_by_the_names_that_hubs_and_their_clients_have_for_it(foreign, home, model_dir, name):
    shutil.copytree(model_dir, home / "models" / "llama-3.1-8b-instruct")
    (home / "models" / "llama-3.1-8b-instruct" / "arriero-model.json").write_text(
        json.dumps({"name": "llama-3.1-8b-instruct", "source": "modelscope", "revision": "1", "files": {}})
    )
    change(foreign, base_model_name_or_path=name)
    assert adopt(foreign).model_dir == home / "models" / "llama-3.1-8b-instruct"
    assert Contract.load(foreign).base_path is None


@pytest.mark.parametrize(
    ("settings", "kind", "told"),
    [
        ({"base_model_name_or_path": "/nowhere/at-all"}, NotFoundError, "at-all is not on disk"),
        ({"base_model_name_or_path": None}, NotFoundError, "names no base model"),
        ({"peft_type": "IA3"}, ArrieroError, "type IA3"),
        ({"task_type": "SEQ_CLS"}, ArrieroError, "for SEQ_CLS"),
    ],
)
def test_what_cannot_be_adopted_is_told(foreign, settings, kind, told):
    change(foreign, **settings)
    with pytest.raises(kind, match=told):
        adopt(foreign)
    assert not (foreign / CONTRACT_FILE).exists()


def test_missing_files_and_pickles_are_told(foreign, tmp_path):
    with pytest.raises(NotFoundError, match=r"has no adapter_config\.json"):
        adopt(tmp_path)
    (foreign / "adapter_model.safetensors").rename(foreign / "adapter_model.bin")
    with pytest.raises(NotFoundError) as told:
        adopt(foreign)
    assert "save_pretrained" in str(told.value.hint)


def test_the_adapter_of_another_model_is_told(foreign, embedded_model):
    with pytest.raises(ArrieroError, match="made for another model"):
        adopt(foreign, model=embedded_model)
    assert not (foreign / CONTRACT_FILE).exists()


def test_a_contract_is_not_replaced(trained_adapter):
    before = (trained_adapter / CONTRACT_FILE).read_bytes()
    with pytest.raises(UsageError, match="has a prompt contract already"):
        adopt(trained_adapter, system="other")
    assert (trained_adapter / CONTRACT_FILE).read_bytes() == before


def test_an_adapter_of_a_model_given_as_a_directory_finds_it_again(trained_adapter, model_dir):
    """`train --model DIR` printed a command that could not work: nothing said where the directory was."""
    assert resolve(adapter=trained_adapter).model_dir == model_dir


def test_a_base_that_has_moved_is_looked_for_by_its_name(trained_adapter, tmp_path):
    adapter = shutil.copytree(trained_adapter, tmp_path / "adapter")
    contract = json.loads((adapter / CONTRACT_FILE).read_text())
    (adapter / CONTRACT_FILE).write_text(json.dumps({**contract, "base_path": str(tmp_path / "gone")}))
    with pytest.raises(NotFoundError, match="base model is not on disk"):
        resolve(adapter=adapter)
    (adapter / CONTRACT_FILE).write_text(json.dumps({**contract, "base_path": 3}))
    with pytest.raises(ContractError, match="must be text"):
        resolve(adapter=adapter)


def test_the_card_does_not_say_where_the_base_lay(trained_adapter, model_dir):
    assert Contract.load(trained_adapter).base_path == str(model_dir)
    for name in ("README.md", "report.html", "adapter_config.json"):
        assert str(model_dir) not in (trained_adapter / name).read_text()
