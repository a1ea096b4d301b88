"""Errors of every kind; other processes import this module too."""

from __future__ import annotations

from typing import Any

import gtcp
from gtcp.errors import ClientClosed, ServerLeaving, Untrusted

GTCP_ERRORS = (
    gtcp.GtcpError,
    gtcp.ConnectError,
    ClientClosed,
    Untrusted,
    gtcp.PoolTimeout,
    gtcp.CallTimeout,
    gtcp.ConnectionLost,
    ServerLeaving,
    gtcp.ProtocolError,
)


def made() -> dict[str, BaseException]:
    """Every kind of error, made in every way in which gtcp makes it; new ones each time."""
    errors: dict[str, BaseException] = {}
    for kind in GTCP_ERRORS:
        errors[kind.__name__] = kind("it broke")
        for executed in ("no", "maybe", "yes"):
            errors[f"{kind.__name__} {executed}"] = kind("it broke", executed=executed)
        errors[f"{kind.__name__} changed"] = changed(kind("it broke"))
    for code in (404, 408, 500, 1000):
        kind = gtcp.RemoteTimeout if code == 408 else gtcp.RemoteError
        for data in (None, {"executed": "no"}, [1, {"a": None}], "text"):
            errors[f"{code} {data}"] = kind(code, "why", data)
            errors[f"{code} {data} changed"] = changed(kind(code, "why", data))
    errors["CommandError"] = gtcp.CommandError(1234, "no money", {"left": 0})
    errors["CommandError without data"] = gtcp.CommandError(1234, "no money")
    errors["SettingsError"] = gtcp.SettingsError("port: expected a port, got 'x'")
    errors["Cancelled"] = gtcp.Cancelled("the caller has gone")
    return errors


def changed(error: gtcp.GtcpError) -> gtcp.GtcpError:
    """Raise an error as the client does when an earlier attempt may have run."""
    error.executed = "maybe"
    return error


def told(error: BaseException) -> tuple[Any, ...]:
    """All that an error says."""
    fields = [getattr(error, each, "-") for each in ("executed", "code", "message", "data")]
    return (type(error).__name__, str(error), error.args, *fields)


def raise_error(name: str) -> None:
    """The function that runs in another process."""
    raise made()[name] from KeyError("the cause")


def exceptions() -> list[str]:
    """Return the names of errors that are an Exception; others end their process."""
    return [name for name, each in made().items() if isinstance(each, Exception)]
