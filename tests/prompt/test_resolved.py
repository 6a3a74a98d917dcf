"""resolve(): a base model and an adapter that belong together, or an error that says why not."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from arriero.errors import ContractError, NotFoundError
from arriero.messages import Conversation
from arriero.prompt import Contract, resolve
from tests.conftest import ids_of

SAMPLE = [{"role": "user", "content": "who?"}, {"role": "assistant", "content": "me"}]


@pytest.fixture
def adapter(model_dir, tmp_path):
    """An adapter directory as far as binding looks at it: no weights are read."""
    from arriero import hub

    renderer = resolve(model_dir, system="Be Killa.").renderer
    fingerprint = hub.fingerprint(model_dir)
    contract = Contract.of(renderer, Conversation.of(SAMPLE), base_model="tiny", base_fingerprint=fingerprint)
    (tmp_path / "killa").mkdir()
    contract.save(tmp_path / "killa")
    (tmp_path / "killa" / "adapter_config.json").write_text("{}")
    return tmp_path / "killa"


def test_a_model_alone_has_the_template_s_own_system_prompt(model_dir):
    resolved = resolve(model_dir)
    assert (resolved.model_dir, resolved.adapter_dir, resolved.contract) == (model_dir, None, None)
    assert resolved.renderer.prompt(SAMPLE[:1]) == [1, 4, *ids_of("who?"), 2, 5]


def test_an_adapter_brings_its_system_prompt_unless_another_is_given(model_dir, adapter):
    resolved = resolve(model_dir, adapter)
    assert (resolved.adapter_dir, resolved.renderer.system) == (adapter, "Be Killa.")
    assert resolved.renderer.render(Conversation.of(SAMPLE)).ids == resolved.contract.sample_ids
    assert resolve(model_dir, adapter, system="x").renderer.system == "x"


@pytest.fixture
def merged(model_dir, adapter, tmp_path):
    """A model directory with a contract of its own, as merging leaves it."""
    directory = shutil.copytree(model_dir, tmp_path / "merged")
    made = replace(Contract.load(adapter), today="2031-05-04", variables={"date_string": "then"})
    replace(made, merged_adapter="killa").save(directory)
    return directory


def test_a_model_s_own_contract_holds_unless_more_is_said(merged, adapter):
    resolved = resolve(merged)
    assert (resolved.renderer.system, resolved.renderer.today) == ("Be Killa.", "2031-05-04")
    assert resolved.renderer.variables == {"date_string": "then"}
    assert (resolved.adapter_dir, resolved.contract_name) == (None, "merged")
    other = resolve(merged, system="x")
    assert (other.renderer.system, other.renderer.today, other.contract_name) == ("x", "2031-05-04", "merged")
    trained = resolve(merged, adapter)  # the adapter's contract says all that the model's does
    assert (trained.contract_name, trained.renderer.today, trained.renderer.variables) == ("killa", "2024-07-26", {})


def test_a_model_s_own_contract_is_checked_too(merged, other_model_dir):
    shutil.copy(other_model_dir / "model.safetensors", merged)
    with pytest.raises(ContractError, match="its weights"):
        resolve(merged)
    (merged / "model.safetensors").unlink()
    assert resolve(merged).renderer.system == "Be Killa.", "looking at data needs no weights"
    (merged / "generation_config.json").write_text('{"eos_token_id": [2, 5]}')
    with pytest.raises(ContractError, match="the stop tokens"):
        resolve(merged)
    (merged / "arriero.json").write_text("{")
    with pytest.raises(ContractError, match="is not a prompt contract"):
        resolve(merged)


def test_what_does_not_belong_together(home, model_dir, other_model_dir, adapter):
    with pytest.raises(ContractError, match="the base model's weights"):
        resolve(other_model_dir, adapter)
    with pytest.raises(NotFoundError, match="the adapter's base model is not on disk") as caught:
        resolve(adapter=adapter)
    assert "arriero download tiny" in caught.value.hint
    assert "--model" in caught.value.hint
    (adapter / "arriero.json").unlink()
    with pytest.raises(NotFoundError, match=r"has no arriero\.json"):
        resolve(model_dir, adapter)
    with pytest.raises(NotFoundError, match="not an adapter directory") as caught:
        resolve(model_dir, model_dir)
    assert "--model" in caught.value.hint
