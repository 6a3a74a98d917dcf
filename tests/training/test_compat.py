"""Private names of other libraries: whichever is gone is named here, with its library."""

from __future__ import annotations

import inspect

import torch
from transformers import LlamaForCausalLM, MambaForCausalLM, PreTrainedModel, Trainer, core_model_loading

from arriero.training import compat
from tests.training.test_exactness import build


def test_torch_has_them():
    scores = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    output, grad = torch.softmax(scores, -1), torch.randn(2, 3, dtype=torch.float64)
    (expected,) = torch.autograd.grad(output, scores, grad)
    assert torch.allclose(compat.softmax_backward(grad, output), expected), "torch: _softmax_backward_data"
    compat.zero([ones := torch.ones(3)])
    assert not ones.any(), "torch: _foreach_zero_"
    layer = torch.nn.Linear(2, 2)
    compat.leave_out_of_ddp(layer, ["weight"])
    assert "weight" in layer._ddp_params_and_buffers_to_ignore, "torch: _set_params_and_buffers_to_ignore_for_model"


def test_transformers_has_them():
    model = build("Llama").get_base_model()
    model.set_attn_implementation("eager")
    assert compat.attention_of(model) == "eager", "transformers: config._attn_implementation"
    assert compat.takes_other_attention(LlamaForCausalLM), "transformers: _supports_attention_backend"
    assert compat.is_stateful(MambaForCausalLM), "transformers: _is_stateful"
    assert not compat.is_stateful(PreTrainedModel)
    compat.forget_weight_conversions(model)
    assert "model._weight_conversions" in inspect.getsource(core_model_loading), "transformers: _weight_conversions"
    missing = [name for name in compat.TRAINER_ATTRIBUTES if f"self.{name} = " not in inspect.getsource(Trainer)]
    assert missing == [], "transformers.Trainer"
    assert [name for name in compat.TRAINER if not callable(getattr(Trainer, name, None))] == [], "transformers.Trainer"
