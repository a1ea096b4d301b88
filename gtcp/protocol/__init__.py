"""The wire format: bytes and their meaning, without sockets.

Read ``messages`` (what a line says) first, then ``framing`` (how lines are found in a stream).
docs/reference/wire.md describes both for other languages.
"""
