from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtcp.errors import SettingsError, SettingsTypeError
from gtcp.server.settings import Settings


def load(path: Path | None = None, **layers: Any) -> Settings:
    """`Settings.load` without the environment of the machine."""
    return Settings.load(path, **{"env": {}, **layers})


def refusal(path: Path | None = None, **layers: Any) -> str:
    """Return the message of `load` when it refuses."""
    with pytest.raises(SettingsError) as caught:
        load(path, **layers)
    return str(caught.value)


@pytest.fixture
def toml(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "app.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


# Values.


def test_the_defaults_pass_their_own_checks():
    assert msgspec.structs.asdict(Settings()) == {
        "host": "127.0.0.1",
        "port": 8889,
        "bind": (),
        "workers": 1,
        "backlog": 2048,
        "graceful_timeout": 30.0,
        "drain_delay": 0.0,
        "admin": None,
        "log_level": "info",
        "log_file": None,
        "log_format": "text",
        "log_config": None,
        "access_log": False,
        "max_line_bytes": 1024 * 1024,
        "max_reply_bytes": 16 * 1024 * 1024,
        "stream_window": 256 * 1024,
        "max_depth": 64,
        "line_timeout": 5.0,
        "idle_timeout": 300.0,
        "max_connection_age": 300.0,
        "write_timeout": 10.0,
        "max_connections": 10_000,
        "max_connections_per_address": None,
        "max_in_flight": 1_000,
        "max_in_flight_per_connection": 100,
        "keepalive": 60.0,
        "half_close_grace": 0.5,
        "insecure": False,
        "tls_cert": None,
        "tls_key": None,
        "tls_ca": None,
        "require_client_cert": False,
        "allow_identities": (),
        "allow_networks": (),
        "proxy_from": (),
        "secret_file": None,
        "require_channel_binding": False,
        "handshake_timeout": 5.0,
        "unix_mode": "600",
        "operators": (),
        "register": None,
        "unix_owner": None,
        "unix_group": None,
    }


def test_whole_seconds_become_floats_and_lists_become_tuples():
    settings = Settings(idle_timeout=3, port=[1, 2])  # type: ignore[arg-type]
    assert isinstance(settings.idle_timeout, float)
    assert settings.port == (1, 2)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("host", "", "a host name or an IP address, without a port"),
        ("host", "a:1", "a host name or an IP address, without a port"),
        ("host", "[::1]", "a host name or an IP address, without a port"),
        ("host", "unix:/run/x.sock", "a host name or an IP address, without a port"),
        ("host", "a b", "a host name or an IP address, without a port"),
        ("host", "a\nb", "a host name or an IP address, without a port"),
        ("port", "8889", "an integer from 0 to 65535"),
        ("port", True, "an integer from 0 to 65535"),
        ("port", 1.0, "an integer from 0 to 65535"),
        ("port", -1, "an integer from 0 to 65535"),
        ("port", 65536, "an integer from 0 to 65535"),
        ("port", (), "an integer from 0 to 65535"),
        ("port", (1, 65536), "an integer from 0 to 65535"),
        ("port", None, "an integer from 0 to 65535"),
        ("bind", 5, "addresses such as 127.0.0.1:8889, [::1]:8889, unix:/path or fd://3"),
        ("bind", ("a:b",), "addresses such as 127.0.0.1:8889, [::1]:8889, unix:/path or fd://3"),
        ("bind", ("unix:",), "addresses such as 127.0.0.1:8889, [::1]:8889, unix:/path or fd://3"),
        ("workers", 0, "an integer from 1 to 1024"),
        ("workers", None, "an integer from 1 to 1024"),
        ("backlog", 65536, "an integer from 1 to 65535"),
        ("graceful_timeout", -0.1, "seconds >= 0"),
        ("graceful_timeout", None, "seconds >= 0"),
        ("graceful_timeout", 10**400, "seconds >= 0"),
        ("log_level", "loud", "one of debug, info, warning, error, critical"),
        ("access_log", 1, "true or false"),
        ("max_depth", 501, "an integer from 1 to 500"),
        ("idle_timeout", -1, "seconds > 0 or none"),
        ("idle_timeout", 0, "seconds > 0 or none"),
        ("idle_timeout", float("nan"), "seconds > 0 or none"),
        ("idle_timeout", float("inf"), "seconds > 0 or none"),
        ("idle_timeout", "5", "seconds > 0 or none"),
        ("idle_timeout", True, "seconds > 0 or none"),
        ("max_connections", 0, "an integer >= 1 or none"),
        ("keepalive", 0.5, "seconds >= 1 or none"),
    ],
)
def test_an_impossible_value_is_refused_with_its_name_and_what_was_expected(name, value, expected):
    shown = repr(value) if len(repr(value)) <= 100 else repr(value)[:100] + "..."
    with pytest.raises(SettingsError) as caught:
        Settings(**{name: value})
    assert str(caught.value) == f"{name}: expected {expected}, got {shown}"


