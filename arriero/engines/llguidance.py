"""A constraint -> the token ids it allows next, by llguidance.

The constraint tree becomes one grammar in llguidance's Lark dialect (https://github.com/guidance-ai/llguidance,
docs/syntax.md), a JSON schema a `%json` rule of it. While more text must come only ids that spell it are allowed; once
the grammar is complete only the ids that end the turn are.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from numpy.typing import NDArray

from arriero.constraint import Choice, Constraint, JsonSchema, Plain, Reasoned, Series, Text
from arriero.errors import UsageError
from arriero.prompt import read_tokenizer

# Between the parts of JSON: without a limit a weak model writes blanks for ever, and no llguidance below 1.8, as vLLM
# pins it, keeps to a `whitespace_pattern`. Separators are regular expressions.
LAYOUT = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
POSITION = re.compile(r"^at \d+\(\d+\): (failed to compile JSON schema: )?")  # in our grammar, which nobody has seen
LISTING = re.compile(r"\n\s*1 \| start:|\n<state>")
REASONING = "BLANK: /\\s{0,8}/\nanything: <[*]>*\n"  # a weak model would write blanks for ever
DEAD_END = "nothing is allowed where the answer must go on, as with a $ref that leads back to itself"


class Grammar:
    """Where one answer stands in its grammar."""

    def __init__(self, tokenizer: LLTokenizer, text: str) -> None:
        self._matcher = LLMatcher(tokenizer, text)
        self.vocabulary = tokenizer.vocab_size
        self._check()

    def allowed(self) -> NDArray[np.bool_]:
        """For each id of the tokenizer whether it may come next: (ids,)."""
        bits = bitmask(1, self.vocabulary)
        self.fill(bits, 0)
        return np.unpackbits(bits.view(np.uint8)[0], bitorder="little")[: self.vocabulary].astype(bool)

    def fill(self, bits: NDArray[np.int32], row: int) -> None:
        """Write the same into a row of a `bitmask`: bit 0 of the first word is that of id 0."""
        fill_next_token_bitmask(self._matcher, bits, row)
        self._check()

    def accept(self, token: int) -> None:
        """Go on by the id that was chosen."""
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if problem := _problem_of(self._matcher):
            raise UsageError(f"the schema cannot be used any further: {problem}", hint="simplify it")


def bitmask(rows: int, vocabulary: int) -> NDArray[np.int32]:
    """A bit for each id in which everything may come next: (rows, words of 32)."""
    bits: NDArray[np.int32] = allocate_token_bitmask(rows, vocabulary)
    return bits


class Grammars:
    """Makes grammars for one model's tokenizer, which is loaded for the first one (about half a second)."""

    def __init__(self, model_dir: Path, stop_token_ids: Sequence[int]) -> None:
        self._model_dir = model_dir
        self._stop_token_ids = list(stop_token_ids)

    def read(self, text: str) -> Grammar:
        """The grammar of one answer, at its beginning, from what `lark` made."""
        return Grammar(self._tokenizer, text)

    @functools.cached_property
    def _tokenizer(self) -> LLTokenizer:
        return from_tokenizer(read_tokenizer(self._model_dir), eos_token=self._stop_token_ids)


def check(constraint: Constraint) -> str:
    """A constraint as `lark` makes it, if llguidance can do it; milliseconds, no tokenizer needed.

    Raises UsageError that says why it cannot.
    """
    # the ids around reasoning are known to the model's own tokenizer only
    answer = constraint.answer if isinstance(constraint, Reasoned) else constraint
    if answer is not None and (problem := _problem(lark(answer))):
        raise UsageError(f"the schema cannot be used: {problem}", hint="leave out the keyword that is named")
    return lark(constraint)


@functools.lru_cache(maxsize=256)
def _problem(text: str) -> str:
    """What is wrong with a grammar, empty if nothing: it has to compile, and to allow a first byte."""
    matcher = LLMatcher(LLTokenizer("byte"), text)
    if not matcher.is_error():
        matcher.compute_bitmask()
    return _problem_of(matcher)


def _problem_of(matcher: LLMatcher) -> str:
    if not matcher.is_error():
        return ""
    problem = " ".join(POSITION.sub("", LISTING.split(matcher.get_error())[0]).split())
    return DEAD_END if problem == "NoExtensionBias" else problem


def lark(constraint: Constraint) -> str:
    """The constraint in llguidance's Lark dialect.

    Choice((Text("a"), JsonSchema(s)))               start: ("a" | json_0)
                                                     json_0: %json s
    Reasoned(7, 8, False, JsonSchema(s), 9, (2,))    start: (<[7]> <[^8,2]>{0,9} <[8]> BLANK)? (json_0)
    """
    schemas: list[str] = []

    def expression(constraint: Plain) -> str:
        match constraint:
            case Text(text):
                return json.dumps(text)
            case Series(parts):
                return " ".join(map(expression, parts)) or '""'
            case Choice(alternatives):
                return f"({' | '.join(map(expression, alternatives))})"
            case JsonSchema(schema):
                # overrides options that a schema brings, one of which drops keywords
                schemas.append(json.dumps({**schema, "x-guidance": LAYOUT}))
                return f"json_{len(schemas) - 1}"

    if isinstance(constraint, Reasoned):
        answer = None if constraint.answer is None else expression(constraint.answer)
        start = f"start: {_reasoned(constraint, answer)}\n{REASONING}"
        if isinstance(constraint.closing, str):
            start += f"thought[suffix={json.dumps(constraint.closing)}]: /(?s:.*)/\n"
    else:
        start = f"start: {expression(constraint)}\n"
    return start + "".join(f"json_{number}: %json {schema}\n" for number, schema in enumerate(schemas))


def _reasoned(constraint: Reasoned, answer: str | None) -> str:
    """Reasoning before `answer`, an expression, or before any text, which does not begin with an opening tag."""
    stops = ",".join(map(str, constraint.stop_token_ids))
    opening = json.dumps(constraint.opening) if isinstance(constraint.opening, str) else f"<[{constraint.opening}]>"
    thought = "thought"
    if not isinstance(constraint.closing, str):
        within = "*" if constraint.limit is None else f"{{0,{constraint.limit}}}"
        thought = f"<[{constraint.closing}]>"
        if constraint.limit != 0:
            # no token within ends the turn: the model would stop before the answer that is demanded
            thought = f"<[^{constraint.closing},{stops}]>{within} {thought}"
    if answer is not None:
        return f"{thought} BLANK ({answer})" if constraint.opened else f"({opening} {thought} BLANK)? ({answer})"
    return (
        f"{thought} anything"
        if constraint.opened
        else f"{opening} {thought} anything | (<[^{constraint.opening},{stops}]> anything)?"
    )
