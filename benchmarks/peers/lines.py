"""The protocol of the floors: lines in, lines out, by msgspec. No errors, limits or deadlines:
what a product adds on top is its cost."""

from __future__ import annotations

import msgspec

from benchmarks.echo import ECHO


class Request(msgspec.Struct):
    cmdid: int
    timestamp: int = 0
    params: dict = {}
    id: int | None = None


class Reply(msgspec.Struct, omit_defaults=True):
    code: int  # without a default, so it is always written
    result: object = None
    id: int | None = None


decode = msgspec.json.Decoder(Request).decode
encode_lines = msgspec.json.Encoder().encode_lines
handlers = {ECHO: lambda request: request.params}


def answer(lines: list[bytes]) -> bytes:
    """The replies to complete request lines."""
    return encode_lines([Reply(0, handlers[r.cmdid](r), r.id) for r in map(decode, lines)])


class Cutter:
    """Cuts received data into lines. Keeps the pieces of a long line and joins them once."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def lines(self, data: bytes) -> list[bytes]:
        """The lines that are complete now."""
        *lines, tail = data.split(b"\n")
        if lines and self._pieces:
            lines[0] = b"".join([*self._pieces, lines[0]])
            self._pieces.clear()
        if tail:
            self._pieces.append(tail)
        return lines
