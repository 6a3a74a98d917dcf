"""The page "compare": side by side, the same question for all, a vote that is kept."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamlit.testing.v1 import AppTest

from arriero.errors import DataError, UsageError
from arriero.messages import Message, Sampling
from arriero.web import Local, Site, Visitor, set_site
from arriero.web.comparing.prompts import prompts
from arriero.web.comparing.rounds import Round, Rounds
from arriero.web.comparing.votes import Votes, as_csv, as_json, tally, vote_on

PAGE = """
from arriero.web.language import language
from arriero.web.pages import compare

language()
compare.main()
"""


@pytest.fixture
def page(scripted_chat, tmp_path, monkeypatch):
    """Draw the page over two scripted models; `page.chats` are they."""
    monkeypatch.setenv("ARRIERO_HOME", str(tmp_path))

    def visit(first=None, second=None):
        chats = {"base": first or scripted_chat("from base"), "adapter": second or scripted_chat("from adapter")}
        set_site(Site(Local(chats.items)))
        drawn = AppTest.from_string(PAGE, default_timeout=60).run()
        drawn.chats = chats
        return drawn

    return visit


def start(page, typed):
    page.text_area(key="prompts").set_value(typed)
    page.button[0].click().run()
    return settled(page)


def settled(page):
    """Drawn again until all answers are there; the test's own time limit ends this."""
    assert not page.exception
    while any(button.key == "stop" for button in page.button):
        page.run()
    return page


def press(page, label, key):
    next(button for button in page.button if button.label == label and key in button.key).click().run()


def test_every_model_gets_the_same_question_and_settings(page):
    drawn = page()
    drawn.text_area[1].set_value("be kind")
    drawn.number_input[0].set_value(0.5)
    drawn.number_input[2].set_value(7)
    start(drawn, "hi\n\nand?")
    assert [text.value for text in drawn.text] == ["hi", "and?"]
    assert [text.value for text in drawn.markdown] == ["from base", "from adapter"] * 2
    for chat in drawn.chats.values():
        for prompt, asked in zip(("hi", "and?"), sorted(chat.engine.asked, key=lambda one: len(one[0])), strict=True):
            assert asked[0] == chat.render([Message("system", "be kind"), Message("user", prompt)])
            assert (asked[1].temperature, asked[1].seed) == (0.5, 7)


def test_a_vote_is_kept_counted_and_may_be_changed(page, tmp_path):
    drawn = start(page(), "hi\nand?")
    press(drawn, "Better", "-0-1")
    press(drawn, "Tie", "-1-tie")
    press(drawn, "Better", "-0-0")
    assert not drawn.exception
    assert tally(Votes().of(None)) == [("base", 1, 1, 0), ("adapter", 0, 1, 1)]
    assert drawn.dataframe[0].value.to_numpy().tolist() == [["base", 1, 1, 0], ["adapter", 0, 1, 1]]
    assert len((tmp_path / "votes.jsonl").read_text().splitlines()) == 3, "nothing is changed in place"


def test_a_vote_that_cannot_be_kept_is_said_so(page, tmp_path):
    drawn = start(page(), "hi")
    (tmp_path / "votes.jsonl").mkdir()
    press(drawn, "Tie", "tie")
    assert not drawn.exception
    assert "votes.jsonl cannot be written" in drawn.error[0].value


def test_what_one_model_refuses_does_not_end_the_other_ones_answer(page, scripted_chat):
    drawn = page(second=scripted_chat("from adapter", template="{% for m in messages %}{{ m.content }}{% endfor %}"))
    start(drawn, "a" * 300)
    assert drawn.error[0].value.startswith("The prompt has 304 tokens")
    assert [text.value for text in drawn.markdown] == ["from adapter"]


def test_a_running_round_survives_a_reload_and_can_be_stopped(page, scripted_chat):
    first = scripted_chat("from base", gate=4)
    drawn = page(first)
    drawn.text_area(key="prompts").set_value("hi")
    drawn.button[0].click().run()
    assert first.engine.reached.wait(30)
    again = AppTest.from_string(PAGE, default_timeout=60).run()
    assert [text.value for text in again.text] == ["hi"]
    again.button(key="stop").click().run()
    settled(again)
    assert "Stopped" in [caption.value for caption in again.caption]
    first.engine.release.set()
    while not first.engine.generations[0].cancelled:
        again.run()
    assert len(first.engine.asked) == 1


def test_two_models_and_a_prompt_are_needed(page):
    drawn = start(page(), " \n")
    assert drawn.error[0].value == "Write a prompt first."
    drawn.multiselect[0].set_value(["base"])
    start(drawn, "hi")
    assert drawn.error[0].value == "Choose at least two models. This server has: base, adapter."
    assert drawn.chats["base"].engine.asked == []


