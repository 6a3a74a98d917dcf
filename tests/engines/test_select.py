"""Which engine is taken, and why; what is refused by name. No engine is loaded here."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import shutil

import pytest

from arriero.constraint import JsonSchema, Reasoned
from arriero.engines import EngineOptions, load_engine, select_engine
from arriero.engines.adapters import lora_rank
from arriero.engines.registry import ENTRIES, NAMES, find
from arriero.engines.select import usable
from arriero.engines.unloaded import UnloadedEngine
from arriero.errors import EngineError, UnsupportedError, UsageError
from arriero.messages import Sampling

PLAIN = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "bias": "none", "init_lora_weights": True}


@pytest.fixture
def gpu(monkeypatch):
    """A machine with a GPU, as `hardware.gpus` would tell."""
    module = importlib.import_module("arriero.engines.select")
    monkeypatch.setattr(module, "gpus", lambda: ("NVIDIA H200",))


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put packages on the path that can be found and hold nothing."""

    def put(*packages):
        for package in packages:
            (tmp_path / "packages" / package).mkdir(parents=True)
            (tmp_path / "packages" / package / "__init__.py").touch()
        monkeypatch.syspath_prepend(tmp_path / "packages")

    return put


@pytest.fixture
def adapter(tmp_path):
    """Write an adapter's configuration: `adapter(use_dora=True)`."""

    def write(**changes):
        path = tmp_path / "adapter"
        path.mkdir(exist_ok=True)
        (path / "adapter_config.json").write_text(json.dumps(PLAIN | changes))
        return path

    return write


def sliding(model_dir, tmp_path, **changes):
    path = tmp_path / "sliding"
    shutil.copytree(model_dir, path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **changes}))
    return path


def without(monkeypatch, *packages):
    """As if these were not installed."""
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in packages else found(name))


def test_an_unknown_engine_is_refused():
    with pytest.raises(UsageError, match="'tpu'; expected one of auto, transformers, openvino, vllm"):
        select_engine("tpu")


def test_on_a_cpu_openvino_is_taken(model_dir, adapter):
    choice = select_engine("auto", model_dir, EngineOptions(room_for=[adapter()]))
    assert choice.engine == "openvino"
    assert "no GPU here, and openvino answers several times faster" in choice.reason


def test_a_gpu_that_torch_cannot_use_is_in_the_reason(monkeypatch):
    module = importlib.import_module("arriero.engines.select")
    monkeypatch.setattr(module, "gpu_fault", lambda: "The NVIDIA driver on your system is too old")
    assert select_engine().reason.startswith(
        "no GPU that torch can use: The NVIDIA driver on your system is too old, and"
    )


def test_without_openvino_the_reason_says_what_to_install(monkeypatch):
    without(monkeypatch, "openvino_genai", "nncf")
    choice = select_engine()
    assert choice.engine == "transformers"
    assert 'openvino_genai and nncf are not installed: pip install "arriero[openvino]"' in choice.reason
    with pytest.raises(UsageError, match="openvino engine is not installed: openvino_genai and nncf") as caught:
        select_engine("openvino")
    assert caught.value.hint == 'pip install "arriero[openvino]"'


def test_with_cuda_vllm_is_taken_where_it_is_installed(gpu, install, model_dir, adapter):
    choice = select_engine("auto", model_dir)
    assert choice.engine == "transformers"
    assert "NVIDIA H200" in choice.reason
    assert "vllm is not installed: pip install" in choice.reason
    install("vllm")
    choice = select_engine("auto", model_dir, EngineOptions(room_for=[adapter()]))
    assert choice.engine == "vllm"
    assert "NVIDIA H200" in choice.reason
    choice = select_engine("auto", model_dir, EngineOptions(room_for=[adapter(use_dora=True)]))
    assert choice.engine == "transformers"
    assert "vllm does not do this: use_dora" in choice.reason


@pytest.mark.parametrize("stored", [False, True])
def test_weights_of_bitsandbytes_want_vllms_plugin(gpu, install, monkeypatch, model_dir, tmp_path, stored):
    """vLLM 0.28 and newer has them in a package of its own; it said "Unknown quantization method" after a minute."""
    options = EngineOptions(precision="auto" if stored else "int4")
    if stored:
        model_dir = sliding(model_dir, tmp_path, quantization_config={"quant_method": "bitsandbytes"})
    install("vllm", "vllm_bnb_plugin", "bitsandbytes")
    assert select_engine("auto", model_dir, options).engine == "vllm"
    without(monkeypatch, "vllm_bnb_plugin")
    assert select_engine("auto", model_dir, options).engine == "transformers"
    with pytest.raises(EngineError, match="vllm-bnb-plugin is not installed"):
        select_engine("vllm", model_dir, options)


def test_vllm_quantises_no_experts(install, model_dir, tmp_path):
    """Its plugin would; where a model is trained in 4 bits they stay as they are."""
    install("vllm", "vllm_bnb_plugin", "bitsandbytes")
    with pytest.raises(EngineError, match="a mixture of experts in 4 bits"):
        select_engine("vllm", sliding(model_dir, tmp_path, num_local_experts=8), EngineOptions(precision="int4"))


def test_every_entry_is_what_its_module_says():
    """Names, and where an engine's class is, are text in the registry."""
    for entry in ENTRIES:
        for home in filter(None, (entry.home, entry.process_home)):
            module, _, name = home.partition(":")
            if not entry.missing:
                made = getattr(importlib.import_module(module), name)
                assert made.name == entry.name
    assert NAMES == ("auto", "transformers", "openvino", "vllm")
    assert find("openvino").packages[0] == "openvino"


