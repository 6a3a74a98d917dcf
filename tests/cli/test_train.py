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


@pytest.mark.parametrize("text", ["epoch: 3", "epochs: [", "epochs: many"])
def test_a_bad_configuration_file(run, home, tmp_path, rows_file, text):
    config = tmp_path / "config.yaml"
    config.write_text(text)
    code, _, err = run("train", rows_file, "--output", tmp_path / "run", "--config", config)
    assert code == 2, err
    assert "config.yaml" in err or "epochs" in err


def test_a_path_that_cannot_be_written_is_told(run, home, rows_file, model_dir, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = run("train", rows_file, "--model", model_dir, "--output", tmp_path / "file" / "run")
    assert code == 1
    assert "Not a directory" in err
