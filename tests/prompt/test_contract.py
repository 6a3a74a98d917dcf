"""The contract: written, read back, and what it refuses."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace

import pytest

from arriero.errors import ContractError, NotFoundError
from arriero.messages import Conversation
from arriero.prompt import CONTRACT_FILE, Contract, Renderer, load_tokenizer, stop_token_ids
from arriero.prompt.contract import trained_in_4bit
from tests.conftest import TEMPLATE, build_tokenizer

SAMPLE = Conversation.of([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}])


def made(template=TEMPLATE, **options):
    return Renderer(build_tokenizer(template), (2,), **options)


@pytest.fixture
def contract(tmp_path):
    Contract.of(made(system="s"), SAMPLE, base_model="tiny", base_fingerprint="sha256:1").save(tmp_path)
    return Contract.load(tmp_path)


def test_it_survives_the_disk_and_accepts_what_it_was_made_with(contract):
    assert contract.system == "s"
    assert contract.sample_ids == made(system="s").render(SAMPLE).ids
    contract.check(made(system="s"), "sha256:1")


@pytest.mark.parametrize(
    ("renderer", "fingerprint", "told"),
    [
        (made(system="s"), "sha256:2", "the base model's weights"),
        (made(TEMPLATE + " ", system="s"), "sha256:1", "the chat template"),
        (replace(made(system="s"), stop_token_ids=(2, 5)), "sha256:1", "the stop tokens"),
        (made(system="other"), "sha256:1", "token ids of the sample conversation, from position 2"),
    ],
)
def test_each_difference_is_named(contract, renderer, fingerprint, told):
    with pytest.raises(ContractError, match=told):
        contract.check(renderer, fingerprint)


def test_a_changed_tokenizer_under_the_same_template_is_noticed(contract):
    """Only the sample's ids can tell: the template's text is the same."""
    changed = made(system="s")
    changed.tokenizer.add_tokens(["hi"])
    with pytest.raises(ContractError, match=r"from position 5 \(now \[262, 2, 5"):
        contract.check(changed, "sha256:1")


def test_what_cannot_be_written_whole_is_not_there(contract, tmp_path, monkeypatch):
    """An empty contract was left, and a run with one counts as finished."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(full))
    (tmp_path / "other").mkdir()
    with pytest.raises(OSError, match="No space"):
        contract.save(tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []


def test_a_base_in_4_bits_is_said_only_where_it_was(contract, tmp_path):
    """So that what older versions wrote is read as before, and they refuse what they do not know."""
    contract.save(tmp_path)
    written = json.loads((tmp_path / CONTRACT_FILE).read_text())
    assert (written["format"], "base_in_4bit" in written, trained_in_4bit(tmp_path)) == (1, False, False)
    replace(contract, base_in_4bit=True).save(tmp_path)
    assert json.loads((tmp_path / CONTRACT_FILE).read_text())["format"] == 2
    assert Contract.load(tmp_path).base_in_4bit
    assert trained_in_4bit(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": 99}', '{"format": 1, "extra": 1}'])
def test_a_damaged_contract_is_an_error(tmp_path, text):
    (tmp_path / CONTRACT_FILE).write_text(text)
    with pytest.raises(ContractError):
        Contract.load(tmp_path)


def test_no_contract_is_not_found(tmp_path):
    with pytest.raises(NotFoundError, match=r"no arriero\.json"):
        Contract.load(tmp_path)


def test_stop_tokens_come_from_tokenizer_and_both_configs(model_dir, tmp_path):
    """Llama 3.1's generation config lists three; its tokenizer only one."""
    tokenizer = load_tokenizer(model_dir)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 4]}))
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 3}))
    assert stop_token_ids(tokenizer, tmp_path) == (2, 3, 4, 5)
