"""pydantic-ai with its models for chat completions and for responses."""

from __future__ import annotations

from pydantic_ai import Agent, NativeOutput
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from smoke import MODEL, QUESTION, SYSTEM, URL, City, check, raises, report

PROVIDER = OpenAIProvider(base_url=f"{URL}/v1", api_key="none")


def agent(kind, name=MODEL, **options):
    settings = {"temperature": 0, "max_tokens": 60}
    return Agent(kind(name, provider=PROVIDER), model_settings=settings, instructions=SYSTEM, **options)


async def conversation(kind):
    first = await agent(kind).run(QUESTION)
    assert "Paris" in first.output
    assert first.usage.output_tokens > 0
    assert (await agent(kind).run("Are you sure?", message_history=first.all_messages())).output


async def stream(kind):
    async with agent(kind).run_stream(QUESTION) as result:
        assert "Paris" in "".join([text async for text in result.stream_text(delta=True)])


async def structured_by_tool(kind):
    first = await agent(kind, output_type=City).run(QUESTION)
    assert isinstance(first.output, City)
    assert (await agent(kind).run("Thank you.", message_history=first.all_messages())).output


async def structured_natively(kind):
    assert isinstance((await agent(kind, output_type=NativeOutput(City)).run(QUESTION)).output, City)


class CallOnce(AbstractCapability[None]):
    """Demand a call in the first step and a text in the next."""

    def get_model_settings(self):
        return lambda context: {"tool_choice": "required" if context.run_step == 1 else "none"}


async def tool_loop(kind):
    seen = []

    def weather(city: City) -> str:
        """Weather of a city."""
        seen.append(city)
        return "sunny"

    assert (await agent(kind, tools=[weather], capabilities=[CallOnce()]).run(QUESTION)).output
    assert [type(city) for city in seen] == [City]


async def unknown_model(kind):
    with raises(ModelHTTPError):
        await agent(kind, "unknown").run(QUESTION)


for kind in (OpenAIChatModel, OpenAIResponsesModel):
    for function in (conversation, stream, structured_by_tool, structured_natively, tool_loop, unknown_model):

        async def bound(function=function, kind=kind):
            await function(kind)

        bound.__name__ = f"{function.__name__}_{'chat' if kind is OpenAIChatModel else 'responses'}"
        check(bound)
report("pydantic-ai-slim")
