"""Which texts a module of the page draws that are not from the table, found in its syntax tree.

A text is a string with a letter in it. It may stand in what a drawing call receives only inside `say(…)`, as a name
that is the same in every language, or as something that nobody reads: a key, an icon, a width, a file's name.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

AMBIGUOUS = {"write", "map", "json", "text", "code", "empty", "table", "image"}  # other objects have these, too
DRAWING = {
    name for name in (*dir(DeltaGenerator), *dir(st)) if name[0] != "_" and callable(getattr(st, name, None))
} - {"get_option", "set_option", "fragment", "cache_data", "cache_resource", "html", "switch_page", "rerun"}
UNREAD = {
    *("key", "icon", "width", "height", "type", "label_visibility", "language", "mode", "avatar", "gap", "border"),
    *("on_click", "on_change", "on_select", "args", "kwargs", "horizontal_alignment", "vertical_alignment", "size"),
    *(
        "file_name",
        "mime",
        "format",
        "position",
        "initial_sidebar_state",
        "layout",
        "url_path",
        "scope",
        "selection_mode",
    ),
    *("color", "icon_position", "persist_state", "bind", "submit_mode", "accept_file", "run_every", "text_alignment"),
}
NAMES = {"Arriero", "owner/name"}
LOGS = {"logging", "logger", "log"}
MARK = re.compile(r":material/\w+:|:[a-z-]+\[")  # icons and colours, Streamlit's
SENTENCE = re.compile(r"[^\W\d_]{2,}[ ，。：]+[^\W\d_]{2,}|[\u4e00-\u9fff]")
PLAIN_POSITIONS = {
    **{name: {0} for name in ("Page", "switch_page", "columns", "form", "chat_message")},
    "download_button": {2, 3},
    "file_uploader": {1},
}
PARSING = {"partition", "rpartition", "split", "startswith", "endswith", "removeprefix", "removesuffix", "replace"}


def undeclared(source: str) -> list[tuple[int, str]]:
    """Line and text of all that a module draws without the table; whole sentences anywhere in a module that draws."""
    tree = ast.parse(source)
    constants = _constants(tree)
    texts = [
        (text.lineno, text.value)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and _draws(call)
        for argument in _read(call)
        for text in _texts(argument, constants)
        if _matters(text.value)
    ]
    return sorted({*texts, *((line, text) for line, text in _sentences(tree))})


def keys(source: str) -> tuple[set[str], set[str], set[str]]:
    """The keys that `say` receives in a module, patterns of such keys, and all strings in it."""
    said, patterns, strings = set(), set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            strings.add(node.value)
        if isinstance(node, ast.Call) and _name(node.func) == "say" and node.args:
            for part in _texts(node.args[0], {}, whole=True):
                said.add(part.value)
            patterns |= {_pattern(part) for part in ast.walk(node.args[0]) if isinstance(part, ast.JoinedStr)}
    return said, patterns, strings


def _pattern(text: ast.JoinedStr) -> str:
    return "".join(re.escape(part.value) if isinstance(part, ast.Constant) else r"\w+" for part in text.values)


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return _name(node)


def _draws(call: ast.Call) -> bool:
    if not isinstance(call.func, ast.Attribute):
        return False
    of_streamlit = _root(call.func) == "st"
    path = ast.unparse(call.func)
    if path.startswith(("st.session_state", "st.query_params", "st.context", "st.cache", "st.html")):
        return False
    if _root(call.func) in LOGS:
        return False
    named = call.func.attr in DRAWING or path.startswith("st.column_config.")
    return named and (of_streamlit or call.func.attr not in AMBIGUOUS)


def _read(call: ast.Call) -> Iterator[ast.expr]:
    plain = set(PLAIN_POSITIONS.get(_name(call.func), ()))
    unread = set(UNREAD)
    if any(keyword.arg == "format_func" for keyword in call.keywords):  # then the options are no texts yet
        plain |= {1, 2}
        unread |= {"options", "index", "default"}
    yield from (argument for position, argument in enumerate(call.args) if position not in plain)
    yield from (keyword.value for keyword in call.keywords if keyword.arg not in unread)


def _texts(node: ast.AST, constants: dict[str, ast.Constant], *, whole: bool = False) -> Iterator[ast.Constant]:
    """The strings that an expression may be made of; not what tests, looks up, or is passed to another function."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node
    elif isinstance(node, ast.Name) and node.id in constants:
        yield constants[node.id]
    elif isinstance(node, ast.Call):
        yield from _texts(node.func, constants) if isinstance(node.func, ast.Attribute) else ()
        if _name(node.func) in ("str", "join"):
            for argument in node.args:
                yield from _texts(argument, constants)
    elif isinstance(node, ast.Attribute | ast.FormattedValue):
        yield from _texts(node.value, constants)
    elif isinstance(node, ast.JoinedStr) and whole:
        return
    elif isinstance(node, ast.IfExp):
        yield from [text for part in (node.body, node.orelse) for text in _texts(part, constants, whole=whole)]
    elif isinstance(node, ast.Dict):
        yield from [text for part in (*node.keys, *node.values) if part for text in _texts(part, constants)]
    elif not isinstance(node, ast.Subscript | ast.Compare):
        yield from [text for part in ast.iter_child_nodes(node) for text in _texts(part, constants, whole=whole)]


def _constants(tree: ast.Module) -> dict[str, ast.Constant]:
    """Names that a string was given to, anywhere in the module."""
    return {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _matters(text: str) -> bool:
    left = MARK.sub("", text)
    return any(character.isalpha() for character in left) and left not in NAMES


def _sentences(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Strings that read like language, but docstrings, what is raised or logged, and HTML, in a module that draws."""
    if not any(isinstance(node, ast.Import) and node.names[0].name == "streamlit" for node in ast.walk(tree)):
        return
    skipped: set[int] = set()
    for node in ast.walk(tree):
        raised = isinstance(node, ast.Raise) or (isinstance(node, ast.Call) and _name(node.func).endswith("Error"))
        logged = isinstance(node, ast.Call) and (_root(node.func) in LOGS or _name(node.func) in {"html", *PARSING})
        if raised or logged:
            skipped |= {id(part) for part in ast.walk(node)}
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped.add(id(node.value))
    for node in ast.walk(tree):
        if id(node) in skipped or not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        if SENTENCE.search(node.value) and "<" not in node.value:
            yield node.lineno, node.value
