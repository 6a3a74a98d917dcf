"""`arriero train`: its options from the command line and from a file."""

from __future__ import annotations

import json

import pytest


def test_a_configuration_file_sets_options_and_the_command_line_goes_first(run, home, tmp_path, rows_file, model_dir):
    config = tmp_path / "config.toml"
    config.write_text('system = "Be brief."\nepochs = 2\nrank = 4\nprecision = "float32"\n')
    out_dir = tmp_path / "run"
    arguments = ["train", rows_file, "--model", model_dir, "--output", out_dir, "--config", config, "--rank", 2]
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    assert json.loads(out)["output"] == str(out_dir)
    options = json.loads((out_dir / "report.json").read_text())["options"]
    assert (options["epochs"], options["rank"], options["alpha"]) == (2, 2, 32)


def test_several_names_in_one_option(run, home, tmp_path, rows_file, model_dir):
    out_dir = tmp_path / "run"
    options = ["--target-modules", "q_proj", "k_proj", "--output", out_dir, "--precision", "float32", "--epochs", 1]
    assert run("train", rows_file, "--model", model_dir, *options)[0] == 0
    config = json.loads((out_dir / "adapter_config.json").read_text())
    assert sorted(config["target_modules"]) == ["k_proj", "q_proj"]


def test_a_path_that_cannot_be_written_is_told(run, home, rows_file, model_dir, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = run("train", rows_file, "--model", model_dir, "--output", tmp_path / "file" / "run")
    assert code == 1
    assert "Not a directory" in err


def test_a_directory_that_is_taken_is_told_before_anything_is_read(
    run, home, rows_file, model_dir, tmp_path, monkeypatch
):
    """It took eight seconds to say so."""
    monkeypatch.setattr("arriero.cluster.training.driver.train", lambda *_, **__: pytest.fail("data are read now"))
    (tmp_path / "thesis.txt").write_text("mine")
    code, _, err = run("train", rows_file, "--model", model_dir, "--output", tmp_path)
    assert (code, "not a training output" in err) == (2, True), err
