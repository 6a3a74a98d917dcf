"""A text -> an object that fits its schema, by constraint: python examples/langchain_extract.py "Ana is 31, a vet."

The engine is held to the schema while it answers, so the fields are there whatever the model; an answer that was cut
at its limit raises CutOffError.
"""

import sys

from langchain_core.prompts import ChatPromptTemplate
from pydantic import BaseModel, Field

from arriero.langchain import ChatArriero


class Person(BaseModel):
    """A person that a text is about."""

    name: str = Field(max_length=40)
    age: int = Field(ge=0, le=120)
    job: str = Field(max_length=40)


prompt = ChatPromptTemplate.from_template("Who is this text about?\n\n{text}")
chain = prompt | ChatArriero(temperature=0, max_tokens=150).with_structured_output(Person)
print(chain.invoke({"text": sys.argv[1]}).model_dump_json())
