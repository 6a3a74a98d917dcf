"""The list of conversations beside the page: searched, opened, renamed, deleted, and what the terminal began."""

from __future__ import annotations

from arriero.history import SavedConversation
from arriero.messages import Message
from arriero.web.state import get_site
from tests.web.chat_page import ask, click, keys, run, said


def test_conversations_are_listed_searched_and_opened(scripted_chat, opened):
    page = ask(opened(tiny=scripted_chat("abc", "骆驼")), "one **bold**")
    click(page, "new")
    assert page.chat_message == []
    ask(page, "two")
    assert [button.label for button in page.button if button.key.startswith("open-")] == ["two", r"one \*\*bold\*\*"]
    page.text_input(key="search").set_value("骆")
    run(page)
    assert len(keys(page, "open")) == 1
    page.text_input(key="search").set_value("nowhere")
    assert "Nothing found." in [caption.value for caption in run(page).caption]
    page.text_input(key="search").set_value("")
    run(page)
    click(page, keys(page, "open")[1])
    assert said(page) == ["one **bold**", "abc"]
    assert page.query_params["c"] == keys(page, "open")[1].removeprefix("open-")


def test_renaming_and_deleting(scripted_chat, opened):
    page = ask(opened(tiny=scripted_chat("abc")), "one")
    click(page, "rename")
    page.text_input(key="new_title").set_value("Llamas")
    click(page, "rename_sure")
    assert page.button(key=keys(page, "open")[0]).label == "Llamas"
    click(page, "delete")
    click(page, "delete_not")
    assert said(page) == ["one", "abc"]
    click(page, "delete")
    click(page, "delete_sure")
    assert (page.chat_message, keys(page, "open")) == ([], [])


def test_the_list_grows_on_demand(scripted_chat, opened):
    page = opened(tiny=scripted_chat("abc"))
    for number in range(25):
        get_site().history.add(SavedConversation("tiny"), None, Message("user", str(number)))
    assert len(keys(run(page), "open")) == 20
    click(page, "more")
    assert len(keys(page, "open")) == 25


def test_the_context_meter(scripted_chat, opened):
    page = ask(opened(tiny=scripted_chat("abc")), "hi")
    assert "Context: 10 of 256 tokens" in [caption.value for caption in page.caption]


def test_a_conversation_that_the_terminal_began(scripted_chat, opened):
    page = opened(tiny=scripted_chat("abc"))
    saved = get_site().history.save(SavedConversation("tiny"), [Message("user", "hi"), Message("assistant", "yes")])
    click(run(page), f"open-{saved.id}")
    assert said(page) == ["hi", "yes"]
    assert "Context: 9 of 256 tokens" in [caption.value for caption in page.caption], "counted: nobody told"
    ask(page, "and?")
    assert [message.content for message in get_site().history.messages(saved.id)] == ["hi", "yes", "and?", "abc"]
