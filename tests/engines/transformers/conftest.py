"""The tiny model, engines over it, adapters, and what PEFT answers with each."""

from __future__ import annotations

import pytest
from transformers import AutoModelForCausalLM

from arriero.engines.registry import EngineOptions
from arriero.engines.transformers import TransformersEngine
from tests.engines.transformers.support import (
    END,
    PROMPT,
    generated,
    lora,
)


@pytest.fixture(scope="package")
def model(model_dir):
    return AutoModelForCausalLM.from_pretrained(model_dir).eval()


@pytest.fixture
def make():
    """Build engines that are closed at the end."""
    made = []

    def build(model_dir, stop=(END,), **options):
        made.append(TransformersEngine(model_dir, stop, EngineOptions(**options)))
        return made[-1]

    yield build
    for engine in made:
        engine.close()


@pytest.fixture
def engine(make, model_dir):
    return make(model_dir)


@pytest.fixture(scope="package")
def adapters(model_dir, tmp_path_factory):
    """Adapters on different layers, of different kinds, by name."""
    path = tmp_path_factory.mktemp("adapters")
    return {
        "plain": lora(model_dir, path / "plain"),
        "dora": lora(model_dir, path / "dora", 1, use_dora=True, use_rslora=True, target_modules=["v_proj", "up_proj"]),
        "head": lora(model_dir, path / "head", 2, modules_to_save=["lm_head"], rank_pattern={"q_proj": 2}),
    }


@pytest.fixture(scope="package")
def expected(model, model_dir, adapters):
    """What a fresh model with each adapter answers by PEFT; None is the base model."""
    from peft import PeftModel

    answers = {None: generated(model, PROMPT, 30)}
    for name, directory in adapters.items():
        fresh = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_dir), directory)
        answers[name] = generated(fresh.eval().base_model.model, PROMPT, 30)
    assert len(set(map(tuple, answers.values()))) == 4
    return answers
