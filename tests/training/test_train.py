"""train(): the loss, the directory it writes, what it refuses, what is served afterwards."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from arriero import data
from arriero.chat import load
from arriero.errors import DataError, NotFoundError, UsageError
from arriero.messages import Sampling
from arriero.prompt import Contract, Rendered, Renderer, load_tokenizer, stop_token_ids
from arriero.training import train
from arriero.training.examples import collate
from tests.conftest import ROWS, ids_of, train_tiny

HELLO = [{"role": "user", "content": "who 1?"}]


@pytest.fixture(scope="module")
def rendered(rows_file, model_dir):
    tokenizer = load_tokenizer(model_dir)
    renderer = Renderer(tokenizer, stop_token_ids(tokenizer, model_dir), "Be Killa.")
    loaded = data.load(rows_file)
    return [renderer.render(loaded.conversation(index)) for index in range(len(loaded.table))]


def plain_nll(model_dir, examples):
    """One forward pass an example, without padding: summed over loss tokens, divided once."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    total, count = 0.0, 0
    for example in examples:
        logits = model(torch.tensor([example.ids])).logits[0].log_softmax(-1)
        for position, loss in enumerate(example.mask):
            if loss:
                total -= logits[position - 1, example.ids[position]].item()
                count += 1
    return total / count


def test_labels_are_the_answer_and_its_end_token():
    batch = collate([Rendered((1, 4, 70, 2, 5, 71, 2, 16), ((5, 7),)), Rendered((1, 9), ((1, 2),))])
    assert batch["input_ids"].tolist() == [[1, 4, 70, 2, 5, 71, 2, 16], [1, 9, 0, 0, 0, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1] * 8, [1, 1, 0, 0, 0, 0, 0, 0]]
    assert batch["labels"].tolist() == [[-100] * 5 + [71, 2, -100], [-100, 9, -100, -100, -100, -100, -100, -100]]


def test_the_first_step_s_loss_is_the_plain_one(rows_file, model_dir, rendered, tmp_path):
    """Summed over the step's loss tokens and divided once."""
    train_tiny(rows_file, model_dir, tmp_path / "run", epochs=1, batch_size=8)
    first = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(plain_nll(model_dir, rendered), rel=1e-5)


