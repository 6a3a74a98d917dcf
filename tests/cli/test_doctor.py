"""What `arriero doctor` says of a machine with a GPU and of one without."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json

import pytest

import arriero
from arriero.cli.main import main
from arriero.hardware import SPEEDUPS


@pytest.fixture
def doctor(capsys, home):
    """The document, and the same for people."""

    def examine():
        assert main(["doctor", "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert main(["doctor"]) == 0
        return document, capsys.readouterr().out

    return examine


@pytest.fixture
def gpu(monkeypatch):
    """A machine with a GPU, as `hardware.gpus` would tell."""
    for module in ("arriero.engines.select", "arriero.cli.doctor"):
        monkeypatch.setattr(importlib.import_module(module), "gpus", lambda: ("NVIDIA H200",))


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Of the packages that a GPU wants, exactly these can be found; they hold nothing."""
    empty = tmp_path / "packages"

    def only(*modules):
        for module in modules:
            (empty / module).mkdir(parents=True)
            (empty / module / "__init__.py").touch()
        monkeypatch.syspath_prepend(empty)
        absent = {wanted.module for wanted in SPEEDUPS.values()} - set(modules)
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else find(name))

    return only


def test_without_a_gpu_it_asks_for_nothing(doctor):
    document, text = doctor()
    assert document["full_speed"] is None
    assert "full_speed" not in text


def test_a_gpu_that_torch_cannot_use_is_named_with_the_reason(doctor, monkeypatch):
    module = importlib.import_module("arriero.cli.doctor")
    monkeypatch.setattr(module, "gpu_fault", lambda: "The NVIDIA driver on your system is too old")
    assert doctor()[0]["gpus"] == "none that torch can use: The NVIDIA driver on your system is too old"


def test_it_runs_where_arriero_is_not_installed(doctor, monkeypatch):
    """It asked for the version of an installed package, which an unpacked tree on PYTHONPATH is not."""
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version("no-such" if name == "arriero" else name))
    assert doctor()[0]["arriero"] == arriero.__version__


def test_on_a_gpu_it_says_what_full_speed_lacks_and_how_to_get_it(doctor, gpu, packages):
    """It named the engine only: training without Liger was slow, and nothing said so."""
    packages("liger_kernel")
    document, text = doctor()
    packages = document["full_speed"]
    assert document["gpus"] == "NVIDIA H200"
    assert packages["liger-kernel"] == "installed"
    assert packages["vllm"] == 'not installed; answers many requests at once: pip install "arriero[vllm]"'
    assert packages["bitsandbytes"] == 'not installed; holds base weights in 4 bits: pip install "arriero[4bit]"'
    assert packages["flash-attn-3"].startswith("not installed; flash attention 3")
    assert "pip install" in packages["flash-attn-3"]
    assert all(f"  {name:18} {value}\n" in text for name, value in packages.items())


def test_with_everything_installed_it_says_so(doctor, gpu, packages):
    packages(*(wanted.module for wanted in SPEEDUPS.values()))
    assert set(doctor()[0]["full_speed"].values()) == {"installed"}


def test_doctor_says_what_would_be_used_and_why(run, home):
    code, out, _ = run("doctor", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["engine"]["name"] == "openvino"
    assert document["engine"]["because"]
    assert document["precision"]["training"] in ("bfloat16", "float32")
    assert run("doctor")[1].startswith("arriero ")


def test_a_home_in_which_nothing_can_be_kept_is_a_fault(run, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ARRIERO_HOME", str(tmp_path / "file"))
    code, out, err = run("doctor", "--json")
    assert (code, json.loads(out)["home_fault"]) == (1, "Not a directory")
    assert err.startswith(f"error: nothing can be kept in {tmp_path / 'file'}: Not a directory\n")
    assert "ARRIERO_HOME" in err


def test_a_home_that_is_still_to_be_made_is_none(run, home):
    code, out, _ = run("doctor", "--json")
    assert (code, json.loads(out)["home_fault"]) == (0, None)
    assert not home.exists()
