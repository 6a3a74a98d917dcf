"""Fused pieces: which fit a model, what the last layer computes, and that the model is its own outside a step."""

from __future__ import annotations

import torch

from arriero.training.kernels import Kernels
from arriero.training.kernels.pieces import of_one_input
from arriero.training.kernels.probing import record
from arriero.training.pack import loss_tokens
from tests.training.test_exactness import GROUP, agree, build, steps_of


def test_the_pieces_fit_where_they_should():
    """Gemma's norm multiplies by 1 + weight and its gate is a GELU; Gemma 2 caps its logits, after the head."""
    llama, gemma, capped = (Kernels(build(family)) for family in ("Llama", "Gemma", "Gemma2"))
    assert dict(llama.counts) == {"lora": 14, "norm": 5, "gate": 2, "rotary": 1, "last_layer": 1}
    assert dict(gemma.counts) == {"lora": 14, "rotary": 1, "last_layer": 1}
    assert capped.last_layer is None
    assert llama.whole_head is not None
    assert gemma.whole_head is not None
    assert capped.whole_head is None


def test_the_last_layer_ends_at_the_positions_with_a_loss():
    model = build("Llama")
    steps, seen = steps_of(model), list[int]()
    mlp = model.get_base_model().model.layers[-1].mlp
    hook = mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    steps.backward(GROUP)
    hook.remove()
    model.zero_grad(set_to_none=True)
    assert sum(seen) == loss_tokens(GROUP) < sum(len(example.ids) for example in GROUP)


def test_a_last_layer_that_scales_what_it_adds_keeps_its_own_end():
    model = build("Granite", residual_multiplier=0.2)
    steps = steps_of(model)
    assert steps.kernels.last_layer is None
    agree(model, steps, GROUP)


def test_layers_of_one_input_are_computed_together_and_by_themselves():
    model = build("Llama")
    layer = model.get_base_model().model.layers[0]
    x = torch.randn(1, 3, 32)
    q, k, gate = layer.self_attn.q_proj, layer.self_attn.k_proj, layer.mlp.gate_proj
    with torch.no_grad():
        own = [module(x) for module in (q, k, k, gate)]
        with Kernels(model).installed():
            ours = [q(x), k(x), k(x.clone()), gate(x)]  # the second k comes without its q
    for mine, theirs in zip(ours, own, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)
    layers = [module for module in model.modules() if hasattr(module, "lora_A")]
    groups = of_one_input(layers, record(model, layers, {}).order)
    assert [len(group) for group in groups] == [3, 1, 2, 1] * 2


def test_the_model_is_its_plain_self_outside_a_step():
    model = build("Llama")
    before = {name: module.forward for name, module in model.named_modules()}
    implementation = model.get_base_model().config._attn_implementation
    steps_of(model).backward(GROUP)
    model.zero_grad(set_to_none=True)
    assert {name: module.forward for name, module in model.named_modules()} == before
    assert model.get_base_model().config._attn_implementation == implementation
    with model.disable_adapter():
        off = model(input_ids=torch.tensor([[1, 7, 8]])).logits
    assert not torch.equal(off, model(input_ids=torch.tensor([[1, 7, 8]])).logits)
