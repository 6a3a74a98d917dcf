"""`arriero config` and the files that set options: what is set, where, and what is wrong with it on which line."""

from __future__ import annotations

import json

import pytest

from arriero import settings


@pytest.fixture(autouse=True)
def environment(home, monkeypatch):
    """An empty home, and no variable but ARRIERO_HOME."""
    for name in ("ARRIERO_MODEL", "ARRIERO_API_KEY", "ARRIERO_ADMIN_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def configured(home):
    """Write config.toml; returns its path."""

    def write(*lines):
        home.mkdir(exist_ok=True)
        file = home / "config.toml"
        file.write_text("\n".join(lines))
        return file

    return write


def values(run, *arguments):
    code, out, err = run("config", *arguments, "--json")
    assert code == 0, err
    return {value["name"]: (value["value"], value["source"]) for value in json.loads(out)["values"]}


def test_without_a_file_there_are_the_environment_and_the_defaults(run, home, monkeypatch):
    assert values(run) == {
        "home": (str(home), "environment, ARRIERO_HOME"),
        "model": (settings.EMBEDDED_MODEL, "default"),
        "api_key": (None, "default"),
        "admin_key": (None, "default"),
    }
    monkeypatch.setenv("ARRIERO_MODEL", "tiny")
    monkeypatch.setenv("ARRIERO_API_KEY", "top-secret")
    seen = values(run)
    assert (seen["model"], seen["api_key"]) == (
        ("tiny", "environment, ARRIERO_MODEL"),
        ("(set)", "environment, ARRIERO_API_KEY"),
    )
    assert f"{home / 'config.toml'} would be read, but there is none" in run("config")[2]


def test_what_a_file_sets_is_shown_with_its_line(run, configured, monkeypatch):
    file = configured(
        'model = "tiny"', "[ask]", "port = 1", "max-new-tokens = 5", "", "[serve]", 'allow_origin = ["*"]'
    )
    code, _, err = run("config")
    assert code == 2
    assert f'"[port]" from {file}, line 3' in err
    file = configured(
        'model = "tiny"', "[chat]", "seed = 1", "[ask]", "max-new-tokens = 5", "seed = 2", "[serve]", "port = 9"
    )
    seen = values(run)
    assert seen["model"] == ("tiny", f"{file}, line 1")
    assert seen["chat.seed"] == ("1", f"{file}, line 3")
    assert seen["ask.max_new_tokens"] == ("5", f"{file}, line 5")
    assert seen["ask.seed"] == ("2", f"{file}, line 6")
    monkeypatch.setenv("ARRIERO_MODEL", "other")
    assert values(run)["model"][0] == "other"
    options = values(run, "serve")
    assert options["serve.port"] == ("9", f"{file}, line 8")
    assert options["serve.host"] == ("127.0.0.1", "default")
    assert options["serve.model"] == (None, "default")


def test_a_verbs_table_sets_its_options_and_the_command_line_overrides_it(run, configured, model_dir):
    configured(f"model = {json.dumps(str(model_dir))}", "[ask]", "max_new_tokens = 3", 'engine = "transformers"')

    def tokens(*arguments):
        code, out, err = run("ask", "hi", "--json", *arguments)
        assert code == 0, err
        assert json.loads(out)["engine"] == "transformers"
        return json.loads(out)["usage"]["completion_tokens"]

    assert (tokens(), tokens("--max-new-tokens", 2)) == (3, 2)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["[ask]", "max_new_token = 2"], ", line 2. Did you mean --max-new-tokens?"),
        (["[ask]", "", 'seed = "x"'], ", line 3: unable to convert"),
        (["[ask]", "seed = 1", "temperature = 9"], ", line 3: temperature must be between 0 and 2, got 9"),
        (["[ask]", "seed ="], ", line 2: Invalid value"),
        (
            ["[chat]", "[aks]"],
            ", line 2: expected model = NAME, or a verb's table such as [serve]\n  try: did you mean ask?",
        ),
        (["ask = 3"], ", line 1: expected"),
        (["[model]"], ", line 1: expected"),
        (["seed = 3"], ", line 1: expected"),
    ],
)
def test_what_is_wrong_with_the_file_is_told_with_its_line(run, configured, lines, told):
    file = configured(*lines)
    code, out, err = run("ask", "hi")
    assert (code, out) == (2, "")
    assert f"{file}{told}" in err


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.yaml", "rank: 4\nepoch: 3", '"[epoch]" from a.yaml, line 2. Did you mean --epochs?'),
        ("a.yaml", "rank: 4\nepochs: [\n", "a.yaml, line 2: "),
        ("a.yaml", "rank: 4\nepochs: many", "[epochs] from a.yaml, line 2: unable to convert"),
        ("a.yaml", "epochs: 3\nrank: 0", "a.yaml, line 2: rank must be at least 1, got 0"),
        ("a.yaml", "- rank", "a.yaml, line 1: expected options"),
        ("a.yaml", "a: b: c", "a.yaml, line 1: mapping values are not allowed here"),
        ("a.toml", "rank = 4\n\nepochs =", "a.toml, line 3: Invalid value"),
        ("a.toml", "rank = 4\nepoch = 3", '"[epoch]" from a.toml, line 2'),
    ],
)
def test_what_is_wrong_with_the_file_of_a_training_is_told_with_its_line(
    run, tmp_path, monkeypatch, rows_file, name, text, told
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(text)
    code, _, err = run("train", rows_file, "--output", "run", "--config", name)
    assert code == 2, err
    assert told in err


def test_a_value_of_the_command_line_is_not_blamed_on_the_file(run, tmp_path, monkeypatch, rows_file):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("rank: 4")
    err = run("train", rows_file, "--output", "run", "--config", "a.yaml", "--rank", "0")[2]
    assert err.startswith("error: rank must be at least 1")


def test_an_unknown_verb(run):
    assert run("config", "sevre")[0] == 2


def test_braces_in_the_homes_path_are_braces(run, tmp_path, monkeypatch):
    """The path of the file was taken for a format, and `config` ended in a KeyError."""
    (tmp_path / "{mine}").mkdir()
    monkeypatch.setenv("ARRIERO_HOME", str(tmp_path / "{mine}"))
    monkeypatch.delenv("ARRIERO_MODEL", raising=False)
    (tmp_path / "{mine}" / "config.toml").write_text('model = "tiny"')
    code, said, _ = run("config", "--json")
    sources = {value["name"]: value["source"] for value in json.loads(said)["values"]}
    assert (code, sources["model"]) == (0, f"{tmp_path}/{{mine}}/config.toml, line 1")
