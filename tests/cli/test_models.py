"""`arriero models`: what is on disk."""

from __future__ import annotations

import json
import shutil

from arriero.hub import store


def test_models_are_listed_verified_and_removed(run, home, model_dir):
    shutil.copytree(model_dir, home / "models" / "tiny")
    store.write_manifest(home / "models" / "tiny", name="tiny", source="huggingface", revision="abc")
    assert json.loads(run("models", "--json")[1])[0]["name"] == "tiny"
    assert run("models", "verify", "tiny")[0] == 0
    (home / "models" / "tiny" / "config.json").write_text("{}")
    code, out, err = run("models", "verify", "tiny", "--json")
    assert (code, json.loads(out)["verified"]) == (1, False)
    assert "config.json" in err
    assert run("models", "remove", "tiny")[0] == 0
    assert json.loads(run("models", "--json")[1]) == []