def test_prompts_come_from_lines_and_files():
    assert prompts("a\n\n b ") == ["a", "b"]
    assert prompts("", "p.txt", "你\r\n好\n".encode("utf-8-sig")) == ["你", "好"]
    rows = [
        '"a"',
        '{"prompt": "b"}',
        "",
        '{"instruction": "c", "input": "d"}',
        '{"question": "e", "input": ""}',
        '"f\u2028g"',
    ]
    assert prompts("", "p.jsonl", "\n".join(rows).encode()) == ["a", "b", "c\nd", "e", "f\u2028g"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.txt", b"\xff", "p.txt: not UTF-8 text"),
        ("p.jsonl", b'"a"\n{', "p.jsonl, row 1: not JSON"),
        ("p.jsonl", b"[1]", "p.jsonl, row 0: expected a string, or an object with one of prompt"),
        ("p.jsonl", b'{"prompt": 3}', "p.jsonl, row 0: expected"),
        ("p.jsonl", b'{"other": "x"}', "p.jsonl, row 0: expected"),
    ],
)
def test_a_bad_file_of_prompts_is_refused_with_the_row(name, content, said):
    with pytest.raises(DataError) as caught:
        prompts("", name, content)
    assert caught.value.message.startswith(said)


def test_more_prompts_than_a_round_takes_are_refused():
    with pytest.raises(UsageError, match="101 prompts, at most 100"):
        prompts("a\n" * 101)


def votes(tmp_path, *winners, answer="x"):
    kept = Votes(tmp_path / "votes.jsonl")
    round_ = Round(["a", "b"], ["p"] * len(winners), None, Sampling(seed=1))
    for index, winner in enumerate(winners):
        round_.duels[index].sides[0].text = answer
        kept.add(vote_on(round_, index, winner, "me"))
    return kept


def test_votes_belong_to_who_cast_them_and_are_written_out(tmp_path):
    kept = votes(tmp_path, "a", None)
    assert (kept.file.stat().st_mode & 0o777, kept.of("you")) == (0o600, [])
    content = json.loads(as_json(kept.of("me")))
    assert [(vote["winner"], vote["sampling"]) for vote in content] == [("a", {"seed": 1}), (None, {"seed": 1})]
    rows = list(csv.DictReader(io.StringIO(as_csv(kept.of("me")))))
    assert [(row["winner"], row["model_1"], row["answer_1"], row["model_2"]) for row in rows] == [
        ("a", "a", "x", "b"),
        ("tie", "a", "x", "b"),
    ]


def test_who_is_not_recognised_sees_his_own_comparisons_and_votes(page):
    """Two browsers that take no cookies saw, and could stop, each other's."""
    first = page()
    set_site(Site(Local(first.chats.items), lambda _: Visitor("")))
    start(first.run(), "hi")
    press(first, "Better", "-0")
    assert first.dataframe
    second = AppTest.from_string(PAGE, default_timeout=60).run()
    assert not second.exception
    assert "from base" not in [each.value for each in second.markdown]
    assert not second.dataframe


def test_one_model_has_nothing_to_be_compared_with(page, scripted_chat):
    """The button led to an error that said what already stood above it."""
    visited = page()
    set_site(Site(Local({"base": scripted_chat("from base")}.items)))
    visited.run()
    assert [note.value.startswith("Only base is here") for note in visited.info] == [True]
    assert visited.button[0].disabled
    assert not visited.error


@given(st.sampled_from("=+-@").flatmap(lambda sign: st.text().map(lambda rest: sign + rest)))
def test_a_spreadsheet_calculates_nothing_that_a_model_wrote(tmp_path_factory, answer):
    answer = answer.encode("utf-8", "replace").decode().replace("\0", "")
    kept = votes(tmp_path_factory.mktemp("votes"), "a", answer=answer)
    row = next(csv.DictReader(io.StringIO(as_csv(kept.of("me")), newline="")))
    assert row["answer_1"] == f"'{answer}"


def test_a_round_that_is_replaced_is_stopped(scripted_chat):
    slow = scripted_chat("one", gate=0)
    rounds, backend = Rounds(), Local({"a": slow}.items)
    rounds.start(None, Round(["a"], ["hi"], None, Sampling()), backend)
    assert slow.engine.reached.wait(30)
    first = rounds.get(None)
    rounds.start(None, Round(["a"], ["hi"], None, Sampling()), backend)
    slow.engine.release.set()
    while not (first.ended and rounds.get(None).ended):
        pass
    assert first.duels[0].sides[0].finish_reason == "cancelled"
    assert rounds.get(None).duels[0].sides[0].text == "one"
