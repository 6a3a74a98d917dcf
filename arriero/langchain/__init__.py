"""A Chat as a LangChain model: ChatArriero takes messages, ArrieroLLM takes text.

    chain = ChatPromptTemplate.from_template("Explain {thing}.") | ChatArriero(adapter="runs/llama-driver")
    for chunk in chain.stream({"thing": "packing"}): print(chunk.text, end="")

Both convert LangChain's messages and hand them to `Chat`; ids, stop strings and streams are its business. The
model is loaded when the object is made: a wrong name shows at once and no event loop ever waits for weights. Objects
can share one Chat (`ChatArriero(chat=chat)`); the copies that LangChain makes (`configurable_fields`) do.

Sampling parameters are given to the constructor or with a call, whose `stop` adds to the object's own. LangChain's
`max_tokens` and the tutorial's `model_name_or_path` are understood; unknown names raise UsageError. A ChatArriero takes
tools (`bind_tools`) and schemas (`with_structured_output`), which also work together, as agents have them.

    chat.py          ChatArriero
    llm.py           ArrieroLLM, and the tutorial's class
    embeddings.py    ArrieroEmbeddings
    models.py        what both kinds of model share
    convert.py       prompts, messages and tools between LangChain and us
    parsers.py       structured answers as objects
    loading.py       which objects share a loaded model
    identity.py      what caches tell objects apart by, and what objects are called elsewhere
    remote.py        a server's model in place of a loaded one
    clock.py         how long an answer took
"""

from __future__ import annotations

try:
    import langchain_core  # noqa: F401  whether it is there
except ImportError as error:
    raise ImportError('arriero.langchain needs langchain-core: pip install "arriero[langchain]"') from error

from arriero.langchain.chat import ChatArriero
from arriero.langchain.embeddings import ArrieroEmbeddings
from arriero.langchain.llm import ArrieroLLM, LLaMA3_1_LLM

__all__ = ["ArrieroEmbeddings", "ArrieroLLM", "ChatArriero", "LLaMA3_1_LLM"]
