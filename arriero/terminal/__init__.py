"""A conversation in a terminal.

    loop.py       converse(): read, answer or obey, until it ends
    dialogue.py   Dialogue: what was said, under which settings; saved as it happens
    commands.py   the commands that begin with a slash
    reader.py     where questions come from: an editor in a terminal, plain lines from anything else
    screen.py     where answers go: Markdown in a terminal, plain text elsewhere; never a control character
    markdown.py   Markdown for a terminal, as it streams in

Packages that only a terminal needs are imported once there is one.
"""

from arriero.terminal.loop import converse

__all__ = ["converse"]
