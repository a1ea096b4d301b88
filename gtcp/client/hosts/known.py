"""The hosts of one client, kept up to date in a thread of its own.

No call waits for a resolver, except for its first answer. If it fails, or returns nothing, the last
known hosts are kept and one line is logged.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from math import isfinite
from time import monotonic
from typing import Any

import gevent
from gevent import get_hub

from gtcp.client.hosts.resolver import DEFAULT_TTL, Host, Resolver
from gtcp.errors import ConnectError
from gtcp.transport.address import parse
from gtcp.transport.sockets import original

log = logging.getLogger("gtcp.client")
log.addHandler(logging.NullHandler())  # the caller gets the error, too

_start_thread: Callable[..., int] = original("_thread", "start_new_thread")

#: Seconds until a resolver that failed is asked again.
RETRY_SECONDS = 1.0

#: Seconds between two looks: for the first answer, and in the thread for the end of the client.
POLL_SECONDS = 0.01
CLOSE_SECONDS = 0.25


class KnownHosts:
    """The hosts of one client. For any number of threads.

    Args:
        name: the address as the user wrote it.
        resolver: says which hosts there are; None if they never change.
        hosts: those that are known from the start.

    Attributes:
        hosts: the ones known now.
        version: changes with them.
        tls: whether they use TLS; None if each address says so.
        server_name: the name in their certificates; None for the host of each address.
    """

    def __init__(self, name: str, resolver: Resolver | None, hosts: tuple[Host, ...] = ()) -> None:
        self.name = name
        self.hosts = hosts
        self.version = 1 if hosts else 0
        self.server_name: str | None = None
        self.tls: bool | None = None
        self._resolver = resolver
        self._error: Exception | None = None
        self._pid = 0  # the process in which the thread runs
        self._closed = False

    def start(self) -> None:
        """Start asking the resolver, if that is not done yet in this process."""
        if self._resolver is None or self._closed or self._pid == os.getpid():
            return
        self._pid = os.getpid()
        _start_thread(self._run, ())

    def wait(self, deadline: float | None) -> None:
        """Wait until there are hosts.

        Raises:
            ConnectError: the resolver failed, or the deadline passed.
        """
        while not self.hosts:
            error = self._error
            if error is not None:
                raise ConnectError(f"{self.name}: {_text(error)}") from error
            if deadline is not None and monotonic() >= deadline:
                raise ConnectError(f"{self.name}: no hosts were found in time")
            gevent.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Stop asking."""
        self._closed = True

    def _run(self) -> None:
        resolver, pid = self._resolver, self._pid
        assert resolver is not None
        try:
            while not self._closed and self._pid == pid:
                ask_again = monotonic() + self._update(resolver)
                while not self._closed and monotonic() < ask_again:
                    gevent.sleep(min(CLOSE_SECONDS, max(0.0, ask_again - monotonic())))
            self.end()
        finally:
            get_hub().destroy(destroy_loop=True)

    def ask(self) -> Iterable[Host | str]:
        """Ask the resolver, and return what it says. It may block."""
        assert self._resolver is not None
        return self._resolver.resolve()

    def end(self) -> None:
        """Close the resolver, in the thread that has asked it."""
        close = getattr(self._resolver, "close", None)
        if close is not None:
            close()

    def _update(self, resolver: Resolver) -> float:
        """Ask once; return the seconds until the next time."""
        try:
            hosts = checked(self.ask())
        except Exception as exc:
            if self._error is None or str(self._error) != str(exc):
                log.warning("%s: %s; %s", self.name, _text(exc), self._kept())
            self._error = exc
            return RETRY_SECONDS
        if self._error is not None and self.hosts:
            log.info("%s: found again", self.name)
        self._error = None
        if set(hosts) != set(self.hosts):
            self.hosts = hosts
            self.version += 1
        ttl: Any = getattr(resolver, "ttl", DEFAULT_TTL)
        return float(ttl) if isinstance(ttl, int | float) and isfinite(ttl) else DEFAULT_TTL

    def _kept(self) -> str:
        return f"the {len(self.hosts)} known hosts are kept" if self.hosts else "no host is known"


def checked(found: Any) -> tuple[Host, ...]:
    """Return what a resolver found as hosts; the first of each address.

    Raises:
        LookupError: nothing was found.
        TypeError, ValueError: it is something else, or has an impossible address.
    """
    hosts: dict[str, Host] = {}
    for each in found:
        host = each if isinstance(each, Host) else Host(address=each)
        address = parse(host.address)
        hosts.setdefault(str(address), host)
    if not hosts:
        raise LookupError("there are no hosts")
    return tuple(hosts.values())


def _text(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, LookupError | OSError) else f"{type(error).__name__}: {text}"
