"""The shared path learns what the plain one learns: losses, gradients, and adapters after several steps, in float32.

Plain means written here: each example alone through the unmodified model, cross-entropy over all its logits, summed.
"""

from __future__ import annotations

import copy
import functools

import hypothesis
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from arriero.errors import UsageError
from arriero.prompt import Rendered
from arriero.training.kernels import Kernels
from arriero.training.options import TrainOptions
from arriero.training.pack import loss_tokens
from arriero.training.planning import mode
from arriero.training.planning.plan import Plan
from arriero.training.setup.step_setup import set_up
from arriero.training.steps import Steps, Worker

SHAPE = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
FAMILIES = {
    "Llama": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
    "Qwen2": {},
    "Qwen3": {"head_dim": 8},
    "Mistral": {"sliding_window": None},
    "Gemma": {"head_dim": 8},
    "Phi3": {},
    "Granite": {"logits_scaling": 4.0},
    "Olmo2": {},
}
LONGROPE = {
    "original_max_position_embeddings": 8,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 100.0,
        "short_factor": [1.0] * 4,
        "long_factor": [3.0, 5.0, 7.0, 9.0],
    },
}
OTHERS = {"Gemma2": {"head_dim": 8}}  # fmt: skip


@functools.cache
def build(family: str, dropout: float = 0.0, dtype: torch.dtype = torch.float32, **extra):
    """A tiny random model of a family with LoRA matrices of ordinary size on all its linear layers."""
    import transformers
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    shape = {**SHAPE, **FAMILIES.get(family, {}), **OTHERS.get(family, {}), **extra}
    model = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**shape)).to(dtype)
    for weight in model.parameters():
        weight.data.mul_(4)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, lora_dropout=dropout, target_modules="all-linear")
    tuned = get_peft_model(model, config)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return tuned.train()


def steps_of(model, name="shared", row_tokens=64, kernels=True, own=True, recomputed=0):
    plan = Plan(mode.Mode(name, "", own_attention=own), row_tokens, SHAPE["num_hidden_layers"], recomputed)
    return Steps(model, plan, Kernels(model if kernels else None))


def plain(model, examples):
    """Mean loss over all loss tokens, and all gradients."""
    total = torch.zeros(())
    for example in examples:
        logits = model(input_ids=torch.tensor([example.ids])).logits[0]
        for start, end in example.loss_spans:
            total = total + cross_entropy(
                logits[start - 1 : end - 1], torch.tensor(example.ids[start:end]), reduction="sum"
            )
    loss = total / loss_tokens(examples)
    loss.backward()
    return loss.item(), gradients_of(model)


def gradients_of(model):
    gradients = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])
    model.zero_grad(set_to_none=True)
    return gradients


def agree(model, steps, examples, tolerance=1e-5, worker=None):
    """As near to the plain path as `tolerance`, or within ten times that of it in double precision.

    Both paths round alike: for 400 random examples they were 1.6e-6 from double precision in the median and 1.1e-5 at
    most, but examples that hypothesis searched for came to 2.3e-5 and 6.7e-5.
    """
    loss, gradients = plain(model, examples)
    ours = steps.backward(examples, worker).loss.item()
    computed = gradients_of(model)
    assert ours == pytest.approx(loss, rel=tolerance)
    if (computed - gradients).norm() > tolerance * gradients.norm():
        _, exact = plain(copy.deepcopy(model).double(), examples)
        assert (computed - exact).norm() <= 10 * tolerance * exact.norm()


@st.composite
def some_examples(draw, most=6):
    tokens = st.integers(3, 63)
    prefix = draw(st.lists(tokens, max_size=8))
    examples = []
    for _ in range(draw(st.integers(1, most))):
        ids, spans = [1, *prefix], []
        if examples and draw(st.booleans()):  # nested prefixes: go on within another example
            ids = list(draw(st.sampled_from(examples)).ids[: len(ids) + draw(st.integers(0, 12))])
        for _ in range(draw(st.integers(1, 2))):
            ids += draw(st.lists(tokens, min_size=1, max_size=5))
            answer = [*draw(st.lists(tokens, max_size=6)), 2]
            spans.append((len(ids), len(ids) + len(answer)))
            ids += answer
        examples.append(Rendered(tuple(ids), tuple(spans)))
    return examples


GROUP = [
    Rendered((1, 7, 8, 9, 10, 20, 2), ((5, 7),)),
    Rendered((1, 7, 8, 9, 11, 12, 30, 31, 2), ((6, 9),)),
    Rendered((1, 7, 8, 9, 10, 40, 41, 42, 43, 2), ((5, 10),)),
    Rendered((1, 7, 8, 9, 13, 2, 14, 50, 2), ((5, 6), (7, 9))),
]


@settings(max_examples=20, deadline=None)
@given(some_examples(), st.sampled_from([16, 40, 200]), st.integers(0, 2))
@hypothesis.example([Rendered((1, 20, 17, 20, 13, 29, 13, 21, 8, 14, 39, 59, 20, 55, 2), ((9, 15),))], 40, 0)
def test_random_groups_give_the_plain_loss_and_gradients(examples, row_tokens, recomputed):
    """Whatever the examples, however they are split into rows, with and without recomputation."""
    model = build("Llama")
    agree(model, steps_of(model, row_tokens=row_tokens, recomputed=recomputed), examples)


def test_rows_filled_up_for_kernels_learn_the_same(monkeypatch):
    monkeypatch.setattr(Steps, "multiple", 16)
    model = build("Llama")
    assert steps_of(model).computed(GROUP) % 16 == 0
    agree(model, steps_of(model), GROUP)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kernels", [True, False])
