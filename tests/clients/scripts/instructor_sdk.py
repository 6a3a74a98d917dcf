"""instructor over OpenAI's client, in the modes that hold an answer to its schema."""

from __future__ import annotations

import instructor
import openai
from instructor.core import InstructorRetryException
from smoke import MODEL, QUESTION, URL, City, check, raises, report

ASK = {"model": MODEL, "temperature": 0, "max_tokens": 60, "messages": [{"role": "user", "content": QUESTION}]}
MODES = (instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT, instructor.Mode.JSON_SCHEMA)


def client(mode, kind=openai.OpenAI):
    return instructor.from_openai(kind(base_url=f"{URL}/v1", api_key="none"), mode=mode)


for mode in MODES:

    def create(mode=mode):
        made, whole = client(mode).chat.completions.create_with_completion(**ASK, response_model=City)
        assert isinstance(made, City)
        assert whole.usage.completion_tokens > 0

    create.__name__ = mode.name.lower()
    check(create)


@check
async def asynchronous():
    made = await client(MODES[0], openai.AsyncOpenAI).chat.completions.create(**ASK, response_model=City)
    assert isinstance(made, City)


@check
def partial_stream():
    *_, last = client(MODES[0]).chat.completions.create_partial(**ASK, response_model=City)
    City.model_validate(last.model_dump())


@check
def responses():
    ask = {"model": MODEL, "input": QUESTION, "temperature": 0, "max_output_tokens": 60}
    made = client(instructor.Mode.RESPONSES_TOOLS).responses.create(**ask, response_model=City)
    assert isinstance(made, City)


@check
def unknown_model():
    with raises(InstructorRetryException):
        client(MODES[0]).chat.completions.create(**ASK | {"model": "unknown"}, response_model=City, max_retries=1)


report("instructor")
