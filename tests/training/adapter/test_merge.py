"""merge(): the exact weights, loadable by anyone, all of it or nothing; the receipt; the command line."""

from __future__ import annotations

import json
import math
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from starlette.testclient import TestClient

from arriero.chat import load
from arriero.cli.main import main
from arriero.errors import ArrieroError, ContractError, NotFoundError, UsageError
from arriero.hub import fingerprint, store
from arriero.messages import Conversation
from arriero.prompt import Contract, load_tokenizer, resolve
from arriero.server import create_app
from arriero.training.adapter.evaluate import evaluate
from arriero.training.adapter.merge import merge
from tests.conftest import TEMPLATE, train_tiny
from tests.training.adapter.conftest import SAMPLE, plain, renderer_of, report, tuned

FILES = {
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
    "model.safetensors", "merge.json", "arriero.json",
}  # fmt: skip
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


@pytest.fixture
def run(capsys):
    def call(*arguments):
        code = main(["merge", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@torch.no_grad()
def logits(model, examples):
    return [model(input_ids=torch.tensor([example.ids])).logits[0] for example in examples]


@pytest.mark.parametrize(("kind", "tied"), KINDS)
def test_plain_transformers_computes_what_the_unmerged_adapter_does(
    stored_as, make_adapter, rendered, tmp_path, kind, tied
):
    """In float64, where only the weights can make a difference and not the order of summing."""
    base = stored_as(torch.float32, tied=tied)
    adapter = make_adapter(base, **kind)
    receipt = merge(adapter, tmp_path / "merged", model=base)
    expected = torch.cat(logits(tuned(base, adapter, dtype=torch.float32).double(), rendered))
    found = torch.cat(logits(plain(tmp_path / "merged", dtype="auto").double(), rendered))
    without = torch.cat(logits(plain(base, dtype=torch.float32).double(), rendered))
    assert (expected - found).abs().max() < 1e-5
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
    found = []
    for where in ({"model": base, "adapter": adapter}, {"model": merged}):
        chat = load(**where, engine="transformers", precision="float32")
        client = TestClient(create_app(chat))
        served = client.post(
            "/v1/chat/completions", json={"model": chat.adapter_name or chat.model, "messages": QUESTION}
        ).json()
        options = [text for name, value in where.items() for text in (f"--{name}", value)]
        asked = shown(capsys, "ask", "who 1?", *options, "--engine", "transformers", "--precision", "float32")
        figures = shown(capsys, "evaluate", rows_file, *options, "--precision", "float32")
        found.append(
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
    assert found[0] == found[1]
    text = load_tokenizer(base).decode(found[1]["render"])
    assert text == "<s><sys>1532, 04 May 2031</s><sys>Be Killa.</s><user>who 1?</s><bot>"


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


def test_the_receipt_s_figures(stored_as, make_adapter, rendered, rows_file, tmp_path):
    """Against a plain computation: softmax over full logits, one row at a time."""
    base = stored_as(torch.bfloat16)
    adapter = make_adapter(base)
    receipt = merge(adapter, tmp_path / "merged", model=base, file=rows_file, rows=5)
    examples = [renderer_of(base).render(Conversation.of(SAMPLE)), *rendered[:5]]
    gaps, divergences, same = [], [], []
    models = tuned(base, adapter, dtype="auto"), plain(tmp_path / "merged", dtype="auto")
    for example, *pair in zip(examples, *(logits(model, examples) for model in models), strict=True):
        places = [place - 1 for place, loss in enumerate(example.mask) if loss]
        before, after = (each[places].double() for each in pair)
        gaps.append((before - after).abs())
        p, q = before.softmax(-1), after.softmax(-1)
        divergences.append((p * (p / q).log()).sum(-1))
        same.append(before.argmax(-1) == after.argmax(-1))
    kl = torch.cat(divergences)
    assert (receipt.rows, receipt.positions, receipt.dtype) == (6, len(kl), "bfloat16")
    assert receipt.max_kl == pytest.approx(kl.max().item(), rel=1e-4)
    assert receipt.mean_kl == pytest.approx(kl.mean().item(), rel=1e-4)
    assert receipt.max_logit_difference == pytest.approx(torch.cat(gaps).max().item())
    assert receipt.mean_logit_difference == pytest.approx(torch.cat(gaps).mean().item(), rel=1e-6)
    assert receipt.same_choice == pytest.approx(torch.cat(same).double().mean().item())


def test_the_receipt_is_of_held_out_rows_where_training_held_some_out(model_dir, make_adapter, rows_file, tmp_path):
    adapter = make_adapter(model_dir)
    report(adapter, eval_fraction=0.4, seed=1)
    held_out = evaluate(rows_file, model=model_dir, adapter=adapter, held_out=True).rows
    assert 0 < held_out < 8
    assert merge(adapter, tmp_path / "a", model=model_dir, file=rows_file).rows == 1 + held_out
    report(adapter, eval_fraction=0.0, seed=1)
    assert merge(adapter, tmp_path / "b", model=model_dir, file=rows_file).rows == 1 + 8


def test_a_quantised_base_is_refused_unless_allowed(stored_as, make_adapter, tmp_path):
    base = stored_as(torch.float32)
    adapter = make_adapter(base)
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "aqlm"}
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"stored quantised \(aqlm\)") as caught:
        merge(adapter, tmp_path / "merged", model=base)
    assert "--allow-quantised" in caught.value.hint
    with pytest.raises(ArrieroError, match="cannot be loaded"):  # its package is not installed
        merge(adapter, tmp_path / "merged", model=base, allow_quantised=True)
    assert not (tmp_path / "merged").exists()


def test_an_adapter_trained_in_four_bits_is_refused_unless_allowed(model_dir, make_adapter, tmp_path):
    adapter = make_adapter(model_dir)
    report(adapter, load_in_4bit=True)
    with pytest.raises(UsageError, match="load_in_4bit"):
        merge(adapter, tmp_path / "merged", model=model_dir)
    assert merge(adapter, tmp_path / "merged", model=model_dir, allow_quantised=True).quantised_base


def test_what_is_refused(model_dir, other_model_dir, make_adapter, tmp_path):
    adapter = make_adapter(model_dir)
    thesis = tmp_path / "taken" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("mine")
    for taken in (thesis.parent, thesis):
        with pytest.raises(UsageError, match="not an empty directory"):
            merge(adapter, taken, model=model_dir)
    assert [file.name for file in thesis.parent.iterdir()] == ["thesis.txt"]
    with pytest.raises(ContractError, match="the base model's weights"):
        merge(adapter, tmp_path / "merged", model=other_model_dir)
    with pytest.raises(NotFoundError, match="the adapter's base model is not on disk"):
        merge(adapter, tmp_path / "merged")
    with pytest.raises(NotFoundError, match="not an adapter directory"):
        merge(tmp_path, tmp_path / "merged", model=model_dir)
    assert {path.name for path in tmp_path.iterdir()} == {"adapter", "taken"}


def test_an_empty_directory_is_filled(model_dir, make_adapter, tmp_path):
    (tmp_path / "merged").mkdir()
    merge(make_adapter(model_dir), tmp_path / "merged", model=model_dir)
    assert {file.name for file in (tmp_path / "merged").iterdir()} == FILES


def test_broken_matrices_are_refused(model_dir, make_adapter, tmp_path):
    adapter = make_adapter(model_dir)
    file = adapter / "adapter_model.safetensors"
    matrices = load_file(file)
    matrices[min(matrices)].fill_(float("nan"))
    save_file(matrices, file)
    with pytest.raises(ArrieroError, match="cannot be merged into tiny: NaNs"):
        merge(adapter, tmp_path / "merged", model=model_dir)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_weights_too_large_for_the_stored_type_are_refused(stored_as, make_adapter, tmp_path):
    base = stored_as(torch.float16)
    adapter = make_adapter(base, lora_alpha=1e9)
    with pytest.raises(ArrieroError, match="too large for torch"):
        merge(adapter, tmp_path / "merged", model=base)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_full_disk_leaves_nothing(model_dir, make_adapter, tmp_path):
    """A process that may write no file larger than 20 kB, as if the disk were full: the weights do not fit."""
    adapter = make_adapter(model_dir)
    command = [sys.executable, "-m", "arriero.cli", "merge", str(adapter), "--model", str(model_dir)]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "merged")],
        capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )  # fmt: skip
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_one_process_at_a_time_writes_an_output_and_a_killed_one_leaves_nothing(model_dir, make_adapter, tmp_path):
    """Stopped, then killed once the comparison is announced, when all the weights are written; they stayed on disk."""
    adapter = make_adapter(model_dir)
    command = [sys.executable, "-m", "arriero.cli", "merge", str(adapter), "--model", str(model_dir)]
    process = subprocess.Popen([*command, "--output", str(tmp_path / "merged")], stderr=subprocess.PIPE, text=True)
    assert any(line.startswith("comparing") for line in process.stderr)
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(UsageError, match=rf"merged is being written by process {process.pid} \(.*arriero\.cli merge"):
        merge(adapter, tmp_path / "merged", model=model_dir)
    process.kill()
    process.communicate(timeout=60)
    assert not (tmp_path / "merged").exists()
    merge(adapter, tmp_path / "merged", model=model_dir)
    assert (tmp_path / "merged" / "merge.json").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"adapter", "merged"}


