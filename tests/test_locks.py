"""Locks between real processes: one holder at a time, gone with it, and told by name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from arriero.locks import held

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
