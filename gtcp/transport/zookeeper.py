"""The nodes of a service in ZooKeeper: written by servers, read by clients.

Each process that serves has an ephemeral child of the service's path, whose data is JSON:
``{"address": "10.0.0.5:8889", "weight": 1.0, "version": "1.4"}``. Needs kazoo (extra
``zookeeper``).
"""

from __future__ import annotations

import atexit
import logging
from math import inf
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from gtcp.transport.address import parse

#: kazoo's own lines: what gtcp says is enough, unless the application sets another level.
log = logging.getLogger("gtcp.zookeeper")
log.setLevel(logging.ERROR)

#: The default port of ZooKeeper.
PORT = 2181

#: Seconds until ZooKeeper removes the nodes of a process that it hears nothing from.
SESSION_SECONDS = 10.0

#: Seconds for one attempt to reach ZooKeeper.
CONNECT_SECONDS = 2.0


class Node(msgspec.Struct):
    """The data of a node.

    Attributes:
        address: "host:port" of the server.
        weight: its share of the calls, compared with those of the others.
        version: of the application; free text.
    """

    address: str
    weight: float = 1.0
    version: str = ""


class Place(msgspec.Struct, frozen=True):
    """Where the nodes of a service are.

    Attributes:
        servers: of ZooKeeper, "host:port" with commas.
        path: of the service, such as "/services/orders".
    """

    servers: str
    path: str


def parse_place(text: str) -> Place:
    """Read ``zk1:2181,zk2:2181/services/orders``.

    Raises:
        ValueError: it is not that.
    """
    servers, slash, path = text.partition("/")
    if not servers or not path or path.endswith("/") or "//" in path:
        raise ValueError("expected zk://HOST:PORT,HOST:PORT/PATH")
    found = [parse(each, PORT) for each in servers.split(",")]
    return Place(",".join(f"{each.host}:{each.port}" for each in found), f"{slash}{path}")


class Entry(msgspec.Struct, frozen=True):
    """The entry of a server, and its place.

    Attributes:
        place: the path of the service.
        address: of the server; empty for the one that it listens on.
        weight, version: see ``Node``.
    """

    place: Place
    address: str
    weight: float
    version: str

    @property
    def node(self) -> Node:
        """The data of the node."""
        return Node(self.address, self.weight, self.version)


def parse_entry(url: str) -> Entry:
    """Read ``zk://zk1:2181/services/orders?address=10.0.0.5:8889&weight=2&version=1.4``.

    Raises:
        ValueError: it is not that.
    """
    scheme, _, text = url.partition("://")
    if scheme != "zk":
        raise ValueError(f"{url!r} does not begin with zk://")
    text, _, query = text.partition("?")
    place = parse_place(text)
    options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    unknown = options.keys() - {"address", "weight", "version"}
    if unknown:
        raise ValueError(f"unknown option {min(unknown)!r}: expected address, weight or version")
    address = options.get("address", "")
    weight = float(options.get("weight", 1.0))
    if not 0 < weight < inf:
        raise ValueError(f"weight: expected more than 0, got {weight}")
    return Entry(place, str(parse(address)) if address else "", weight, options.get("version", ""))


def new_client(place: Place) -> Any:
    """Return a client of kazoo that has begun to connect, in the calling thread's hub.

    Raises:
        ValueError: kazoo is not installed.
    """
    check_library()
    from kazoo.client import KazooClient
    from kazoo.handlers.gevent import SequentialGeventHandler
    from kazoo.retry import KazooRetry

    handler = SequentialGeventHandler()
    sleep = handler.sleep_func  # gevent's, whether or not the process is patched
    client = KazooClient(
        hosts=place.servers,
        timeout=SESSION_SECONDS,
        handler=handler,
        connection_retry=KazooRetry(max_tries=-1, max_delay=2.0, sleep_func=sleep),
        command_retry=KazooRetry(max_tries=0, sleep_func=sleep),
        logger=log,
    )
    client.start_async()
    atexit.unregister(handler.stop)  # it would wait for another thread's greenlets
    return client


def check_library() -> None:
    """Raise ValueError if kazoo is not installed."""
    try:
        import kazoo  # noqa: F401
    except ImportError:
        raise ValueError(
            "it needs kazoo, which is not installed: pip install 'gtcp-rpc[zookeeper]'"
        ) from None


def end_client(client: Any) -> None:
    """Close a client, whatever its state."""
    client.stop()
    client.close()
