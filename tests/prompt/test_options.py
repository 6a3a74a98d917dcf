"""What is said of a prompt besides the messages: variables, folding, and a template for a model that has none."""

from __future__ import annotations

import json
import shutil

import pytest

from arriero import hub
from arriero.errors import ContractError, NotFoundError, UsageError
from arriero.messages import Conversation, Message
from arriero.prompt import CONTRACT_FILE, Contract, Renderer, resolve
from arriero.prompt.options import KNOWN, as_options, template_of, variables_of
from tests.conftest import TEMPLATE, build_tokenizer
from tests.prompt.templates import TURNS

ASKED = [Message("system", "Be brief."), Message("user", "hi")]
SAMPLE = Conversation.of([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}])
OWN = (
    "{{ mood }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system prompts') }}{% endif %}"
    "{{ ('<user>' if m.role == 'user' else '<bot>') + m.content + '<pad>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<bot>' }}{% endif %}"
)


def test_values_are_json_where_they_are_that():
    given = variables_of(
        ["enable_thinking=false", "n=3", "date_string=26 Jul 2024", "note=a=b", 'list=["x"]', "empty="]
    )
    assert given == {
        "enable_thinking": False, "n": 3, "date_string": "26 Jul 2024", "note": "a=b", "list": ["x"], "empty": ""
    }  # fmt: skip
    assert variables_of(as_options({"template": given})["template"]) == given, "as a configuration file keeps them"
    for wrong in ("thinking", "=x", "a b=1"):
        with pytest.raises(UsageError, match="NAME=VALUE"):
            variables_of([wrong])


def test_a_folded_system_prompt_stands_before_the_first_question():
    """Templates that refuse one had to be trained and asked without."""
    refuses = Renderer(build_tokenizer(TURNS), (2,))
    with pytest.raises(UsageError, match="System role not supported") as caught:
        refuses.prompt(ASKED)
    assert "--fold-system" in caught.value.hint
    for given, system in ((ASKED, None), (ASKED[1:], "Be brief.")):
        folding = Renderer(build_tokenizer(TURNS), (2,), system=system, fold_system=True)
        shown = folding.tokenizer.decode(folding.prompt(given))
        assert shown == "<s><turn>user\nBe brief.\n\nhi</turn>\n<turn>model\n"
    taking = Renderer(build_tokenizer(TEMPLATE), (2,), system="Be brief.", fold_system=True)
    ids = taking.render(SAMPLE.with_system("Be brief.")).ids
    assert taking.tokenizer.decode(ids) == "<s><user>Be brief.\n\nhi</s><bot>ho</s>", "trained as it is asked"


@pytest.mark.parametrize("name", KNOWN)
def test_a_template_of_tokens_that_the_vocabulary_lacks_is_refused(name):
    """It would be spelt out as text, which a message can hold too, and end no answer."""
    with pytest.raises(UsageError, match=f"the vocabulary has no special token .*the chat template {name} is made"):
        template_of(name, build_tokenizer())
    with pytest.raises(NotFoundError, match=r"no chat template elsewhere\.jinja"):
        template_of("elsewhere.jinja", build_tokenizer())


@pytest.mark.parametrize(("name", "end"), [("chatml", "<|im_end|>"), ("llama3", "<|eot_id|>")])
def test_the_known_templates(name, end):
    tokenizer = build_tokenizer()
    marks = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    tokenizer.chat_template = template_of(name, tokenizer)
    renderer = Renderer(tokenizer, (tokenizer.convert_tokens_to_ids(end),))
    rendered = renderer.render(Conversation((*ASKED, Message("assistant", "ho"))))
    assert rendered.ids[slice(*rendered.loss_spans[0])] == (
        *tokenizer.encode("ho", add_special_tokens=False),
        *renderer.stop_token_ids,
    )
    assert list(rendered.ids[: rendered.loss_spans[0][0]]) == renderer.prompt(ASKED)


@pytest.fixture
def base_model(model_dir, tmp_path):
    """The tiny model as a base model: its tokenizer has no chat template."""
    base = shutil.copytree(model_dir, tmp_path / "base")
    (base / "chat_template.jinja").unlink()
    return base


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.jinja").write_text(OWN)
    return str(tmp_path / "own.jinja")


def test_a_base_model_is_given_a_template_and_learns_where_it_ends_answers(base_model, own):
    """There was nothing to do with one but to choose another."""
    with pytest.raises(UsageError, match="no chat template") as caught:
        resolve(base_model)
    assert "--chat-template chatml" in caught.value.hint
    renderer = resolve(base_model, chat_template=own, template=["mood=x"]).renderer
    assert renderer.stop_token_ids == (0, 2), "<pad> beside the model's own"
    assert renderer.tokenizer.decode(renderer.prompt(ASKED[1:])) == "x<user>hi<pad><bot>"


def test_all_of_it_is_in_the_contract_and_holds_from_then_on(base_model, own, tmp_path):
    renderer = resolve(base_model, system="Be.", template={"mood": "x"}, fold_system=True, chat_template=own).renderer
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    weights = hub.fingerprint(base_model)
    Contract.of(renderer, SAMPLE, base_model=str(base_model), base_fingerprint=weights).save(adapter)
    assert json.loads((adapter / CONTRACT_FILE).read_text())["format"] == 2, "older versions say that they are older"
    adopted = resolve(adapter=adapter).renderer
    assert adopted.prompt(ASKED[1:]) == renderer.prompt(ASKED[1:])
    assert adopted.tokenizer.decode(adopted.prompt(ASKED[1:])) == "x<user>Be.\n\nhi<pad><bot>"
    assert adopted.stop_token_ids == (0, 2)
    with pytest.raises(UsageError, match="was trained with the template's variable mood as 'x', got 'y'"):
        adopted.prompt(ASKED[1:], chat_template_kwargs={"mood": "y"})
    other = resolve(adapter=adapter, template=["mood=y"]).renderer
    assert other.tokenizer.decode(other.prompt(ASKED[1:])) == "y<user>Be.\n\nhi<pad><bot>", "who loads it may"
    other.prompt(ASKED[1:], chat_template_kwargs={"mood": "z"})
    (tmp_path / "other.jinja").write_text(OWN + " ")
    with pytest.raises(ContractError, match="what differs: the chat template"):
        resolve(adapter=adapter, chat_template=str(tmp_path / "other.jinja"))


def test_a_contract_without_any_of_it_is_as_older_versions_read_it(tmp_path):
    Contract.of(Renderer(build_tokenizer(), (2,)), SAMPLE, base_model="t", base_fingerprint="f").save(tmp_path)
    document = json.loads((tmp_path / CONTRACT_FILE).read_text())
    assert document["format"] == 1
    assert not {"fold_system", "chat_template"} & document.keys()
