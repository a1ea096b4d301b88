"""Masking of text that may be a secret, given where something else was expected.

The name of a file, mostly: `GTCP_SECRET_FILE=$(cat secret)` is easily typed, and what is printed
about it ends up in a journal.
"""

from __future__ import annotations

import re

#: "name:secret" with a secret of 16 characters or more, whatever it is made of.
_KEY = re.compile(r"(?!unix:)[A-Za-z0-9._-]{1,64}:(?!//)(?=.*[A-Za-z])[!-~]{16,}")

#: What secrets without a name are usually made of; no name of a file is as long and has no dot.
_TOKEN = re.compile(r"(?=.*[A-Za-z])(?=.*[0-9])[A-Za-z0-9+=_-]{32,}")

MASK = "*** (not shown, since it looks like a secret)"


def may_be_secret(text: object) -> bool:
    """Return whether it looks like a secret, with or without a name, or like a PEM file."""
    if not isinstance(text, str):
        return False
    stripped = text.strip()
    return (
        "-----BEGIN" in text
        or ("\n" in stripped and len(stripped) >= 32)
        or _KEY.fullmatch(stripped) is not None
        or _TOKEN.fullmatch(stripped) is not None
    )


def shown(text: str) -> str:
    """Return the text; if it may be a secret, the mask."""
    return MASK if may_be_secret(text) else text
