"""Going on from an adapter, with more epochs or other data."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from arriero.errors import UsageError
from arriero.prompt import Contract
from arriero.training import TrainOptions, evaluate, forecast, train

OPTIONS = {"learning_rate": 1e-3, "epochs": 1, "batch_size": 8, "precision": "float32", "eval_fraction": 0.0}


@pytest.fixture(scope="module")
def further(trained_adapter, rows_file, tmp_path_factory):
    output = tmp_path_factory.mktemp("further") / "run"
    train(rows_file, output=output, from_adapter=str(trained_adapter), **OPTIONS)
    return output


def test_it_begins_where_the_adapter_ended(further, trained_adapter, rows_file, model_dir):
    first = json.loads((further / "metrics.jsonl").read_text().splitlines()[0])
    measured = evaluate(rows_file, model=model_dir, adapter=trained_adapter, precision="float32")
    assert first["loss"] == pytest.approx(measured.nll, rel=1e-5)
    assert first["loss"] < 0.9 * measured.base.nll


def test_the_new_adapter_has_the_olds_settings_and_prompt(further, trained_adapter):
    ours, theirs = (Contract.load(each) for each in (further, trained_adapter))
    assert (ours.system, ours.base_path, ours.base_model) == ("Be Killa.", theirs.base_path, theirs.base_model)
    configs = [json.loads((each / "adapter_config.json").read_text()) for each in (further, trained_adapter)]
    for config in configs:
        config["target_modules"].sort()
    assert configs[0] == configs[1]
    new, old = (load_file(each / "adapter_model.safetensors") for each in (further, trained_adapter))
    assert new.keys() == old.keys()
    assert not all(torch.equal(new[name], old[name]) for name in new)


def test_it_resumes_only_from_the_same_adapter(further, trained_adapter, rows_file):
    assert train(rows_file, output=further, from_adapter=str(trained_adapter), resume=True, **OPTIONS).steps == 1
    with pytest.raises(UsageError, match="holds a run that differs: adapter was 'sha256:"):
        train(rows_file, output=further, from_adapter=str(further), resume=True, **OPTIONS)


def test_settings_that_the_adapter_does_not_have_are_refused(trained_adapter, rows_file, tmp_path):
    for options in ({"rank": 4}, {"use_dora": True}, {"target_modules": ("q_proj",)}):
        (name,) = options
        with pytest.raises(UsageError, match=f"{name} is .*, and the adapter killa has"):
            train(rows_file, output=tmp_path / "run", from_adapter=str(trained_adapter), **OPTIONS, **options)
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_a_run_is_an_adapter(rows_file, model_dir, tmp_path):
    """It had PEFT's matrices under another name and no configuration, so that nothing could use it."""
    train(
        rows_file,
        output=tmp_path / "run",
        model=model_dir,
        system="Be Killa.",
        **{**OPTIONS, "epochs": 2},
        save_steps=1,
    )
    first, last = (tmp_path / "run" / "checkpoints" / f"checkpoint-{step}" for step in (1, 2))
    assert Contract.load(first) == Contract.load(tmp_path / "run")
    measured = [evaluate(rows_file, adapter=each, precision="float32") for each in (first, last, tmp_path / "run")]
    assert measured[0].nll > measured[1].nll == measured[2].nll
    assert measured[0].base.nll > measured[0].nll
    again = train(rows_file, output=tmp_path / "again", from_adapter=str(first), **OPTIONS)
    assert again.steps == 1


def test_the_plan_reckons_with_the_adapter(trained_adapter, rows_file, model_dir):
    planned = forecast(rows_file, TrainOptions(from_adapter=str(trained_adapter)))
    assert (planned.model, planned.system) == (model_dir.name, "Be Killa.")
