"""A model's generation_config.json as sampling defaults, and what of it is not followed."""

from __future__ import annotations

import json
import logging

import pytest

from arriero.engines.sampling import default_sampling
from arriero.errors import ArrieroError
from arriero.messages import Sampling

OFF = Sampling(
    temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0
)


@pytest.fixture
def defaults(tmp_path):
    def read(**config):
        (tmp_path / "generation_config.json").write_text(json.dumps(config), encoding="utf-8")
        return default_sampling(tmp_path)

    return read


def test_without_a_config_answers_are_greedy(tmp_path):
    assert default_sampling(tmp_path) == OFF


def test_what_llama_3_1_says(defaults, caplog):
    ends = {"bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "transformers_version": "4.42.3"}
    found = defaults(do_sample=True, temperature=0.6, top_p=0.9, **ends)
    assert (found.temperature, found.top_p, found.top_k, found.repetition_penalty) == (0.6, 0.9, 0, 1.0)
    assert caplog.records == []


def test_every_parameter_is_followed(defaults, caplog):
    given = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.05}
    given |= {"presence_penalty": 0.5, "frequency_penalty": 0.25}
    assert defaults(do_sample=True, **given) == Sampling(**given)
    assert caplog.records == []


def test_zero_null_and_minus_one(defaults):
    assert defaults(do_sample=True, temperature=0, top_k=-1, top_p=None).temperature == 0
    assert defaults(do_sample=True, top_k=-1, top_p=None).top_k == 0
    assert defaults(do_sample=True).temperature == 1.0


def test_a_temperature_without_do_sample_is_greedy_as_in_transformers_and_said(defaults, caplog):
    assert defaults(temperature=0.6) == OFF
    assert "temperature 0.6 without do_sample, so answers are greedy" in caplog.text
    caplog.clear()
    assert defaults(temperature=0.6, do_sample=False) == defaults(temperature=1.0) == OFF
    assert caplog.records == []


IGNORED = {
    "max_new_tokens": 20,
    "max_length": 4096,
    "bad_words_ids": [[5]],
    "typical_p": 0.9,
    "no_repeat_ngram_size": 3,
    "num_beams": 4,
    "stop_strings": ["x"],
    "suppress_tokens": [1, 2],
    "min_new_tokens": 5,
    "forced_eos_token_id": 2,
    "guidance_scale": 1.5,
}


@pytest.mark.parametrize("name", IGNORED)
def test_what_would_change_answers_and_is_not_followed_is_said_once(defaults, caplog, name):
    defaults(**{name: IGNORED[name]}, epsilon_cutoff=0.0, num_return_sequences=1, use_cache=True)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().endswith(f"asks for what is not followed: {name} {IGNORED[name]}")


@pytest.mark.parametrize("wrong", [{"top_p": 2}, {"temperature": "hot"}, {"top_k": "many"}])
def test_values_that_make_no_sense_are_an_error_that_names_the_file(defaults, wrong):
    with pytest.raises(ArrieroError, match=r"generation_config\.json makes no sense"):
        defaults(do_sample=True, **wrong)


def test_the_neutral_values_are_those_of_transformers():
    """What transformers takes for "off" must not be reported, and what it knows must not be missed."""
    from transformers import GenerationConfig

    from arriero.engines.sampling import NEUTRAL

    known = GenerationConfig()
    assert {name for name in NEUTRAL if not hasattr(known, name)} <= {"penalty_alpha", "diversity_penalty"}
    standard = GenerationConfig._get_default_generation_params()
    for name in NEUTRAL.keys() & standard.keys():
        assert standard[name] is None or standard[name] in NEUTRAL[name], name
