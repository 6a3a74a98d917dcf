"""What people type: questions without quotation marks, several names in one option, verbs of other programs, slips."""

from __future__ import annotations

import json
import shutil

import pytest

from arriero.cli.main import VERBS
from arriero.cli.synonyms import meant
from arriero.hub import store


@pytest.mark.parametrize(
    ("words", "told", "hint"),
    [
        ("train rows.json", "train needs the option --output", "arriero train --help"),
        ("train --output", "--output needs a value", "arriero train --help"),
        ("train --output out --target-modules q_proj rows.json", "train needs DATA", "DATA before --target-modules"),
        ("train a.json b.json --output out", "train takes nothing more, got 'b.json'", "arriero train --help"),
        ("download", "download needs MODEL", "arriero download --help"),
        ("models remove", "models remove needs NAME", "arriero models remove --help"),
        ("serve --adapter a b", "--adapter takes one value, got a b", "--adapter a --adapter b"),
        ("serve --adapter=a b", "--adapter takes one value, got a b", "--adapter a --adapter b"),
        ("serve --system Be brief", "--system takes one value, got Be brief", '--system "Be brief"'),
        ("ask hi --stop a b", "the question stands in 2 places: hi … b", "quotation marks"),
        ("ask --stop a b c", "belong to --stop or to the question: b c?", "before the options"),
        ("ask --system Be brief hi", "belong to --system or to the question: brief hi?", "quotation marks"),
        ("ask --file a.txt b.txt", "--file takes one file, got b.txt as well", "--file a.txt --file b.txt"),
        ("ask hi --modle tiny", "Did you mean --model?", "arriero ask --help"),
    ],
)
def test_a_slip_is_named_with_what_to_type_instead(run, home, tmp_path, monkeypatch, words, told, hint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b.txt").touch()
    code, out, err = run(*words.split())
    assert (code, out) == (2, "")
    assert told in err.splitlines()[0]
    assert hint in err.splitlines()[1]


@pytest.mark.parametrize(
    ("words", "suggested"),
    [("trian", '"train"'), ("asks", '"ask"'), ("models verfy", '"models verify"'), ("remov", ""), ("models remov", "")],
)
def test_what_deletes_is_never_suggested(run, words, suggested):
    code, _, err = run(*words.split())
    assert code == 2
    assert f'Unknown command "{words}".' in err
    assert err.splitlines()[0].partition("Did you mean ")[2].rstrip("?") == suggested


@pytest.mark.parametrize(
    ("typed", "verb"),
    [
        ("pull qwen", "download qwen"),
        ("list", "models"),
        ("ls --json", "models --json"),
        ("ps", "models"),
        ("rm tiny", "models remove tiny"),
        ("models rm tiny", "models remove tiny"),
        ("models list --json", "models --json"),
        ("run", "chat"),
        ("run tiny", "chat --model tiny"),
        ("run tiny --plain", "chat --plain --model tiny"),
        ("run tiny why not --seed 1", "ask why not --seed 1 --model tiny"),
        ("run --help", "chat --help"),
        ("help", "--help"),
        ("help rm", "models remove --help"),
        ("ask rm", "ask rm"),
        ("", ""),
    ],
)
def test_verbs_of_other_programs(typed, verb):
    assert meant(typed.split()) == verb.split()


def test_rm_removes_a_model_and_ls_lists_what_is_left(run, home, model_dir):
    shutil.copytree(model_dir, home / "models" / "tiny")
    store.write_manifest(home / "models" / "tiny", name="tiny", source="huggingface", revision="abc")
    assert [model["name"] for model in json.loads(run("ls", "--json")[1])] == ["tiny"]
    assert run("rm", "tiny")[0] == 0
    assert json.loads(run("ps", "--json")[1]) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_verb_and_its_options(run, tmp_path, monkeypatch, shell):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", f"/bin/{shell}")
    code, out, err = run("--install-completion", "--shell", shell)
    assert code == 0, err
    scripts = [path for path in tmp_path.rglob("*arriero*") if path.is_file()]
    assert len(scripts) == 1
    assert str(scripts[0]) in out + err
    script = scripts[0].read_text()
    assert all(verb in script for verb in VERBS)
    assert "target-modules" in script
