"""What the tests of the transformers engine share: prompts, random models, adapters, hooks."""

from __future__ import annotations

import random
import threading

import torch
from transformers import AutoModelForCausalLM

from arriero.messages import Sampling

PLAIN = Sampling(top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0)
GREEDY = Sampling(temperature=0.0).over(PLAIN)
PROMPT = [1, 4, 110, 111, 2, 5]
END = 2


def prompts(count, longest=60, seed=0):
    """Prompts of many lengths, and how much is to follow each."""
    rng = random.Random(seed)
    lengths = [rng.choice([1, 2, 9, 25, longest]) for _ in range(count)]
    return [([rng.randrange(3, 262) for _ in range(n)], rng.choice([1, 2, 7, 30])) for n in lengths]


def generated(model, prompt_ids, limit, **options):
    """What transformers itself answers."""
    ids = torch.tensor([prompt_ids])
    options = {"do_sample": False, "eos_token_id": END, "pad_token_id": 0, "max_new_tokens": limit, **options}
    return model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt_ids) :].tolist()


def model_in(engine):
    """The model inside, for hooks that stop it at a known place."""
    return engine._thread.scheduler._forward._model


KINDS = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},  # positions are learned, and must be right
    "gemma2": {"sliding_window": 16, "query_pre_attn_scalar": 8, "head_dim": 8},  # every other layer sees 16 tokens
    "mamba": {"state_size": 4},  # no attention at all
    "jamba": {"mamba_d_state": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2},  # a hybrid
    "bloom": {"n_layer": 2, "n_head": 4},  # takes no positions
}
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def random_model(directory, kind, **changes):
    """A model of a kind, stored in `directory` too."""
    from transformers import AutoConfig

    torch.manual_seed(0)
    settings = {**({} if kind == "gpt2" else SIZES), **KINDS.get(kind, {}), **changes}
    config = AutoConfig.for_model(kind, vocab_size=262, eos_token_id=END, pad_token_id=0, **settings)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(3)
    model.save_pretrained(directory)
    return model


def logits_of(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, -1]


def lora(model_dir, directory, seed=0, **settings):
    """A random adapter that changes the answers."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    settings = {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "down_proj"], **settings}
    base = AutoModelForCausalLM.from_pretrained(model_dir)
    made = get_peft_model(base, LoraConfig(init_lora_weights=False, task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "modules_to_save" in name or "lora_magnitude" in name:
                weight.mul_(1.7)
    made.save_pretrained(directory)
    return directory


def loaded(engine, adapters):
    """Handles by the adapters' names; None is the base model."""
    return {None: None, **{name: engine.load_adapter(directory) for name, directory in adapters.items()}}


def answer(engine, adapter, limit=30):
    return engine.submit(PROMPT, GREEDY, max_new_tokens=limit, adapter=adapter)


def gated(engine, calls):
    """Hold the model back before its call of that number until `release` is set; `reached` tells when it waits."""
    reached, release, seen = threading.Event(), threading.Event(), []

    def hook(_, __, given):
        seen.append(tuple(given["input_ids"].shape))
        if len(seen) == calls:
            reached.set()
            release.wait(30)

    model_in(engine).register_forward_pre_hook(hook, with_kwargs=True)
    return reached, release, seen
