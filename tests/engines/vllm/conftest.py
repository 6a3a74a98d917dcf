"""An engine over the embedded model, adapters, and what transformers and PEFT answer with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from arriero.engines import EngineOptions, load_engine
from arriero.prompt import Renderer, load_tokenizer, stop_token_ids
from tests.conftest import build_tokenizer
from tests.engines.vllm.support import LENGTH, QUESTIONS, WHO


@pytest.fixture(scope="module")
def renderer(embedded_model):
    tokenizer = load_tokenizer(embedded_model)
    return Renderer(tokenizer, stop_token_ids(tokenizer, embedded_model))


@pytest.fixture(scope="module")
def prompts(renderer):
    """The last one is longer than the blocks, 128 tokens each, of which its KV cache is made."""
    found = [renderer.prompt([{"role": "user", "content": question}]) for question in QUESTIONS]
    return [*found, [*range(1000, 1300), *found[1]]]


@pytest.fixture(scope="module")
def lora(embedded_model, tmp_path_factory):
    """Make a PEFT adapter with random weights: `lora(seed, r=8, …)` is its directory."""
    import torch
    from peft import LoraConfig, get_peft_model

    from arriero import hub

    def make(seed: int, model_dir: Path = embedded_model, **options) -> Path:
        chosen = {"r": 8, "lora_alpha": 6, "target_modules": "all-linear", "init_lora_weights": False, **options}
        model = hub.load_weights(model_dir, dtype=torch.float32)
        torch.manual_seed(seed)
        model = get_peft_model(model, LoraConfig(**chosen))
        directory = tmp_path_factory.mktemp("adapters") / "adapter"
        model.save_pretrained(directory)
        return directory

    return make


@pytest.fixture(scope="module")
def adapters(lora):
    """Two adapters, of different rank and scale; b has a layer of its own rank."""
    return {
        "a": lora(1),
        "b": lora(2, r=4, lora_alpha=5, use_rslora=True, rank_pattern={"layers.3.mlp.up_proj": 12}),
    }


@pytest.fixture(scope="module")
def reference(embedded_model, adapters):
    """What transformers and PEFT compute in float32: `reference(who)` is a model with `generate`."""
    import torch

    from arriero import hub

    def load(who):
        model = hub.load_weights(embedded_model, dtype=torch.float32)
        return hub.load_adapter(model, adapters[who]).eval() if who else model.eval()

    return load


@pytest.fixture(scope="module")
def expected(reference, prompts, renderer):
    """(who, question's index) -> the greedy answer of a model that has answered nothing else."""
    import torch
    from transformers import GenerationConfig

    answers = {}
    for who in WHO:
        model = reference(who)
        config = GenerationConfig(max_new_tokens=LENGTH, eos_token_id=list(renderer.stop_token_ids), pad_token_id=0)
        for index, prompt in enumerate(prompts):
            output = model.generate(input_ids=torch.tensor([prompt]), generation_config=config)
            answers[who, index] = output[0, len(prompt) :].tolist()
    for index in range(len(prompts)):
        assert len({tuple(answers[who, index]) for who in WHO}) == 3, "the adapters must make a difference"
    return answers


@pytest.fixture(scope="module")
def engine(embedded_model, renderer, adapters):
    options = EngineOptions(precision="float32", room_for=list(adapters.values()))
    made = load_engine(embedded_model, renderer.stop_token_ids, "vllm", options)
    yield made
    made.close()


@pytest.fixture(scope="module")
def handles(engine, adapters):
    return {None: None, **{name: engine.load_adapter(directory) for name, directory in adapters.items()}}


@pytest.fixture(scope="module")
def tiny_dir(tmp_path_factory):
    """A random Llama whose heads have a size that vLLM's kernels know."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 1, "num_key_value_heads": 1}
    config = LlamaConfig(
        vocab_size=262, num_hidden_layers=2, max_position_embeddings=4096, bos_token_id=1, eos_token_id=2, **sizes
    )
    directory = tmp_path_factory.mktemp("models") / "tiny64"
    LlamaForCausalLM(config).save_pretrained(directory)
    build_tokenizer().save_pretrained(directory)
    return directory
