"""`--ray` on the command line: what is refused before anything is begun, and what `doctor` says of a cluster."""

from __future__ import annotations

import json
import socket

import pytest

import arriero
from arriero.cli.main import main
from arriero.errors import UsageError


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--replicas", "2"], "add --ray local"),
        (["--gpus-per-replica", "1"], "add --ray local"),
        (["--ray", "local", "--replicas", "0"], "N or MIN:MAX"),
        (["--ray", "local", "--replicas", "3:2"], "N or MIN:MAX"),
        (["--ray", "local", "--gpus-per-replica", "-1"], "0 or more GPUs"),
    ],
)
def test_serve_refuses_what_makes_no_sense(capsys, arguments, said):
    assert main(["serve", "--port", "0", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_replicas_in_python_need_a_cluster_too():
    with pytest.raises(UsageError, match="Ray cluster"):
        arriero.load(replicas=2)


def test_doctor_says_what_keeps_a_cluster_from_being_used_and_how_to_mend_it(capsys, no_token):
    assert main(["doctor", "--ray", "10.0.0.1:6379", "--json"]) == 1
    out, err = capsys.readouterr()
    [wrong] = json.loads(out)["ray"]["wrong"]
    assert "no token" in wrong["what"]
    assert "ray get-auth-token --generate" in wrong["try"]
    assert "cannot be used" in err


def test_doctor_says_that_nobody_answers(capsys, token):
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unheard.getsockname()[1]}"
        assert main(["doctor", "--ray", address]) == 1
    assert f"no Ray cluster answers at {address}" in capsys.readouterr().out
