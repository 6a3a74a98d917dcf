"""openai-agents with both of its model classes: responses, its default, and chat completions."""

from __future__ import annotations

import openai
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    Runner,
    function_tool,
    set_default_openai_client,
    set_tracing_disabled,
)
from smoke import MODEL, QUESTION, SYSTEM, URL, City, check, raises, report

client = openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="none")
set_default_openai_client(client, use_for_tracing=False)
set_tracing_disabled(disabled=True)
MODELS = {"responses": MODEL, "chat": OpenAIChatCompletionsModel(MODEL, client)}


@function_tool
def weather(city: City) -> str:
    """Weather of a city."""
    return f"sunny in {city.name}"


def agent(model, tool_choice=None, **options):
    settings = ModelSettings(temperature=0, max_tokens=200, tool_choice=tool_choice)
    return Agent(name="Guide", instructions=SYSTEM, model=model, model_settings=settings, **options)


async def conversation(model):
    first = await Runner.run(agent(model), QUESTION)
    assert "Paris" in first.final_output
    assert first.context_wrapper.usage.total_tokens > 0
    again = [*first.to_input_list(), {"role": "user", "content": "Are you sure?"}]
    assert (await Runner.run(agent(model), again)).final_output


async def stream(model):
    result = Runner.run_streamed(agent(model), QUESTION)
    assert "raw_response_event" in {event.type async for event in result.stream_events()}
    assert "Paris" in result.final_output


async def tools(model):
    stopping = agent(model, "required", tools=[weather], tool_use_behavior="stop_on_first_tool")
    first = await Runner.run(stopping, QUESTION)
    assert first.final_output.startswith("sunny in ")
    again = [*first.to_input_list(), {"role": "user", "content": "Thank you."}]
    assert (await Runner.run(agent(model, "none", tools=[weather]), again)).final_output


async def structured(model):
    assert isinstance((await Runner.run(agent(model, output_type=City), QUESTION)).final_output, City)


async def unknown_model(model):
    unknown = "unknown" if model == MODEL else OpenAIChatCompletionsModel("unknown", client)
    with raises(openai.NotFoundError):
        await Runner.run(agent(unknown), QUESTION)


for name, model in MODELS.items():
    for function in (conversation, stream, tools, structured, unknown_model):

        async def bound(function=function, model=model):
            await function(model)

        bound.__name__ = f"{function.__name__}_{name}"
        check(bound)
report("openai-agents")
