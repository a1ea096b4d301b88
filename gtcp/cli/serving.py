"""What ``gtcp serve`` does: in this process, or under gunicorn's master.

The settings are layered over those of the server that TARGET names, so the application has
to be imported to know them. One process imports it for good. With several workers only they
may import it, each anew, or SIGHUP and ``--reload`` would find the old code in memory: then a
child that ends at once is asked for the settings.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn, Protocol

import click
import msgspec
from gevent import monkey

from gtcp.cli.target import Target, TargetError, load
from gtcp.errors import SettingsError
from gtcp.server.connections.scheduler import UnsupportedLoop, check_loop
from gtcp.server.handshake.steps import make_handshake
from gtcp.server.listener import Exposed, bind
from gtcp.server.ops.logger import SERVER, configure
from gtcp.server.process.exit_limit import limit_exit
from gtcp.server.process.socket_file import SocketFile
from gtcp.server.server import Server
from gtcp.server.settings import Settings
from gtcp.transport.address import parse


class Layers(Protocol):
    """The settings of the configuration file, the environment and the flags."""

    def __call__(self, base: Settings | None) -> Settings:
        """All settings, these layers over ``base``."""


class GunicornMissing(Exception):
    """More than one process was asked for, and there is no gunicorn to supervise them."""


def serve(target: Target, layers: Layers, *, reload: bool, patch: bool) -> None:
    """Serve until SIGINT or SIGTERM, then drain.

    Args:
        target: where the server is.
        layers: the settings that go before the server's own.
        reload: start anew when a file of the application changes.
        patch: monkey-patch the standard library for gevent before the application is imported.

    Raises:
        SettingsError: a setting is unknown or impossible.
        TargetError: the application can't be imported, or is no server.
        GunicornMissing: more than one process or ``reload``, and gunicorn is not installed.
        OSError: an address is in use or not permitted.
        SystemExit: from gunicorn's master, when it ends.
    """
    settings = layers(None)  # a mistake in them is told before anything is imported
    if reload or settings.workers > 1:
        _serve_with_workers(target, layers, reload=reload, patch=patch)
    else:
        _serve_here(target, layers, patch=patch)


def _serve_here(target: Target, layers: Layers, *, patch: bool) -> None:
    if patch:
        monkey.patch_all()
    server = load(target)
    server.settings = layers(server.settings)
    if server.settings.workers > 1:
        _start_again(server.settings.workers)
    configure(server.settings.log_level)
    _announce(server)
    try:
        server.serve_forever()
    finally:
        limit_exit(server.cut_by)


def _announce(server: Server) -> None:
    """Have the server's first log line, what listens where, printed bare and at any level."""
    logger = logging.getLogger(SERVER)
    own, level = logger.level, logger.getEffectiveLevel()

    def pass_on(record: logging.LogRecord) -> bool:
        line = record.getMessage()
        if line != server.describe():
            return record.levelno >= level
        logger.removeFilter(pass_on)
        logger.setLevel(own)
        click.echo(line, err=True)
        return False

    logger.setLevel(min(level, logging.INFO))
    logger.addFilter(pass_on)


# More than one process


def _serve_with_workers(target: Target, layers: Layers, *, reload: bool, patch: bool) -> None:
    if importlib.util.find_spec("gunicorn") is None:
        raise GunicornMissing(
            "--workers and --reload need gunicorn: pip install 'gtcp-rpc[gunicorn]'"
        )
    try:
        check_loop()  # once, here: each worker would fail with a dozen lines
    except UnsupportedLoop as exc:
        raise SettingsError(str(exc)) from exc
    found = _ask_child(target, patch=patch)
    settings = layers(found.settings)
    _check_addresses(settings, _knows_peers(settings, found))
    from gtcp.server.master import AppImportError, serve

    def load_in_worker() -> Server:
        try:
            server = load(target)
            server.settings = layers(server.settings)
        except TargetError as exc:
            if reload and isinstance(exc.__cause__, SyntaxError):
                raise exc.__cause__ from None  # gunicorn waits for the correction
            raise AppImportError(str(exc)) from exc
        return server

    serve(load_in_worker, settings, commands=found.commands, reload=reload, patch=patch)


def _knows_peers(settings: Settings, found: _Answer) -> bool:
    """Whether the workers will; a mistake in certificates or secrets is told here, once."""
    try:
        return make_handshake(settings, None).knows_peers or found.has_secret
    except ValueError as exc:
        raise SettingsError(str(exc)) from exc


def _check_addresses(settings: Settings, knows_peers: bool) -> None:
    """Fail at once, with one line, where gunicorn would try for five seconds with a dozen.

    gunicorn would also take a unix socket away from a server that listens on it.
    """
    if not os.environ.keys().isdisjoint(("GUNICORN_FD", "LISTEN_FDS")):
        return  # gunicorn is handed the listening sockets, after SIGUSR2 or by systemd
    loopback_only = not (settings.insecure or knows_peers)
    file = SocketFile(int(settings.unix_mode, 8), settings.unix_owner, settings.unix_group)
    for each in map(parse, settings.addresses):
        try:
            bind(each, loopback_only=loopback_only, file=file).close()
        except Exposed as exc:
            raise SettingsError(str(exc)) from exc
        if each.path:
            os.unlink(each.path)


def _start_again(workers: int) -> NoReturn:
    """The application's own settings ask for workers: become the process that supervises them.

    It must not have the application in memory, nor be monkey-patched.
    """
    os.environ["GTCP_WORKERS"] = str(workers)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


class _Answer(msgspec.Struct):
    """What the child that looked at the server says of it, or what went wrong."""

    settings: Settings | None = None
    commands: int = 0
    has_secret: bool = False
    error: str = ""


def _ask_child(target: Target, *, patch: bool) -> _Answer:
    """What is to be known of the server that TARGET names, without importing it here.

    Raises:
        TargetError: there is no such server.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _answer_and_exit(writing, lambda: _look(target, patch=patch))
    os.close(writing)
    with open(reading, "rb") as pipe:
        line = pipe.readline()  # not to the end: what the application started may hold it open
    os.waitpid(pid, 0)
    if not line:
        raise TargetError(f"{target.place}: importing it ended the process")
    answer = msgspec.json.decode(line, type=_Answer)
    if answer.error:
        raise TargetError(answer.error)
    return answer


def _answer_and_exit(pipe: int, answer: Callable[[], _Answer]) -> NoReturn:
    """In the child: whatever happens, it goes no further than this."""
    try:
        os.write(pipe, msgspec.json.encode(answer()) + b"\n")
    finally:
        os._exit(0)


def _look(target: Target, *, patch: bool) -> _Answer:
    if patch:
        monkey.patch_all()
    try:
        server = load(target)
        return _Answer(server.settings, len(server.commands), server.has_secret)
    except (TargetError, SettingsError) as exc:
        return _Answer(error=str(exc))
