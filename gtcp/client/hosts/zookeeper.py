"""Hosts from ZooKeeper: the nodes that servers have registered below a path."""

from __future__ import annotations

import logging
from time import monotonic
from typing import Any

import gevent
import msgspec

from gtcp.client.hosts.resolver import Host
from gtcp.transport.address import TLS, parse
from gtcp.transport.zookeeper import (
    CONNECT_SECONDS,
    Node,
    check_library,
    end_client,
    new_client,
    parse_place,
)

log = logging.getLogger("gtcp.client")

#: Seconds between two looks for a connection.
POLL_SECONDS = 0.05

#: How often the nodes are read, while some go in between.
READS = 3

_decode = msgspec.json.Decoder(Node).decode


class ZooKeeperResolver:
    """Reads the nodes below a path.

    Args:
        text: ``HOST:PORT,HOST:PORT/PATH``.
        tls: whether the servers use TLS.

    Raises:
        ValueError: the text is malformed, or kazoo is not installed.
    """

    ttl = 1.0

    def __init__(self, text: str, *, tls: bool) -> None:
        self._place = parse_place(text)
        check_library()
        self._tls = tls
        self._client: Any = None
        self._garbage: set[str] = set()  # nodes that were logged

    def resolve(self) -> list[Host]:
        """Read the nodes.

        Raises:
            LookupError: ZooKeeper can't be reached, or there is no such path.
        """
        from kazoo.exceptions import KazooException, NoNodeError

        if self._client is None:
            self._client = new_client(self._place)
        if not self._client.connected:
            self._wait()
        if not self._client.connected:
            raise LookupError(f"ZooKeeper at {self._place.servers} can't be reached")
        path = self._place.path
        try:
            return self._read(path)
        except NoNodeError:
            raise LookupError(f"there is no {path} in ZooKeeper") from None
        except KazooException as exc:
            text = str(exc) or type(exc).__name__
            raise LookupError(f"ZooKeeper at {self._place.servers}: {text}") from exc

    def _read(self, path: str) -> list[Host]:
        """Read all nodes; again if one has gone meanwhile, since another may have replaced it."""
        nodes: dict[str, bytes | None] = {}
        for _ in range(READS):
            names = [f"{path}/{each}" for each in sorted(self._client.get_children(path))]
            nodes = {name: self._data(name) for name in names}
            if None not in nodes.values():
                break
        hosts = [self._host(name, data) for name, data in nodes.items() if data is not None]
        return [each for each in hosts if each is not None]

    def _wait(self) -> None:
        until = monotonic() + CONNECT_SECONDS
        while not self._client.connected and monotonic() < until:
            gevent.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Close the connection to ZooKeeper."""
        if self._client is not None:
            end_client(self._client)

    def _data(self, path: str) -> bytes | None:
        """Return what a node holds; None if it is gone."""
        from kazoo.exceptions import NoNodeError

        try:
            data: bytes = self._client.get(path)[0]
        except NoNodeError:
            return None
        return data

    def _host(self, path: str, data: bytes) -> Host | None:
        """Return the host that a node describes; None if it is garbage."""
        try:
            node = _decode(data)
            address = parse(node.address)
            text = str(address) if address.path else f"{TLS if self._tls else ''}{address}"
            return Host(address=text, weight=node.weight)
        except (msgspec.DecodeError, ValueError) as exc:
            if path not in self._garbage:
                log.warning("ZooKeeper: the node %s is left out: %s", path, exc)
                self._garbage.add(path)
            return None
