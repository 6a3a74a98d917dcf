"""Weights in 4 bits: those that transformers makes of the same files, as in training; stored ones."""

from __future__ import annotations

import pytest

from arriero.engines import EngineOptions, load_engine
from tests.engines.vllm.support import GREEDY, OTHERS_WARNINGS, submit

for package in ("vllm", "vllm_bnb_plugin", "bitsandbytes"):
    pytest.importorskip(package, reason=f"there is no {package} here: benchmarks/vllm_engine.sh")
pytestmark = [pytest.mark.slow, pytest.mark.model, pytest.mark.timeout(400), OTHERS_WARNINGS]


@pytest.fixture
def quantised(embedded_model):
    """Transformers' model over the weights that training has."""
    from arriero import hub

    return hub.load_weights(embedded_model, in_4bit=True, dtype="bfloat16").eval()


def scores(model, prompt):
    """A model's log-probabilities of a prompt's tokens but the first."""
    import torch

    with torch.inference_mode():
        rows = model(torch.tensor([prompt])).logits[0, :-1].float().log_softmax(-1)
    return rows.gather(1, torch.tensor(prompt[1:])[:, None])[:, 0]


def vllm_scores(engine, prompt, adapter=None):
    import torch

    generation = submit(engine, prompt, GREEDY, 0, logprobs=0, prompt_logprobs=True, adapter=adapter)
    assert list(generation) == []
    return torch.tensor([entry.logprob for entry in generation.prompt_logprobs])


@pytest.mark.parametrize("stored", [False, True])
def test_weights_in_four_bits_are_those_of_training(
    embedded_model, renderer, prompts, lora, reference, quantised, tmp_path, stored
):
    """Base and adapter are nearer to transformers over NF4 than that is to the weights as they are."""
    from peft import PeftModel

    directory, adapter_dir = embedded_model, lora(3)
    if stored:
        directory = tmp_path / "stored"
        quantised.save_pretrained(directory)
        for file in embedded_model.glob("*token*"):
            (directory / file.name).symlink_to(file)
    options = EngineOptions(precision="auto" if stored else "int4", room_for=[adapter_dir])
    engine = load_engine(directory, renderer.stop_token_ids, "vllm", options)
    try:
        assert engine.description.endswith("bitsandbytes" if stored else "int4")
        assert engine.in_4bit is not stored
        found = vllm_scores(engine, prompts[3]), vllm_scores(engine, prompts[3], engine.load_adapter(adapter_dir))
    finally:
        engine.close()
    whole = scores(reference(None), prompts[3])
    base = scores(quantised, prompts[3])
    expected = base, scores(PeftModel.from_pretrained(quantised, adapter_dir).eval(), prompts[3])
    apart = (base - whole).abs().mean()
    assert all((ours - theirs).abs().mean() < apart / 4 for ours, theirs in zip(found, expected, strict=True))
    assert (expected[0] - expected[1]).abs().mean() > apart / 2, "the adapter makes a difference"
