"""Tools, calls and results that the tests of prompts share."""

from __future__ import annotations

from arriero.prompt import OutputSpec

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Weather now", "parameters": CITY}}
CLOCK = {"type": "function", "function": {"name": "clock"}}
ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Weather in Potosí?"}]


def call(number, name="weather", arguments='{"city": "Potosí"}'):
    return {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


def result(number, content="12 °C"):
    return {"role": "tool", "tool_call_id": f"call_{number}", "content": content}


CALLED = [*ASKED, {"role": "assistant", "content": None, "tool_calls": [call(1)]}, result(1)]
TWICE = [*ASKED, {"role": "assistant", "content": "Hm.", "tool_calls": [call(1), call(2, "clock", "{}")]}]
TWICE += [result(2, "noon"), result(1)]


def rendered(renderer, messages, *wanted):
    return renderer.tokenizer.decode(renderer.prompt(messages, OutputSpec.of(*wanted)))
