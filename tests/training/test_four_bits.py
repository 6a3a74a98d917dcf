"""Training over real weights in 4 bits, on a CPU."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from arriero import hub
from arriero.hub.adapter_files import WEIGHTS
from arriero.prompt import Contract
from arriero.training.adapter.evaluate import evaluate
from arriero.training.adapter.merge import merge
from arriero.training.continued import continued
from arriero.training.options import TrainOptions
from arriero.training.planning.estimate import estimate
from tests.conftest import train_tiny
from tests.training.test_resume import check_kills
from tests.training.test_train import plain_nll, rendered  # noqa: F401

pytest.importorskip("bitsandbytes")


@pytest.fixture(scope="module")
def adapter(rows_file, model_dir, tmp_path_factory):
    return train_tiny(rows_file, model_dir, tmp_path_factory.mktemp("runs") / "killa", load_in_4bit=True)


@pytest.fixture
def in_float32(monkeypatch):
    monkeypatch.setattr("arriero.training.adapter.loading.fast_bfloat16", lambda: False)


def losses(output):
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_it_learns_over_weights_in_4_bits_and_is_checked(adapter):
    """It was refused without CUDA."""
    report = json.loads((adapter / "report.json").read_text())
    assert losses(adapter)[-1] < losses(adapter)[0]
    assert report["options"]["load_in_4bit"] is True
    assert report["plan"]["prefix_sharing"] == "on"
    assert report["plan"]["fast"]["lora"] == 14, "all layers are fused, over weights in 4 bits too"
    verification = report["verify"]
    assert not verification["fell_back"]
    assert verification["worst"] <= 3


def test_the_first_step_s_loss_is_that_of_the_base_in_4_bits(rows_file, model_dir, rendered, tmp_path):  # noqa: F811
    output = train_tiny(rows_file, model_dir, tmp_path / "run", load_in_4bit=True, batch_size=8, epochs=1)
    base = hub.load_weights(model_dir, in_4bit=True, dtype=torch.float32).eval()
    base.save_pretrained(tmp_path / "base")
    assert losses(output)[0] == pytest.approx(plain_nll(tmp_path / "base", rendered), rel=1e-5)
    assert losses(output)[0] != pytest.approx(plain_nll(model_dir, rendered), rel=1e-3), "or this test shows nothing"


def test_evaluations_in_between_change_nothing(rows_file, model_dir, tmp_path):
    """bitsandbytes changes the layout of its weights in a call without gradients, see hub/four_bits.py."""
    options = {"load_in_4bit": True, "eval_fraction": 0.3, "precision": "bfloat16"}
    often = train_tiny(rows_file, model_dir, tmp_path / "often", eval_steps=1, **options)
    once = train_tiny(rows_file, model_dir, tmp_path / "once", **options)
    one, other = (load_file(output / WEIGHTS) for output in (often, once))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_it_goes_on_from_an_adapter_over_the_same_weights(adapter, rows_file, model_dir, tmp_path, in_float32):
    options = {"from_adapter": str(adapter), "epochs": 1, "batch_size": 8, "system": None}
    further = train_tiny(rows_file, model_dir, tmp_path / "more", **options)
    assert losses(further)[0] == pytest.approx(evaluate(rows_file, model=model_dir, adapter=adapter).nll, rel=1e-4)


@pytest.mark.slow
def test_a_killed_run_ends_in_the_same_adapter(rows_file, model_dir, tmp_path):
    check_kills(rows_file, model_dir, tmp_path, 3, load_in_4bit=True)


def test_the_estimate_has_the_layers_in_4_bits(model_dir):
    """The plan said what full weights take."""
    whole, less = (
        estimate(model_dir, tokens=10, step_tokens=10, in_4bit=in_4bit).memory_bytes for in_4bit in (False, True)
    )
    base = hub.load_weights(model_dir, in_4bit=True, dtype=torch.bfloat16)
    full = hub.load_weights(model_dir, dtype=torch.bfloat16)
    saved = full.get_memory_footprint() - base.get_memory_footprint()
    assert whole - less == pytest.approx(saved, rel=0.05)


def test_evaluation_is_over_4_bits_too(adapter, rows_file, model_dir, caplog, in_float32):
    """It was over full weights, without a word."""
    caplog.set_level("INFO")
    found = evaluate(rows_file, model=model_dir, adapter=adapter)
    assert found.precision == "int4"
    assert "in 4 bits, as the adapter was trained" in caplog.text
    base = evaluate(rows_file, model=model_dir, precision="int4", system="Be Killa.")
    assert found.base.nll == pytest.approx(base.nll)
    caplog.clear()
    full = evaluate(rows_file, model=model_dir, adapter=adapter, precision="float32")
    assert (full.precision, full.nll) != ("int4", pytest.approx(found.nll, rel=1e-4))
    assert "was trained over a base in 4 bits, and is evaluated over one in more" in caplog.text


def test_merging_is_measured_against_the_adapter_over_4_bits(adapter, model_dir, tmp_path, monkeypatch):
    receipt = merge(adapter, tmp_path / "merged", model=model_dir, allow_quantised=True)
    assert receipt.quantised_base
    assert not Contract.load(tmp_path / "merged").base_in_4bit
    monkeypatch.setattr(hub.four_bits, "installed", lambda: False)
    over_full = merge(adapter, tmp_path / "again", model=model_dir, allow_quantised=True)
    assert over_full.max_logit_difference < receipt.max_logit_difference / 10


def test_an_adapter_is_trained_further_as_it_was(adapter, trained_adapter, caplog):
    assert continued(TrainOptions(), adapter).load_in_4bit
    assert not continued(TrainOptions(), trained_adapter).load_in_4bit
    assert "not trained over" not in caplog.text
    assert continued(TrainOptions(load_in_4bit=True), trained_adapter).load_in_4bit
    assert "killa was not trained over a base in 4 bits" in caplog.text