@pytest.mark.parametrize("choice", ["on", "off"])
def test_a_choice_of_cuda_graphs_is_asked_of_the_engine_that_takes_one(gpu, install, model_dir, choice):
    install("vllm")
    options = EngineOptions(cuda_graphs=choice)
    selected = select_engine("auto", model_dir, options)
    assert selected.engine == "transformers"
    assert f"--cuda-graphs {choice}" in selected.reason
    for engine in ("vllm", "openvino"):
        with pytest.raises(EngineError, match=f"--cuda-graphs {choice}"):
            select_engine(engine, model_dir, options)


def test_deterministic_answers_are_asked_of_engines_that_give_them(gpu, install, model_dir):
    install("vllm")
    options = EngineOptions(deterministic=True)
    selection = select_engine("auto", model_dir, options)
    assert selection.engine == "transformers"
    assert "vllm does not do this: answers that are the same beside others" in selection.reason
    with pytest.raises(EngineError, match="--deterministic"):
        select_engine("vllm", model_dir, options)


def test_every_engine_says_what_it_lacks_here(install):
    found = usable()
    assert found["transformers"] is None
    assert found["openvino"] is None
    assert found["vllm"] == 'vllm is not installed: pip install "arriero[vllm]"'
    install("vllm")
    assert usable()["vllm"] is None


def test_a_sliding_window_is_not_answered_as_if_it_were_none(model_dir, tmp_path):
    """The exported mask is causal only: answers beyond the window were silently other ones."""
    path = sliding(model_dir, tmp_path, sliding_window=8)
    assert select_engine("auto", path).engine == "transformers"
    assert "window of 8 tokens" in select_engine("auto", path).reason
    with pytest.raises(EngineError, match=r"openvino engine does not do this: .* window of 8 tokens"):
        load_engine(path, (2,), engine="openvino")
    unused = tmp_path / "unused"
    unused.mkdir()
    assert (
        select_engine("auto", sliding(model_dir, unused, sliding_window=8, use_sliding_window=False)).engine
        == "openvino"
    )


@pytest.mark.parametrize(
    ("engines", "change"),
    [
        ("openvino vllm", {"use_dora": True}),
        ("openvino vllm", {"modules_to_save": ["lm_head"]}),
        ("openvino vllm", {"peft_type": "IA3"}),
        ("openvino vllm transformers auto", {"bias": "all"}),
        ("openvino vllm transformers auto", {"init_lora_weights": "pissa"}),
        ("openvino vllm transformers auto", {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 8}),
        ("openvino", {"rank_pattern": {"q_proj": 2}}),
        ("openvino vllm", {"trainable_token_indices": [7]}),
        ("vllm", {"r": 1024}),
    ],
)
def test_what_an_adapter_needs_is_refused_by_name(model_dir, install, adapter, engines, change):
    install("vllm")
    path = adapter(**change)
    name = "rank 1024" if "r" in change else next(iter(change))
    if "auto" in engines:  # the reference engine would have loaded the model first
        with pytest.raises(EngineError, match=f"transformers engine does not do this: {name}.*{path}"):
            select_engine("auto", model_dir, EngineOptions(room_for=[path]))
    for engine in ("openvino", "vllm", "transformers"):
        if engine in engines:
            with pytest.raises(EngineError, match=f"{engine} engine does not do this: {name}.*{path}"):
                select_engine(engine, model_dir, EngineOptions(room_for=[path]))
        else:
            assert select_engine(engine, model_dir, EngineOptions(room_for=[path])).engine == engine


def test_harmless_settings_are_not_refused(adapter):
    path = adapter(use_rslora=True, init_lora_weights="gaussian", use_dora=False, modules_to_save=None, r=4)
    assert [entry.adapter_lacks(path) for entry in ENTRIES] == [None] * 3
    assert lora_rank(path) == 4
    assert lora_rank(adapter(rank_pattern={"q_proj": 32})) == 32


def test_a_precision_that_no_engine_does_is_refused_by_name():
    """It was a StopIteration, from looking for the engine that does it."""
    with pytest.raises(UnsupportedError, match="transformers engine does not do precision int3") as caught:
        select_engine("transformers", options=EngineOptions(precision="int3"))
    assert caught.value.hint == "one of auto, float32, bfloat16, int8, int4"


@pytest.mark.parametrize(
    ("engine", "reasoning", "sampling", "refused"),
    [
        ("transformers", True, Sampling(), None),
        ("vllm", False, Sampling(), None),
        ("vllm", True, Sampling(), "does not do constraint_after_reasoning"),
        ("openvino", False, Sampling(), "cannot guarantee 'patternProperties'"),
        ("openvino", False, Sampling(presence_penalty=1), None),  # our own loop, which has llguidance
        ("openvino", True, Sampling(), None),
    ],
)
def test_an_engine_that_is_not_loaded_refuses_what_it_would_refuse(engine, reasoning, sampling, refused):
    schema = JsonSchema({"type": "object", "patternProperties": {"^a": {"type": "integer"}}})
    constraint = Reasoned(7, 8, False, schema, None, (2,)) if reasoning else schema
    unloaded = UnloadedEngine(find(engine))
    with pytest.raises(UsageError, match=refused) if refused else contextlib.nullcontext():
        unloaded.submit([1], sampling, max_new_tokens=1, constraint=constraint)
    assert ("constraint" in unloaded.needed) is not reasoning
