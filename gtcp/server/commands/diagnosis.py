"""Diagnosis of a line that is not a request, in words for the author of the client.

The decoder's own messages name a position in the JSON text. Some are misleading: an empty line is
reported as truncated, and so is a lone surrogate near the end of a line.
"""

from __future__ import annotations

import re

import msgspec

#: What is expected of each key of a request, in the order of `docs/reference/wire.md`.
EXPECTED = {
    "cmdid": "an integer, or digits in a string",
    "id": "an integer of 64 bits, or a string",
    "timestamp": "seconds as a number, or digits in a string",
    "timeout": "milliseconds as an integer of 0 or more",
    "oneway": "true or false",
    "meta": "an object of strings",
    "stream": "true or false",
}

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_TRUNCATED = "Input data was truncated"
_MISSING_CMDID = "Object missing required field `cmdid`"

_POSITION = re.compile(r"\(byte (\d+)\)$")
_KEY = re.compile(r" - at `\$\.(\w+)")
_NO_OBJECT = re.compile(r"Expected `object`, got `(\w+)`$")
_VALUE = re.compile(r"(nvalid (?:enum )?value) .*?(?= - at |$)", re.DOTALL)

#: What encoders of other languages write and JSON does not have; the decoder stops behind a sign.
_NOT_JSON = re.compile(rb"NaN|Infinity|undefined|None|True|False")

#: The first half of a surrogate pair without its second half, which may be cut off at the end.
_LONE_SURROGATE = re.compile(
    rb"(?<!\\)(?:\\\\)*\\u[dD][89abAB][0-9a-fA-F]{2}"
    rb"(?!\\u[dD][c-fC-F]|(?:\\(?:u[dD]?)?)?\Z)"
)


def why_not_a_request(line: bytes, exc: BaseException) -> str:
    """Return what is wrong with a line, without any value in it.

    Args:
        line: the line, without its line end.
        exc: what decoding it as a request raised.
    """
    if not line.strip(b" \t\r"):
        return "an empty line"
    if line.startswith(_BYTE_ORDER_MARK):
        return "a byte order mark is not JSON"
    if isinstance(exc, msgspec.ValidationError):
        return _wrong_type(str(exc))
    return _malformed(line, str(exc))


def without_values(exc: BaseException) -> str:
    """Return what msgspec found wrong and where, without the value there."""
    return _VALUE.sub(r"\1", str(exc))


def _wrong_type(why: str) -> str:
    if why == _MISSING_CMDID:
        return "cmdid is missing"
    if found := _NO_OBJECT.match(why):
        return f"not an object, got {found[1]}"
    key = _KEY.search(why)
    if key is not None and key[1] in EXPECTED:
        return f"{key[1]}: expected {EXPECTED[key[1]]}"
    return _VALUE.sub(r"\1", why)


def _malformed(line: bytes, why: str) -> str:
    found = _POSITION.search(why)
    position = int(found[1]) if found else len(line)
    lone = _LONE_SURROGATE.search(line)
    # Its message depends on the characters behind it.
    if "surrogate" in why or (lone is not None and lone.start() < position):
        return "a lone surrogate is not UTF-8"
    if why == _TRUNCATED or (position >= len(line) and "trailing" not in why):
        return "the line is cut off"
    word = _NOT_JSON.match(line, position)
    return why if word is None else f"{word[0].decode()} is not JSON"
