"""Libraries whose calls are cancelled: other handlers that share the client are not affected."""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gevent
import pytest

import gtcp
from gtcp.protocol.messages import DEADLINE_EXCEEDED
from tests.cli.processes import Served, environment
from tests.helpers import PATIENCE
from tests.libraries.clients import SIZE
from tests.libraries.programs import KEYS, PROGRAMS, DelayingProxy

pytestmark = pytest.mark.programs


@dataclass(frozen=True)
class Library:
    """One row: a function of ``clients``, and what docs/how-to/cancellation.md says about it."""

    name: str
    program: str
    packages: tuple[str, ...]
    needs_shield: bool = False
    places: int = SIZE  # connections of the shared client


LIBRARIES = [
    Library("redis", "redis", ("redis",)),
    Library("psycopg", "postgres", ("psycopg",), needs_shield=True, places=1),
    Library("psycopg_pool", "postgres", ("psycopg", "psycopg_pool"), needs_shield=True),
    Library("psycopg2", "postgres", ("psycopg2", "psycogreen"), places=1),
    Library("psycopg2_pool", "postgres", ("psycopg2", "psycogreen"), needs_shield=True),
    Library("sqlalchemy_psycopg", "postgres", ("sqlalchemy", "psycopg")),
    Library("sqlalchemy_pymysql", "mariadb", ("sqlalchemy", "pymysql")),
    Library("pymysql", "mariadb", ("pymysql",), places=1),
    Library("pymemcache", "memcached", ("pymemcache",), needs_shield=True, places=1),
    Library("pymemcache_pool", "memcached", ("pymemcache",), needs_shield=True),
    Library("python_memcached", "memcached", ("memcache",), needs_shield=True),
    Library("requests", "http", ("requests",)),
    Library("requests_block", "http", ("requests",), needs_shield=True),
    Library("httpx", "http", ("httpx",)),
    Library("botocore", "http", ("botocore",)),
]

#: Rounds of calls at once, most of which are cancelled.
ROUNDS = 15

#: Rounds within which a library that needs a shield has failed without one.
MANY_ROUNDS = 400

UNSAFE = [each for each in LIBRARIES if each.needs_shield]


def parameters(libraries: list[Library]) -> Any:
    """One test for each; those of one program run in one process, which starts it once."""
    values = [
        pytest.param(each, marks=pytest.mark.xdist_group(each.program), id=each.name)
        for each in libraries
    ]
    return pytest.mark.parametrize("library", values)


@pytest.fixture(scope="session")
def start() -> Iterator[Callable[[str], int]]:
    """Start a program when it is first used; returns its port."""
    ports: dict[str, int] = {}
    with ExitStack() as stack:

        def start(name: str) -> int:
            if name not in ports:
                # Not below pytest's folder, which only its owner may enter.
                folder = Path(stack.enter_context(TemporaryDirectory()))
                ports[name] = stack.enter_context(PROGRAMS[name](folder))
            return ports[name]

        yield start


class Application:
    """Handlers in a process of its own, which share a client behind a proxy.

    Attributes:
        wrong: replies that are neither the value that was asked for nor a cancellation.
        cancelled: how many calls were cancelled.
    """

    def __init__(self, address: str, proxy: DelayingProxy, places: int) -> None:
        self.address, self.proxy, self.places = address, proxy, places
        self.wrong: list[Any] = []
        self.cancelled = 0
        self._keys = count()
        self._chance = random.Random(7)
        # One connection: python-memcached has a client for each greenlet, and requests of one
        # connection share greenlets.
        self.client = gtcp.Client(address, max_connections=1)

    def read(
        self,
        timeout: float = PATIENCE,
        *,
        may_be_late: bool = False,
        client: gtcp.Client | None = None,
    ) -> None:
        """Read a value that no other call asks for."""
        key = next(self._keys) % KEYS
        try:
            value = (client or self.client).call(1, {"key": key}, timeout=timeout)
        except gtcp.GtcpError as exc:
            late = isinstance(exc, gtcp.CallTimeout) or (
                isinstance(exc, gtcp.RemoteError) and exc.code == DEADLINE_EXCEEDED
            )
            if late and may_be_late:
                self.cancelled += 1
            else:
                self.wrong.append((key, exc))
        else:
            if value != f"value-{key}":
                self.wrong.append((key, value))

    def hang_up(self, seconds: float) -> None:
        """Call, and close the connection after this time."""
        with gtcp.Client(self.address) as client:
            call = gevent.spawn(self.read, client=client)
            call.join(seconds)
            self.cancelled += not call.ready()
            call.kill()

    def cancel_at_random(self) -> None:
        """Have calls cancelled at random moments, and others hung up, beside one that is not."""
        chance = self._chance
        late = [
            gevent.spawn(self.read, chance.randint(1, 25) / 1000, may_be_late=True)
            for _ in range(SIZE)
        ]
        hung_up = gevent.spawn(self.hang_up, chance.uniform(0.001, 0.025))
        gevent.joinall([*late, gevent.spawn(self.read), hung_up])

    def cancel_while_held(self) -> None:
        """Have calls cancelled that have certainly sent their query and wait for its result."""
        self.read()  # connect
        self.proxy.hold()
        calls = [gevent.spawn(self.read, 0.05, may_be_late=True) for _ in range(SIZE)]
        gevent.joinall(calls)
        self.proxy.release()

    def read_in_all_places(self) -> None:
        """Read at the same time as often as the pool has places, when all of them wait."""
        self.proxy.hold()
        calls = [gevent.spawn(self.read) for _ in range(SIZE)]
        with gevent.Timeout(PATIENCE / 2, False):
            while len(self.proxy.held) < self.places and not all(call.ready() for call in calls):
                gevent.sleep(0.001)
        if len(self.proxy.held) < self.places:
            self.wrong.append(f"{len(self.proxy.held)} of {self.places} places are left")
        self.proxy.release()
        gevent.joinall(calls)


@contextmanager
def serving(library: Library, start: Callable[[str], int], *, shield: bool) -> Iterator[Any]:
    for package in library.packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    chance = random.Random(5)
    port = start(library.program)
    with DelayingProxy(port, lambda: chance.uniform(0, 0.004)) as proxy:
        child = subprocess.Popen(
            [sys.executable, "-m", "gtcp", "serve", "app:server", "--bind", "127.0.0.1:0"],
            cwd=Path(__file__).parent,
            env=environment(LIBRARY=library.name, PORT=str(proxy.port), SHIELD=str(int(shield))),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            # In a thread: the application connects through the proxy, in this thread's hub.
            served = gevent.get_hub().threadpool.apply(Served, (child,))
            application = Application(served.address, proxy, library.places)
            try:
                yield application
            finally:
                application.client.close()
        finally:
            child.kill()
            sys.stdout.write(child.communicate()[1])  # shown when the test fails


@parameters(LIBRARIES)
def test_other_calls_get_their_own_values(library: Library, start: Callable[[str], int]) -> None:
    with serving(library, start, shield=library.needs_shield) as app:
        app.read()
        for _ in range(ROUNDS):
            app.cancel_at_random()
        app.cancel_while_held()
        for _ in range(2 * SIZE):
            app.read()
        app.read_in_all_places()
        app.read_in_all_places()
        assert app.wrong == []
        assert app.cancelled >= ROUNDS


@parameters(UNSAFE)
def test_without_a_shield_they_do_not(library: Library, start: Callable[[str], int]) -> None:
    with serving(library, start, shield=False) as app:
        app.cancel_while_held()
        app.read()
        for _ in range(MANY_ROUNDS):
            if app.wrong:
                break
            app.cancel_at_random()
        assert app.wrong != []
