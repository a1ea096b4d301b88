"""``gtcp serve``: serve in this process, or with workers under gunicorn's master.

The settings are layered over those of the server that TARGET names, so the application has to be
imported to know them. A single process imports it once. With several workers only they may import
it, or SIGHUP and ``--reload`` would find the old code in memory: a child process that exits
immediately reads the settings for the master.
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

from gtcp.cli.target import Target, TargetError, WrongTarget, load
from gtcp.errors import SettingsError
from gtcp.patching import patch_all
from gtcp.server.address_check import check_addresses
from gtcp.server.connections.scheduler import UnsupportedLoop, check_loop
from gtcp.server.handshake.steps import make_handshake
from gtcp.server.listener import Exposed
from gtcp.server.ops import log_setup
from gtcp.server.ops.logger import SERVER
from gtcp.server.process.exit_limit import limit_exit
from gtcp.server.process.pid_file import PidFile
from gtcp.server.process.systemd import passed_fds
from gtcp.server.server import Server
from gtcp.server.settings import Settings

#: A variable of gunicorn's: a second master, which SIGUSR2 starts, finds the first one's pid there.
FIRST_MASTER = "GUNICORN_PID"

#: The variable with the number of workers where nothing else sets it, as for gunicorn.
WEB_CONCURRENCY = "WEB_CONCURRENCY"


class Layers(Protocol):
    """The settings of the configuration file, the environment and the flags."""

    def __call__(self, base: Settings | None) -> Settings:
        """Return all settings: these layers over ``base``."""


class GunicornMissing(Exception):
    """Several processes or ``--reload`` need gunicorn, which is not installed."""


def serve(
    target: Target, layers: Layers, *, reload: bool, patch: bool, pid_file: PidFile | None = None
) -> None:
    """Serve until SIGINT or SIGTERM, then drain.

    Args:
        target: where the server is.
        layers: the settings that override the server's own.
        reload: restart the workers when a file of the application changes.
        patch: monkey-patch the standard library for gevent before the application is imported.
        pid_file: gets the process id while the server listens; with workers, the master's.

    Raises:
        SettingsError: a setting is unknown or impossible.
        TargetError: the application can't be imported, or TARGET is wrong.
        GunicornMissing: more than one process or ``reload``, and gunicorn is not installed.
        PidFileError: the service is running already, or the PID file can't be written.
        OSError: an address is in use or not permitted.
        SystemExit: from gunicorn's master, when it exits.
    """
    layers = with_passed_sockets(layers)
    settings = layers(None)  # errors in them are reported before anything is imported
    if pid_file is not None and FIRST_MASTER not in os.environ:
        pid_file.check()
    if reload or settings.workers > 1:
        _serve_with_workers(target, layers, reload=reload, patch=patch, pid_file=pid_file)
    else:
        _serve_here(target, layers, patch=patch, pid_file=pid_file)


def with_passed_sockets(layers: Layers) -> Layers:
    """Return the layers with the sockets that a supervisor has passed, in place of addresses.

    Settings that name a passed socket are left unchanged.
    """
    bind = tuple(f"fd://{fd}" for fd in passed_fds())

    def with_sockets(base: Settings | None) -> Settings:
        settings = layers(base)
        if not bind or any(each.startswith("fd://") for each in settings.addresses):
            return settings
        return msgspec.structs.replace(settings, bind=bind)

    return with_sockets


def load_here(target: Target, layers: Layers, *, patch: bool) -> Server:
    """Import the application in this process and return its server with its final settings.

    Raises:
        SettingsError, TargetError: as for ``serve``.
    """
    log_config = layers(None).log_config
    _apply_log_config(log_config)
    if patch:
        patch_all()
    server = load(target)
    server.settings = layers(server.settings)
    if server.settings.log_config != log_config:
        _apply_log_config(server.settings.log_config)
    return server


def load_only(target: Target, layers: Layers, *, patch: bool, check: bool) -> Server:
    """Import the application and return its server with its final settings. Nothing is served.

    Args:
        check: check that the server could start. Nothing listens, and ``on_start`` functions are
            not run.

    Raises:
        SettingsError, TargetError, GunicornMissing: as for ``serve``.
        OSError: a host of an address can't be resolved.
    """
    layers = with_passed_sockets(layers)
    layers(None)  # errors in them are reported before anything is imported
    server = load_here(target, layers, patch=patch)
    limit_exit()  # the application may have started threads
    if check:
        settings = server.settings
        if settings.workers > 1:
            _need_gunicorn()
        _check_logs(settings)
        knows_peers = _knows_peers(settings, has_secret=server.has_secret)
        try:
            server.check([])
            check_addresses(settings, loopback_only=not (settings.insecure or knows_peers))
        except (ValueError, TypeError) as exc:
            raise SettingsError(str(exc)) from exc
    return server


def with_web_concurrency(base: Settings) -> Settings:
    """Return the settings with WEB_CONCURRENCY workers, unless the program asks for several.

    Raises:
        SettingsError: the variable is not a number of workers.
    """
    text = os.environ.get(WEB_CONCURRENCY, "")
    if not text or base.workers != 1:
        return base
    try:
        return msgspec.structs.replace(base, workers=int(text))
    except ValueError:
        expected = "an integer from 1 to 1024"
        raise SettingsError(f"{WEB_CONCURRENCY}: expected {expected}, got {text!r}") from None


def _serve_here(target: Target, layers: Layers, *, patch: bool, pid_file: PidFile | None) -> None:
    server = load_here(target, layers, patch=patch)
    if server.settings.workers > 1:
        _start_again(server.settings.workers)
    _configure_logs(server.settings)
    _announce(server, pid_file)
    try:
        server.serve_forever()
    finally:
        if pid_file is not None:
            pid_file.remove()
        limit_exit(server.cut_by)


def _apply_log_config(path: str | None) -> None:
    if path is not None:
        try:
            log_setup.apply_config(path)
        except ValueError as exc:
            raise SettingsError(f"log_config: {exc}") from exc


def _configure_logs(settings: Settings) -> None:
    """Configure logging, unless a file has done it."""
    _check_logs(settings)
    if settings.log_config is None:
        log_setup.configure(settings.log_level, settings.log_file, settings.log_format)
        log_setup.configure_application(settings.log_level)


def _check_logs(settings: Settings) -> None:
    settings.check_together()
    if settings.log_file is not None:
        try:
            log_setup.check_writable(settings.log_file)
        except ValueError as exc:
            raise SettingsError(f"log_file: {exc}") from exc


def _announce(server: Server, pid_file: PidFile | None = None) -> None:
    """Print the server's line about where it listens on stderr, at any level, and without time.

    The line is the server's first log line, which is filtered out of the log. It marks the moment
    at which connections are accepted; so the PID file is written then.
    """
    logger = logging.getLogger(SERVER)
    own, level = logger.level, logger.getEffectiveLevel()
    disabled, logger.disabled = logger.disabled, False  # by the application's configuration

    def on_record(record: logging.LogRecord) -> bool:
        line = record.getMessage()
        if line != server.describe():
            return record.levelno >= level and not disabled
        logger.removeFilter(on_record)
        logger.setLevel(own)
        logger.disabled = disabled
        if pid_file is not None:
            pid_file.write()
        click.echo(line, err=True)
        return False

    logger.setLevel(min(level, logging.INFO))
    logger.addFilter(on_record)


# More than one process


def _need_gunicorn() -> None:
    if importlib.util.find_spec("gunicorn") is None:
        raise GunicornMissing(
            "more than one worker, and --reload, need gunicorn: pip install 'gtcp-rpc[gunicorn]'"
        )


def _serve_with_workers(
    target: Target, layers: Layers, *, reload: bool, patch: bool, pid_file: PidFile | None
) -> None:
    _need_gunicorn()
    try:
        check_loop()  # here, once: each worker would fail with a dozen lines
    except UnsupportedLoop as exc:
        raise SettingsError(str(exc)) from exc
    found = _ask_child(target, layers, patch=patch)
    settings = found.settings
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

    try:
        serve(
            load_in_worker,
            settings,
            commands=found.commands,
            loopback_only=not (
                settings.insecure or _knows_peers(settings, has_secret=found.has_secret)
            ),
            reload=reload,
            patch=patch,
            pid_file=pid_file,
        )
    except Exposed as exc:
        raise SettingsError(str(exc)) from exc


def _knows_peers(settings: Settings, *, has_secret: bool) -> bool:
    """Return whether a server with these settings authenticates its peers.

    Args:
        has_secret: whether the program has set a secret.

    Raises:
        SettingsError: certificates or secrets can't be used: reported here, once.
    """
    try:
        return make_handshake(settings, None).knows_peers or has_secret
    except ValueError as exc:
        raise SettingsError(str(exc)) from exc


def _start_again(workers: int) -> NoReturn:
    """Execute this command again as the supervising process: the application asks for workers.

    The supervisor must not have the application in memory, nor be monkey-patched.
    """
    os.environ["GTCP_WORKERS"] = str(workers)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


class _Answer(msgspec.Struct):
    """The child's answer about the server, or its error in one line.

    Attributes:
        settings: the final settings.
        kind: the name of the error's class, a key of ``_ERRORS``.
    """

    settings: Settings
    commands: int = 0
    has_secret: bool = False
    error: str = ""
    kind: str = ""


_ERRORS: dict[str, type[Exception]] = {
    each.__name__: each for each in (TargetError, WrongTarget, SettingsError)
}


def _ask_child(target: Target, layers: Layers, *, patch: bool) -> _Answer:
    """Return facts about the server that TARGET names, without importing it in this process.

    Raises:
        TargetError: there is no such server.
        SettingsError: a setting is impossible, or logging can't be configured.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _answer_and_exit(writing, lambda: _look(target, layers, patch=patch))
    os.close(writing)
    with open(reading, "rb") as pipe:
        line = pipe.readline()  # not to the end: a process that the application starts has it open
    os.waitpid(pid, 0)
    if not line:
        raise TargetError(f"{target.place}: importing it ended the process")
    answer = msgspec.json.decode(line, type=_Answer)
    if answer.error:
        raise _ERRORS[answer.kind](answer.error)
    return answer


def _answer_and_exit(pipe: int, answer: Callable[[], _Answer]) -> NoReturn:
    """Write the answer and exit, in the child, whatever happens."""
    try:
        os.write(pipe, msgspec.json.encode(answer()) + b"\n")
    finally:
        os._exit(0)


def _look(target: Target, layers: Layers, *, patch: bool) -> _Answer:
    if patch:
        patch_all()
    try:
        server = load(target)
        settings = layers(server.settings)
        _check_logs(settings)
        _apply_log_config(settings.log_config)
        return _Answer(settings, len(server.commands), server.has_secret)
    except (TargetError, SettingsError) as exc:
        kind = next(each for each in type(exc).__mro__ if each.__name__ in _ERRORS)
        return _Answer(Settings(), error=str(exc), kind=kind.__name__)
