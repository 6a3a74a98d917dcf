"""A constraint -> one EBNF grammar in the notation of xgrammar, which OpenVINO GenAI compiles.

GenAI would take JSON schemas too, but its converter was measured to allow what the schema forbids (raw control
characters in strings with a length, `minimum: 7` answered with 5, `2b25` for a number) and to drop in silence what it
does not know. So schemas are converted here; tests/engines/openvino/test_library.py fails once the library is right.
"""

from __future__ import annotations

from arriero.constraint import JsonSchema, Plain, Series, Text
from arriero.engines.openvino.regex import literal
from arriero.engines.openvino.rules import Rules
from arriero.engines.openvino.schema import Schemas
from arriero.errors import UsageError

COMMON = r"""
ws ::= "" | " " | "\n" [ \t]{0,24}
comma ::= ws "," ws
colon ::= ws ":" ws
char ::= plain | "\\" (["\\/bfnrt] | "u" point)
plain ::= [\u0020-\u0021\u0023-\u005b\u005d-\u007f] | [\u0080-\u07ff\u0800-\u0fff\u1000-\ucfff\ud000-\ud7ff] | other
other ::= [\ue000-\uffff] | [\U00010000-\U0003ffff\U00040000-\U000fffff\U00100000-\U0010ffff]
point ::= [0-9a-cA-CefEF] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2}
text ::= "\"" char* "\""
number ::= "-"? ("0" | [1-9] [0-9]{0,17}) ("." [0-9]{1,17})? ([eE] [+-]? [0-9]{1,2})?
value ::= text | number | "true" | "false" | "null" | object | array
object ::= "{" ws (text colon value (comma text colon value)*)? ws "}"
array ::= "[" ws (value (comma value)*)? ws "]"
"""


def grammar(constraint: Plain) -> str:
    """The EBNF of a constraint; raises UsageError for what cannot be guaranteed."""
    rules = Rules()
    try:
        return f"root ::= {_rule(constraint, rules)}\n{rules}{COMMON}"
    except RecursionError as error:
        raise UsageError("the references of the JSON schema form too long a chain") from error


def _rule(constraint: Plain, rules: Rules) -> str:
    if isinstance(constraint, JsonSchema):
        return Schemas(constraint.schema, rules).rule(constraint.schema)
    if isinstance(constraint, Text):
        return rules.add(literal(constraint.text))
    if isinstance(constraint, Series):
        return rules.add(" ".join(_rule(each, rules) for each in constraint.parts))
    if not constraint.alternatives:
        raise UsageError("a choice needs at least one alternative")
    return rules.any([_rule(each, rules) for each in constraint.alternatives])
