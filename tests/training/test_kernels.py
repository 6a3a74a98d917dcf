"""The fused pieces against the model's own code, in every shape that they meet; what does not fit is left out."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from arriero.training.kernels import Kernels
from arriero.training.options import TrainOptions
from arriero.training.setup.step_setup import set_up
from tests.training.architectures import tiny
from tests.training.test_exactness import GROUP, agree, build, steps_of


class PackedLinear(nn.Linear):
    """As bitsandbytes' 4-bit layer looks from outside: the weight is bytes, unpacked in the forward pass."""

    def __init__(self, own: nn.Linear) -> None:
        super().__init__(own.in_features, own.out_features, bias=own.bias is not None, device="meta")
        self.compute = own.weight.dtype
        self.scale = own.weight.detach().abs().max().item() / 127
        packed = (own.weight.detach() / self.scale + 128).round().to(torch.uint8)
        self.weight = nn.Parameter(packed.reshape(-1, 1), requires_grad=False)
        self.bias = own.bias

    def forward(self, x):
        weight = (self.weight.view(self.out_features, -1).to(self.compute) - 128) * self.scale
        return nn.functional.linear(x, weight, self.bias)


def packed(family="Llama", dtype=torch.float32):
    """A model whose linear layers but the head hold bytes, with LoRA matrices."""
    base = copy.deepcopy(build(family, dtype=dtype)).unload()
    for name, module in list(base.named_modules()):
        if type(module) is nn.Linear and module is not base.get_output_embeddings():
            base.set_submodule(name, PackedLinear(module))
    return tuned(base, ["q_proj", "gate_proj"])


def tuned(base, targets="all-linear"):
    """With LoRA matrices of ordinary size."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=targets))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    return model.train()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_with_packed_weights_is_probed_in_the_type_it_computes_in(dtype):
    """The gate's probe was cast to the packed weight's type: "silu" not implemented for 'Byte'."""
    kernels = Kernels(packed(dtype=dtype))
    assert kernels.counts["gate"] == 2
    assert kernels.counts["lora"] == 0, "LoraLinears multiplies with .weight as it is"


def test_a_model_with_packed_weights_learns_what_the_plain_one_does():
    model = packed()
    agree(model, steps_of(model), GROUP)


PARTIAL = ["gpt_neox", "phi3", "stablelm"]  # whose heads may be longer than what is rotated of them


@pytest.mark.parametrize("kind", PARTIAL)
def test_heads_longer_than_their_rotary_dimensions(kind):
    """The probe had queries and cosines of one size only, and training crashed in the first step."""
    rotation = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    model = tuned(tiny(kind, rope_parameters=rotation))
    agree(model, chosen_steps(model), GROUP)


def chosen_steps(model):
    """The steps that a run would compute, before they are checked."""
    return set_up(model, GROUP, 10, TrainOptions(verify=False), None).steps
