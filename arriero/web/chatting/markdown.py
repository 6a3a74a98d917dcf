"""A model's Markdown as Streamlit reads it."""

from __future__ import annotations

import re

CODE = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]+`)", re.DOTALL)
MATHS = re.compile(r"\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
DOLLARS = re.compile(r"\$\$.+?\$\$|(?<!\\)\$(?![\s$])[^$\n]+?(?<![\s\\])\$(?!\d)|(?<!\\)\$", re.DOTALL)


def to_streamlit(text: str) -> str:
    r"""\( … \) is maths, and the dollars of "$5 or $6" are not.

    A pair of dollars is maths under Pandoc's rule (`tex_math_dollars`): no space inside it and no digit after it.
    """
    parts = CODE.split(text)
    for index in range(0, len(parts), 2):  # the odd ones are code
        plain = MATHS.sub(lambda found: f"${found[1].strip()}$" if found[1] else f"$${found[2]}$$", parts[index])
        parts[index] = DOLLARS.sub(lambda found: r"\$" if found[0] == "$" else found[0], plain)
    return "".join(parts)
