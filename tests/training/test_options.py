"""Options: the tutorial's defaults, and values that make no sense."""

from __future__ import annotations

import pytest

from arriero.errors import UsageError
from arriero.training import TrainOptions


def test_the_defaults_are_the_tutorial_s():
    options = TrainOptions()
    assert (options.rank, options.alpha, options.learning_rate) == (8, 32, 1e-4)
    assert (options.epochs, options.batch_size) == (3, 16)
    assert options.target_modules == ("auto",)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("epochs", float("inf")),
        ("precision", "bf16"),
        ("cuda_graphs", True),
        ("too_long", "truncate"),
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("learning_rate", 1),
        ("rank", 0),
        ("batch_size", -1),
        ("dropout", 1),
        ("eval_fraction", 1.0),
        ("max_length", 1),
        ("seed", -1),
        ("target_modules", ()),
        ("target_modules", ("auto", "q_proj")),
    ],
)
def test_nonsense_is_refused_by_name(name, value):
    with pytest.raises(UsageError, match=f"{name} must be"):
        TrainOptions.of({name: value})


def test_an_unknown_option_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="no option 'lerning_rate'") as caught:
        TrainOptions.of({"lerning_rate": 1e-3})
    assert caught.value.hint == "did you mean learning_rate?"
