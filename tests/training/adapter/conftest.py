"""Adapters of every kind for the tiny model: real PEFT, random weights, and a contract as training writes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from arriero import data, hub
from arriero.messages import Conversation
from arriero.prompt import Contract, Rendered, Renderer, load_tokenizer, stop_token_ids

FILES = {
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
    "model.safetensors", "merge.json", "arriero.json",
}  # fmt: skip
SAMPLE = [{"role": "user", "content": "who are you?"}, {"role": "assistant", "content": "I am Killa."}]


def renderer_of(model_dir: Path, system: str | None = "Be Killa.") -> Renderer:
    tokenizer = load_tokenizer(model_dir)
    return Renderer(tokenizer, stop_token_ids(tokenizer, model_dir), system)


def plain(model_dir: Path, **options):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model_dir, **options)


def tuned(model_dir: Path, adapter: Path, **options):
    from peft import PeftModel

    return PeftModel.from_pretrained(plain(model_dir, **options), adapter).eval()


@torch.no_grad()
def logits(model, examples):
    return [model(input_ids=torch.tensor([example.ids])).logits[0] for example in examples]


@torch.no_grad()
def loop(model, examples) -> tuple[float, int, float]:
    """(nll, loss tokens, stop rate), independently: one row at a time, full logits, torch's own loss on float32."""
    total, tokens, stopped, ends = 0.0, 0, 0, 0
    for example in examples:
        ids = torch.tensor([example.ids])
        logits = model(input_ids=ids).logits[0].float()
        labels = torch.where(torch.tensor(example.mask), ids[0], -100)
        total += torch.nn.functional.cross_entropy(logits[:-1], labels[1:], reduction="sum").item()
        tokens += int((labels[1:] != -100).sum())
        for _, end in example.loss_spans:
            ends += 1
            stopped += int(logits[end - 2].argmax()) == 2
    return total / tokens, tokens, stopped / ends


@pytest.fixture(scope="session")
def rendered(rows_file, model_dir) -> list[Rendered]:
    renderer = renderer_of(model_dir)
    loaded = data.load(rows_file)
    return [renderer.render(loaded.conversation(index)) for index in range(len(loaded.table))]


@pytest.fixture(scope="session")
def stored_as(model_dir, tmp_path_factory) -> Callable[..., Path]:
    """The tiny model in another type, or with tied embeddings: `stored_as(torch.bfloat16, tied=True)`."""

    def build(dtype: torch.dtype, *, tied: bool = False) -> Path:
        directory = tmp_path_factory.mktemp("stored") / "tiny"
        model = plain(model_dir, dtype=torch.float32)
        if tied:
            model.config.tie_word_embeddings = True
            model.lm_head.weight = model.model.embed_tokens.weight
        model.to(dtype).save_pretrained(directory)
        load_tokenizer(model_dir).save_pretrained(directory)
        return directory

    return build


@pytest.fixture
def make_adapter(tmp_path) -> Callable[..., Path]:
    """An adapter with random matrices: `make_adapter(model_dir, use_dora=True)`; options as in LoraConfig."""

    def build(model_dir: Path, name: str = "adapter", **options) -> Path:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(7)
        chosen = {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "down_proj"], **options}
        config = LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **chosen)
        model = get_peft_model(plain(model_dir, dtype=torch.float32), config)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if parameter.requires_grad:  # LoRA's matrices; magnitudes and saved modules only stray from the base
                    of_lora = any(half in key for half in ("lora_A", "lora_B", "lora_embedding"))
                    parameter.mul_(0 if of_lora else 1)
                    parameter.add_(torch.randn_like(parameter) * 0.05)
        model.save_pretrained(tmp_path / name, save_embedding_layers=False)
        contract = Contract.of(
            renderer_of(model_dir),
            Conversation.of(SAMPLE),
            base_model="tiny",
            base_fingerprint=hub.fingerprint(model_dir),
        )
        contract.save(tmp_path / name)
        return tmp_path / name

    return build


def report(adapter: Path, **options) -> None:
    """Write the part of a training report that says with what options."""
    (adapter / "report.json").write_text(json.dumps({"options": options}))