def test_settings_cannot_be_changed_and_a_copy_is_checked_too():
    with pytest.raises(AttributeError):
        Settings().port = 1  # type: ignore[misc]
    with pytest.raises(SettingsError, match="workers"):
        msgspec.structs.replace(Settings(), workers=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prot": 3}, "unknown setting 'prot' in gtcp.Settings; did you mean 'port'?"),
        ({"port": 1, "nothing": 2}, "unknown setting 'nothing' in gtcp.Settings"),
        (
            {"secret": "a:0123456789abcdef"},
            "unknown setting 'secret' in gtcp.Settings; secrets are given in a file that "
            "secret_file names, or in GTCP_SECRET",
        ),
        (
            {"line_timeout": "50e-6"},
            "line_timeout: expected seconds > 0 or none, got '50e-6'",
        ),
        ({"workers": "2"}, "workers: expected an integer from 1 to 1024, got '2'"),
        ({"access_log": "yes"}, "access_log: expected true or false, got 'yes'"),
        ({"allow_networks": 5}, "allow_networks: expected networks such as 10.0.0.0/8"),
    ],
)
def test_a_keyword_of_the_wrong_type_or_name_is_a_type_error(arguments, message):
    with pytest.raises(TypeError) as caught:
        Settings(**arguments)
    assert type(caught.value) is SettingsTypeError
    assert isinstance(caught.value, SettingsError)
    assert str(caught.value).startswith(message)
    assert "0123456789abcdef" not in str(caught.value)


def test_settings_have_keywords_only():
    with pytest.raises(TypeError, match=r"^settings are keywords, got 8889$"):
        Settings(8889)  # type: ignore[misc]


def test_one_address_is_a_string(toml):
    """In a file and as a keyword; several may be one string as in the environment."""
    one, two = ("127.0.0.1:8810",), ("127.0.0.1:8810", "unix:/run/shop.sock")
    assert Settings(bind="127.0.0.1:8810").bind == one  # type: ignore[arg-type]
    assert load(toml('bind = "127.0.0.1:8810"')).addresses == one
    assert load(toml('bind = "127.0.0.1:8810, unix:/run/shop.sock"')).addresses == two
    assert load(toml('bind = ["127.0.0.1:8810", "unix:/run/shop.sock"]')).addresses == two
    assert load(env={"GTCP_BIND": "127.0.0.1:8810,unix:/run/shop.sock"}).addresses == two
    assert load(toml('port = "8004,8005"')).port == (8004, 8005)
    assert load(toml('port = "8004"')).port == 8004
    assert load(toml('allow_networks = "10.0.0.0/8"')).allow_networks == ("10.0.0.0/8",)
    assert refusal(toml("bind = 8810")).startswith(f"{toml('bind = 8810')}: bind: expected ")
    assert "port: expected an integer from 0 to 65535, got 'x'" in refusal(toml("port = 'x'"))


NOT_OPTIONAL = [info.name for info in Settings.describe() if "None" not in info.type]
OPTIONAL = [info.name for info in Settings.describe() if "None" in info.type]


@pytest.mark.parametrize("name", OPTIONAL)
def test_no_limit_is_none_in_keywords_and_spelled_none_elsewhere(name, toml):
    for settings in (
        Settings(**{name: None}),
        load(toml(f"{name} = 'none'")),
        load(env={f"GTCP_{name.upper()}": "None"}),
        load(flags={name: "none"}),
    ):
        assert getattr(settings, name) is None


