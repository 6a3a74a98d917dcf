"""The conversation page in a real server and a real browser."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from arriero.messages import Message
from arriero.web import Visitor, browser
from tests.conftest import TEMPLATE
from tests.prompt.reasoning import QWEN3
from tests.web.chat_browser import messages, press, send, text

expect.set_options(timeout=60_000)


def test_two_questions_and_their_streamed_answers(scripted_chat, site, tab):
    chat = scripted_chat("Hello **you**", "Bye", gate=5)
    site(tiny=chat)
    page = tab()
    expect(page).to_have_title("Arriero")
    send(page, "Hi")
    expect(text(messages(page).last)).to_have_text("Hello")  # while the engine is held at its gate
    chat.engine.release.set()
    expect(messages(page).last.locator("strong")).to_have_text("you")
    expect(messages(page).last).to_contain_text("tokens/s")
    send(page, "And?")
    expect(messages(page)).to_have_count(4)
    expect(messages(page).last).to_contain_text("4 tokens")
    turns = [Message("user", "Hi"), Message("assistant", "Hello **you**"), Message("user", "And?")]
    assert chat.engine.asked[1][0] == chat.render(turns)


@pytest.mark.parametrize(("gate", "kept"), [(5, "Hello"), (0, "")])
def test_the_stop_button_stops_the_engine_and_keeps_what_was_said(scripted_chat, site, tab, gate, kept):
    chat = scripted_chat("Hello you", gate=gate)
    site(tiny=chat)
    page = tab()
    send(page, "Hi")
    expect(messages(page).last).to_contain_text(kept or "Processing the prompt …")
    press(page, "stop")
    expect(messages(page).last).to_contain_text("stopped")
    assert chat.engine.generations[0].cancelled
    chat.engine.release.set()
    send(page, "Go on")
    expect(messages(page).last).to_contain_text("Hello you")
    before = [Message("user", "Hi"), Message("assistant", kept)] if kept else []
    assert chat.engine.asked[1][0] == chat.render([*before, Message("user", "Go on")])


def test_a_control_that_is_used_meanwhile_does_not_break_off_the_answer(scripted_chat, site, tab):
    chat = scripted_chat("Hello you", gate=5)
    site(tiny=chat)
    page = tab()
    send(page, "Hi")
    expect(text(messages(page).last)).to_have_text("Hello")
    press(page, "settings")
    page.get_by_role("spinbutton", name="Temperature").fill("0.5")
    page.get_by_role("spinbutton", name="Temperature").press("Enter")
    page.keyboard.press("Escape")
    expect(text(messages(page).last)).to_have_text("Hello")
    assert not chat.engine.generations[0].cancelled
    chat.engine.release.set()
    expect(messages(page).last).to_contain_text("10 tokens")
    expect(text(messages(page).last)).to_have_text("Hello you")
    assert len(chat.engine.asked) == 1
    send(page, "And?")
    expect(messages(page)).to_have_count(4)
    assert chat.engine.asked[1][1].temperature == 0.5


def test_a_reload_and_another_tab_come_back_to_the_answer_in_flight(scripted_chat, site, tab):
    """A reload once began anew, and the conversation was gone."""
    chat = scripted_chat("Hello you", gate=5)
    site(tiny=chat)
    page = tab()
    send(page, "Hi")
    expect(text(messages(page).last)).to_have_text("Hello")
    page.reload()
    expect(text(messages(page).last)).to_have_text("Hello")
    other = page.context.new_page()
    other.goto(page.url)
    expect(text(messages(other).last)).to_have_text("Hello")
    page.close()
    assert not chat.engine.generations[0].cancelled
    chat.engine.release.set()
    expect(messages(other).last).to_contain_text("10 tokens")
    assert len(chat.engine.asked) == 1


@pytest.mark.slow
def test_the_answer_goes_on_while_another_page_is_shown(scripted_chat, site, tab):
    chat = scripted_chat("Hello you", gate=5)
    site(tiny=chat)
    page = tab()
    links = page.get_by_test_id("stSidebarNavLink")
    page.get_by_test_id("stChatInputTextArea").wait_for()
    if links.count() < 2:
        pytest.skip("there is no other page")
    send(page, "Hi")
    expect(text(messages(page).last)).to_have_text("Hello")
    links.last.click()
    expect(messages(page)).to_have_count(0)
    chat.engine.release.set()
    links.first.click()
    expect(messages(page).last).to_contain_text("10 tokens")
    assert len(chat.engine.asked) == 1


@pytest.mark.slow
def test_branches_and_another_model(scripted_chat, site, tab):
    first, killa = scripted_chat("one", "two"), scripted_chat("I am Killa")
    site({"tiny": first, "killa": killa})
    page = tab()
    send(page, "Hi")
    expect(messages(page).last).to_contain_text("4 tokens")
    press(page, "regenerate")
    expect(text(messages(page).last)).to_have_text("two")
    press(page, "previous")
    expect(text(messages(page).last)).to_have_text("one")
    expect(messages(page).last).to_contain_text("1 / 2")
    page.get_by_test_id("stSelectbox").click()
    page.get_by_role("option", name="killa").click()
    press(page, "edit", 0)
    page.get_by_label("Question").fill("Who?")
    press(page, "send")
    expect(text(messages(page).last)).to_have_text("I am Killa")
    assert killa.engine.asked[0][0] == killa.render([Message("user", "Who?")])
    press(page, "previous")
    expect(text(messages(page).last)).to_have_text("two")  # the newest below it


@pytest.mark.slow
def test_dialogs_rename_and_delete(scripted_chat, site, tab):
    here = site(tiny=scripted_chat("one"))
    page = tab()
    send(page, "Hi")
    expect(messages(page).last).to_contain_text("4 tokens")
    press(page, "menu")
    press(page, "rename")
    page.get_by_label("Title").fill("Llamas")
    page.get_by_label("Title").press("Enter")
    press(page, "rename_sure")
    expect(page.get_by_test_id("stDialog")).to_have_count(0)
    expect(page.get_by_role("button", name="Llamas")).to_be_visible()
    press(page, "menu")
    press(page, "delete")
    press(page, "delete_sure")
    expect(messages(page)).to_have_count(0)
    assert here.history.find() == []


@pytest.mark.slow
def test_exports(scripted_chat, site, tab):
    site(tiny=scripted_chat("**one**"))
    page = tab()
    send(page, "Hi")
    expect(messages(page).last).to_contain_text("tokens/s")
    press(page, "menu")
    with page.expect_download() as download:
        press(page, "markdown")
    assert download.value.suggested_filename == "Hi.md"
    assert download.value.path().read_text() == "# Hi\n\n## You\n\nHi\n\n## tiny\n\n**one**\n"


def test_nothing_that_is_said_becomes_html_or_is_loaded_from_elsewhere(scripted_chat, site, tab):
    html = "<b id=bold>bold</b><img src=http://elsewhere.invalid/1.png>"
    site(tiny=scripted_chat(html))
    page = tab()
    send(page, f"{html} **not bold**")
    expect(messages(page).last).to_contain_text("tokens/s")
    expect(messages(page).first).to_contain_text(f"{html} **not bold**")
    expect(messages(page).last).to_contain_text(html)
    expect(page.locator("#bold, [src='http://elsewhere.invalid/1.png']")).to_have_count(0)


def test_two_browsers_without_keys_do_not_see_each_others_conversations(scripted_chat, site, tab, address):
    chat = scripted_chat("one", "two")
    site(tiny=chat, options={"visitor": lambda headers: Visitor(browser(headers) or ""), "by_cookie": True})
    first, second = tab(), tab()
    send(first, "Ada's question")
    expect(messages(first).last).to_contain_text("one")
    send(second, "Bob's question")
    expect(messages(second).last).to_contain_text("two")
    assert chat.engine.asked[1][0] == chat.render([Message("user", "Bob's question")])
    expect(first.get_by_role("button", name="Bob's question")).to_have_count(0)
    second.goto(first.url)
    expect(second.get_by_role("button", name="Bob's question")).to_be_visible()
    expect(messages(second)).to_have_count(0)
    first.reload()
    expect(messages(first)).to_have_count(2)
    # a strict cookie did not come along, and was replaced
    second.goto(f"data:text/html,<a href='http://{address}/'>from another site</a>")
    second.get_by_role("link").click()
    expect(second.get_by_role("button", name="Bob's question")).to_be_visible()


def test_a_browser_that_takes_no_cookies_has_its_visit(scripted_chat, site, tab):
    site(tiny=scripted_chat("one"), options={"visitor": lambda _: Visitor("")})
    page, other = tab(), tab()
    send(page, "Hi")
    expect(messages(page).last).to_contain_text("tokens/s")
    other.goto(page.url)
    other.get_by_test_id("stChatInputTextArea").wait_for()
    expect(messages(other)).to_have_count(0)


def test_a_refused_question_is_explained_and_the_conversation_goes_on(scripted_chat, site, tab):
    site(tiny=scripted_chat("Hello"))
    page = tab()
    send(page, "a" * 300)
    expect(page.get_by_test_id("stAlert")).to_contain_text("The prompt has 304 tokens")
    send(page, "Hi")
    expect(messages(page).last).to_contain_text("6 tokens")


def test_a_chinese_browser_gets_a_chinese_page(scripted_chat, site, tab):
    site(tiny=scripted_chat("骆驼"))
    page = tab(locale="zh-CN")
    expect(page.get_by_role("button", name="新对话")).to_be_visible()
    send(page, "你好")
    expect(messages(page).last).to_contain_text("词元/秒")
    page.get_by_text("English").click()
    expect(messages(page).last).to_contain_text("tokens/s")


def test_a_long_answer_sends_little(scripted_chat, site, tab):
    """3,000 tokens once sent 7.9 MB: the whole answer at each redraw."""
    paragraph = "A llama hums for **many** reasons, which are these:\n\n- to talk\n- to worry\n\n```\nhum()\n```\n\n"
    answer = paragraph * 30
    chat = scripted_chat(answer, gate=0, template=TEMPLATE)
    site(tiny=chat)
    page = tab()
    received: list[int] = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: received.append(len(frame))))
    page.reload()
    expect(page.get_by_test_id("stChatInputTextArea")).to_be_visible()
    before = sum(received)
    send(page, "Hi")
    chat.engine.release.set()
    expect(messages(page).last).to_contain_text("tokens/s")
    expect(messages(page).last.locator("li")).to_have_count(60)
    assert 0 < sum(received) - before < 20 * len(answer)


def test_reasoning_that_the_template_has_opened_is_folded_away_once_it_is_closed(scripted_chat, site, tab):
    chat = scripted_chat("let me see</think>It is **so**", gate=len("let me see</think>It"))
    site(tiny=chat)
    page = tab()
    send(page, "Hi")
    expect(messages(page).last.get_by_test_id("stExpander")).to_contain_text("Reasoning")
    expect(messages(page).last.get_by_text("let me see").locator("visible=true")).to_have_count(0)
    chat.engine.release.set()
    expect(messages(page).last.locator("strong")).to_have_text("so")


def test_reasoning_that_comes_apart_is_folded_away_while_it_comes_and_after_a_reload(scripted_chat, site, tab):
    chat = scripted_chat("<think>let me see</think>It is **so**", template=QWEN3, gate=len("<think>let me"))
    site(tiny=chat)
    page = tab()
    send(page, "Hi")
    folded = messages(page).last.get_by_test_id("stExpander")
    expect(folded).to_contain_text("Reasoning")
    chat.engine.release.set()
    expect(messages(page).last.locator("strong")).to_have_text("so")
    page.reload()
    expect(messages(page).last.locator("strong")).to_have_text("so")
    expect(folded.get_by_text("let me see").locator("visible=true")).to_have_count(0)
    folded.click()
    expect(folded.get_by_text("let me see").locator("visible=true")).to_have_count(1)
