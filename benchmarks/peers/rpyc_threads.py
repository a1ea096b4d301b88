"""rpyc: its threaded server, a connection for every thread that calls. The content goes as a
string: a dict would be passed by reference, and fetched with further calls."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

from benchmarks.echo import HOST, PARAMS

NAME = "rpyc, threads"
REQUIRES = ("rpyc",)
PATCHED = False
CALLERS = "threads"


def serve(port: int) -> None:
    import rpyc
    from rpyc.utils.server import ThreadedServer

    class Echo(rpyc.Service):
        def exposed_echo(self, content: str) -> str:
            return content

    ThreadedServer(Echo, hostname=HOST, port=port, backlog=1024).start()


@contextmanager
def callers(port: int, count: int) -> Iterator[list[Any]]:
    import rpyc

    def caller(connection: Any) -> Any:
        echo = connection.root.echo
        return lambda: {"content": echo(PARAMS["content"])}

    with ExitStack() as stack:
        connections = [stack.enter_context(closing(rpyc.connect(HOST, port))) for _ in range(count)]
        yield [caller(each) for each in connections]