@pytest.mark.parametrize("name", [name for name in NOT_OPTIONAL if name not in ("host", "bind")])
def test_what_must_have_a_limit_does_not_take_none(name):
    with pytest.raises(SettingsError, match=rf"^GTCP_{name.upper()}: expected .*, got 'none'$"):
        load(env={f"GTCP_{name.upper()}": "none"})


# Addresses.


@pytest.mark.parametrize(
    ("given_settings", "addresses"),
    [
        ({}, ("127.0.0.1:8889",)),
        ({"host": "::1"}, ("[::1]:8889",)),
        ({"host": "localhost", "port": (8889, 8890)}, ("localhost:8889", "localhost:8890")),
        ({"port": 0}, ("127.0.0.1:0",)),
        (
            {"host": "ignored", "bind": ("0.0.0.0:1", "[::1]:2", "unix:/run/x.sock")},
            ("0.0.0.0:1", "[::1]:2", "unix:/run/x.sock"),
        ),
    ],
)
def test_addresses_are_bind_or_else_the_host_with_every_port(given_settings, addresses):
    assert Settings(**given_settings).addresses == addresses


# Layers.


def test_a_stronger_layer_wins_setting_by_setting(toml):
    base = Settings(workers=2, backlog=2, max_depth=2, max_connections=2)
    path = toml("backlog = 3\nmax_depth = 3\nmax_connections = 3")
    env = {"GTCP_MAX_DEPTH": "4", "GTCP_MAX_CONNECTIONS": "4"}
    settings = load(path, env=env, flags={"max_connections": "5"}, base=base)
    found = (settings.workers, settings.backlog, settings.max_depth, settings.max_connections)
    assert found == (2, 3, 4, 5)


def test_the_environment_is_the_process_own_unless_given(monkeypatch):
    monkeypatch.setenv("GTCP_WORKERS", "7")
    assert Settings.load().workers == 7
    assert Settings.load(env={}).workers == 1


def test_a_stronger_port_puts_a_weaker_bind_aside(toml):
    path = toml("bind = ['10.0.0.1:1']")
    assert load(path).addresses == ("10.0.0.1:1",)
    assert load(path, flags={"port": "9000"}).addresses == ("127.0.0.1:9000",)
    assert load(path, env={"GTCP_HOST": "::1"}).addresses == ("[::1]:8889",)


def test_bind_replaces_host_and_port_of_its_own_and_weaker_layers(toml):
    path = toml("host = '10.0.0.1'\nport = 1")
    env = {"GTCP_BIND": "unix:/run/x.sock", "GTCP_PORT": "2"}
    assert load(path, env=env).addresses == ("unix:/run/x.sock",)


# The file.


@pytest.mark.parametrize("header", ["", "[gtcp]\n"])
def test_a_file_has_its_settings_at_top_level_or_in_a_table(toml, header):
    path = toml(header + "host = 'localhost'\nport = [1, 2]\naccess_log = true\nline_timeout = 1")
    expected = Settings(host="localhost", port=(1, 2), access_log=True, line_timeout=1.0)
    assert load(path) == expected


def test_beside_the_gtcp_table_a_file_is_the_applications_own(toml):
    assert load(toml("name = 'shop'\n[gtcp]\nport = 1\n[shop]\nport = 2")).port == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("port = 'x'", "port: expected an integer from 0 to 65535, got 'x'"),
        ("idle_timeout = -1", "idle_timeout: expected seconds > 0 or none, got -1"),
        ("workers = 'none'", "workers: expected an integer from 1 to 1024, got 'none'"),
        ("gtcp = 1", "unknown setting 'gtcp'"),
        ("prot = 1", "unknown setting 'prot' in {}; did you mean 'port'?"),
        ("zzz = 1", "unknown setting 'zzz' in {}"),
        ("port = 2\n[gtcp]\nworkers = 2", "setting 'port' in {} is outside of [gtcp]"),
    ],
)
def test_a_mistake_in_a_file_names_the_file(toml, line, message):
    path = toml(line)
    said = refusal(path)
    assert message.format(path) in said
    assert str(path) in said


