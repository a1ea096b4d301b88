"""JSON Schemas as short type annotations: ``{content: str}``, ``list[int]``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

#: Types nested deeper than this are shown as "...": a schema is received from a peer.
MAX_DEPTH = 6

_SIMPLE = {
    "boolean": "bool",
    "integer": "int",
    "null": "None",
    "number": "float",
    "string": "str",
}

_FORMATS = {
    "date": "date",
    "date-time": "datetime",
    "decimal": "Decimal",
    "duration": "timedelta",
    "time": "time",
    "uuid": "UUID",
}


def shorthand(schema: Any) -> str:
    """Return a JSON Schema as a Python annotation; unknown parts are ``Any``.

    Args:
        schema: as ``msgspec.json.schema`` returns it. It is not trusted to be well-formed.
    """
    definitions = schema.get("$defs") if isinstance(schema, dict) else None
    return _short(schema, definitions if isinstance(definitions, dict) else {}, 0)


def _short(schema: Any, definitions: Mapping[str, Any], depth: int) -> str:
    if not isinstance(schema, dict):
        return "Any"
    if depth > MAX_DEPTH:
        return "..."

    def inner(each: Any) -> str:
        return _short(each, definitions, depth + 1)

    if isinstance(reference := schema.get("$ref"), str):
        return _resolved(reference.rpartition("/")[2], definitions, depth)
    if isinstance(options := schema.get("anyOf"), list):
        return " | ".join(inner(each) for each in options)
    if isinstance(values := schema.get("enum"), list):
        return " | ".join(_value(each) for each in values)
    kind = schema.get("type")
    if kind == "object":
        return _object(schema, inner)
    if kind == "array":
        return _array(schema, inner)
    return _scalar(schema, kind)


def _resolved(name: str, definitions: Mapping[str, Any], depth: int) -> str:
    """Return a definition in full, or its name where it refers to itself."""
    others = {key: each for key, each in definitions.items() if key != name}
    return _short(definitions[name], others, depth) if name in definitions else name


def _scalar(schema: dict[str, Any], kind: object) -> str:
    if "contentEncoding" in schema:
        return "bytes"
    return _FORMATS.get(str(schema.get("format"))) or _SIMPLE.get(str(kind), "Any")


def _object(schema: dict[str, Any], inner: Any) -> str:
    properties = schema.get("properties")
    if isinstance(properties, dict):
        return "{" + ", ".join(_field(name, each, inner) for name, each in properties.items()) + "}"
    values = schema.get("additionalProperties")
    return f"dict[str, {inner(values)}]" if isinstance(values, dict) else "dict"


def _field(name: str, schema: Any, inner: Any) -> str:
    default = ""
    if isinstance(schema, dict) and "default" in schema:
        default = f" = {_value(schema['default'])}"
    return f"{name}: {inner(schema)}{default}"


def _array(schema: dict[str, Any], inner: Any) -> str:
    positions = schema.get("prefixItems")
    if isinstance(positions, list):
        return f"[{', '.join(inner(each) for each in positions)}]"
    items = schema.get("items")
    return f"list[{inner(items)}]" if isinstance(items, dict) else "list"


def _value(value: Any) -> str:
    """Return a default as JSON, but None as ``None``."""
    return "None" if value is None else json.dumps(value, ensure_ascii=False)
