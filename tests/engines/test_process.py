"""The process layer that engines share, with a worker that has no model: what crosses, and how either side ends."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import psutil
import pytest

from arriero import errors
from arriero.engines.process.crossing import described, rebuilt
from arriero.engines.process.engine import ProcessEngine
from arriero.errors import ArrieroError, EngineLostError

EXAMPLES = {
    "ContextLengthError": {"prompt_tokens": 9, "max_new_tokens": 2, "window": 10},
    "TooLongError": {"number": 3, "tokens": 9, "window": 5},
    "UnsupportedError": {"feature": "min_p", "engine": "scripted", "hint": "leave it out"},
    "DataError": {"file": "rows.json", "reason": "no", "row": 0},
}
KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ArrieroError)]


class Engine(ProcessEngine):
    """As engines are, over a worker that does what it is told."""

    worker = "tests.engines.scripted_worker"
    called = "the scripted process"

    def __init__(self):
        super().__init__()
        self._model = {}
        self._load(now=True)

    def do(self, does=None, **arguments):
        return self._put(None, ids=[7, 8], does=does, **arguments)


@pytest.fixture(scope="module")
def engine():
    made = Engine()
    yield made
    made.close()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_arrives_as_it_was_raised(kind, engine):
    """Errors once crossed as message and hint: one that is made of more ended the worker, and with it every answer."""
    arguments = EXAMPLES.get(kind.__name__, {"message": "it broke: at 3", "hint": "mend it"})
    expected = kind(**arguments)
    beside = engine.do("wait")
    with pytest.raises(ArrieroError) as raised:
        list(engine.do("raise", kind=kind.__name__, arguments=arguments))
    assert type(raised.value) is kind
    assert vars(raised.value) == vars(expected)
    assert str(raised.value) == str(expected)
    beside.cancel()
    assert list(beside) == [1], "another answer was ended, too"


def test_an_error_of_another_room_arrives_as_its_nearest_kind():
    class Strange(errors.DataError):
        pass

    error = rebuilt(*described(Strange(Path("rows.json"), "no", row=2)))
    assert type(error) is errors.DataError
    assert (error.file, error.row, error.reason) == ("rows.json", 2, "no")


def test_what_the_worker_logs_is_logged_here_and_what_it_warns_of_is_warned_of(engine, caplog):
    caplog.set_level("INFO")
    assert list(engine.do("log", name="some.library", level=logging.WARNING)) == [7, 8]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert list(engine.do("warn", text="beware")) == [7, 8]
    assert ("some.library", logging.WARNING, "said by the worker") in caplog.record_tuples
    assert [(each.category, str(each.message)) for each in caught] == [(FutureWarning, "beware")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # where a warning is an error, it is nobody's whose answer it meets
        assert list(engine.do("warn", text="an error here")) == [7, 8]
    assert "an error here" in caplog.text


def test_where_the_process_dies_its_answers_fail_and_the_next_request_starts_another(engine, caplog):
    begun = [engine.do("wait") for _ in range(2)]
    assert [next(iter(each)) for each in begun] == [1, 1]
    os.kill(engine._link.process.pid, signal.SIGKILL)
    for each in begun:
        with pytest.raises(EngineLostError, match=r"^the scripted process was ended by signal 9 \(Killed\)$"):
            list(each)
    assert list(engine.do()) == [7, 8]
    assert "and with it 2 answers; the next request starts it again" in caplog.text


SCRIPT = """
import os, signal, sys
from tests.engines.test_process import Engine
engine = Engine()
begun = engine.do({does!r})
engine._link.process.send("load", forever=True)
print(engine._link.process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("does", ["hold", None])
def test_the_worker_ends_when_its_parent_is_killed(does):
    """In a step, and while a model is loaded, it once went on to the end of that first."""
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(does=does)], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(done.stdout)).wait(30)


def test_an_interrupt_in_the_terminal_is_the_parents_business(engine):
    """Ctrl-C goes to the whole foreground process group."""
    assert os.getpgid(engine._link.process.pid) != os.getpgid(0)
    assert os.getsid(engine._link.process.pid) != os.getsid(0), "nor does a terminal that is closed end it first"
