"""An agent with two tools (pip install langchain): python examples/langchain_agent.py "What time is it in Lima?"

A call of a tool is always well-formed, and a loop that repeats one call ends. How well tools are chosen is the model's
affair: the embedded one is small.
"""

import sys
from datetime import UTC, datetime, timedelta

from langchain.agents import create_agent
from langchain_core.tools import tool

from arriero.langchain import ChatArriero


@tool
def time_in(city: str) -> str:
    """The time in a city of Peru, Bolivia or Chile."""
    hours = {"Lima": -5, "La Paz": -4, "Santiago": -3}
    return (datetime.now(UTC) + timedelta(hours=hours.get(city, -4))).strftime("%H:%M")


@tool
def height_of(city: str) -> int:
    """How high a city lies, in metres."""
    return {"Lima": 154, "La Paz": 3640, "Santiago": 570}.get(city, 0)


agent = create_agent(ChatArriero(temperature=0, max_tokens=120), [time_in, height_of])
for turn in agent.invoke({"messages": [("user", sys.argv[1])]})["messages"]:
    print(f"{turn.type}: {turn.text or [(call['name'], call['args']) for call in turn.tool_calls]}")
