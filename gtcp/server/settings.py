"""Every limit and default of a server, in one place.

Four layers, each stronger than the one before: keywords (``base``), a TOML file, the
``GTCP_*`` environment variables, the command line's flags. What a layer says is checked
as that layer's, so that an error names the variable, file or flag to correct.

A new setting is one line in `Settings`: its type, what is expected of it, what it means and
its default. Everything else (checks, layers, documentation) is read from that line.
"""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, NamedTuple, NoReturn, get_args, get_origin, get_type_hints

import msgspec
import msgspec.toml  # reads with tomllib, on Python 3.10 with tomli

from gtcp.errors import SettingsError
from gtcp.masking import MASK, may_be_secret
from gtcp.server import setting_rules as rules
from gtcp.transport import address

#: Read elsewhere: a secret must not end up in a Settings, whose repr is printed and logged.
RESERVED_VARIABLES = frozenset({"GTCP_SECRET"})

_PREFIX = "GTCP_"


class Description(NamedTuple):
    """One line of the table of settings."""

    name: str
    type: str
    default: object
    meaning: str


class _Field(NamedTuple):
    """A setting's type and rule, resolved once."""

    hint: Any
    rule: rules.Rule

    @property
    def optional(self) -> bool:
        """Whether None is a value, that is, "no limit"."""
        return type(None) in get_args(self.hint)

    @property
    def several(self) -> bool:
        """Whether text holds values with commas between them."""
        return any(get_origin(hint) is tuple for hint in (self.hint, *get_args(self.hint)))


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every limit and default of a server; None means "no limit".

    Immutable, so any greenlet, thread or process may share it.

    Raises:
        SettingsError: a value has the wrong type or is impossible.
        TypeError: there is no setting of that name.
    """

    host: Annotated[str, rules.host("name or IP address to listen on")] = "127.0.0.1"
    port: Annotated[
        int | tuple[int, ...],
        rules.ports("port to listen on, or several; 0 takes a free one"),
    ] = address.DEFAULT_PORT
    bind: Annotated[
        tuple[str, ...],
        rules.addresses("full addresses to listen on; when given, host and port are not looked at"),
    ] = ()
    workers: Annotated[
        int, rules.integer(1, 1024, "processes; more than one are supervised by gunicorn")
    ] = 1
    backlog: Annotated[
        int, rules.integer(1, 65535, "connections the kernel may hold that are not accepted yet")
    ] = 2048
    graceful_timeout: Annotated[float, rules.at_least(0, "seconds a drain may take")] = 30.0
    log_level: Annotated[str, rules.level("the least severe level that is logged")] = "info"
    access_log: Annotated[bool, rules.switch("one log line for every request")] = False
    max_line_bytes: Annotated[int, rules.integer(1, None, "longest request line, in bytes")] = (
        1 << 20
    )
    max_reply_bytes: Annotated[int, rules.integer(1, None, "longest reply line, in bytes")] = (
        16 << 20
    )
    # Python 3.10 and 3.11 give up at about 995 levels, and the stack below the decoder counts.
    max_depth: Annotated[int, rules.integer(1, 500, "deepest nesting of a request")] = 64
    line_timeout: Annotated[
        float | None, rules.above(0, "seconds a peer has to finish a line once begun")
    ] = 5.0
    idle_timeout: Annotated[
        float | None, rules.above(0, "seconds a connection may stay open without a call")
    ] = 300.0
    max_connection_age: Annotated[
        float | None,
        rules.above(
            0, "seconds after which a connection is closed, for its client to open another"
        ),
    ] = 300.0
    write_timeout: Annotated[float | None, rules.above(0, "seconds a peer has to take a reply")] = (
        10.0
    )
    max_connections: Annotated[
        int | None, rules.integer(1, None, "open connections in one process")
    ] = 10_000
    max_connections_per_address: Annotated[
        int | None, rules.integer(1, None, "open connections from one IP address in one process")
    ] = None
    max_in_flight: Annotated[
        int | None, rules.integer(1, None, "calls in flight in one process")
    ] = 1_000
    max_in_flight_per_connection: Annotated[
        int | None, rules.integer(1, None, "calls in flight on one connection")
    ] = 100
    # The kernel counts TCP keepalive in whole seconds.
    keepalive: Annotated[
        float | None, rules.at_least(1, "seconds within which an idle peer that is dead is found")
    ] = 60.0
    half_close_grace: Annotated[
        float,
        rules.at_least(0, "seconds requests without id may go on once the peer has shut its side"),
    ] = 0.5
    insecure: Annotated[
        bool,
        rules.switch("serve other hosts without TLS and without a secret: whoever can connect"),
    ] = False
    tls_cert: Annotated[
        str | None, rules.file("PEM file with the server's certificate; with it, TCP means TLS")
    ] = None
    tls_key: Annotated[
        str | None, rules.file("PEM file with its private key, unless that is in the same file")
    ] = None
    tls_ca: Annotated[
        str | None, rules.file("PEM file with the authorities whose client certificates are taken")
    ] = None
    require_client_cert: Annotated[
        bool, rules.switch("refuse TLS clients that have no certificate of tls_ca")
    ] = False
    allow_identities: Annotated[
        tuple[str, ...],
        rules.names("who may connect: dns:NAME, uri:URI, key:NAME, uid:N; * is one label"),
    ] = ()
    allow_networks: Annotated[
        tuple[str, ...], rules.networks("from where TCP connections are taken; empty is everywhere")
    ] = ()
    proxy_from: Annotated[
        tuple[str, ...],
        rules.networks("proxies: their connections begin with a PROXY header, v1 or v2"),
    ] = ()
    secret_file: Annotated[
        str | None, rules.file("file with secrets, name:secret a line; every peer must prove one")
    ] = None
    require_channel_binding: Annotated[
        bool,
        rules.switch(
            "refuse clients before 0.3, whose proof of a secret is not bound to the TLS certificate"
        ),
    ] = False
    handshake_timeout: Annotated[
        float, rules.above(0, "seconds for PROXY header, TLS handshake and proof of a secret")
    ] = 5.0
    unix_mode: Annotated[str, rules.mode("permissions of the files of unix sockets")] = "600"
    unix_owner: Annotated[str | None, rules.name("user that the files are given to")] = None
    unix_group: Annotated[str | None, rules.name("group that the files are given to")] = None

    def __post_init__(self) -> None:
        for name in _FIELDS:
            given = getattr(self, name)
            value = _checked(name, name, given, shown=given)
            msgspec.structs.force_setattr(self, name, value)

    def check_together(self) -> None:
        """Raise SettingsError when one setting means nothing without another.

        Not at once: other layers may add that one, until the server starts.
        """
        for name, needed in _NEEDS.items():
            if getattr(self, name) and getattr(self, needed) is None:
                raise SettingsError(f"{name}: expected {needed} with it")

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        env: Mapping[str, str] | None = None,
        flags: Mapping[str, object] | None = None,
        base: Settings | None = None,
    ) -> Settings:
        """Settings from all layers; the stronger one wins, setting by setting.

        ``bind`` replaces ``host`` and ``port`` of its own and of weaker layers; ``host`` or
        ``port`` of a stronger layer puts a weaker layer's ``bind`` aside.

        Args:
            path: a TOML file with the settings at top level or in a ``[gtcp]`` table.
            env: where the ``GTCP_*`` variables are; None is this process's environment.
            flags: name to value, as a string or typed; a flag that is None was not given.
            base: the weakest layer; None is the defaults.

        Raises:
            SettingsError: a value is unknown or impossible, or the file cannot be read.
        """
        values = msgspec.structs.asdict(cls() if base is None else base)
        _overlay(values, {} if path is None else _from_file(os.fspath(path)))
        _overlay(values, _from_environment(os.environ if env is None else env))
        _overlay(values, _from_flags({} if flags is None else flags))
        return cls(**values)

    @classmethod
    def describe(cls) -> list[Description]:
        """The table of settings, in order: name, type, default and meaning of each."""
        return [
            Description(
                info.name,
                inspect.formatannotation(_FIELDS[info.name].hint),
                info.default,
                _FIELDS[info.name].rule.meaning,
            )
            for info in msgspec.structs.fields(cls)
        ]

    @property
    def lifetime(self) -> float | None:
        """The shorter one of ``idle_timeout`` and ``max_connection_age``; None for neither."""
        return min((s for s in (self.idle_timeout, self.max_connection_age) if s), default=None)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where to listen: ``"host:port"``, ``"[v6]:port"`` and ``"unix:/path"``."""
        if self.bind:
            return tuple(str(address.parse(text)) for text in self.bind)
        return tuple(str(address.Address(self.host, port)) for port in rules.several(self.port))


