"""Adapters: isolated, let go of, refused."""

from __future__ import annotations

import gc
import json
import shutil
import threading
import weakref

import pytest

from arriero.errors import EngineError, NotFoundError, UsageError
from tests.engines.transformers.support import (
    answer,
    gated,
    loaded,
    lora,
    model_in,
)


def test_adapters_are_isolated_one_after_the_other_and_at_once(make, model_dir, adapters, expected):
    engine = make(model_dir)
    handles = loaded(engine, adapters)
    order = [None, "plain", None, "dora", "plain", "head", None, "head", "dora", "plain"]
    for name in order:
        assert list(answer(engine, handles[name])) == expected[name], name
    running = [(name, answer(engine, handles[name])) for name in order * 3]
    for name, generation in running:
        assert list(generation) == expected[name], name


def test_two_directories_of_the_same_name_are_two_adapters(make, model_dir, adapters, expected, tmp_path):
    """The last part of the directory was once the adapter's name, and the second took the first one's place."""
    engine = make(model_dir)
    for name in ("plain", "dora"):
        shutil.copytree(adapters[name], tmp_path / name / "best")
    handles = {name: engine.load_adapter(tmp_path / name / "best") for name in ("plain", "dora")}
    for name in ("plain", "dora", "plain"):
        assert list(answer(engine, handles[name])) == expected[name]


def test_an_adapter_that_is_let_go_of_ends_what_it_began(make, model_dir, adapters, expected):
    engine = make(model_dir)
    handle = engine.load_adapter(adapters["plain"])
    reached, release, _ = gated(engine, 5)
    in_flight = answer(engine, handle)
    assert reached.wait(30)
    waiting = answer(engine, handle)
    held = weakref.ref(handle)
    del handle
    threading.Timer(0, release.set).start()
    assert list(answer(engine, engine.load_adapter(adapters["dora"]))) == expected["dora"]
    assert list(in_flight) == list(waiting) == expected["plain"]
    assert list(answer(engine, None)) == expected[None], "and by now the request is gone, too"
    gc.collect()
    assert held() is None
    assert list(answer(engine, engine.load_adapter(adapters["head"]))) == expected["head"]


def test_an_adapter_of_another_engine_is_refused(make, model_dir, adapters, expected):
    engine, other = make(model_dir), make(model_dir)
    with pytest.raises(UsageError, match="was loaded by another engine"):
        answer(engine, other.load_adapter(adapters["plain"]))
    assert list(answer(engine, None)) == expected[None]


def test_adapters_that_nobody_holds_leave_the_model(make, model_dir, adapters, expected):
    engine = make(model_dir)
    parameters = [name for name, _ in model_in(engine).named_parameters()]
    for name in ("plain", "head", "plain"):
        assert list(answer(engine, engine.load_adapter(adapters[name]))) == expected[name]
    assert list(answer(engine, None)) == expected[None]
    gc.collect()
    engine._thread.ask(lambda: None)  # what was queued before is done
    assert [name for name, _ in model_in(engine).named_parameters()] == parameters


@pytest.mark.parametrize("others", [[], ["plain"]])
def test_an_adapter_that_cannot_be_loaded_changes_nothing(
    make, model_dir, other_model_dir, adapters, expected, tmp_path, others
):
    wrong = lora(other_model_dir, tmp_path / "wrong", r=2)
    config = json.loads((wrong / "adapter_config.json").read_text())
    (wrong / "adapter_config.json").write_text(json.dumps({**config, "r": 3}))
    engine = make(model_dir)
    handles = loaded(engine, {name: adapters[name] for name in others})
    with pytest.raises(Exception, match="cannot be loaded"):
        engine.load_adapter(wrong)
    with pytest.raises(NotFoundError):
        engine.load_adapter(tmp_path / "nowhere")
    for name in [None, *others]:
        assert list(answer(engine, handles[name])) == expected[name]


@pytest.mark.parametrize(
    ("setting", "value"),
    [("bias", "all"), ("init_lora_weights", "pissa"), ("num_virtual_tokens", 8), ("layer_replication", [[0, 2]])],
)
def test_an_adapter_that_would_change_the_base_model_is_refused_by_name(engine, adapters, tmp_path, setting, value):
    config = json.loads((adapters["plain"] / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, setting: value}))
    with pytest.raises(EngineError, match="peft_type" if setting == "num_virtual_tokens" else setting):
        engine.load_adapter(tmp_path)
