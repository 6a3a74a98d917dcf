"""A regular expression over a text -> EBNF over that text as JSON writes it, between the quotes.

Characters that JSON escapes are written escaped, so whatever the expression allows stays JSON. An expression must fit
the whole text, also where it has no anchors: that is stricter than JSON Schema's search, never freer.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from arriero.engines.compat import parse_regex
from arriero.engines.openvino.rules import Rules, times
from arriero.errors import UsageError

LAST = 0x10FFFF
Ranges = list[tuple[int, int]]
DIGITS: Ranges = [(0x30, 0x39)]
WORD: Ranges = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
# white space that every reader of \s agrees on, and all that any of them counts
BLANK: Ranges = [(9, 10), (12, 13), (0x20, 0x20)]
SPACE: Ranges = [(9, 13), (0x20, 0x20), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A)]
SPACE += [(0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)]
NEWLINES: Ranges = [(10, 10), (13, 13), (0x2028, 0x2029)]
ESCAPED = '"\\\b\f\n\r\t'  # what JSON writes with a backslash and one letter
UNSAFE: Ranges = [(0, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0xD800, 0xDFFF)]
# where UTF-8's first byte changes its rules: xgrammar gets a range wrong that crosses one of these
LIMITS = (0x7F, 0x7FF, 0xFFF, 0xCFFF, 0xD7FF, 0xFFFF, 0x3FFFF, 0xFFFFF, LAST)


def literal(text: str) -> str:
    """Exactly this text, as an EBNF string; UsageError where it is not Unicode text."""
    if any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        raise UsageError(f"{text!r} has half of a surrogate pair, which cannot be written")
    terms = []
    for piece in re.split(r"([\x00-\x08\x0b-\x1f\x7f-\xff])", text):
        if len(piece) == 1 and not " " <= piece <= "~":  # xgrammar prints these as `\\xe9`, and reads `\\xe9a` as one
            terms.append(f"[{_point(ord(piece))}]")
        elif piece:
            plain = piece.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
            terms.append(f'"{plain}"')
    return " ".join(terms) or '""'


def pattern(expression: str, rules: Rules) -> str:
    """EBNF for `expression`, in ECMAScript's spelling as far as Python reads it; UsageError for what it cannot do."""
    try:
        parsed = parse_regex(expression)
        if parsed.state.flags & (re.IGNORECASE | re.DOTALL | re.MULTILINE | re.VERBOSE):
            raise UsageError("flags are not supported")
        return _sequence(list(parsed), rules, first=True, last=True)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"the pattern {expression!r} is none: {error}") from error
    except UsageError as error:
        raise UsageError(f"the pattern {expression!r} cannot be guaranteed: {error.message}") from error


def _sequence(nodes: list[tuple[Any, Any]], rules: Rules, *, first: bool = False, last: bool = False) -> str:
    """`first` and `last`: whether the text begins and ends here, where an anchor says nothing new."""
    terms = []
    for index, (kind, value) in enumerate(nodes):
        begins, ends = first and index == 0, last and index == len(nodes) - 1
        if str(kind) != "AT":
            terms.append(_node(str(kind), value, rules, first=begins, last=ends))
        elif not (begins and str(value) == "AT_BEGINNING") and not (ends and str(value) == "AT_END"):
            raise UsageError("an anchor stands in the middle")
    return rules.add(" ".join(terms))


def _node(name: str, value: Any, rules: Rules, *, first: bool, last: bool) -> str:
    if name == "LITERAL":
        return _one_of([(value, value)], rules)
    if name == "NOT_LITERAL":
        return _one_of(_without([(0, LAST)], [(value, value)]), rules)
    if name == "ANY":
        return _one_of(_without([(0, LAST)], NEWLINES), rules)
    if name == "IN":
        return _one_of(_class(value), rules)
    if name in ("MAX_REPEAT", "MIN_REPEAT"):
        low, high, inner = value  # greedy or not: which text is allowed is the same
        return _sequence(list(inner), rules) + times(low, math.inf if str(high) == "MAXREPEAT" else high)
    if name == "SUBPATTERN" and not (value[1] or value[2]):  # flags that the group adds or takes away
        return _sequence(list(value[3]), rules, first=first, last=last)
    if name == "BRANCH":
        return rules.any(_sequence(list(branch), rules, first=first, last=last) for branch in value[1])
    raise UsageError(f"{name.lower().replace('_', ' ')} is not supported")


def _one_of(ranges: Ranges, rules: Rules) -> str:
    """One character out of ranges of code points, as JSON writes it."""
    escaped = [each for each in ESCAPED if any(low <= ord(each) <= high for low, high in ranges)]
    alternatives = [literal(json.dumps(each)[1:-1]) for each in escaped]
    # other control characters JSON would write as \\u001f: they are not offered, which is narrower
    safe = _without(ranges, UNSAFE)
    start = 0
    pieces = []
    for limit in LIMITS:
        pieces += [(max(low, start), min(high, limit)) for low, high in safe if low <= limit and high >= start]
        start = limit + 1
    if pieces:
        alternatives.append("[" + "".join(f"{_point(low)}-{_point(high)}" for low, high in pieces) + "]")
    if not alternatives:
        raise UsageError("a character class allows no character")
    return rules.any(alternatives)


def _class(items: list[tuple[Any, Any]]) -> Ranges:
    """Ranges of code points of a `[…]`."""
    ranges: Ranges = []
    for kind, value in items:
        name = str(kind)
        if name == "LITERAL":
            ranges.append((value, value))
        elif name == "RANGE":
            ranges.append(value)
        elif name == "CATEGORY":
            category = str(value).removeprefix("CATEGORY_")
            if category.startswith("NOT_"):
                # \\S leaves out what any reader counts as white space, and \\s takes what all of them do
                excluded = {"DIGIT": DIGITS, "WORD": WORD, "SPACE": SPACE}[category.removeprefix("NOT_")]
                ranges += _without([(0, LAST)], excluded)
            else:
                ranges += {"DIGIT": DIGITS, "WORD": WORD, "SPACE": BLANK}[category]
    return _without([(0, LAST)], ranges) if str(items[0][0]) == "NEGATE" else ranges


def _without(ranges: Ranges, removed: Ranges) -> Ranges:
    """The code points of `ranges` that are in none of `removed`, in order."""
    for first, last in removed:  # of each range what lies below the removed one, and what lies above it
        below = [(low, min(high, first - 1)) for low, high in ranges]
        above = [(max(low, last + 1), high) for low, high in ranges]
        ranges = [(low, high) for low, high in below + above if low <= high]
    return sorted(set(ranges))


def _point(code: int) -> str:
    return f"\\U{code:08x}" if code > 0xFFFF else f"\\u{code:04x}"
