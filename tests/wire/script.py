"""The content of the transcripts: a client's calls, and the handlers that answer them.

It runs on any version of gtcp: ``record.py`` ran it on the one that a transcript is named after.
"""

from __future__ import annotations

from typing import Any

import gevent
import msgspec

import gtcp


class Greet(msgspec.Struct):
    """Params with a type."""

    content: str
    times: int = 1


def server() -> gtcp.Server:
    """A server with a handler for each way in which a call can end."""
    made = gtcp.Server(gtcp.Settings(port=0))
    made.handler(1)(lambda request: request.params)

    @made.handler(2)
    def greet(request: gtcp.Request[Greet]) -> str:
        return request.params.content * request.params.times

    @made.handler(3)
    def refuse(request: gtcp.Request) -> None:
        raise gtcp.CommandError(1001, "no money", {"left": 0})

    @made.handler(4)
    def fail(request: gtcp.Request) -> None:
        raise ValueError("never shown")

    @made.handler(5)
    def wait(request: gtcp.Request) -> str:
        gevent.sleep(request.params["seconds"])
        return "waited"

    @made.handler(6)
    def meta(request: gtcp.Request) -> dict[str, str]:
        return request.meta

    return made


def outcome(call: Any, *args: Any, **options: Any) -> Any:
    """Return a call's result, or what its exception says."""
    try:
        return {"result": call(*args, **options)}
    except gtcp.RemoteError as exc:
        data = {} if isinstance(exc.data, dict) and "error_id" in exc.data else exc.data
        message = "" if exc.code == 500 else exc.message
        return {"error": [type(exc).__name__, exc.code, message, data, exc.executed]}
    except gtcp.GtcpError as exc:
        return {"error": [type(exc).__name__, exc.executed]}


def calls(client: gtcp.Client) -> dict[str, Any]:
    """Make the calls, one after the other; return what became of each."""
    big = {"text": "é\n\u2028" * 300, "numbers": [1, -2, 3.5, None, True, 2**53]}
    found = {
        "echo": outcome(client.call, 1, {"content": "Hello world!"}),
        "echo of much": outcome(client.call, 1, big),
        "no params": outcome(client.call, 1),
        "typed": outcome(client.call, 2, {"content": "hi", "times": 3}),
        "wrong params": outcome(client.call, 2, {"content": 5}),
        "refused": outcome(client.call, 3),
        "failed": outcome(client.call, 4),
        "unknown": outcome(client.call, 77),
        "meta": outcome(client.call, 6, meta={"trace": "abc"}),
        "too slow": outcome(client.call, 5, {"seconds": 5}, timeout=0.2),
        "waited": outcome(client.call, 5, {"seconds": 0.01}),
        "ping": outcome(client.call, 0),
        "map": list(client.map(1, ({"n": n} for n in range(5)))),
    }
    client.notify(1, {"nobody": "reads it"})
    together = [gevent.spawn(outcome, client.call, 5, {"seconds": 0.02 * n}) for n in range(4)]
    found["together"] = [each.get() for each in together]
    return found