def test_the_directory_is_complete_and_names_no_machine_path(trained_adapter, model_dir):
    names = {file.name for file in trained_adapter.iterdir()}
    assert names == {
        "adapter_config.json", "adapter_model.safetensors", "arriero.json", "metrics.jsonl", "report.json",
        "report.html", "README.md", "checkpoints",
    }  # fmt: skip
    for name in ("adapter_config.json", "README.md"):
        assert str(model_dir.parent) not in (trained_adapter / name).read_text()
    steps = [json.loads(line)["step"] for line in (trained_adapter / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]
    result = json.loads((trained_adapter / "report.json").read_text())["result"]
    assert (result["steps"], result["samples"], result["epochs"]) == (6, 8, 3.0)


def test_training_lowers_the_loss(trained_adapter):
    losses = [json.loads(line)["loss"] for line in (trained_adapter / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]


def test_the_contract_holds_what_was_trained(trained_adapter, rendered):
    contract = Contract.load(trained_adapter)
    assert contract.system == "Be Killa."
    assert contract.sample_ids == rendered[0].ids
    assert contract.base_model == "tiny"


@pytest.mark.parametrize("engine", ["transformers", "openvino"])
def test_what_was_trained_is_what_is_served(home, trained_adapter, model_dir, rendered, engine):
    """Same prompt ids as in training, system prompt included, and the answer PEFT itself gives."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    chat = load(model_dir, adapter=trained_adapter, engine=engine)
    prompt = chat.render(HELLO)
    assert prompt == list(rendered[1].ids[: rendered[1].mask.index(True)])
    assert prompt[:10] == [1, 3, *ids_of("Be Killa")]
    base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    without = base.generate(torch.tensor([prompt]), max_new_tokens=16, do_sample=False)[0, len(prompt) :].tolist()
    model = PeftModel.from_pretrained(base, trained_adapter)
    expected = model.generate(torch.tensor([prompt]), max_new_tokens=16, do_sample=False)[0, len(prompt) :].tolist()
    sampling = Sampling().over(chat.defaults)
    answer = list(chat.engine.submit(prompt, sampling, max_new_tokens=16, adapter=chat.adapter))
    chat.close()
    assert answer == expected != without


@pytest.mark.parametrize("engine", ["transformers", "openvino"])
def test_base_and_adapter_side_by_side_do_not_mix(home, trained_adapter, model_dir, engine):
    """Caches keyed by prompt alone once let the base model answer with an adapter's keys and values."""

    def ask(chat):
        sampling = Sampling().over(chat.defaults)
        return list(chat.engine.submit(prompt, sampling, max_new_tokens=16, adapter=chat.adapter))

    alone = load(model_dir, engine=engine, system="Be Killa.")
    prompt = alone.render(HELLO)
    expected_base = ask(alone)
    alone.close()
    base = load(model_dir, engine=engine)
    tuned = load(model_dir, adapter=trained_adapter, engine=engine)
    answers = [ask(chat) for chat in (tuned, base, tuned, base)]
    base.close()
    tuned.close()
    assert answers[1] == answers[3] == expected_base
    assert answers[0] == answers[2] != expected_base


def test_a_system_prompt_of_the_caller_s_replaces_the_trained_one(home, trained_adapter, model_dir):
    chat = load(model_dir, adapter=trained_adapter, system="x", engine="transformers")
    assert chat.render(HELLO)[:4] == [1, 3, *ids_of("x"), 2]
    chat.close()


def test_rows_that_do_not_fit_are_left_out_and_listed(tmp_path, model_dir, caplog):
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([*ROWS[:4], {"instruction": "q", "output": "a" * 300}]))
    train_tiny(rows, model_dir, tmp_path / "run", epochs=1)
    reason = f"{1 + 11 + 3 + 302} tokens, the limit is 256"  # <s>, system, question, answer
    assert f"left out rows.json, row 4: {reason}" in caplog.text
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["dropped"] == [{"row": 4, "reason": reason, "file": "rows.json"}]


def test_nothing_left_to_train_on(tmp_path, rows_file, model_dir):
    with pytest.raises(DataError, match="no row is left of 8"):
        train_tiny(rows_file, model_dir, tmp_path / "run", max_length=5)
    assert not (tmp_path / "run").exists()


def test_training_refuses_to_start_when_the_engine_would_not_stop(tmp_path, rows_file, model_dir):
    """The template ends turns with a token that neither tokenizer nor generation config names as a stop token."""
    broken = tmp_path / "model"
    shutil.copytree(model_dir, broken)
    template = broken / "chat_template.jinja"
    template.write_text(template.read_text().replace("</s>", "<pad>"))
    with pytest.raises(DataError, match=r"no stop token after message 2.*are \['</s>'\]; generation_config.json"):
        train_tiny(rows_file, broken, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_wrong_layer_name_among_right_ones_is_refused(tmp_path, rows_file, model_dir):
    """PEFT trains the others and says nothing."""
    with pytest.raises(UsageError, match="no layers named v_prjo"):
        train_tiny(rows_file, model_dir, tmp_path / "run", target_modules=("q_proj", "v_prjo"))
    assert not (tmp_path / "run").exists()


def test_an_adapter_finds_a_base_model_that_came_from_a_hub(home, rows_file, model_dir, tmp_path):
    """Its contract once held a name that nothing could resolve."""
    from arriero.hub import store

    path = home / "models" / "owner--name"
    shutil.copytree(model_dir, path)
    store.write_manifest(path, name="owner--name", source="huggingface", revision="abc")
    train_tiny(rows_file, "owner/name", tmp_path / "run", epochs=1)
    chat = load(adapter=tmp_path / "run", engine="transformers")
    assert chat.model == "owner/name"
    chat.close()
    store.remove(store.find("owner/name"))
    with pytest.raises(NotFoundError, match="base model is not on disk") as caught:
        load(adapter=tmp_path / "run")
    assert "--model" in caught.value.hint


def test_held_out_loss_is_that_of_the_final_weights(tmp_path, rows_file, model_dir):
    train_tiny(rows_file, model_dir, tmp_path / "run", eval_fraction=0.3, epochs=2.5)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert lines[-1]["eval_loss"] == report["result"]["eval_loss"]
    assert lines[-1]["step"] == report["result"]["steps"]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert report["result"]["train_loss"] == pytest.approx(sum(losses) / len(losses))


def test_wrong_layer_names_leave_nothing_behind(tmp_path, rows_file, model_dir):
    with pytest.raises(UsageError, match="no layers named nonsense"):
        train_tiny(rows_file, model_dir, tmp_path / "run", target_modules=("nonsense",))
    assert not (tmp_path / "run").exists()


def test_a_directory_with_something_else_in_it_is_left_alone(tmp_path, rows_file, model_dir):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="not a training output"):
        train_tiny(rows_file, model_dir, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_finished_run_is_not_trained_over(trained_adapter, rows_file, model_dir):
    with pytest.raises(UsageError, match="already holds a run"):
        train_tiny(rows_file, model_dir, trained_adapter)
    before = (trained_adapter / "adapter_model.safetensors").read_bytes()
    train_tiny(rows_file, model_dir, trained_adapter, resume=True)
    assert (trained_adapter / "adapter_model.safetensors").read_bytes() == before
    with pytest.raises(UsageError, match=r"holds a run that differs: rank was 8, is now 4"):
        train_tiny(rows_file, model_dir, trained_adapter, resume=True, rank=4)


def test_system_prompt_none_is_the_template_s_own(tmp_path, rows_file, model_dir):
    train(rows_file, output=tmp_path / "run", model=model_dir, epochs=1, precision="float32")
    assert Contract.load(tmp_path / "run").system is None
