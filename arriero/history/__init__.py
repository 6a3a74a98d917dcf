"""Saved conversations: one SQLite file, shared by the terminal and the web page.

saved.py     what is kept: conversations, nodes of their trees, what an answer took
file.py      the file: tables, conversion of older formats
path.py      the SQL of trees: the path to a leaf, siblings, the newest below a node
store.py     History: reading, writing, searching
export.py    a conversation as Markdown or JSON
"""

from arriero.history.export import as_markdown, document
from arriero.history.file import FORMAT
from arriero.history.saved import AnswerInfo, ChangedElsewhere, Node, SavedConversation, to_openai
from arriero.history.store import History

__all__ = [
    "FORMAT",
    "AnswerInfo",
    "ChangedElsewhere",
    "History",
    "Node",
    "SavedConversation",
    "as_markdown",
    "document",
    "to_openai",
]
