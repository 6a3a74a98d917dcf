"""README.md: metadata a hub accepts, a recipe that works, nothing of the machine it was made on."""

from __future__ import annotations

import re

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from arriero.hub.four_bits import is_quantised
from arriero.prompt import Renderer, load_tokenizer, stop_token_ids
from arriero.training.output.card import card
from tests.conftest import build_model
from tests.training.output.sample import EVIL, report


def front_matter(text: str) -> dict[str, object]:
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("\n---\n")[0])


def code(text: str, language: str) -> str:
    """The one block of this language, as a Markdown reader sees it."""
    (block,) = [token.content for token in MarkdownIt().parse(text) if token.type == "fence" and token.info == language]
    return block


def test_front_matter():
    text = card(report())
    expected = {"library_name": "peft", "base_model": "smollm2-135m-instruct", "pipeline_tag": "text-generation",
                "tags": ["lora", "arriero"]}  # fmt: skip
    assert front_matter(text) == expected
    assert ModelCard(text).data.to_dict() == expected


@pytest.mark.parametrize(
    ("model", "base"),
    [
        ("llama-3.1-8b-instruct", "meta-llama/Llama-3.1-8B-Instruct"),
        ("owner/name", "owner/name"),
        ("123", "123"),
        ("no", "no"),
        ("/home/me/models/mine", "mine"),
        ("骆驼", None),
        (EVIL, None),
    ],
)
def test_the_base_model_is_named_as_hubs_know_it_or_not_at_all(model, base):
    assert front_matter(card(report() | {"model": model})).get("base_model") == base


@pytest.mark.parametrize(
    "system", [EVIL, "---\nbase_model: evil\n---", "```\n\n# Title\n````", "", '"""\\', "  你好\t"]
)
def test_any_system_prompt_is_shown_and_rendered_as_it_is(system):
    text = card(report() | {"system": system})
    assert front_matter(text)["base_model"] == "smollm2-135m-instruct"
    assert code(text, "text") == system + "\n"
    given = re.search(r'"role": "system", "content": (.*)}', code(text, "python"))
    assert given is not None
    assert eval(given[1]) == system
    assert text.count("\n## Use it") == 1


def test_without_a_system_prompt():
    text = card(report() | {"system": None})
    assert '"system"' not in text
    assert "the chat template says by itself" in text


def test_what_others_wrote_is_neither_markdown_nor_html():
    evil = report() | {"model": EVIL, "versions": {EVIL: EVIL}, "options": {EVIL: EVIL}, "machine": "*a* _b_ [c](d)"}
    evil["data"] |= {"files": [EVIL, "a|b"], "format": EVIL}
    evil["result"]["output"] = "/runs/# <b>"
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(card(evil).split("\n---\n", 1)[1])
    inline = [child.type for token in tokens for child in token.children or []]
    assert not {"html_inline", "link_open", "em_open", "strong_open", "s_open", "image"} & set(inline)
    assert "html_block" not in [token.type for token in tokens]
    rows = [token.type for token in tokens]
    assert rows.count("td_open") == 2 * 9 + 3 * 4 + 2 * 1, "no bar in the data makes a cell"


def test_nothing_of_the_machine_s_paths():
    here = report()
    here["data"]["files"] = ["/home/me/data/rows.json", "part/more.json"]
    here["options"]["config"] = "/home/me/config.yaml"
    text = card(here)
    assert "/home" not in text
    assert "\n# llama-driver\n" in text
    assert "rows.json, part/more.json" in text


def test_figures_and_options():
    text = card(report())
    assert "| loss on held-out answers, nats per token | 3.71 | 2.5 |" in text
    assert "| max_length | not set |" in text
    assert "| target_modules | q_proj, v_proj |" in text
    assert "arriero chat --adapter DIRECTORY" in text
    assert "held-out" not in card({"result": {"output": "x", "train_loss": 1.0}, "model": "m", "options": {}})
    assert "None" not in card({"model": "m"})


@pytest.mark.parametrize("in_4bit", [False, True])
def test_the_recipe_renders_what_was_trained(tmp_path, capsys, in_4bit):
    """Its lines run as they are, but for the two names, and give the ids that Arriero's renderer gives.

    An adapter that was trained over 4 bits was shown over whole weights.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model_dir = build_model(tmp_path / "base", size=64)  # the least that bitsandbytes computes with on a CPU
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(model_dir), LoraConfig(target_modules=["q_proj"]))
    tuned.save_pretrained(tmp_path)
    text = card(report() | {"system": "Be Killa.", "base_in_4bit": in_4bit})
    assert ("A LoRA adapter for smollm2-135m-instruct with its weights in 4 bits, trained" in text) is in_4bit
    recipe = code(text, "python")
    recipe = recipe.replace("smollm2-135m-instruct", str(model_dir)).replace("DIRECTORY", str(tmp_path))
    names: dict[str, object] = {}
    exec(recipe, names)
    assert is_quantised(names["model"].base_model.model.model.layers[0].mlp.up_proj) is in_4bit
    tokenizer = load_tokenizer(model_dir)
    renderer = Renderer(tokenizer, stop_token_ids(tokenizer, model_dir), "Be Killa.")
    asked = [{"role": "user", "content": "Who are you?"}]
    assert names["prompt"]["input_ids"][0].tolist() == renderer.prompt(asked)
    assert capsys.readouterr().out
