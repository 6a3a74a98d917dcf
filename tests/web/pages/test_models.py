"""The models page as Streamlit's own test harness draws it."""

from __future__ import annotations

import shutil

import pytest

from arriero import hub
from arriero.web import jobs
from arriero.web.backend import Choice
from arriero.web.shelf import shelf
from tests.web.pages.visiting import after_jobs, drawn, opened, text
from tests.web.shelf.test_shelf import hub_server  # noqa: F401  a fixture


@pytest.fixture
def stored(home, model_dir):
    """Two models on disk: owner/one and owner/two."""
    for name in ("owner--one", "owner--two"):
        path = home / "models" / name
        shutil.copytree(model_dir, path)
        hub.store.write_manifest(path, name=name, source="huggingface", revision="0123456789abcdef")


def submit(page):
    """Press the button of the form."""
    next(button for button in page.button if button.form_id == "models_get").click()


def test_only_an_administrator_sees_the_page_even_by_its_address(stored):
    page = opened("models", admin=False)
    assert text(page) == "This page is for administrators."
    assert not page.button


def test_what_is_served_and_what_is_on_disk(stored):
    page = opened("models", Choice("owner/one", window=256, engine="scripted"), Choice("killa", parent="owner/one"))
    shown = text(page).replace("\\", "")
    assert "**owner/one**  \n:gray[window of 256 tokens · scripted]" in shown
    assert "**killa**  \n:gray[adapter of owner/one]" in shown
    assert "**owner/one** :green-badge[served]" in shown
    assert "from huggingface 0123456789ab" in shown
    assert "**llama-3.1-8b-instruct**  \n:gray[16.1 GB · licence llama3.1 · ModelScope, Hugging Face]" in shown
    assert page.button(key="models_remove_owner--one").disabled
    assert not page.button(key="models_remove_owner--two").disabled


def test_a_model_is_removed_after_a_question(stored, home):
    page = opened("models", Choice("owner/one"))
    page.button(key="models_remove_owner--two").click()
    drawn(page)
    assert "owner/two (" in text(page)
    assert (home / "models" / "owner--two").is_dir()
    page.button(key="models_remove_yes").click()
    assert "owner/two" not in text(drawn(page)).replace("\\", "")
    assert [path.name for path in (home / "models").iterdir()] == ["owner--one"]


def test_a_model_is_verified(stored, home):
    page = opened("models")
    page.button(key="models_verify_owner--two").click()
    drawn(page)
    page = after_jobs(page, home / "cache" / "page" / "verified")
    assert "All files are as they were downloaded." in text(page)


def test_a_download_is_seen_by_everybody_and_can_be_cancelled(hub_server, home):  # noqa: F811  the fixture
    hub_server.gate.clear()
    page = opened("models")
    page.text_input(key="models_name").set_value("owner/name")
    submit(page)
    drawn(page)
    assert hub_server.reached.wait(100)
    another = opened("models")
    assert "**owner/name**" in text(another).replace("\\", "")
    another.button(key="models_cancel_owner--name").click()
    assert "Cancelled. Complete files stay for the next try." in text(drawn(another))
    assert "Cancelled" in text(drawn(page))
    hub_server.gate.set()
    page.button(key="models_again_owner--name").click()
    drawn(page)
    page = after_jobs(page, shelf.downloads()[0].folder.parent)
    assert "On disk and verified." in text(page)
    page.button(key="models_dismiss_owner--name").click()
    assert "On disk and verified." not in text(drawn(page))


def test_what_a_download_came_to_is_said_in_its_place(hub_server, home):  # noqa: F811  the fixture
    hub_server.gated = "no token"
    page = opened("models")
    page.text_input(key="models_name").set_value("owner/name")
    submit(page)
    page = after_jobs(drawn(page), shelf._folder("downloads", ""))
    assert "it needs an account, and you are not logged in" in text(page)
    assert jobs.find(shelf.downloads()[0].folder).failure.kind == "AccessError"


def test_a_name_that_nothing_has_is_explained(home):
    page = opened("models")
    page.text_input(key="models_name").set_value("llamma")
    submit(page)
    assert "no model is called 'llamma'" in text(drawn(page))
