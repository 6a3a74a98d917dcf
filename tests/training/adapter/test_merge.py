"""merge(): the exact weights, loadable by anyone, under the adapter's contract."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from starlette.testclient import TestClient

from arriero.chat import load
from arriero.cli.main import main
from arriero.errors import ContractError
from arriero.hub import fingerprint, store
from arriero.messages import Conversation
from arriero.prompt import Contract, load_tokenizer, resolve
from arriero.server import create_app
from arriero.training.adapter.merge import merge
from tests.conftest import TEMPLATE, train_tiny
from tests.training.adapter.conftest import FILES, SAMPLE, logits, plain, renderer_of, tuned

KINDS = [  # LoRA's options, and whether the base model's embeddings are tied
    ({}, False),
    ({"use_rslora": True, "r": 6}, True),
    ({"use_dora": True}, False),
    ({"target_modules": ["embed_tokens", "v_proj"]}, True),
    ({"target_modules": ["lm_head", "v_proj"]}, True),
    ({"target_modules": ["lm_head", "v_proj"]}, False),
    ({"modules_to_save": ["lm_head"]}, True),
    ({"modules_to_save": ["embed_tokens"]}, True),
]


@pytest.mark.parametrize(("kind", "tied"), KINDS)
def test_plain_transformers_computes_what_the_unmerged_adapter_does(
    stored_as, make_adapter, rendered, tmp_path, kind, tied
):
    """In float64, where only the weights can make a difference and not the order of summing."""
    base = stored_as(torch.float32, tied=tied)
    adapter = make_adapter(base, **kind)
    receipt = merge(adapter, tmp_path / "merged", model=base)
    expected = torch.cat(logits(tuned(base, adapter, dtype=torch.float32).double(), rendered))
    ours = torch.cat(logits(plain(tmp_path / "merged", dtype="auto").double(), rendered))
    without = torch.cat(logits(plain(base, dtype=torch.float32).double(), rendered))
    assert (expected - ours).abs().max() < 1e-5
    assert (expected - without).abs().max() > 0.1
    assert (receipt.dtype, receipt.rows, receipt.same_choice) == ("float32", 1, 1.0)
    assert 0 <= receipt.mean_logit_difference <= receipt.max_logit_difference < 1e-4
    assert 0 <= receipt.mean_kl <= receipt.max_kl < 1e-9


@pytest.mark.parametrize("options", [{}, {"use_rslora": True, "r": 6}])
def test_weights_are_rounded_once(stored_as, make_adapter, tmp_path, options):
    """Bit for bit: base in float32 plus delta in float32, then to bfloat16; all else is the base's own."""
    base = stored_as(torch.bfloat16)
    adapter = make_adapter(base, **options)
    merge(adapter, tmp_path / "merged", model=base)
    before, after = (load_file(path / "model.safetensors") for path in (base, tmp_path / "merged"))
    matrices = load_file(adapter / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    rank = options.get("r", 4)
    scale = 16 / (math.sqrt(rank) if options else rank)
    twice = 0
    for name, stored in before.items():
        assert after[name].dtype == torch.bfloat16
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{prefix}.lora_A.weight" not in matrices:
            assert torch.equal(after[name], stored), name
            continue
        delta = matrices[f"{prefix}.lora_B.weight"] @ matrices[f"{prefix}.lora_A.weight"] * scale
        assert torch.equal(after[name], (stored.float() + delta).bfloat16()), name
        twice += int((after[name] != stored + delta.bfloat16()).sum())
    assert twice, "rounding the delta first would have made no difference, so nothing was tested"


def test_the_directory_is_an_ordinary_one(stored_as, make_adapter, rendered, tmp_path):
    base = stored_as(torch.bfloat16)
    odd = {"do_sample": False, "temperature": 0.6, "eos_token_id": [2]}  # transformers refuses to write this
    (base / "generation_config.json").write_text(json.dumps(odd))
    (base / "LICENSE").write_text("as you like")
    store.write_manifest(base, name="base", source="modelscope", revision="1")
    (base / "modeling.py").write_text("")
    output = tmp_path / "deep" / "merged"
    receipt = merge(make_adapter(base), output, model=base)
    assert {file.name for file in output.iterdir()} == FILES | {"LICENSE"}
    assert list(output.parent.iterdir()) == [output]
    assert len({file.stat().st_mode for file in output.iterdir()}) == 1, "readable by whom the others are"
    for name in FILES - {"model.safetensors", "merge.json", "config.json", "arriero.json"}:
        assert (output / name).read_bytes() == (base / name).read_bytes()
    assert json.loads((base / "config.json").read_text()) == json.loads((output / "config.json").read_text())
    assert plain(output, dtype="auto").dtype == torch.bfloat16
    tokenizer = load_tokenizer(output)
    assert tokenizer.chat_template == load_tokenizer(base).chat_template
    document = json.loads((output / "merge.json").read_text())
    assert document["max_kl"] == receipt.max_kl > 0
    assert str(tmp_path) not in (output / "merge.json").read_text()
    assert receipt.bytes == sum(file.stat().st_size for file in output.iterdir() if file.name != "merge.json")


QUESTION = [{"role": "user", "content": "who 1?"}]


@pytest.fixture
def dated(model_dir, tmp_path):
    """The tiny model under a template that writes a variable and today's date into every prompt."""
    directory = shutil.copytree(model_dir, tmp_path / "dated")
    dates = "{{ '<sys>' + (date_string or '') + strftime_now('%d %b %Y') + '</s>' }}"
    (directory / "chat_template.jinja").write_text(TEMPLATE.replace("{{ '<s>' }}", "{{ '<s>' }}" + dates))
    return directory


@pytest.fixture
def merged_from(dated, make_adapter, tmp_path):
    """(base, adapter, merged): the adapter was trained with a system prompt, on a day, with a variable."""
    adapter = make_adapter(dated)
    renderer = replace(renderer_of(dated), today="2031-05-04", variables={"date_string": "1532, "})
    sample = Conversation.of(SAMPLE)
    Contract.of(renderer, sample, base_model="dated", base_fingerprint=fingerprint(dated)).save(adapter)
    merge(adapter, tmp_path / "merged", model=dated)
    return dated, adapter, tmp_path / "merged"


def shown(capsys, *arguments):
    """The JSON document of a command."""
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_merged_model_is_asked_and_answers_as_its_adapter_everywhere(home, merged_from, rows_file, capsys):
    """It lost system prompt, date and variables: what was trained was not what was served."""
    base, adapter, merged = merged_from
    answers = []
    for where in ({"model": base, "adapter": adapter}, {"model": merged}):
        chat = load(**where, engine="transformers", precision="float32")
        client = TestClient(create_app(chat))
        served = client.post(
            "/v1/chat/completions", json={"model": chat.adapter_name or chat.model, "messages": QUESTION}
        ).json()
        options = [text for name, value in where.items() for text in (f"--{name}", value)]
        asked = shown(capsys, "ask", "who 1?", *options, "--engine", "transformers", "--precision", "float32")
        figures = shown(capsys, "evaluate", rows_file, *options, "--precision", "float32")
        answers.append(
            {
                "render": chat.render(QUESTION),
                "tokenize": client.post("/tokenize", json={"messages": QUESTION}).json()["tokens"],
                "complete": chat.complete(QUESTION).text,
                "serve": (served["choices"][0]["message"]["content"], served["usage"]),
                "ask": (asked["text"], asked["usage"]),
                "evaluate": (figures["system"], figures["loss_tokens"], pytest.approx(figures["nll"], abs=1e-5)),
            }
        )
        chat.close()
    assert answers[0] == answers[1]
    text = load_tokenizer(base).decode(answers[1]["render"])
    assert text == "<s><sys>1532, 04 May 2031</s><sys>Be Killa.</s><user>who 1?</s><bot>"


@pytest.mark.slow
def test_training_on_a_merged_model_begins_with_its_contract(merged_from, rows_file, tmp_path, capsys):
    """And inspect shows the ids that it trains on; another system prompt goes before it, the dates stay."""
    _, _, merged = merged_from
    for system, prompt in ((None, "Be Killa."), ("Be brief.", "Be brief.")):
        given = [] if system is None else ["--system", system]
        document = shown(capsys, "inspect", rows_file, "--model", merged, *given)
        again = train_tiny(rows_file, merged, tmp_path / prompt, epochs=1, system=system)
        contract = Contract.load(again)
        expected = f"<s><sys>1532, 04 May 2031</s><sys>{prompt}</s><user>who 0?</s><bot>me</s>"
        assert document["examples"][0]["text"] == expected
        assert (document["system"], document["contract"]) == (prompt, "merged")
        assert (contract.system, contract.today, contract.variables) == (
            prompt,
            "2031-05-04",
            {"date_string": "1532, "},
        )
        assert contract.base_fingerprint == fingerprint(merged)
        assert (
            resolve(merged, again).renderer.render(Conversation.of(contract.sample_messages)).ids == contract.sample_ids
        )


def test_a_merged_model_says_where_it_comes_from(merged_from, make_adapter, tmp_path):
    _, adapter, merged = merged_from
    contract = Contract.load(merged)
    assert (contract.base_model, contract.merged_adapter) == ("dated", "adapter")
    assert contract == replace(Contract.load(adapter), base_fingerprint=fingerprint(merged), merged_adapter="adapter")
    second = make_adapter(merged, "second")
    merge(second, tmp_path / "twice", model=merged)
    contract = Contract.load(tmp_path / "twice")
    assert (contract.merged_adapter, contract.variables, contract.system) == ("second", {}, "Be Killa.")
    assert contract.base_fingerprint == fingerprint(tmp_path / "twice")


def test_a_merged_model_whose_weights_have_changed_is_an_error(merged_from):
    _, _, merged = merged_from
    weights = load_file(merged / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, merged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ContractError, match=r"since adapter was merged into it; what differs: its weights") as caught:
        resolve(merged)
    assert "without its arriero.json" in caught.value.hint