def _read_fields() -> dict[str, _Field]:
    hints = get_type_hints(Settings, include_extras=True)
    return {name: _Field(*get_args(hints[name])) for name in Settings.__struct_fields__}


_FIELDS: Mapping[str, _Field] = _read_fields()

#: What means nothing without another setting.
_NEEDS = {"tls_key": "tls_cert", "tls_ca": "tls_cert", "require_client_cert": "tls_ca"}


# Checks.


def _checked(label: str, name: str, value: object, *, shown: object, strict: bool = True) -> Any:
    """``value`` as its setting's type; not ``strict`` reads numbers and booleans from text.

    Raises:
        SettingsError: with ``label``, what was expected and ``shown``, what the user wrote.
    """
    field = _FIELDS[name]
    try:
        result = msgspec.convert(value, field.hint, strict=strict)
    except (msgspec.ValidationError, OverflowError):
        _refuse(label, field, shown)
    if result is not None and not field.rule.allows(result):
        _refuse(label, field, shown)
    return result


def _refuse(label: str, field: _Field, value: object) -> NoReturn:
    expected = field.rule.expected + (" or none" if field.optional else "")
    raise SettingsError(f"{label}: expected {expected}, got {_short(value)}") from None


def _short(value: object) -> str:
    if may_be_secret(value):
        return MASK
    text = repr(value)
    return text if len(text) <= 100 else text[:100] + "..."


