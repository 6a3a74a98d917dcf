"""The pages and the card that are left on disk: Jinja templates, and render(), which fills them.

    base.html     one self-contained page: no scripts, nothing loaded from anywhere
    style.css     how it looks; base.html has it inside
    parts.html    what pages are made of: figures, tables, bars, charts
    inspect.html  what training would see            filled by data/page.py
    run.html      what a training run did            filled by training/output/page.py
    card.md       the model card of an adapter       filled by training/output/card.py

In an .html template every value is escaped, because data, prompts and answers are text that others wrote. What a
template asks for and does not get counts as empty, so a section is left out where its figures are missing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from arriero.formatting import duration, size

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, **values: Any) -> str:
    """Fill a template of this package. A float that is no finite number is treated as missing."""
    return _environment().get_template(template).render(_finite(values))


@cache
def _environment() -> Environment:
    from jinja2 import ChainableUndefined, Environment, PackageLoader, select_autoescape

    environment = Environment(
        loader=PackageLoader("arriero.templates", ""),
        autoescape=select_autoescape(["html"]),
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    return environment


def _finite(value: Any) -> Any:
    """The same JSON document with None for NaN and the infinities."""
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def short(number: float) -> str:
    """A number in three digits: 12,345 · 394 · 2.55 · 0.0124 · 2e-5."""
    rounded = abs(float(f"{number:.3g}"))
    if rounded and not 1e-4 <= rounded < 1e15:
        mantissa, exponent = f"{number:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return count(number) if rounded >= 1000 else f"{number:.3g}"


def count(number: float) -> str:
    """A whole number with its thousands apart."""
    return f"{number:,.0f}"


def percent(part: float) -> str:
    """A part of one as per cent; a part that is neither nothing nor all is never 0% or 100%."""
    return f"{min(max(part, 0.01), 0.99):.0%}" if 0 < part < 1 else f"{part:.0%}"


def several(number: Any, noun: str) -> str:
    """1 row, 2 rows; nothing where the number is missing."""
    if not isinstance(number, int | float):
        return ""
    return f"{short(number) if isinstance(number, float) else count(number)} {noun}{'' if number == 1 else 's'}"


def plain(value: Any) -> str:
    """An option's value as a person would write it."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{plain(item)} {name}" for name, item in value.items())
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def markdown(value: Any) -> str:
    """Text on one line, in a sentence or a table cell, without what Markdown or HTML would read in it."""
    line = " ".join(plain(value).split())
    return re.sub(r"[\\`*\[\]<>|~&$]|(?<!\w)_|_(?!\w)", r"\\\g<0>", line)


def fenced(text: str, language: str = "") -> str:
    """Text as it is, in a Markdown block whose fence is longer than any within."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def literal(text: str) -> str:
    """Text as a string literal of Python, which JSON's are too."""
    return json.dumps(text, ensure_ascii=False)


def _of_numbers(function: Callable[[float], str]) -> Callable[..., str]:
    """The filter of a number: what is missing becomes empty text, else the number is put into `form`."""

    def formatted(value: Any, form: str = "{}") -> str:
        return form.format(function(value)) if isinstance(value, int | float) else ""

    return formatted


FILTERS: dict[str, Callable[..., str]] = {
    **{function.__name__: _of_numbers(function) for function in (short, count, percent, size, duration)},
    **{function.__name__: function for function in (several, plain, markdown, fenced, literal)},
}
