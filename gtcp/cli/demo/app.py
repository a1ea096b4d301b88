"""The sample commands. ``gtcp serve gtcp.cli.demo.app`` serves this file."""

import time

import msgspec

import gtcp

server = gtcp.Server()


@server.handler(10000)
def hello(request):  # type: ignore[no-untyped-def]
    """Return the content."""
    return {"content": request.params["content"]}


class Greet(msgspec.Struct):
    """The params of ``greet``, and its result."""

    content: str


@server.handler(10001)
def greet(request: gtcp.Request[Greet]) -> Greet:
    """Return the content in capitals; the params are typed."""
    return Greet(request.params.content.upper())


class Fraction(msgspec.Struct):
    """The params of ``Divide``."""

    dividend: float
    divisor: float


@server.handler(10002)
class Divide(gtcp.BaseHandler):
    """Divide one number by another."""

    def process(self, request: gtcp.Request[Fraction]) -> float:
        """Return the quotient."""
        if request.params.divisor == 0:
            raise gtcp.CommandError(1001, "can't divide by zero")
        return request.params.dividend / request.params.divisor


class Nap(msgspec.Struct):
    """The params of ``nap``."""

    seconds: float = 0.1


@server.handler(10003)
def nap(request: gtcp.Request[Nap]) -> str:
    """Sleep, as a handler that waits for a database does."""
    time.sleep(request.params.seconds)
    return "slept well"