@pytest.mark.parametrize("content", [b"port = ", b"host = '\xff'", b"a = " + b"[" * 100_000, None])
def test_a_file_that_is_not_toml_or_not_there_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "app.toml"
    if content is not None:
        path.write_bytes(content)
    said = refusal(path)
    assert said.startswith(f"cannot read {path}: ")
    assert "\n" not in said
    assert content is not None or said.endswith("No such file or directory")


@pytest.mark.parametrize(
    ("layer", "name", "text", "value"),
    [
        ("env", "GTCP_PORT", "8890", 8890),
        ("env", "GTCP_PORT", "8889,8890", (8889, 8890)),
        ("env", "GTCP_PORT", " 8889, 8890 ", (8889, 8890)),
        ("env", "GTCP_HOST", "::", "::"),
        ("env", "GTCP_BIND", "a:1,unix:/x", ("a:1", "unix:/x")),
        ("env", "GTCP_BIND", "a:1", ("a:1",)),
        ("env", "GTCP_BIND", "", ()),
        ("env", "GTCP_WORKERS", "4", 4),
        ("env", "GTCP_IDLE_TIMEOUT", "2.5", 2.5),
        ("env", "GTCP_ACCESS_LOG", "true", True),
        ("env", "GTCP_ACCESS_LOG", "0", False),
        ("flags", "port", "1,2", (1, 2)),
        ("flags", "port", 1, 1),
        ("flags", "port", ("1", "2"), (1, 2)),
        ("flags", "bind", ["a:1", "b:2"], ("a:1", "b:2")),
        ("flags", "access_log", True, True),
        ("flags", "idle_timeout", 1.5, 1.5),
    ],
)
def test_a_variable_or_flag_is_read_as_its_settings_type(layer, name, text, value):
    found = load(**{layer: {name: text}})
    assert getattr(found, name.removeprefix("GTCP_").lower()) == value


PORT = "GTCP_PORT: expected an integer from 0 to 65535, got {!r}"


@pytest.mark.parametrize(
    ("layer", "name", "value", "message"),
    [
        *(
            ("env", "GTCP_PORT", text, PORT.format(text))
            for text in ("abc", "", "-1", "8889,abc", "1.5", "tcp://10.0.0.1:8889")
        ),
        (
            *("env", "GTCP_PROT", "1"),
            "unknown setting 'GTCP_PROT' in the environment; did you mean 'GTCP_PORT'?",
        ),
        (
            *("flags", "idle_timeout", "soon"),
            "--idle-timeout: expected seconds > 0 or none, got 'soon'",
        ),
        (
            *("flags", "wrokers", 1),
            "unknown setting 'wrokers' in the flags; did you mean 'workers'?",
        ),
    ],
)
def test_a_mistake_is_named_as_it_was_written(layer, name, value, message):
    assert refusal(**{layer: {name: value}}) == message


def test_other_variables_and_the_secret_are_left_alone():
    env = {"PORT": "x", "gtcp_port": "x", "GTCP_SECRET": "s"}
    assert load(env=env) == Settings()


def test_a_flag_that_was_not_given_is_skipped():
    assert load(env={"GTCP_PORT": "1"}, flags={"port": None}).port == 1


# What the documentation is made from.


def test_every_setting_is_described_with_its_type_default_and_meaning():
    table = Settings.describe()
    assert [row.name for row in table] == list(Settings.__struct_fields__)
    assert all(row.type and row.meaning for row in table)
    assert [row.default for row in table] == list(msgspec.structs.astuple(Settings()))
    assert table[1][:3] == ("port", "int | tuple[int, ...]", 8889)
    assert {row.name: row.type for row in table}["idle_timeout"] == "float | None"


@given(
    name=st.sampled_from(Settings.__struct_fields__),
    value=st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.text())
    ),
)
def test_any_value_is_taken_or_refused_in_one_line(name, value):
    for layer in ({"flags": {name: value}}, {"env": {f"GTCP_{name.upper()}": str(value)}}):
        assert outcome(layer)
        assert "\n" not in outcome(layer)


def outcome(layer: dict[str, Any]) -> str:
    try:
        return " ".join(load(**layer).addresses)
    except SettingsError as exc:
        return str(exc)
