"""The exported files: the model's probabilities, precisions, the cache, exports that are interrupted."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from arriero.engines.openvino import OpenVINOEngine, cache, exported
from arriero.engines.registry import EngineOptions
from arriero.errors import EngineError, UnsupportedError
from tests.conftest import build_model, build_tokenizer
from tests.engines.openvino.support import (
    END,
    GREEDY,
    LONG,
    reference,
)

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
