"""A JSON schema (https://json-schema.org/draft/2020-12) -> grammar rules.

What is written may be narrower than the schema, never wider: declared properties come in their order and no others
beside them, white space is short, numbers and repetitions end. A keyword that cannot be kept is refused by name; one
that JSON Schema does not know constrains nothing, as it says itself. That each keyword's value has the right type is
what `JsonSchema` has checked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from arriero.constraint import JsonSchema
from arriero.engines.openvino import numbers
from arriero.engines.openvino.regex import literal, pattern
from arriero.engines.openvino.rules import Rules, times
from arriero.errors import UsageError

KEYWORDS = {  # that constrain, by the type of value they are about
    "object": {
        *("properties", "required", "additionalProperties", "unevaluatedProperties", "minProperties", "maxProperties"),
    },
    "array": {"items", "prefixItems", "unevaluatedItems", "minItems", "maxItems"},
    "string": {"minLength", "maxLength", "pattern"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
}
COMBINE = ("$ref", "const", "enum", "anyOf", "oneOf", "allOf")
REFUSED = (
    *("not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies", "patternProperties"),
    *("propertyNames", "contains", "minContains", "maxContains", "uniqueItems", "multipleOf", "additionalItems"),
    *("$dynamicRef", "$recursiveRef"),
)
FORMATS = {  # other formats are notes, as JSON Schema has it
    "date": r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|1\d|2[0-8])",
    "time": r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(Z|[+-]([01]\d|2[0-3]):[0-5]\d)",
    "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
}
FORMATS["date-time"] = f"{FORMATS['date']}T{FORMATS['time']}"
FITS: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, Mapping),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}


class Schemas:
    """Adds the rules for one schema document to `rules`."""

    def __init__(self, document: Mapping[str, Any], rules: Rules) -> None:
        self._document = document
        self._rules = rules
        self._references: dict[str, str] = {}  # pointer -> its rule's name, before the rule is complete
        # pointers that are being followed with nothing written yet: one that leads back to these could never end
        self._open: set[str] = set()

    def rule(self, schema: Any) -> str:
        """The name of a rule for JSON that fits `schema`; UsageError where that cannot be guaranteed."""
        if schema is True:
            return "value"
        if schema is False:
            raise UsageError("the schema allows no value where one is required")
        for keyword in REFUSED if schema is self._document else (*REFUSED, "$id"):  # there `#` means another document
            if keyword in schema and (keyword, schema[keyword]) != ("uniqueItems", False):
                hint = "leave it out, or use --engine transformers"
                raise UsageError(f"the openvino engine cannot guarantee {keyword!r} of a JSON schema", hint=hint)
        for keyword in COMBINE:
            if keyword in schema:
                return self._combined(keyword, schema)
        types = _types(schema)
        return self._rules.any([self._of_type(kind, schema) for kind in types]) if types else "value"

    def _of_type(self, kind: str, schema: Mapping[str, Any]) -> str:
        if kind in ("object", "array"):  # writes a bracket, so what is inside may refer to what is outside
            outside, self._open = self._open, set()
            body = self._object(schema) if kind == "object" else self._array(schema)
            self._open = outside
            return body
        if kind == "string":
            return self._string(schema)
        if kind in ("integer", "number"):
            return _number(kind, schema, self._rules)
        return '"null"' if kind == "null" else self._rules.any(['"true"', '"false"'])

    def _combined(self, keyword: str, schema: Mapping[str, Any]) -> str:
        """What `keyword` allows; nothing else beside it may constrain, but a type beside fixed values."""
        fixed = keyword in ("const", "enum")
        beside = {*COMBINE, "type", *(word for words in KEYWORDS.values() for word in words)} - {keyword}
        if clash := sorted((beside - {"type"} if fixed else beside) & schema.keys()):
            raise UsageError(f"a JSON schema with {keyword!r} and {clash[0]!r} side by side cannot be guaranteed")
        value = schema[keyword]
        if keyword == "$ref":
            return self._reference(value)
        if fixed:
            values = [value] if keyword == "const" else value
            types = _types(schema) or list(FITS)
            fitting = [value for value in values if any(FITS[kind](value) for kind in types)]
            if not fitting:
                raise UsageError(f"no value of {values} has the type {' or '.join(types)}")
            return self._rules.any([literal(json.dumps(value, ensure_ascii=False)) for value in fitting])
        if keyword == "allOf" and len(value) > 1:
            raise UsageError("the openvino engine cannot guarantee 'allOf' with several schemas")
        if keyword == "oneOf":
            self._check_apart(value)
        return self._rules.any([self.rule(branch) for branch in value])

    def _reference(self, pointer: str) -> str:
        if pointer in self._open:
            raise UsageError(f"the $ref {pointer!r} leads back to itself")
        if pointer not in self._references:
            target = self._resolve(pointer)
            self._references[pointer] = self._rules.reserve()
            self._open.add(pointer)
            self._rules.define(self._references[pointer], self.rule(target))
            self._open.discard(pointer)
        return self._references[pointer]

    def _resolve(self, pointer: str) -> Any:
        if not (pointer == "#" or pointer.startswith("#/")):
            raise UsageError(f"a $ref must point into its own schema with '#/…', got {pointer!r}")
        target: Any = self._document
        for token in pointer.split("/")[1:]:  # RFC 6901, JSON Pointer
            key = token.replace("~1", "/").replace("~0", "~")
            if not isinstance(target, Mapping) or key not in target:
                raise UsageError(f"the $ref {pointer!r} points to nothing")
            target = target[key]
        if not isinstance(target, bool):
            JsonSchema(target)  # it may stand where no schema is expected, so nobody has looked at it
        return target

    def _check_apart(self, branches: Sequence[Any]) -> None:
        """Raise UsageError unless types, or a required property with fixed values, tell all branches apart.

        A grammar can only be their union, which is anyOf: it equals oneOf where no value fits two of them.
        """
        seen: list[tuple[set[str], dict[str, set[str]]]] = []
        for branch in branches:
            if isinstance(branch, Mapping) and "$ref" in branch:
                branch = self._resolve(branch["$ref"])
            if not isinstance(branch, Mapping):
                raise UsageError("the branches of 'oneOf' overlap", hint="use anyOf")
            fixed = {name: _values(schema) for name, schema in branch.get("properties", {}).items()}
            marks = {name: fixed[name] for name in branch.get("required", []) if fixed.get(name)}
            types = _types(branch) if "type" in branch else []  # without, other types than its keywords' fit too
            kinds = set(types) | ({"integer"} if "number" in types else set())
            for other_kinds, other_marks in seen:
                shared = marks.keys() & other_marks.keys()
                by_mark = any(not marks[name] & other_marks[name] for name in shared)
                if not (by_mark or (kinds and other_kinds and not kinds & other_kinds)):
                    raise UsageError("the branches of 'oneOf' may overlap, which cannot be excluded", hint="use anyOf")
            seen.append((kinds, marks))

    def _object(self, schema: Mapping[str, Any]) -> str:
        extra = schema.get("additionalProperties", schema.get("unevaluatedProperties", True))
        required = schema.get("required", [])
        properties = {**schema.get("properties", {})}
        for name in required:
            properties.setdefault(name, extra)
        least, most = _counts(schema, "Properties")
        if properties:
            if least > len(required) or most < len(properties):
                raise UsageError("minProperties and maxProperties beside 'properties' cannot be guaranteed")
            return self._members(properties, set(required))
        if least > 1:  # nothing keeps a model from writing the same key twice
            raise UsageError("the openvino engine cannot guarantee 'minProperties' above 1")
        if extra is False or most == 0:
            return '"{" ws "}"'
        return f'"{{" ws {_repeated(self._rules.add(f"text colon {self.rule(extra)}"), least, most)} ws "}}"'

    def _members(self, properties: Mapping[str, Any], required: set[str]) -> str:
        """Members in order, from the last: a rule for what may follow each, so that commas stand only between.

        With a and c required:

            after c   nothing                     c  ::= key_c value
            after b   "," c                       b  ::= key_b value "," c
            after a   "," b | "," c               a  ::= key_a value ("," b | "," c)
        """
        follow = self._rules.add("")
        starts = [follow]  # which members may come first: up to the first required one
        for name, schema in reversed(list(properties.items())):
            if schema is False and name not in required:
                continue
            key = literal(json.dumps(name, ensure_ascii=False))
            member = self._rules.add(f"{key} colon {self.rule(schema)} {follow}")
            starts = [member] if name in required else [member, *starts]
            then = f"comma {member}"
            follow = self._rules.add(then) if name in required else self._rules.any([then, follow])
        return f'"{{" ws {self._rules.any(starts)} ws "}}"'

    def _array(self, schema: Mapping[str, Any]) -> str:
        least, most = _counts(schema, "Items")
        items = schema.get("items", schema.get("unevaluatedItems", True))
        prefix = schema.get("prefixItems", [])[: None if most == math.inf else int(most)]
        head = [self.rule(each) for each in prefix]  # all of them, though a schema lets an array end earlier
        least, most = max(0, least - len(head)), most - len(head)
        if least > most or (items is False and least > 0):
            raise UsageError("minItems is more than maxItems or 'items' allow")
        if items is False or most == 0:
            return f'"[" ws {" comma ".join(head)} ws "]"'
        item = self.rule(items)
        if not head:
            return f'"[" ws {_repeated(item, least, most)} ws "]"'
        more = self._rules.add(f"comma {item}")
        return f'"[" ws {" comma ".join(head)} {more}{times(least, most)} ws "]"'

    def _string(self, schema: Mapping[str, Any]) -> str:
        form = FORMATS.get(schema.get("format", ""))
        expression = schema.get("pattern", form)
        least, most = _counts(schema, "Length")
        if least > most:
            raise UsageError(f"minLength {least} is more than maxLength {most}")
        if expression is None:
            return f'"\\"" char{times(least, most)} "\\""'
        if least or most < math.inf or (form is not None and expression is not form):
            name = "pattern" if "pattern" in schema else "format"
            raise UsageError(f"{name!r} with minLength, maxLength or a format beside it cannot be guaranteed")
        return f'"\\"" {pattern(expression, self._rules)} "\\""'


def _types(schema: Mapping[str, Any]) -> list[str]:
    """The types a schema names, else the one its keywords are about, else none."""
    if "type" in schema:
        return [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    return [kind for kind, words in KEYWORDS.items() if words & schema.keys()][:1]


def _values(schema: Any) -> set[str]:
    """The values that a schema fixes with const or enum, as JSON; empty where it does not."""
    if not isinstance(schema, Mapping):
        return set()
    values = [schema["const"]] if "const" in schema else schema.get("enum", [])
    return {json.dumps(value, sort_keys=True) for value in values}


def _number(kind: str, schema: Mapping[str, Any], rules: Rules) -> str:
    low, high = numbers.bounds(schema.get("minimum", -math.inf), schema.get("maximum", math.inf))
    over, under = schema.get("exclusiveMinimum", -math.inf), schema.get("exclusiveMaximum", math.inf)
    over, under = numbers.bounds(over, under)
    if kind == "integer":
        # bounds that exclude themselves become the next whole numbers
        over = over if math.isinf(over) else math.floor(over) + 1
        under = under if math.isinf(under) else math.ceil(under) - 1
        return numbers.integer(max(low, over), min(high, under), rules)
    above, below = over >= low, under <= high  # of two bounds the tighter one counts, and where equal the exclusive one
    low, high = max(low, over), min(high, under)
    if math.isinf(low) and math.isinf(high):
        return "number"
    return numbers.number(low, high, rules, above=above, below=below)


def _counts(schema: Mapping[str, Any], what: str) -> tuple[int, float]:
    """How often at least and at most; the latter may be infinite."""
    return schema.get(f"min{what}", 0), schema.get(f"max{what}", math.inf)


def _repeated(rule: str, least: int, most: float) -> str:
    """A rule with commas between, at least `least` and at most `most` times."""
    more = f"{rule} (comma {rule}){times(max(0, least - 1), most - 1)}"
    return more if least else f"({more})?"