def test_the_json_document(run, model_dir, make_adapter, rows_file, tmp_path):
    adapter = make_adapter(model_dir)
    code, out, err = run(
        adapter, "--model", model_dir, "--output", tmp_path / "merged", "--data", rows_file, "--rows", 2, "--json"
    )
    assert code == 0, err
    document = json.loads(out)
    assert (document["output"], document["rows"]) == (str(tmp_path / "merged"), 3)
    assert {
        "positions", "max_logit_difference", "mean_logit_difference", "max_kl", "mean_kl", "dtype", "system"
    } <= set(document)  # fmt: skip


def test_the_receipt_for_people_names_the_system_prompt(run, model_dir, make_adapter, tmp_path):
    code, out, err = run(make_adapter(model_dir), "--model", model_dir, "--output", tmp_path / "merged")
    assert code == 0
    assert out == f"{tmp_path / 'merged'}\n"
    assert f"system prompt: 'Be Killa.'; contract of merged\ntry: arriero chat --model {tmp_path / 'merged'}\n" in err
    assert "divergence" in err


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["./nothing", "--output", "x"], 4, "not an adapter directory"),
        (["ADAPTER", "--output", "/sys/merged"], 1, "merged model"),
        (["ADAPTER", "--output", "adapter/arriero.json/merged"], 1, "cannot be written"),
        (["ADAPTER", "--output", "x", "--data", "none.json"], 4, "no file none.json"),
        (["ADAPTER", "--output", "x", "--rows", "0"], 2, "rows must be at least 1"),
        (["ADAPTER"], 2, "--output"),
    ],
)
def test_bad_input(run, model_dir, make_adapter, tmp_path, monkeypatch, arguments, code, told):
    monkeypatch.chdir(tmp_path)
    adapter = make_adapter(model_dir)
    arguments = [adapter if argument == "ADAPTER" else argument for argument in arguments]
    found, out, err = run(*arguments, "--model", model_dir)
    assert (found, out) == (code, "")
    assert told in err
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
