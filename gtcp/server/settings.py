"""Every limit and default of a server, in one place.

Four layers, each overriding the one before: keywords (``base``), a TOML file, the ``GTCP_*``
environment variables, the command line's flags. Each layer is checked by itself, so that an error
names the variable, file or flag to correct.

A new setting is one line in `Settings`: type, accepted values, meaning and default. The rest
(checks, layers, documentation) is read from it.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, get_args, get_type_hints

import msgspec

from gtcp.errors import SettingsError, SettingsTypeError
from gtcp.server import setting_rules as rules
from gtcp.server.setting_layers import Field, Fields, short, to_toml
from gtcp.transport import address


class Description(NamedTuple):
    """One line of the table of settings.

    Attributes:
        name: as in ``Settings`` and in a file.
        type, default: as in Python.
        meaning: one phrase.
        expected: the values that are accepted, in words.
        toml: the default as it is written in a TOML file.
    """

    name: str
    type: str
    default: object
    meaning: str
    expected: str
    toml: str


class _Checked(msgspec.StructMeta):
    """The type of ``Settings``: names an unknown keyword, and the setting that was meant."""

    def __call__(cls, *args: Any, **settings: Any) -> Any:  # noqa: N805
        if args:
            raise SettingsTypeError(f"settings are keywords, got {short(args[0])}")
        _FIELDS.refuse_unknown(settings, "gtcp.Settings", SettingsTypeError)
        return super().__call__(**settings)


class Settings(msgspec.Struct, frozen=True, kw_only=True, metaclass=_Checked):
    """Every limit and default of a server; None means "no limit".

    Immutable, so any greenlet, thread or process may share it. A string for a setting with
    several values is split at its commas: ``bind="127.0.0.1:8889"`` is one address.

    Args:
        **settings: keywords, one for each setting in the table of settings; times in seconds.

    Raises:
        SettingsError: a value is impossible.
        SettingsTypeError: a value has the wrong type, or there is no setting of that name. It is a
            SettingsError and a TypeError.
    """

    host: Annotated[str, rules.host("host name or IP address to listen on")] = "127.0.0.1"
    port: Annotated[
        int | tuple[int, ...],
        rules.ports("port to listen on, or several; 0 is any free port"),
    ] = address.DEFAULT_PORT
    bind: Annotated[
        tuple[str, ...],
        rules.addresses("addresses to listen on; host and port are then ignored"),
    ] = ()
    workers: Annotated[
        int, rules.integer(1, 1024, "worker processes; gunicorn supervises more than one")
    ] = 1
    backlog: Annotated[
        int,
        rules.integer(
            1, 65535, "length of the kernel's queue of connections that are not accepted yet"
        ),
    ] = 2048
    graceful_timeout: Annotated[
        float,
        rules.at_least(0, "seconds that a drain may take before running handlers are cancelled"),
    ] = 30.0
    drain_delay: Annotated[
        float,
        rules.at_least(
            0, "seconds of graceful_timeout in which it still serves, but reports that it drains"
        ),
    ] = 0.0
    admin: Annotated[
        str | None, rules.admin("address of the admin port: health and metrics by HTTP")
    ] = None
    operators: Annotated[
        tuple[str, ...],
        rules.names(
            "identities that may use gtcp top and gtcp stacks; empty: all peers, if only this host "
            "can connect"
        ),
    ] = ()
    register: Annotated[
        str | None,
        rules.registry("where the server registers its address for clients, in ZooKeeper"),
    ] = None
    log_level: Annotated[str, rules.level("lowest level that is logged")] = "info"
    log_file: Annotated[
        str | None, rules.file("file that log lines are appended to; none, or -, is stderr")
    ] = None
    log_format: Annotated[
        str, rules.choice(("text", "json"), "form of log lines, for people or for programs")
    ] = "text"
    log_config: Annotated[
        str | None, rules.file("TOML or JSON file with the configuration of logging (dictConfig)")
    ] = None
    access_log: Annotated[bool, rules.switch("log one line for every request")] = False
    max_line_bytes: Annotated[
        int, rules.integer(1, None, "maximum length of a request line, in bytes")
    ] = 1 << 20
    max_reply_bytes: Annotated[
        int, rules.integer(1, None, "maximum length of a reply line, in bytes")
    ] = 16 << 20
    stream_window: Annotated[
        int,
        rules.integer(
            1, None, "maximum bytes of a stream's items for which no credit was returned"
        ),
    ] = 256 * 1024
    # Python 3.10 and 3.11 give up at about 995 levels, and the stack below the decoder counts.
    max_depth: Annotated[int, rules.integer(1, 500, "maximum nesting of a request")] = 64
    line_timeout: Annotated[
        float | None, rules.above(0, "seconds for a request line, from its first byte to its last")
    ] = 5.0
    idle_timeout: Annotated[
        float | None, rules.above(0, "seconds after which a connection without a call is closed")
    ] = 300.0
    max_connection_age: Annotated[
        float | None,
        rules.above(
            0,
            "seconds after which a connection is closed, so that the client opens another",
        ),
    ] = 300.0
    write_timeout: Annotated[
        float | None, rules.above(0, "seconds for the peer to read a reply")
    ] = 10.0
    max_connections: Annotated[
        int | None, rules.integer(1, None, "maximum number of open connections in one process")
    ] = 10_000
    max_connections_per_address: Annotated[
        int | None,
        rules.integer(
            1, None, "maximum number of open connections from one IP address in one process"
        ),
    ] = None
    max_in_flight: Annotated[
        int | None, rules.integer(1, None, "maximum number of calls in flight in one process")
    ] = 1_000
    max_in_flight_per_connection: Annotated[
        int | None, rules.integer(1, None, "maximum number of calls in flight on one connection")
    ] = 100
    # The kernel counts TCP keepalive in whole seconds.
    keepalive: Annotated[
        float | None, rules.at_least(1, "seconds within which TCP keepalive detects a dead peer")
    ] = 60.0
    half_close_grace: Annotated[
        float,
        rules.at_least(
            0,
            "seconds to finish requests without an id after the peer has closed its sending side",
        ),
    ] = 0.5
    insecure: Annotated[
        bool,
        rules.switch("accept connections from other hosts without TLS and without a secret"),
    ] = False
    tls_cert: Annotated[
        str | None, rules.file("PEM file with the server's certificate; turns TLS on")
    ] = None
    tls_key: Annotated[
        str | None,
        rules.file("PEM file with the private key, if it is not in the file of the certificate"),
    ] = None
    tls_ca: Annotated[
        str | None,
        rules.file("PEM file with the authorities whose client certificates are accepted"),
    ] = None
    require_client_cert: Annotated[
        bool, rules.switch("reject TLS clients without a certificate of an authority in tls_ca")
    ] = False
    allow_identities: Annotated[
        tuple[str, ...],
        rules.names("identities that may connect: dns:NAME, uri:URI, key:NAME, uid:N; empty: all"),
    ] = ()
    allow_networks: Annotated[
        tuple[str, ...],
        rules.networks("networks that TCP connections are accepted from; empty: all"),
    ] = ()
    proxy_from: Annotated[
        tuple[str, ...],
        rules.networks(
            "networks of proxies; their connections must begin with a PROXY header, version 1 or 2"
        ),
    ] = ()
    secret_file: Annotated[
        str | None,
        rules.file("file with secrets, one name:secret per line; every peer must prove one"),
    ] = None
    require_channel_binding: Annotated[
        bool,
        rules.switch(
            "reject clients before 0.3, whose proof of a secret is not bound to the TLS certificate"
        ),
    ] = False
    handshake_timeout: Annotated[
        float,
        rules.above(0, "seconds for the PROXY header, the TLS handshake and the proof of a secret"),
    ] = 5.0
    unix_mode: Annotated[str, rules.mode("permissions of the files of unix sockets")] = "600"
    unix_owner: Annotated[
        str | None, rules.name("user that the files of unix sockets are given to")
    ] = None
    unix_group: Annotated[
        str | None, rules.name("group that the files of unix sockets are given to")
    ] = None

    def __post_init__(self) -> None:
        for name in _FIELDS:
            value = _FIELDS.keyword(name, getattr(self, name))
            msgspec.structs.force_setattr(self, name, value)

    def check_together(self) -> None:
        """Check settings that require or exclude another one; called when the server starts.

        Raises:
            SettingsError: a setting needs another one, such as ``tls_key`` ``tls_cert``, or a
                library that is not installed.
        """
        for name, needed in _NEEDS.items():
            if getattr(self, name) and getattr(self, needed) is None:
                raise SettingsError(f"{name}: expected {needed} with it")
        for name in ("log_file", "log_format"):
            if self.log_config is not None and getattr(self, name) not in (None, "text"):
                raise SettingsError(f"log_config: expected no {name} with it")
        if self.register is not None:
            from gtcp.transport.zookeeper import check_library  # here: rarely needed

            try:
                check_library()
            except ValueError as exc:
                raise SettingsError(f"register: {exc}") from exc

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        env: Mapping[str, str] | None = None,
        flags: Mapping[str, object] | None = None,
        base: Settings | None = None,
    ) -> Settings:
        """Return settings from all layers; a later layer overrides an earlier one.

        The order is ``base``, the file, the environment, ``flags``. ``bind`` replaces ``host`` and
        ``port`` of its own and of earlier layers; ``host`` or ``port`` of a later layer replaces
        the ``bind`` of an earlier one.

        Args:
            path: a TOML file with the settings at top level or in a ``[gtcp]`` table.
            env: the mapping with the ``GTCP_*`` variables; None is this process's environment.
            flags: name to value, as a string or typed; a flag that is None was not given.
            base: the first layer; None is the defaults.

        Returns:
            Settings: checked, with all layers applied.

        Raises:
            SettingsError: a value is unknown or impossible, or the file cannot be read.
        """
        values = msgspec.structs.asdict(cls() if base is None else base)
        _overlay(values, {} if path is None else _FIELDS.file(os.fspath(path)))
        _overlay(values, _FIELDS.environment(os.environ if env is None else env))
        _overlay(values, _FIELDS.flags({} if flags is None else flags))
        return cls(**values)

    @classmethod
    def describe(cls) -> list[Description]:
        """Return the table of settings.

        Returns:
            list[Description]: one for each setting, in the order of definition.
        """
        return [
            Description(
                info.name,
                inspect.formatannotation(_FIELDS[info.name].hint),
                info.default,
                _FIELDS[info.name].rule.meaning,
                _FIELDS[info.name].expected,
                to_toml(info.default),
            )
            for info in msgspec.structs.fields(cls)
        ]

    def to_toml(self) -> str:
        """Return the settings as the text of a TOML file.

        Returns:
            str: a line for each setting, as ``load`` reads it.
        """
        values = msgspec.structs.asdict(self)
        if self.bind:
            del values["host"], values["port"]
        return "".join(f"{name} = {to_toml(value)}\n" for name, value in values.items())

    @property
    def lifetime(self) -> float | None:
        """The smaller of ``idle_timeout`` and ``max_connection_age``, seconds; None for neither."""
        return min((s for s in (self.idle_timeout, self.max_connection_age) if s), default=None)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses to listen on: ``"host:port"``, ``"[v6]:port"``, ``"unix:/path"``, ``"fd://N"``."""
        if self.bind:
            return tuple(str(address.parse_bind(text)) for text in self.bind)
        return tuple(str(address.Address(self.host, port)) for port in rules.several(self.port))


def _read_fields() -> Fields:
    hints = get_type_hints(Settings, include_extras=True)
    return Fields((name, Field(*get_args(hints[name]))) for name in Settings.__struct_fields__)


_FIELDS = _read_fields()

#: What means nothing without another setting.
_NEEDS = {"tls_key": "tls_cert", "tls_ca": "tls_cert", "require_client_cert": "tls_ca"}


def _overlay(values: dict[str, Any], layer: Mapping[str, Any]) -> None:
    if "host" in layer or "port" in layer:
        values["bind"] = ()
    values.update(layer)
