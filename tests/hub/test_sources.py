"""Which hub is asked first, and the names that models have at each."""

from __future__ import annotations

import json
import shutil
import socket

import pytest

from arriero import hub
from arriero.errors import OfflineError, UsageError
from arriero.hub import sources, store
from arriero.hub.catalog import CATALOG, REPOSITORY, lookup
from tests.hub.hubs import LoopbackHub, download

BOTH = ("modelscope", "huggingface")


@pytest.fixture
def hubs(tmp_path, model_dir, monkeypatch):
    """The two hubs, on loopback, in a locale that prefers neither."""
    servers = {source: LoopbackHub(model_dir) for source in BOTH}
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", servers["modelscope"].url)
    monkeypatch.setenv("HF_ENDPOINT", servers["huggingface"].url)
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    yield servers
    for server in servers.values():
        server.awake.set()
        server.close()


@pytest.mark.parametrize("asleep", BOTH)
def test_auto_begins_with_the_hub_that_answers_first(hubs, asleep):
    """ModelScope always came first, and whoever it is slow or blocked for waited for it."""
    hubs[asleep].awake.clear()
    assert sources.ordered(BOTH)[-1] == asleep


def test_a_hub_that_answers_with_an_error_has_not_answered(hubs):
    hubs["huggingface"].awake.clear()
    hubs["modelscope"].broken = True
    hubs["modelscope"].when_asked = hubs["huggingface"].awake.set
    assert sources.ordered(BOTH) == ("huggingface", "modelscope")


@pytest.mark.parametrize("variables", [{"LC_ALL": "zh_CN.UTF-8"}, {"LC_ALL": "", "LC_MESSAGES": "", "LANG": "zh_TW"}])
def test_a_chinese_locale_begins_with_modelscope_unasked(hubs, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert sources.ordered(BOTH) == BOTH
    assert [server.asked for server in hubs.values()] == [[], []]


def test_one_hub_is_not_asked_whether_it_is_the_first(hubs):
    assert sources.ordered(("huggingface",)) == ("huggingface",)
    assert hubs["huggingface"].asked == []


def test_a_model_that_the_first_hub_does_not_give_comes_from_the_other(hubs, tmp_path, monkeypatch):
    """A licence that is not accepted ended the download, though the other hub has the same weights."""
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    for server in hubs.values():
        server.repository = "Qwen/Qwen3-0.6B"
    hubs["modelscope"].gated = "licence"
    url = {"HF_ENDPOINT": hubs["huggingface"].url, "MODELSCOPE_ENDPOINT": hubs["modelscope"].url}
    code, document, errors = download(tmp_path, "", "qwen/qwen3-0.6b", environment=url)
    assert code == 0, errors
    assert (document["source"], document["path"].rpartition("/")[2]) == ("huggingface", "qwen3-0.6b")
    assert "trying huggingface" in errors


def test_the_catalogue_says_of_each_model_what_one_wants_to_know():
    known = [origin for origin in CATALOG.values() if origin.wheel is None]
    assert len(known) >= 20
    for origin in known:
        assert REPOSITORY.fullmatch(origin.huggingface)
        assert origin.modelscope is None or REPOSITORY.fullmatch(origin.modelscope)
        assert origin.name == origin.name.lower()
        assert 10**8 < origin.parameters < 10**11
        assert origin.context >= 8192
        assert origin.licence
        assert lookup(origin.huggingface.lower()) is lookup(origin.modelscope or origin.name) is origin
    assert [CATALOG[name].gated for name in ("llama-3.2-1b-instruct", "gemma-2-2b-it", "phi-4")] == [True, True, False]


def test_a_model_that_was_fetched_before_it_had_a_name_is_found_by_all_its_names(home, model_dir):
    path = home / "models" / "Qwen--Qwen3-0.6B"
    shutil.copytree(model_dir, path)
    store.write_manifest(path, name=path.name, source="huggingface", revision="abc")
    assert {hub.resolve(name) for name in ("Qwen/Qwen3-0.6B", "qwen3-0.6b")} == {path}
    assert hub.download("qwen3-0.6b").path == str(path)


def test_a_directory_that_holds_another_model_is_not_the_one_asked_for(home, model_dir, tmp_path):
    """`download` said that B is ready, and A answered."""
    path = tmp_path / "model"
    shutil.copytree(model_dir, path)
    store.write_manifest(path, name="model", source="huggingface", revision="abc", repository="owner/a")
    for model, options in (("owner/b", {}), ("owner/b", {"revision": "v2"}), ("owner/a", {"source": "modelscope"})):
        for dry_run in (False, True):
            with pytest.raises(UsageError, match="holds owner/a from huggingface"):
                hub.download(model, dest=path, dry_run=dry_run, **options)
    for source in ("auto", "huggingface"):
        assert hub.download("owner/a", source=source, dest=path).verified


def test_available_lists_the_catalogue(capsys):
    from arriero.cli.main import main

    assert main(["models", "--available", "--json"]) == 0
    listed = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert listed.keys() == CATALOG.keys()
    assert listed["llama-3.1-8b-instruct"]["bytes"] == 16_060_000_000


def test_offline_nothing_is_asked_for(home, monkeypatch):
    """ModelScope's client and pip do not know the variable, and went to the network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(socket, "socket", lambda *arguments: pytest.fail("a socket was opened"))
    for name in ("smollm2-135m-instruct", "qwen3-0.6b", "owner/name"):
        with pytest.raises(OfflineError, match="HF_HUB_OFFLINE"):
            hub.download(name)
