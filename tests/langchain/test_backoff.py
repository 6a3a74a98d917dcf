"""How long a client waits before it tries again."""

from __future__ import annotations

from concurrent.futures import Future

import pytest
from tenacity import RetryCallState, Retrying

from arriero.errors import BusyError, OfflineError
from arriero.langchain.remote import LONGEST, retried


def waits(error: Exception) -> list[float]:
    """The seconds before each further try."""
    options = retried(9)
    state = RetryCallState(Retrying(**options), None, (), {})
    state.outcome = Future()
    state.outcome.set_exception(error)
    made = []
    for state.attempt_number in range(1, 9):
        made.append(options["wait"](state))
    return made


@pytest.mark.filterwarnings("error")
def test_tries_are_half_a_second_to_eight_seconds_apart():
    """It warned of a deprecated argument with tenacity 9.2."""
    for number, seconds in enumerate(waits(OfflineError("away"))):
        assert min(0.5 * 2**number, 8) <= seconds <= min(0.5 * 2**number + 1, 8)


def test_a_server_says_when_to_come_again():
    assert waits(BusyError("full", retry_after=2.5)) == [2.5] * 8
    assert waits(BusyError("full", retry_after=1e9)) == [LONGEST] * 8
