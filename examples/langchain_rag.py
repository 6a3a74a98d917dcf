"""Answers from a folder's text files, all on this machine: python examples/langchain_rag.py docs "What is a slot?"

The embedded embedding model finds the paragraphs, the embedded language model answers from them.
"""

import sys
from pathlib import Path

from langchain_core.documents import Document
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.vectorstores import InMemoryVectorStore

from arriero.langchain import ArrieroEmbeddings, ChatArriero

folder, question = sys.argv[1:]
store = InMemoryVectorStore(ArrieroEmbeddings())
for file in sorted(Path(folder).iterdir()):
    if file.suffix in (".md", ".txt"):
        parts = [part[:600] for part in file.read_text(encoding="utf-8").split("\n\n") if part.strip()]
        store.add_documents([Document(part, metadata={"file": file.name}) for part in parts])
found = store.similarity_search(question, k=3)
prompt = ChatPromptTemplate.from_template("Answer from this text only.\n\n{text}\n\nQuestion: {question}")
chain = prompt | ChatArriero(temperature=0, max_tokens=100)
print(chain.invoke({"text": "\n\n".join(part.page_content for part in found), "question": question}).text)
print("from", ", ".join(dict.fromkeys(part.metadata["file"] for part in found)))
