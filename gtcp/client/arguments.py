"""Checks of the arguments of a client's methods, before anything is sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from gtcp.arguments import (
    check_integer,
    check_number,
    check_seconds,
    check_switch,
    wrong_type,
)
from gtcp.client.connections.reply import decoder_of


def check_request(cmdid: Any, meta: Any) -> None:
    """Refuse here what the server would close the connection for.

    Raises:
        TypeError: one has the wrong type.
    """
    if isinstance(cmdid, bool) or not isinstance(cmdid, int):
        wrong_type("cmdid", "an int", cmdid)
    if meta is not None and not (
        isinstance(meta, dict) and all(isinstance(each, str) for each in chain(*meta.items()))
    ):
        raise TypeError("meta: expected a dict of strings or None")


def check_choices(result: Any, **switches: Any) -> None:
    """Refuse a ``result`` that is no type, and switches that are not True or False.

    Raises:
        TypeError: naming the argument.
    """
    for name, value in switches.items():
        check_switch(name, value)
    if result is not Any and not isinstance(result, type):
        try:
            decoder_of(result)
        except TypeError:
            wrong_type("result", "a type that msgspec decodes into", result)


def check_map(window: Any, params_iterable: Any) -> Iterator[Any]:
    """Return an iterator over the params of a ``map``.

    Raises:
        TypeError: one of the arguments has the wrong type.
        ValueError: the window is less than 1.
    """
    check_integer("window", window, 1)
    # Iterating over these gives keys or characters, which are no params.
    if isinstance(params_iterable, Mapping | str | bytes) or not isinstance(
        params_iterable, Iterable
    ):
        wrong_type("params_iterable", "an iterable of params", params_iterable)
    return iter(params_iterable)


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options that have the wrong type or are not finite; ``Options`` checks the limits.

    Raises:
        TypeError, ValueError: naming the option.
    """
    check_seconds("timeout", options["timeout"])
    check_integer("retries", options["retries"], 0)
    for name in ("min_connections", "max_connections", "max_in_flight"):
        check_integer(name, options[name], 1)
    check_integer("max_reply_bytes", options["max_reply_bytes"], 1, optional=True)
    for name in ("connect_timeout", "keepalive"):
        if options[name] is not None:
            check_number(name, options[name], "seconds or None")
    check_number("busy_poll", options["busy_poll"], "seconds")
