"""A prompt and a model as a LangChain chain, streamed: python examples/langchain_chain.py "packing llamas"

Without `model` the embedded one answers; `adapter="runs/…"` takes a trained one, `base_url="http://…"` a server's.
"""

import sys

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from arriero.langchain import ChatArriero

prompt = ChatPromptTemplate.from_messages([("system", "Answer in one sentence."), ("human", "Tell me about {thing}.")])
chain = prompt | ChatArriero(temperature=0, max_tokens=80) | StrOutputParser()
for text in chain.stream({"thing": sys.argv[1] if len(sys.argv) > 1 else "llamas"}):
    print(text, end="", flush=True)
print()
