"""What crosses between the processes as JSON and has to arrive as it was: errors, sampling, log-probabilities.

An error crosses as the name of its class and its fields, so that it arrives as the same typed error, whatever its
class is made with.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

from arriero import errors
from arriero.errors import ArrieroError
from arriero.messages import Sampling, TokenLogprob

Top: TypeAlias = Sequence[tuple[int, float]]  # the alternatives to a token


def described(error: ArrieroError) -> tuple[str, dict[str, Any]]:
    """An error's class, the nearest one of arriero.errors, and its fields in JSON's types; a path becomes text."""
    kind = next(kind.__name__ for kind in type(error).__mro__ if getattr(errors, kind.__name__, None) is kind)
    return kind, json.loads(json.dumps(vars(error), default=str))


def rebuilt(kind: str, fields: dict[str, Any]) -> ArrieroError:
    """The error that was `described`."""
    made: type[ArrieroError] = getattr(errors, kind)
    # not by __init__, which takes other arguments than it keeps, and would make the message anew
    error = made.__new__(made, fields["message"])
    vars(error).update(fields)
    return error


def fields_of(sampling: Sampling) -> dict[str, Any]:
    """A Sampling's fields, for JSON; stop strings are not the engine's business."""
    return asdict(sampling) | {"stop": ()}


def sampling_of(fields: Mapping[str, Any]) -> Sampling:
    """The Sampling with what `fields_of` made, after JSON."""
    return Sampling(**{**fields, "logit_bias": tuple(map(tuple, fields["logit_bias"])), "stop": ()})


def spread(logprobs: Sequence[TokenLogprob]) -> tuple[list[float], list[Top]] | tuple[()]:
    """Values, and alternatives, of log-probabilities; nothing where there are none."""
    if not logprobs:
        return ()
    return [entry.logprob for entry in logprobs], [entry.top for entry in logprobs]


def joined(ids: Sequence[int], logprobs: Sequence[float], tops: Sequence[Top]) -> list[TokenLogprob]:
    """Log-probabilities of tokens from what `spread` made; `tops` may lack where no alternatives were asked for."""
    triples = zip(ids, logprobs, tops or itertools.repeat(()), strict=False)
    return [TokenLogprob(token, value, tuple((other, each) for other, each in top)) for token, value, top in triples]