def test_families(family, kernels):
    model = build(family)
    assert mode.choose(model.get_base_model(), "auto", 10).name == "shared"
    agree(model, steps_of(model, kernels=kernels), GROUP)


@pytest.mark.parametrize(("name", "own"), [("packed", True), ("packed", False), ("padded", False)])
def test_the_other_modes(name, own):
    agree(build("Llama"), steps_of(build("Llama"), name, own=own), GROUP)


@pytest.mark.parametrize(("name", "own"), [("shared", True), ("packed", False), ("padded", False)])
def test_a_long_example_changes_nothing_for_those_of_its_step(name, own):
    """With longrope a row is encoded as its longest example: here all but one outgrow the original context."""
    model = build.__wrapped__("Phi3", **LONGROPE)
    agree(model, steps_of(model, name, own=own), GROUP)


def test_workers_means_are_the_step_s_gradients():
    """Three workers, two rows: the one without a row of its own adds nothing."""
    model = build("Llama")
    loss, gradients = plain(model, GROUP[:2])
    losses, found = [], []
    for rank in range(3):
        losses.append(steps_of(model).backward(GROUP[:2], Worker(rank, 3)).loss.item())
        found.append(gradients_of(model))
    assert sum(losses) / 3 == pytest.approx(loss, rel=1e-5)
    assert (sum(found) / 3 - gradients).norm() <= 1e-5 * gradients.norm()


def test_adapters_agree_after_twenty_steps():
    """The same twenty steps of AdamW, shared and plain, from the same start."""
    ends = []
    for shared in (True, False):
        build.cache_clear()
        model = build("Llama")
        optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-3)
        steps = steps_of(model)
        for step in range(20):
            examples = [GROUP[(step + at) % 4] for at in range(3)]
            if shared:
                steps.backward(examples)
            else:
                (sum_loss := plain_loss(model, examples)).backward()
                assert sum_loss.isfinite()
            optimizer.step()
            model.zero_grad(set_to_none=True)
        ends.append(torch.cat([weight.detach().flatten() for weight in model.parameters() if weight.requires_grad]))
    assert (ends[0] - ends[1]).norm() <= 1e-4 * ends[1].norm()


def plain_loss(model, examples):
    """As a padded batch with Hugging Face's labels: its mean over the batch is the mean over all loss tokens."""
    longest = max(len(example.ids) for example in examples)
    ids = torch.tensor([[*example.ids, *[0] * (longest - len(example.ids))] for example in examples])
    labels = torch.full_like(ids, -100)
    mask = torch.zeros_like(ids)
    for row, example in enumerate(examples):
        mask[row, : len(example.ids)] = 1
        for start, end in example.loss_spans:
            labels[row, start:end] = ids[row, start:end]
    return model(input_ids=ids, attention_mask=mask, labels=labels).loss


def test_in_bfloat16_sharing_differs_no_more_than_packing_does():
    model = build("Llama", dtype=torch.bfloat16)
    gradients = {}
    for name, own in (("padded", False), ("packed", True), ("shared", True)):
        steps_of(model, name, own=own, kernels=False).backward(GROUP)
        gradients[name] = gradients_of(model)
    scale = gradients["padded"].norm()
    shared = (gradients["shared"] - gradients["packed"]).norm() / scale
    packed = (gradients["packed"] - gradients["padded"]).norm() / scale
    assert shared <= packed
    assert (gradients["shared"] - gradients["padded"]).norm() / scale < 2 * packed + 1e-3


def test_dropout_reaches_the_lora_matrices_only_and_is_drawn_anew():
    model = build("Llama", dropout=0.5)
    steps = steps_of(model)
    losses = set()
    for _ in range(2):
        losses.add(steps.backward(GROUP).loss.item())
        model.zero_grad(set_to_none=True)
    assert len(losses) == 2
    model.eval()
    agree(model, steps, GROUP)
    model.train()


def test_a_window_shorter_than_the_examples_is_masked_by_the_model_itself():
    model = build("Mistral", sliding_window=4)
    chosen = mode.choose(model.get_base_model(), "auto", 10)
    assert (chosen.name, chosen.own_attention) == ("packed", False)
    assert "looks back 4 tokens only" in chosen.reason
    agree(model, steps_of(model, "packed", own=False), GROUP)
    assert mode.choose(model.get_base_model(), "auto", 4).name == "shared"
    with pytest.raises(UsageError, match=r"--prefix-sharing on: .* looks back 4 tokens"):
        mode.choose(model.get_base_model(), "on", 10)


def test_a_state_space_model_is_padded():
    from transformers import MambaConfig, MambaForCausalLM

    model = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, state_size=4))
    chosen = mode.choose(model, "auto", 10)
    assert chosen.name == "padded"
    assert "not attention" in chosen.reason


def test_switched_off_it_packs_without_sharing():
    assert mode.choose(build("Llama").get_base_model(), "off", 10).name == "packed"


def test_the_check_of_the_first_step_leaves_no_trace():
    model = build("Llama")
    before = [weight.detach().clone() for weight in model.parameters()]
    random = torch.get_rng_state()
    checked = set_up(model, GROUP, 10, TrainOptions(), None).verification
    assert checked.passed
    assert checked.gradient_difference < 1e-5
    assert all(weight.grad is None for weight in model.parameters())
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    assert torch.equal(random, torch.get_rng_state())
