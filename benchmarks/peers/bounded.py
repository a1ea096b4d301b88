"""gtcp servers that can do so much and no more; not a peer.

One has a handler that waits, as for a database, and runs `IN_FLIGHT` calls at once. The other
has a handler that computes, so that one call runs at a time whatever the limits say.
"""

from typing import Any

from benchmarks.echo import ECHO, HOST

PATCHED = False

#: The first server: how many calls at once, how long each takes.
IN_FLIGHT = 100
SECONDS = 0.05


def serve(port: int, loops: str = "") -> None:
    """Serve the handler that computes for so many loops; without them, the one that waits."""
    import gtcp

    server = gtcp.Server(gtcp.Settings(host=HOST, port=port, max_in_flight=IN_FLIGHT))
    server.handler(ECHO)(_computing(int(loops)) if loops else _waiting)
    server.serve_forever()


def _waiting(request: Any) -> Any:
    import gevent

    gevent.sleep(SECONDS)
    return request.params


def _computing(loops: int) -> Any:
    from benchmarks.peers.computing import compute

    def computing(request: Any) -> Any:
        compute(loops)
        return request.params

    return computing
