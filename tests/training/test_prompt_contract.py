"""A base model is trained by a template, variables and folding that were given, and asked so ever after."""

from __future__ import annotations

import shutil

import pytest

from arriero import load
from arriero.cli.main import main
from arriero.server.loading import load_models
from tests.conftest import train_tiny
from tests.prompt.test_options import OWN

PROMPT = "x<user>Be Killa.\n\nhi<pad><bot>"


@pytest.fixture(scope="module")
def trained(model_dir, rows_file, tmp_path_factory):
    """(base model, adapter): the base model's tokenizer has no chat template."""
    folder = tmp_path_factory.mktemp("base")
    base = shutil.copytree(model_dir, folder / "base")
    (base / "chat_template.jinja").unlink()
    (folder / "own.jinja").write_text(OWN)
    options = {"template": ["mood=x"], "fold_system": True, "chat_template": str(folder / "own.jinja")}
    return base, train_tiny(rows_file, base, folder / "adapter", epochs=1, **options)


def asked(chat):
    try:
        return chat.renderer.tokenizer.decode(chat.render([{"role": "user", "content": "hi"}]))
    finally:
        chat.close()


def test_the_adapter_is_asked_as_it_was_trained(trained):
    base, adapter = trained
    assert asked(load(base, adapter=adapter, engine="transformers")) == PROMPT


def test_the_base_model_is_asked_beside_its_adapter(trained):
    """A server has both, and the base model has no template of its own."""
    base, adapter = trained
    chat = load(base, adapter=adapter, engine="transformers")
    assert asked(chat.with_adapter(None)) == "<user>hi<pad><bot>"


def test_so_it_is_by_a_server_that_is_given_no_template(trained):
    """`arriero serve` says None where it is given none, which is not the base model's own."""
    _, adapter = trained
    models = load_models(None, {"tuned": adapter}, None, {"engine": "transformers", "chat_template": None})
    assert list(models) == ["tuned", "base"]
    assert asked(models.find("base").chat) == "<user>hi<pad><bot>"


def test_the_merged_model_brings_its_template_and_its_end_to_other_programs(trained, tmp_path):
    from transformers import AutoTokenizer, GenerationConfig

    base, adapter = trained
    merged = tmp_path / "merged"
    assert main(["merge", str(adapter), "--model", str(base), "--output", str(merged)]) == 0
    assert asked(load(merged, engine="transformers")) == PROMPT
    assert AutoTokenizer.from_pretrained(merged).chat_template == OWN
    assert GenerationConfig.from_pretrained(merged).eos_token_id == [0, 2]


def test_a_run_is_listed_with_what_it_takes_to_go_on(trained):
    from arriero import runs

    record = next(record for record in runs.listed() if record.directory == trained[1])
    options = {name: record.options[name] for name in ("template", "fold_system", "chat_template")}
    file = str(trained[0].parent / "own.jinja")
    assert options == {"template": ['mood="x"'], "fold_system": True, "chat_template": file}