# Layers: each reader returns checked values of the settings that its layer names.


def _overlay(values: dict[str, Any], layer: Mapping[str, Any]) -> None:
    if "host" in layer or "port" in layer:
        values["bind"] = ()
    values.update(layer)


def _from_file(path: str) -> dict[str, Any]:
    table = _settings_table(path, _read_toml(path))
    _refuse_unknown(table, _FIELDS, path)
    return {
        name: _checked(f"{path}: {name}", name, _or_none(_FIELDS[name], value), shown=value)
        for name, value in table.items()
    }


def _read_toml(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            document: dict[str, Any] = msgspec.toml.decode(file.read())
    except OSError as exc:
        raise SettingsError(f"cannot read {path}: {exc.strerror}") from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise SettingsError(f"cannot read {path}: {exc}") from exc
    return document


def _settings_table(path: str, document: dict[str, Any]) -> dict[str, Any]:
    """The ``[gtcp]`` table, the rest being the application's own; else the whole file."""
    table = document.get("gtcp")
    if not isinstance(table, dict):
        return document
    for name in document:
        if name in _FIELDS:
            raise SettingsError(f"setting {name!r} in {path} stands outside of [gtcp]")
    return table


def _from_environment(env: Mapping[str, str]) -> dict[str, Any]:
    given = {
        name: text
        for name, text in env.items()
        if name.startswith(_PREFIX) and name not in RESERVED_VARIABLES
    }
    names = {_PREFIX + name.upper(): name for name in _FIELDS}
    _refuse_unknown(given, names, "the environment")
    return {names[key]: _checked_text(key, names[key], text) for key, text in given.items()}


def _from_flags(flags: Mapping[str, object]) -> dict[str, Any]:
    given = {name: value for name, value in flags.items() if value is not None}
    _refuse_unknown(given, _FIELDS, "the flags")
    return {
        name: _checked_text("--" + name.replace("_", "-"), name, value)
        for name, value in given.items()
    }


def _checked_text(label: str, name: str, value: object) -> Any:
    field = _FIELDS[name]
    return _checked(label, name, _from_text(field, value), shown=value, strict=False)


def _from_text(field: _Field, value: object) -> object:
    """Text taken apart at its commas where there may be several; the rest is left to msgspec."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if field.several and not text.isdecimal():
        return [part.strip() for part in text.split(",") if part.strip()]
    return _or_none(field, text)


def _or_none(field: _Field, value: object) -> object:
    none = field.optional and isinstance(value, str) and value.lower() == "none"
    return None if none else value


def _refuse_unknown(given: Iterable[str], known: Iterable[str], where: str) -> None:
    names = list(known)
    for name in given:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            if "secret" in name.lower():
                hint = "; secrets are given in a file that secret_file names, or in GTCP_SECRET"
            raise SettingsError(f"unknown setting {_short(name)} in {where}{hint}")
