"""The format of an input: a header of four bytes, then the stream that a peer sends.

1. and 2.: the sizes of the pieces it is sent in, by turns; 0 for all that is left.
3.: a target's own switches, a bit each.
4.: from 101 to 105, how often the stream is repeated (a power of eight), so that short inputs
   make long streams. Few do: those are slow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

HEADER_BYTES = 4
REPEATS = 100
MAX_PIECES = 16
MAX_STREAM = 256 * 1024


class Input:
    """One input.

    Attributes:
        stream: all that is sent.
        pieces: the same as it is cut.
        switches: eight bits, for the target.
    """

    def __init__(self, data: bytes) -> None:
        header = data[:HEADER_BYTES].ljust(HEADER_BYTES, b"\0")
        stream = data[HEADER_BYTES:]
        power = header[3] - REPEATS
        times = 8**power if 0 < power <= 5 else 1
        self.stream = stream * max(1, min(times, MAX_STREAM // max(1, len(stream))))
        self.switches = header[2]
        self.pieces = _cut(self.stream, header[:2])


def _cut(stream: bytes, sizes: bytes) -> list[bytes]:
    pieces: list[bytes] = []
    start = 0
    while start < len(stream) and len(pieces) < MAX_PIECES:
        size = sizes[len(pieces) % 2]
        end = start + size if size else len(stream)
        pieces.append(stream[start:end])
        start = end
    if start < len(stream):
        pieces.append(stream[start:])
    return pieces


def seed(
    *lines: bytes, sizes: tuple[int, int] = (0, 0), switches: int = 0, times: int = 0
) -> bytes:
    """An input of these lines, each with its newline."""
    return bytes((*sizes, switches, REPEATS + times if times else 0)) + b"".join(
        line + b"\n" for line in lines
    )


def strategy(tokens: Sequence[bytes], seeds: Sequence[bytes]) -> Any:
    """For hypothesis: words of the target's language, bits of its seeds, and any bytes."""
    from hypothesis import strategies as st

    bits = [line + b"\n" for each in seeds for line in each[HEADER_BYTES:].split(b"\n")]
    stream = st.lists(
        st.sampled_from(bits) | st.sampled_from(tokens) | st.binary(max_size=12), max_size=12
    )
    header = st.tuples(
        st.sampled_from([0, 0, 1, 7, 100]), st.integers(0, 255), st.integers(0, 255),
        st.sampled_from([0] * 97 + [REPEATS + 1, REPEATS + 3, REPEATS + 5]),
    )  # fmt: skip
    return st.builds(lambda head, parts: bytes(head) + b"".join(parts), header, stream)
