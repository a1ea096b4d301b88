"""Framing: a stream of bytes is cut into lines, and lines are checked before they are decoded.

Lines in which nothing is suspicious (``is_plain``) are decoded together on the fast path. The slow
path decodes them one by one and finds out which line is wrong, and how.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate
from math import inf

#: Bytes of a line's beginning that are kept as one, however many they came as.
SMALL = 4096


class LineBuffer:
    """Cuts a stream of bytes into complete lines.

    Args:
        max_line_bytes: the longest line taken, its newline not counted; None for no limit.

    Attributes:
        begun: whether a line has begun that has not ended yet.
        size: how many bytes of it there are.
        overflow: True once a line was too long; what follows it is thrown away.
    """

    __slots__ = ("_chunks", "_limit", "_max", "begun", "overflow", "size")

    def __init__(self, max_line_bytes: int | None) -> None:
        self._limit = max_line_bytes
        self._max = inf if max_line_bytes is None else max_line_bytes
        # Joined once: a growing buffer would copy a long line several times.
        self._chunks: list[bytes] = []
        self.size = 0
        self.begun = False
        self.overflow = False

    def feed(self, data: bytes) -> bytes:
        """Take what was received; return the lines that are complete now, newlines included."""
        if self.overflow:
            return b""
        if data.endswith(b"\n") and not self.begun and len(data) <= self._max:
            return data
        end = data.rfind(b"\n") + 1
        if not end:
            self._keep(data)
            return b""
        lines = data if end == len(data) else data[:end]
        if self.begun:
            lines = b"".join([*self._chunks, lines])
            self._forget()
        if self._limit is not None and len(lines) > self._limit:
            lines = self._up_to_the_first_too_long(lines, self._limit)
        if not self.overflow and end < len(data):
            self._keep(data[end:])
        return lines

    def _keep(self, rest: bytes) -> None:
        if not rest:
            return
        self.begun = True
        self.size += len(rest)
        if self._limit is not None and self.size > self._limit:
            self.overflow = True
            self._forget()
        elif self._chunks and len(self._chunks[-1]) < SMALL:
            self._chunks[-1] += rest  # a slow sender's bytes do not become a list of single bytes
        else:
            self._chunks.append(rest)

    def _forget(self) -> None:
        self._chunks.clear()
        self.size = 0
        self.begun = False

    def _up_to_the_first_too_long(self, lines: bytes, limit: int) -> bytes:
        start = 0
        while start < len(lines):
            end = lines.index(b"\n", start)
            if end - start > limit:
                self.overflow = True
                return lines[:start]
            start = end + 1
        return lines


_UNSTRUCTURED = bytes(set(range(256)) - set(b'[]{}"'))
_STRINGS = re.compile(rb'"[^"]*"?')
_UP_OR_DOWN = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")


def depth_within(line: bytes, limit: int) -> bool:
    """Return whether a JSON text nests at most ``limit`` deep; the bytes may be anything.

    A fixed number of passes at C speed, whatever the limit, and memory in proportion. Both
    kinds of brackets count as one: where they do not match, the decoder stops anyway.
    """
    if not _more_brackets_than(limit, line):
        return True
    # Without escapes every quote begins or ends a string. Outside of strings there are none:
    # at a stray one the decoder stops.
    line = line.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Two quotes side by side change nothing for what follows: most are gone at once.
    line = line.translate(None, _UNSTRUCTURED).replace(b'""', b"")
    steps = _STRINGS.sub(b"", line).translate(_UP_OR_DOWN)
    return max(accumulate(memoryview(steps).cast("b")), default=0) <= limit


def _more_brackets_than(limit: int, line: bytes) -> bool:
    """Return whether there are so many opening brackets; in a long line ``find`` is much faster."""
    if len(line) <= 4096:
        return line.count(b"{") + line.count(b"[") > limit
    found = 0
    for bracket in (b"{", b"["):
        at = line.find(bracket)
        while at >= 0:
            found += 1
            if found > limit:
                return True
            at = line.find(bracket, at + 1)
    return False


def is_utf8(data: bytes) -> bool:
    """Return whether the bytes are UTF-8: msgspec does not look into what it skips."""
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_plain(data: bytes, lines: Sequence[bytes], max_depth: int) -> bool:
    """Return whether these lines can be left to the decoder: UTF-8, and none nests too deep."""
    # A text that nests n deep has at least 2n characters.
    if max(map(len, lines), default=0) > 2 * max_depth and not all(
        depth_within(line, max_depth) for line in lines if len(line) > 2 * max_depth
    ):
        return False
    return data.isascii() or is_utf8(data)
