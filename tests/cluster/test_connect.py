"""What is found out about a cluster, and refused, before any work starts on it."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import subprocess
import sys
import threading

import pytest

from arriero.cluster import connect as connecting
from arriero.cluster.connect import COMPARED, Node, connect, faults
from arriero.cluster.token import HANDLER, authenticate
from arriero.errors import (
    AccessError,
    ArrieroError,
    ContextLengthError,
    DataError,
    NotFoundError,
    UnsupportedError,
    UsageError,
)


@pytest.mark.parametrize("address", ["auto", "10.0.0.1:6379"])
def test_without_a_token_no_cluster_is_joined(no_token, address):
    with pytest.raises(AccessError, match="no token") as refused:
        connect(address)
    assert "ray get-auth-token --generate" in refused.value.hint


def test_a_cluster_is_not_used_where_ray_is_told_to_ask_for_none(token, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(AccessError, match="RAY_AUTH_MODE is disabled"):
        connect("local")


def test_a_token_that_others_may_read_is_taken_from_them(token):
    authenticate(make=False)
    assert token.stat().st_mode & 0o777 == 0o600


def test_ray_leaves_this_processs_signals_alone_and_not_those_of_the_processes_it_starts():
    """These inherited the environment variable, and a replica that crashed left no native trace."""
    code = """
import os
from arriero.cluster.token import HANDLER, import_ray
import_ray()
from ray._private.ray_constants import RAY_DISABLE_FAILURE_SIGNAL_HANDLER as off
print(off, HANDLER in os.environ)
"""
    environment = {name: value for name, value in os.environ.items() if name != HANDLER}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


@pytest.mark.parametrize("address", ["x", "ray://10.0.0.1:10001", "http://a:1", "a:0", "a:99999", ":6379"])
def test_what_is_no_address_is_refused(token, address):
    with pytest.raises(UsageError, match="local, auto or HOST:PORT"):
        connect(address)


def test_where_nobody_listens_is_told_at_once_and_not_after_minutes(token):
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        with pytest.raises(NotFoundError, match="no Ray cluster answers") as refused:
            connect(f"127.0.0.1:{unheard.getsockname()[1]}")
    assert "ray start" in refused.value.hint


def _node(address: str = "10.0.0.2", **other: object) -> Node:
    versions = {name: connecting._version(name) for name in COMPARED}
    return Node(address, 8.0, 0.0, **{"token": True, "versions": versions, **other})


def test_nodes_that_are_as_this_machine_have_no_faults():
    assert faults([_node(), _node("10.0.0.3")]) == []


def test_a_cluster_that_asks_for_no_token_is_a_fault():
    [fault] = faults([_node(), _node("10.0.0.3", token=False)])
    assert isinstance(fault, AccessError)
    assert "10.0.0.3" in fault.message
    assert "10.0.0.2" not in fault.message


@pytest.mark.parametrize("name", ["ray", "arriero", "python"])
@pytest.mark.parametrize("version", ["0.0.1", None])
def test_another_version_on_a_node_is_a_fault_that_names_both(name, version):
    there = {**_node().versions, name: version}
    [fault] = faults([_node(versions=there)])
    assert f"{name} is {_node().versions[name]} here, but {version or 'not installed'} on 10.0.0.2" in fault.message


def test_another_torch_is_only_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        assert faults([_node(versions={**_node().versions, "torch": "1.0"})]) == []
    assert "torch" in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        ArrieroError("a", hint="b"),
        ContextLengthError(1, 2, 3),
        UnsupportedError("min_p", "vllm"),
        DataError("f.json", "bad", row=4, hint="mend it"),
    ],
)
def test_every_error_arrives_from_another_process_as_it_was(error):
    """The bug: those that are not made from a message alone could be pickled, but not unpickled."""
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), vars(again)) == (str(error), vars(error))


def test_what_starts_a_cluster_outlives_whoever_asked_for_it():
    """The bug: `arriero serve` loads in a thread; when that ended, the kernel killed the cluster's processes."""
    starters: list[threading.Thread] = []
    ends: list[threading.Event] = []
    asking = threading.Thread(
        target=lambda: ends.append(connecting._hold(lambda: starters.append(threading.current_thread())))
    )
    asking.start()
    asking.join()
    assert starters[0].is_alive()
    ends[0].set()
    starters[0].join(30)
    assert not starters[0].is_alive()
