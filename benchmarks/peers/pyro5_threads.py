"""Pyro5: its threaded daemon, a proxy for every thread that calls."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.echo import HOST, PARAMS

NAME = "Pyro5, threads"
REQUIRES = ("Pyro5",)
PATCHED = False
CALLERS = "threads"


def serve(port: int) -> None:
    import Pyro5.api

    @Pyro5.api.expose
    class Echo:
        def echo(self, params: Any) -> Any:
            return params

    Pyro5.config.THREADPOOL_SIZE = 200
    daemon = Pyro5.api.Daemon(HOST, port)
    daemon.register(Echo(), "echo")
    daemon.requestLoop()


@contextmanager
def callers(port: int, count: int) -> Iterator[list[Callable[[], Any]]]:
    import Pyro5.api

    proxies = [Pyro5.api.Proxy(f"PYRO:echo@{HOST}:{port}") for _ in range(count)]
    try:
        yield [_caller(each) for each in proxies]
    finally:
        for each in proxies:
            each._pyroClaimOwnership()
            each._pyroRelease()


def _caller(proxy: Any) -> Callable[[], Any]:
    owned = []

    def call() -> Any:
        if not owned:  # a proxy belongs to the thread that calls
            proxy._pyroClaimOwnership()
            owned.append(True)
        return proxy.echo(PARAMS)

    return call
