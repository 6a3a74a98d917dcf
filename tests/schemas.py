"""Random JSON, and random JSON schemas, good and bad, for hypothesis."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

NAMES = ["a", "b", "$defs", "é/~", "骆", '"', ""]
TYPES = ["object", "array", "string", "integer", "number", "boolean", "null"]
PATTERNS = [
    "^a+$",
    "x(^a)",
    "(^a|b$)c",
    "(a|^b)+$",
    "[a-",
    "a{3,2}",
    "a{1,99999999999}",
    r"\d{2}(?=x)",
    "(?i)a",
]
REFERENCES = ["#", "#/$defs/a", "#/properties/a", "#/default", "#/enum/0", "#/$defs/a/items", "https://x.invalid/", "b"]
COUNTS = [0, 1, 2, 3, 3.0, 10**9, 2**32, 10**30, 10**400]
NUMBERS = [0, -1, 7, 2.5, -0.0, 1e-9, 1e300, -1e300, 10**19, 10**400, -(10**400)]

counts, numbers, names = st.sampled_from(COUNTS), st.sampled_from(NUMBERS), st.sampled_from(NAMES)
scalars = st.none() | st.booleans() | counts | numbers | names | st.sampled_from(["object", "\udc00", 1.5, -3])
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=6
)
types = st.sampled_from(TYPES) | st.lists(st.sampled_from(TYPES), min_size=1, max_size=2, unique=True)
constraints: dict[str, st.SearchStrategy[Any]] = {  # by the type that they are about
    "required": st.lists(names, max_size=2, unique=True),
    "enum": st.lists(anything, min_size=1, max_size=3),
    "const": anything,
    "pattern": st.sampled_from(PATTERNS),
    "format": st.sampled_from(["date", "date-time", "uuid", "time", "email", "ipv4", "nonsense"]),
    "uniqueItems": st.booleans(),
    "$ref": st.sampled_from(REFERENCES),
    "multipleOf": st.sampled_from([1, 3, 0.5, 1e-300, 10**400]),
    **dict.fromkeys([f"{side}{what}" for side in ("min", "max") for what in ("Length", "Items", "Properties")], counts),
    **dict.fromkeys(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"], numbers),
}


@st.composite
def _schema(draw: st.DrawFn, inner: st.SearchStrategy[Any] | None) -> dict[str, Any]:
    """A schema of few keywords, so that most can be kept together; `inner` are the schemas within."""
    made = draw(st.fixed_dictionaries({}, optional={"type": types}))
    known = dict(constraints)
    if inner is not None:
        one, many, named = inner | st.booleans(), st.lists(inner, min_size=1, max_size=3), st.dictionaries(names, inner)
        known |= dict.fromkeys(("properties", "patternProperties", "$defs", "dependentSchemas"), named)
        known |= dict.fromkeys(("anyOf", "oneOf", "allOf", "prefixItems"), many)
        known |= dict.fromkeys(("items", "additionalProperties", "propertyNames", "contains", "not", "if"), one)
        known |= dict.fromkeys(("unevaluatedItems", "unevaluatedProperties", "default"), one)
    for keyword in draw(st.lists(st.sampled_from(sorted(known)), max_size=3)):
        made[keyword] = draw(known[keyword])
    return made


@st.composite
def json_values(draw: st.DrawFn) -> Any:
    """Any JSON."""
    return draw(anything)


@st.composite
def schemas(draw: st.DrawFn) -> dict[str, Any]:
    """A schema whose keywords have values of the right types; what it asks for may still make no sense."""
    return draw(st.recursive(_schema(None), _schema, max_leaves=8))


@st.composite
def broken_schemas(draw: st.DrawFn) -> dict[str, Any]:
    """A schema in which something has been put in another thing's place."""
    made = place = draw(schemas())
    while isinstance(place, dict) and place:
        key = draw(st.sampled_from(sorted(place)))
        if not isinstance(place[key], dict) or draw(st.booleans()):
            place[key] = draw(anything)
            break
        place = place[key]
    return made
