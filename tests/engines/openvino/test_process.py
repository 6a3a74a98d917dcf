"""The process that computes: it dies, is started again, and ends with its engine."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys

import psutil
import pytest

from arriero.engines.openvino import OpenVINOEngine, engine, exported
from arriero.engines.process.process import Process
from arriero.engines.registry import EngineOptions
from arriero.errors import EngineError
from tests.engines.openvino.support import (
    END,
    GREEDY,
    PROMPT,
    ids,
    kill,
    loaded,
)


def test_where_the_process_dies_its_answers_fail_and_the_next_request_starts_another(
    make, model_dir, adapters, alone, caplog
):
    one = make(model_dir)
    handles = loaded(one, adapters)
    begun = [one.submit(PROMPT, GREEDY, max_new_tokens=200, adapter=handles[name]) for name in ("a", "b", None)]
    next(iter(begun[0]))
    os.kill(one._link.process.pid, signal.SIGSTOP)  # so that it cannot finish first
    begun.append(one.submit(PROMPT, GREEDY, max_new_tokens=200))
    os.kill(one._link.process.pid, signal.SIGKILL)
    for generation in begun:
        with pytest.raises(EngineError, match=r"OpenVINO's process was ended by signal 9 \(Killed\)"):
            list(generation)
    for name in ("b", None, "a"):
        assert ids(one, adapter=handles[name]) == alone[name][0]
    assert "and with it 4 answers; the next request starts it again" in caplog.text


def test_loading_and_letting_go_of_adapters_over_a_death(make, model_dir, adapters, alone):
    one = make(model_dir)
    first = one.load_adapter(adapters["a"])
    kill(one)
    second = one.load_adapter(adapters["b"])
    kill(one)
    del first
    assert ids(one, adapter=second) == alone["b"][0]
    kill(one)
    one.close()
    with pytest.raises(EngineError, match="closed"):
        ids(one)


@pytest.mark.parametrize("when", ["before it is asked", "while it builds"])
def test_a_process_that_dies_over_the_model(when, model_dir):
    process = Process(OpenVINOEngine.worker, OpenVINOEngine.called)
    if when == "before it is asked":
        process._process.kill()
        process._reader.join()
    else:
        os.kill(process.pid, signal.SIGSTOP)
    process.send("load", **engine.described(model_dir, exported(model_dir), "int8"))
    opened = process.open(0, None)
    process._process.kill()
    assert isinstance(opened.exception(30), EngineError)
    assert process.dead


def test_what_the_worker_gets_wrong_ends_it_and_hangs_nobody(make, model_dir, alone):
    one = make(model_dir)
    begun = one.submit(PROMPT, GREEDY, max_new_tokens=200)
    one._link.process.send("nonsense")
    with pytest.raises(EngineError, match="ended with exit code 1"):
        list(begun)
    assert ids(one) == alone[None][0]


def test_closing_ends_the_process_and_an_engine_that_is_let_go_of_ends_its_own(make, model_dir):
    one = make(model_dir)
    begun = one.submit(PROMPT, GREEDY, max_new_tokens=200)
    os.kill(one._link.process.pid, signal.SIGSTOP)  # as one that is in a long step
    one.close()
    assert list(begun) == list(begun)
    assert begun.finish_reason == "cancelled"
    other = OpenVINOEngine(model_dir, (END,), EngineOptions(precision="float32"))
    under_way, pids = other.submit(PROMPT, GREEDY, max_new_tokens=50), (one._link.process.pid, other._link.process.pid)
    del other
    assert len(list(under_way)) > 1, "an engine lives as long as somebody reads"
    assert under_way.finish_reason != "cancelled"
    ending = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    del under_way
    gc.collect()
    for process in ending:
        process.wait(30)


class Last(dict):
    """A command that, once it is written, lets go of the last reference to an engine."""

    def __init__(self, engine, **command):
        super().__init__(command)
        self.held = [engine]

    def items(self):
        self.held.clear()
        return super().items()


def test_an_engine_may_be_collected_on_its_own_threads(model_dir):
    """The finalizer once waited for the reader, which waited for the writer, which ran the finalizer."""
    one = OpenVINOEngine(model_dir, (END,), EngineOptions(precision="float32"))
    process = one._link.process
    process._outbox.put(Last(one, do="cancel", number=1))
    del one
    process._reader.join(30)
    assert not process._reader.is_alive()
    assert process.dead


SCRIPT = """
import os, sys
from pathlib import Path
from arriero.engines.openvino import OpenVINOEngine
from arriero.engines.registry import EngineOptions
from arriero.messages import Sampling
assert not {"torch", "openvino", "openvino_genai"} & sys.modules.keys()
engine = OpenVINOEngine(Path(sys.argv[1]), (2,), EngineOptions(precision="float32"))
sampling = Sampling(temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0)
begun = engine.submit([1, 4, 5], sampling, max_new_tokens=200)
next(iter(begun))
print(engine._link.process.pid, flush=True)
"""


@pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), 9)", "engine.close()"])
def test_a_script_without_a_guard_leaves_no_process_behind(end, model_dir):
    """multiprocessing would run the script once more; and none of ours may stay, however it ends."""
    exported(model_dir, "float32")
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", SCRIPT + end, model_dir]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == (-9 if "kill" in end else 0), done.stderr
    assert done.stderr == ""
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(done.stdout)).wait(30)
