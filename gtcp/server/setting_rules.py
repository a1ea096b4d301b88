"""Rules for the values of settings: what is expected beyond a type."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from gtcp.masking import may_be_secret
from gtcp.transport import address

LOG_LEVELS = ("debug", "info", "warning", "error", "critical")


class Rule(NamedTuple):
    """The rule of a setting's value beyond its type, and the meaning of the setting."""

    expected: str
    allows: Callable[[Any], bool]
    meaning: str


def integer(low: int, high: int | None, meaning: str) -> Rule:
    """Expect an integer."""
    if high is None:
        return Rule(f"an integer >= {low}", lambda value: value >= low, meaning)
    return Rule(f"an integer from {low} to {high}", lambda value: low <= value <= high, meaning)


def above(low: float, meaning: str) -> Rule:
    """Expect more seconds than this."""
    return Rule(f"seconds > {low:g}", lambda value: low < value < math.inf, meaning)


def at_least(low: float, meaning: str) -> Rule:
    """Expect this many seconds or more."""
    return Rule(f"seconds >= {low:g}", lambda value: low <= value < math.inf, meaning)


def _is_host(text: str) -> bool:
    return text.isprintable() and " " not in text and _parses(text) == text


def _are_ports(value: int | tuple[int, ...]) -> bool:
    ports = several(value)
    return bool(ports) and all(0 <= port <= 65535 for port in ports)


def _are_addresses(texts: tuple[str, ...]) -> bool:
    return all(_parses(text) is not None for text in texts)


def _parses(text: str) -> str | None:
    """The host of an address (empty if it has none), or None when a server can't listen there."""
    try:
        found = address.parse_bind(text)
    except ValueError:
        return None
    return None if found.tls else found.host  # whether a server speaks TLS, tls_cert says


def several(port: int | tuple[int, ...]) -> tuple[int, ...]:
    """Return one port or several as a tuple."""
    return (port,) if isinstance(port, int) else port


def host(meaning: str) -> Rule:
    """Expect a host."""
    return Rule("a host name or an IP address, without a port", _is_host, meaning)


def ports(meaning: str) -> Rule:
    """Expect one port, or several."""
    return Rule("an integer from 0 to 65535", _are_ports, meaning)


def addresses(meaning: str) -> Rule:
    """Expect addresses to listen on."""
    return Rule(
        "addresses such as 127.0.0.1:8889, [::1]:8889, unix:/path or fd://3",
        _are_addresses,
        meaning,
    )


def admin(meaning: str) -> Rule:
    """Expect an address of TCP, or a port."""
    return Rule("an address such as 127.0.0.1:9889, or a port", _is_admin, meaning)


def _is_admin(text: str) -> bool:
    try:
        address.parse_admin(text)
    except ValueError:
        return False
    return True


def registry(meaning: str) -> Rule:
    """Where the server registers itself."""
    return Rule("a URL such as zk://127.0.0.1:2181/services/orders", _is_registry, meaning)


def _is_registry(url: str) -> bool:
    from gtcp.transport.zookeeper import parse_entry  # here: rarely needed

    try:
        parse_entry(url)
    except ValueError:
        return False
    return True


def level(meaning: str) -> Rule:
    """Expect a log level."""
    return Rule(
        f"one of {', '.join(LOG_LEVELS)}", lambda value: value.lower() in LOG_LEVELS, meaning
    )


def choice(words: tuple[str, ...], meaning: str) -> Rule:
    """Expect one of a few words."""
    return Rule(f"one of {', '.join(words)}", lambda value: value in words, meaning)


def switch(meaning: str) -> Rule:
    """Expect true or false."""
    return Rule("true or false", lambda value: True, meaning)


def file(meaning: str) -> Rule:
    """Expect the path of a file, not a secret."""
    return Rule(
        "the path of a file", lambda value: bool(value) and not may_be_secret(value), meaning
    )


def name(meaning: str) -> Rule:
    """Expect the name or number of a user or group."""
    return Rule("a name or a number", bool, meaning)


def names(meaning: str) -> Rule:
    """Expect patterns of identities."""
    # Whether "none" would mean everybody or nobody, nobody should have to guess.
    return Rule(
        "names such as billing, *.team.example or spiffe://example/team/*",
        lambda values: all(each.lower() not in ("", "none") for each in values),
        meaning,
    )


def mode(meaning: str) -> Rule:
    """Expect permissions of a file."""
    return Rule(
        "a mode as chmod takes it, such as '660'",
        lambda value: re.fullmatch("0?[0-7]{3}", value) is not None,
        meaning,
    )


def networks(meaning: str) -> Rule:
    """Expect networks."""
    return Rule("networks such as 10.0.0.0/8 or fd00::/8", _are_networks, meaning)


def _are_networks(texts: tuple[str, ...]) -> bool:
    try:
        for text in texts:
            ipaddress.ip_network(text)
    except ValueError:
        return False
    return True
