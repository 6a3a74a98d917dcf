"""Locks between real processes: one holder at a time, gone with it, and told by name."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading

import pytest

from arriero.locks import handed_over, held, holder_pid, is_held

HOLDER = """
import os, sys
from pathlib import Path
from arriero.locks import held
with held(Path(sys.argv[1]), print):
    if os.fork():
        os.read(0, 1)
    print("held", flush=True)  # says the child, once it runs; it lives on after its parent, with what it inherited
    os.read(0, 1)
"""
CONTENDER = """
import contextlib, os, sys
from pathlib import Path
from arriero.locks import held
folder = Path(sys.argv[1])
for _ in range(300):
    with held(folder / "made" / "lock", lambda holder: None):
        os.close(os.open(folder / "alone", os.O_CREAT | os.O_EXCL))
        (folder / "alone").unlink()
    with contextlib.suppress(OSError):
        (folder / "made").rmdir()
"""


class Busy(Exception):
    pass


def refuse(holder):
    raise Busy(holder)


def test_a_killed_process_holds_nothing_though_its_children_live(tmp_path):
    file = tmp_path / "new" / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(Busy, match=rf"process {process.pid} \(.*python.* -c "), held(file, refuse):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        with held(file, refuse):
            assert file.read_text().startswith(f"process {os.getpid()} (")
        assert not file.exists()


def test_a_lock_is_waited_for_where_busy_returns(tmp_path):
    told, order = [], []
    waiting = threading.Event()

    def wait():
        with held(tmp_path / "lock", lambda holder: (told.append(holder), waiting.set())):
            order.append("second")

    thread = threading.Thread(target=wait)
    with held(tmp_path / "lock", refuse):
        thread.start()
        assert waiting.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert told[0].startswith(f"process {os.getpid()} (")


def test_one_at_a_time_though_file_and_directory_go(tmp_path):
    """A process may wait for a file, or open it, just before it is unlinked."""
    command = [sys.executable, "-c", CONTENDER, str(tmp_path)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors


def test_the_lock_is_released_after_an_error(tmp_path):
    with pytest.raises(ValueError), held(tmp_path / "lock", refuse):
        raise ValueError
    with held(tmp_path / "lock", refuse):
        pass


def test_a_file_in_place_of_its_directory_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError), held(tmp_path / "file" / "lock", refuse):
        pass


@pytest.fixture
def holding(tmp_path):
    """A process that holds a lock; the process and the lock's file."""
    file = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process, file
        process.kill()


def test_the_holder_is_known_by_its_lock_and_not_by_its_number(holding):
    process, file = holding
    assert is_held(file)
    assert holder_pid(file) == process.pid
    process.kill()
    process.wait()
    assert file.exists(), "a killed process cleans nothing up"
    assert not is_held(file)
    assert holder_pid(file) is None


def test_a_number_that_another_command_has_is_nobodys(holding):
    """A killed run's number may be anybody's by the time the next one holds the lock."""
    process, file = holding
    file.write_text(f"process {process.pid} (some other command)")
    assert is_held(file)
    assert holder_pid(file) is None


def test_who_looks_at_a_lock_keeps_nobody_from_taking_it(tmp_path):
    """A run that began while the page looked was refused, as if another one trained there."""
    file = tmp_path / "lock"
    file.touch()
    busy, taken = [], threading.Event()

    def take():
        with held(file, busy.append):
            taken.set()

    with file.open("rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        thread = threading.Thread(target=take)
        thread.start()
        assert not taken.wait(0.1)
    thread.join()
    assert (busy, taken.is_set()) == ([], True)


def test_a_lock_goes_to_the_child_and_ends_with_it(tmp_path):
    file = tmp_path / "lock"
    with handed_over(file) as descriptor:
        child = subprocess.Popen(["sleep", "60"], pass_fds=(descriptor,))
    assert is_held(file)
    with pytest.raises(BlockingIOError), handed_over(file):
        pass
    child.kill()
    child.wait()
    assert not is_held(file)
    with handed_over(file):
        assert is_held(file)
    assert not is_held(file)
