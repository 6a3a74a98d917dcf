"""DSPy's LM, plain and through its adapters."""

from __future__ import annotations

from typing import Literal

import dspy
from dspy.lm15 import AccessPolicy, ModelSupport, OpenAIChatCompat, ProviderDefinition, register_provider
from smoke import MEETING, MODEL, QUESTION, URL, check, raises, report

HERE = AccessPolicy(provider="arriero", base_url=f"{URL}/v1", env_keys=("ARRIERO_API_KEY",))
register_provider(
    ProviderDefinition.chat(HERE, compat=OpenAIChatCompat.preset("vllm")),
    supports=ModelSupport(function_calling=True, response_schema=True),
)


def lm(model=f"openai/{MODEL}", **options):
    return dspy.LM(model, temperature=0, max_tokens=60, api_base=f"{URL}/v1", api_key="none", cache=False, **options)


declared = lm(f"arriero/{MODEL}")  # of which DSPy knows that it takes schemas and tools


class Capital(dspy.Signature):
    """Answer the question."""

    question: str = dspy.InputField()
    city: Literal["Paris", "Lima"] = dspy.OutputField()


@check
def answer():
    asked = lm()
    assert "Paris" in asked(QUESTION)[0]
    assert asked.history[-1]["usage"]["completion_tokens"] > 0


@check
def conversation():
    asked = lm()
    messages = [*MEETING, {"role": "assistant", "content": asked(messages=MEETING)[0]}]
    assert asked(messages=[*messages, {"role": "user", "content": "What is my name?"}])[0]


@check
def predict():
    for adapter in (dspy.JSONAdapter(), dspy.ChatAdapter()):
        with dspy.context(lm=declared, adapter=adapter):
            assert dspy.Predict(Capital)(question=QUESTION).city in ("Paris", "Lima")


@check
async def asynchronous():
    with dspy.context(lm=declared, adapter=dspy.JSONAdapter()):
        assert (await dspy.Predict(Capital).acall(question=QUESTION)).city in ("Paris", "Lima")


@check
def native_calls():
    class Ask(dspy.Signature):
        """Ask a tool."""

        question: str = dspy.InputField()
        tools: list[dspy.Tool] = dspy.InputField()
        outputs: dspy.ToolCalls = dspy.OutputField()

    def weather(city: Literal["Paris", "Lima"]) -> str:
        """Weather of a city."""
        return "sunny"

    with dspy.context(
        lm=lm(f"arriero/{MODEL}", tool_choice="required"), adapter=dspy.ChatAdapter(use_native_function_calling=True)
    ):
        [call] = dspy.Predict(Ask)(question=QUESTION, tools=[dspy.Tool(weather)]).outputs.tool_calls
    assert call.name == "weather"


@check
def responses():
    assert lm(model_type="responses")(QUESTION)[0]


@check
def unknown_model():
    with raises(dspy.LMError):
        lm("openai/unknown")(QUESTION)


report("dspy")
