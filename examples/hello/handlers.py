"""The commands of this server."""

import time
from typing import Any

import msgspec
from loggers import HelloLogger

import gtcp

HELLO = 10000
GREET = 10001
REMIND = 10002

commands = gtcp.Commands()


class Greet(msgspec.Struct):
    name: str


class Reminder(msgspec.Struct):
    content: str
    seconds: float


class HelloHandler(gtcp.BaseHandler):
    """The base class of the handlers below."""

    logger = HelloLogger()


@commands.handler(HELLO)
def hello(request: gtcp.Request[dict[str, Any]]) -> dict[str, Any]:
    """Sends the content back."""
    return {"content": request.params["content"]}


@commands.handler(GREET)
class GreetHandler(HelloHandler):
    """Greets by name, and keeps a record."""

    def process(self, request: gtcp.Request[Greet]) -> str:
        self.logger.info("%s greets %s", request.address, request.params.name)
        return f"Hello {request.params.name}!"


@commands.handler(REMIND)
class RemindHandler(HelloHandler):
    """Sends the content back, later. Waiting holds no other request up."""

    def process(self, request: gtcp.Request[Reminder]) -> str:
        time.sleep(request.params.seconds)
        return request.params.content
