"""A server's entry in ZooKeeper: there while it serves, removed before its listener closes."""

from __future__ import annotations

import logging
import socket
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
import msgspec
from gevent.event import Event

from gtcp.errors import SettingsError
from gtcp.transport.address import of_peer, parse

if TYPE_CHECKING:
    from gtcp.transport.zookeeper import Entry

log = logging.getLogger("gtcp.server")

#: Seconds between two looks whether the node is still there.
LOOK_SECONDS = 1.0
FIRST_LOOK_SECONDS = 0.05

#: Seconds until a missing connection is logged.
PATIENCE = 3.0

#: Seconds that a start waits for the node, and a drain for its removal.
CREATE_SECONDS = 1.0
REMOVE_SECONDS = 1.0


def _entry_of(url: str, sockets: list[socket.socket]) -> Entry:
    """Return what a server that listens on these sockets registers.

    Raises:
        SettingsError: it has no address that clients could use.
    """
    from gtcp.transport.zookeeper import parse_entry  # here: rarely needed

    entry = parse_entry(url)
    if entry.address:
        return entry
    addresses = [of_peer(each.getsockname()) for each in sockets if each.family != socket.AF_UNIX]
    usable = [each for each in addresses if parse(each).host not in ("0.0.0.0", "::")]
    if not usable:
        raise SettingsError(
            "register: the server listens on all addresses, so clients have to be told which one "
            f"to use: {url}?address=HOST:PORT"
        )
    return msgspec.structs.replace(entry, address=usable[0])


class Registered:
    """The entry of one process. Belongs to the hub that it was made in.

    Args:
        url: the setting ``register``; None for no entry.
        sockets: what the server listens on.

    Raises:
        SettingsError: there is no address that clients could use.
    """

    def __init__(self, url: str | None, sockets: list[socket.socket]) -> None:
        self._entry = None if url is None else _entry_of(url, sockets)
        self._path = ""
        self._problem = ""
        self._client: Any = None
        self._greenlet: Any = None
        self._decided = Event()  # the entry was created, or is not wanted any more

    def begin(self) -> None:
        """Create the entry, as soon as ZooKeeper can be reached.

        Waits for it, but a second at most: a process that this one replaces removes its own entry
        when this one has started, and between the two clients would find none.
        """
        if self._entry is not None:
            from gtcp.transport.zookeeper import new_client  # here: rarely needed

            self._client = new_client(self._entry.place)
            self._greenlet = gevent.spawn(self._keep, self._entry)
            self._decided.wait(CREATE_SECONDS)

    def remove(self) -> None:
        """Remove the entry; nothing if that was done.

        Waits for ZooKeeper, but a second at most. After that it goes on in the background: the
        session is ended, and with it the entry, as soon as ZooKeeper answers.
        """
        client, self._client = self._client, None
        if client is not None:
            self._decided.set()
            self._greenlet.kill(block=False)
            gevent.spawn(self._end, client).join(REMOVE_SECONDS)

    def _end(self, client: Any) -> None:
        from gtcp.transport.zookeeper import end_client  # here: rarely needed

        try:
            try:
                if self._path and client.connected:
                    client.delete_async(self._path).get(timeout=REMOVE_SECONDS)
            finally:
                end_client(client)
        except (Exception, gevent.Timeout) as exc:
            log.warning("can't remove %s from ZooKeeper: %s", self._path, _text(exc))

    def _keep(self, entry: Entry) -> None:
        patient_until = monotonic() + PATIENCE
        while True:
            try:
                if self._client.connected:
                    self._ensure(entry)
                    self._problem = ""
                elif monotonic() > patient_until:
                    self._complain(entry, "no connection")
            except Exception as exc:
                self._complain(entry, _text(exc))
            gevent.sleep(LOOK_SECONDS if self._path else FIRST_LOOK_SECONDS)

    def _ensure(self, entry: Entry) -> None:
        """Create the node, unless it is there and belongs to the current session."""
        client = self._client
        if self._path:
            stat = client.exists(self._path)
            if stat is not None and stat.ephemeralOwner == client.client_id[0]:
                return
        data = msgspec.json.encode(entry.node)
        path = f"{entry.place.path}/server-"
        self._path = client.create(path, data, ephemeral=True, sequence=True, makepath=True)
        self._decided.set()
        log.info("registered %s in ZooKeeper: %s", entry.address, self._path)

    def _complain(self, entry: Entry, problem: str) -> None:
        if problem != self._problem:
            servers = entry.place.servers
            log.warning("can't register in ZooKeeper at %s: %s", servers, problem)
            self._problem = problem


def _text(exc: BaseException) -> str:
    return str(exc) or type(exc).__name__
