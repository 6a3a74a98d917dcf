"""Log-probabilities of an answer's text; the scripted engine gives its n-th token -n."""

from __future__ import annotations

import pytest

from arriero.messages import Sampling
from tests.conftest import TOOL_TEMPLATE, ids_of
from tests.test_chat_tools import CALL, HELLO, WEATHER


@pytest.fixture
def chat(scripted_chat):
    return lambda *answers, **options: scripted_chat(*answers, template=TOOL_TEMPLATE, **options)


def ranks(piece):
    return [int(-token.logprob) for token in piece.logprobs]


def test_each_piece_has_the_log_probabilities_of_its_own_tokens(chat):
    pieces = list(chat("a骆b").stream(HELLO, logprobs=0))
    assert [(piece.text, ranks(piece)) for piece in pieces] == [("a", [0]), ("骆", [1, 2, 3]), ("b", [4]), ("", [])]
    assert [token.token_id for token in pieces[1].logprobs] == ids_of("骆")
    assert all(piece.logprobs == () for piece in chat("a").stream(HELLO))


def test_no_log_probabilities_of_what_a_stop_string_cuts_away(chat):
    pieces = list(chat("abSTOPc").stream(HELLO, Sampling(stop=("STOP",)), logprobs=0))
    assert [(piece.text, ranks(piece)) for piece in pieces] == [("a", [0]), ("b", [1]), ("", [])]
    held = list(chat("abSTc").stream(HELLO, Sampling(stop=("STOP",)), logprobs=0))
    assert [(piece.text, ranks(piece)) for piece in held] == [("a", [0]), ("b", [1]), ("STc", [2, 3, 4]), ("", [])]
    end = list(chat("abST").stream(HELLO, Sampling(stop=("STOP",)), logprobs=0))
    assert (end[-1].text, ranks(end[-1])) == ("ST", [2, 3])


def test_log_probabilities_of_text_and_not_of_calls(chat):
    reply = chat(f"Hm.\n{CALL}\nOk").complete(HELLO, tools=[WEATHER], logprobs=0)
    assert reply.text == "Hm.Ok"
    assert bytes(token.token_id - 6 for token in reply.logprobs).decode() == "Hm.Ok"


def test_no_log_probabilities_of_special_tokens_which_are_no_text(chat):
    made = chat("ab")
    made.engine.encode = lambda text: [ids_of("a")[0], 3, *ids_of("b")]  # 3 is <sys>
    pieces = list(made.stream(HELLO, logprobs=0))
    assert [(piece.text, ranks(piece)) for piece in pieces] == [("a", [0]), ("b", [2]), ("", [])]
