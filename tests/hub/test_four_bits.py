"""Real weights in 4 bits, on a CPU: what is loaded, what stays as it is, and what is refused."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys

import pytest
import torch

from arriero import hub
from arriero.errors import UsageError
from tests.conftest import build_model

IDS = torch.arange(10, 40)[None]


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A tiny model with rows of 64 weights, for which bitsandbytes has its own kernel on a CPU."""
    return build_model(tmp_path_factory.mktemp("models") / "wide", size=64)


def gradient(model):
    """That of the embeddings given to `model`."""
    given = model.get_input_embeddings()(IDS).detach().requires_grad_()
    model.train()(inputs_embeds=given).logits.float().logsumexp(-1).sum().backward()
    return given.grad


def test_an_evaluation_leaves_weights_and_gradients_as_they_were(wide):
    """On a CPU with bfloat16 instructions the first call without gradients packed the weights for a kernel that has
    no backward pass: training that evaluated in between went on with wrong gradients, and a warning of autograd's.
    """
    pytest.importorskip("bitsandbytes")
    model = hub.load_weights(wide, in_4bit=True, dtype=torch.bfloat16)
    before = gradient(model)
    with torch.no_grad():
        model.eval()(IDS)
    assert torch.equal(gradient(model), before)


def test_layers_are_nf4_and_the_head_is_not(wide):
    bnb = pytest.importorskip("bitsandbytes")
    model = hub.load_weights(wide, in_4bit=True, dtype=torch.bfloat16)
    layer = model.model.layers[0].mlp.down_proj
    assert isinstance(layer, bnb.nn.Linear4bit)
    assert (layer.weight.quant_type, layer.weight.quant_state.nested, layer.compute_dtype) == (
        "nf4",
        True,
        torch.bfloat16,
    )
    assert type(model.lm_head) is torch.nn.Linear
    assert model.dtype == torch.bfloat16


def test_a_base_that_is_stored_in_4_bits_is_the_same_base(wide, tmp_path):
    pytest.importorskip("bitsandbytes")
    model = hub.load_weights(wide, in_4bit=True, dtype=torch.bfloat16).eval()
    model.save_pretrained(tmp_path / "stored")
    for wanted in (True, False):
        again = hub.load_weights(tmp_path / "stored", in_4bit=wanted, dtype=torch.bfloat16).eval()
        with torch.no_grad():
            assert torch.equal(again(IDS).logits, model(IDS).logits)


def test_a_base_that_is_stored_otherwise_is_refused(wide, tmp_path):
    base = shutil.copytree(wide, tmp_path / "awq")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "awq"}}))
    with pytest.raises(UsageError, match=r"awq is stored quantised already \(awq\)"):
        hub.load_weights(base, in_4bit=True, dtype=torch.bfloat16)


def test_without_bitsandbytes_it_says_what_to_install(wide, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name))
    with pytest.raises(UsageError, match="the package bitsandbytes is not installed") as caught:
        hub.load_weights(wide, in_4bit=True, dtype=torch.bfloat16)
    assert caught.value.hint == 'pip install "arriero[4bit]"'
    base = shutil.copytree(wide, tmp_path / "stored")
    config = json.loads((base / "config.json").read_text())
    stored = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (base / "config.json").write_text(json.dumps({**config, "quantization_config": stored}))
    with pytest.raises(UsageError, match=r"stored is stored quantised \(bitsandbytes, 4 bits\), and the package"):
        hub.load_weights(base)


def test_a_bitsandbytes_that_does_not_work_is_an_error_of_ours(wide, tmp_path, monkeypatch):
    (tmp_path / "bitsandbytes.py").write_text("raise OSError('libcudart.so: cannot open shared object file')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "bitsandbytes", raising=False)
    with pytest.raises(UsageError, match=r"bitsandbytes does not work here: libcudart\.so"):
        hub.load_weights(wide, in_4bit=True, dtype=torch.bfloat16)


@pytest.mark.slow
def test_importing_it_is_quiet():
    """It warns of a kernel from a hub that nothing here uses, wherever peft imports it."""
    pytest.importorskip("bitsandbytes")
    script = "import arriero.hub, bitsandbytes.backends.cpu.ops"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=100)
    assert done.stderr == ""
