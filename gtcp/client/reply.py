"""A reply line, looked at before it is decoded: whoever sent it is not trusted yet."""

from __future__ import annotations

import msgspec

from gtcp.protocol import Reply, decode_reply, depth_within, is_utf8

#: How deep a reply may nest: it guards the decoder, the server has its own, lower limit.
MAX_REPLY_DEPTH = 500


def read_reply(line: bytes) -> Reply:
    """One reply line; raises one of ``UNREADABLE`` when it is none."""
    if not is_utf8(line) or not depth_within(line, MAX_REPLY_DEPTH):
        raise msgspec.DecodeError("it is not UTF-8, or nests too deep")
    return decode_reply(line)
