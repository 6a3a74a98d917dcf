"""The fused pieces against the model's own code, in every shape that they meet; what does not fit is left out."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from arriero.training.kernels import Kernels
from arriero.training.options import TrainOptions
from arriero.training.pack import loss_tokens
from arriero.training.setup.step_setup import set_up
from tests.conftest import since_transformers
from tests.training import architectures
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

    targets = targets(base) if callable(targets) else targets
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


@pytest.mark.parametrize("weight", ["embed_tokens", "q_proj", "input_layernorm", "gate_proj", "lm_head"])
def test_weights_that_are_not_numbers_do_not_break_the_probes(weight):
    """Whoever trains such a model is told of the loss, and of the rows of its step."""
    base = tiny("llama")
    next(module for name, module in base.named_modules() if name.endswith(weight)).weight.data[1] = torch.nan
    setup = set_up(tuned(base), GROUP, 10, TrainOptions(), None)
    assert setup.verification.fell_back


def chosen_steps(model):
    """The steps that a run would compute, before they are checked."""
    return set_up(model, GROUP, 10, TrainOptions(verify=False), None).steps


USUAL = [
    "llama", "qwen2", "qwen3", "qwen3_moe", "mistral", "gemma2", "phi3", "glm4", "granite", "olmo2", "deepseek_v3",
    "gpt_oss",
]  # fmt: skip
NOT_TINY = {
    # wrappers whose text model is another configuration's business; it is here under its own name
    **dict.fromkeys(["emu3", "gemma3", "gemma3n", "gemma4", "gemma4_unified", "mllama", "phi4_multimodal", "qwen3_5",
                     "qwen3_5_moe", "qwen4_exp", "dots3_note", "moshi"], "a wrapper"),
    "blt": "four models in one", "dbrx": "its attention has a configuration of its own",
    # layers of kinds that depend on each other
    **dict.fromkeys(["cohere_compass_text", "deepseek_v4", "gemma3n_text", "qwen4_exp_text", "zamba2", "zaya"],
                    "two layers are too few for its kinds of layers"),
    "gemma4_text": "its embeddings of every layer are large",
}  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=() if kind in USUAL else pytest.mark.slow)
        for kind in architectures.with_rotary()
        if kind not in NOT_TINY
    ],
)
def test_every_architecture_with_a_rotary_function_learns_what_its_plain_model_does(kind):
    """The steps that a run would compute, whatever pieces are in them, against the model alone, in float32."""
    model = tuned(tiny(kind), linear_layers)
    loss, gradients = by_name(model, GROUP)
    ours = chosen_steps(model).backward(GROUP).loss.item()
    pieces = taken(model)
    assert ours == pytest.approx(loss, rel=1e-5)
    apart = sum((pieces.get(name, torch.zeros(())) - own).norm() ** 2 for name, own in gradients.items()) ** 0.5
    assert apart <= 1e-4 * sum(own.norm() ** 2 for own in gradients.values()) ** 0.5


def linear_layers(base):
    """The names that PEFT takes: plain linear layers, without those of state-space blocks."""
    names = {
        name.rsplit(".", 1)[-1]
        for name, module in base.named_modules()
        if type(module) is nn.Linear and module is not base.get_output_embeddings()
    }
    return sorted(names - {"out_proj"}) or "all-linear"


def by_name(model, examples):
    """Mean loss over all loss tokens of examples that go through the model one by one, and gradients by name."""
    total = torch.zeros(())
    for example in examples:
        logits = model(input_ids=torch.tensor([example.ids]), use_cache=False).logits[0]
        for start, end in example.loss_spans:
            targets = torch.tensor(example.ids[start:end])
            total = total + nn.functional.cross_entropy(logits[start - 1 : end - 1], targets, reduction="sum")
    loss = total / loss_tokens(examples)
    loss.backward()
    return loss.item(), taken(model)


def taken(model):
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    return gradients


@since_transformers("5.20", "some of the list came later")
def test_architectures_that_cannot_be_tiny_are_still_there():
    """Or the list above is out of date."""
    assert set(NOT_TINY) <= set(architectures.with_rotary())
    for kind in ("blt", "dbrx"):
        with pytest.raises((ValueError, AttributeError)):
            tiny(kind)


def test_a_piece_that_does_not_fit_is_left_out_with_a_word(caplog):
    """Gemma's norm multiplies by 1 + weight."""
    caplog.set_level("INFO", logger="arriero")
    kernels = Kernels(build("Gemma"))
    assert "norm" in kernels.left_out
    assert "fused piece norm left out, the model's own code computes it: the piece is" in caplog.text


def test_every_variant_of_a_shape_is_probed_by_itself():
    """One of the two norms in a layer differs: the same class, another epsilon and a fault."""
    model = build("Llama", rms_norm_eps=2e-6)
    broken = model.get_base_model().model.layers[0].input_layernorm
    broken.variance_epsilon = 1e-3
    broken.forward = lambda x: type(broken).forward(broken, x) * 1.5
    try:
        kernels = Kernels(model)
        assert kernels.counts["norm"] == 4
        assert broken not in [module for module, _ in kernels.forwards]
    finally:
        del broken.forward
        broken.variance_epsilon = 2e-6


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_that_is_tied_to_the_embedding_is_computed_in_slices(tied):
    model = build("Llama", tie_word_embeddings=tied)
    assert Kernels(model).whole_head is model.get_base_model().lm_head
    agree(model, steps_of(model), GROUP)


def test_a_layer_computed_without_gradients_leaves_its_neighbours_theirs():
    """Some models choose what to attend to under no_grad, from the input that keys are made of."""
    model = build("Llama")
    attention = model.get_base_model().model.layers[0].self_attn
    x = torch.randn(1, 3, 32)
    with Kernels(model).installed():
        with torch.no_grad():
            attention.q_proj(x)
        assert attention.k_proj(x).requires_grad
