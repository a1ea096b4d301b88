"""gtcp: a server whose only handler waits for two milliseconds and says which server it is."""

from typing import Any

NAME = "gtcp, restarted"
REQUIRES = ()
PATCHED = False
CALLERS = "greenlets"

WHO = 1


def serve(port: int) -> None:
    import gevent

    import gtcp
    from benchmarks.echo import HOST

    server = gtcp.Server(gtcp.Settings(host=HOST, port=port))

    @server.handler(WHO)
    def who(_request: Any) -> int:
        gevent.sleep(0.002)
        return port

    server.serve_forever()
