r"""What a model writes, as Markdown that can be trusted: parsed once, drawn by the page and by the terminal.

parser.py      text -> tokens
streamlit.py   tokens -> Markdown that Streamlit draws as nothing else
"""

from arriero.markup.parser import PARSER
from arriero.markup.streamlit import to_streamlit

__all__ = ["PARSER", "to_streamlit"]
