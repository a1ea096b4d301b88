"""Wrong arguments: one line that names the argument, before anything is sent."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

import gtcp
from tests.client.fakes import Peer, fake_server

Connect = Callable[..., gtcp.Client]

NAN, INF = float("nan"), float("inf")

#: Argument, value, exception, and a part of the expected message.
TIMEOUTS = [
    ("timeout", "3", TypeError, "seconds from 0 to 1e+09 or None"),
    ("timeout", True, TypeError, "seconds"),
    ("timeout", [3], TypeError, "seconds"),
    ("timeout", Decimal(3), TypeError, "seconds"),
    ("timeout", -1, ValueError, "seconds"),
    ("timeout", NAN, ValueError, "seconds"),
    ("timeout", INF, ValueError, "seconds"),
    ("timeout", 10**10, ValueError, "seconds"),
]
CMDID_AND_META = [
    ("cmdid", "1", TypeError, "an int"),
    ("cmdid", 1.0, TypeError, "an int"),
    ("cmdid", True, TypeError, "an int"),
    ("meta", {"a": 1}, TypeError, "a dict of strings"),
    ("meta", {1: "a"}, TypeError, "a dict of strings"),
    ("meta", "ab", TypeError, "a dict of strings"),
    ("meta", [], TypeError, "a dict of strings"),
]
RESULT_AND_IDEMPOTENT = [
    ("idempotent", "no", TypeError, "True or False"),
    ("idempotent", 1, TypeError, "True or False"),
    ("idempotent", None, TypeError, "True or False"),
    ("result", "int", TypeError, "a type"),
    ("result", [int], TypeError, "a type"),
    ("result", 5, TypeError, "a type"),
]
WINDOWS = [
    ("window", 2.5, TypeError, "an int of 1 or more"),
    ("window", "2", TypeError, "an int of 1 or more"),
    ("window", True, TypeError, "an int of 1 or more"),
    ("window", None, TypeError, "an int of 1 or more"),
    ("window", 0, ValueError, "1 or more"),
    ("params_iterable", 5, TypeError, "an iterable of params"),
    ("params_iterable", {"a": 1}, TypeError, "an iterable of params"),
    ("params_iterable", "abc", TypeError, "an iterable of params"),
    ("ordered", 0, TypeError, "True or False"),
    ("return_exceptions", "yes", TypeError, "True or False"),
]
ARGUMENTS = [
    *(("call", *each) for each in TIMEOUTS + CMDID_AND_META + RESULT_AND_IDEMPOTENT),
    ("call", "detach", 1, TypeError, "True or False"),
    *(("notify", *each) for each in TIMEOUTS + CMDID_AND_META),
    *(("map", *each) for each in TIMEOUTS + CMDID_AND_META + RESULT_AND_IDEMPOTENT + WINDOWS),
    *(("connect", *each) for each in TIMEOUTS),
]


@pytest.mark.parametrize(("method", "name", "value", "kind", "expected"), ARGUMENTS)
def test_a_wrong_argument_of_a_method_is_named(
    connect: Connect, method: str, name: str, value: Any, kind: type[Exception], expected: str
) -> None:
    with fake_server(Peer.echo) as server:
        client = connect(server.address)
        arguments: dict[str, Any] = {} if method == "connect" else {"cmdid": 1}
        if method == "map":
            arguments["params_iterable"] = [{}]
        with pytest.raises(kind, match=f"^{name}: expected .*{re.escape(expected)}") as raised:
            getattr(client, method)(**{**arguments, name: value})
        assert type(raised.value) is kind
        if name != "meta":
            assert repr(value) in str(raised.value)
        assert client.stats()["opened"] == 0
        assert server.lines == []


OPTIONS = [
    ("address", ("127.0.0.1", 8889), TypeError),
    ("address", b"127.0.0.1", TypeError),
    ("address", None, TypeError),
    ("address", "http://127.0.0.1", ValueError),
    *((name, value, kind) for name, value, kind, _ in TIMEOUTS),
    ("retries", "2", TypeError),
    ("retries", 2.0, TypeError),
    ("retries", True, TypeError),
    ("retries", None, TypeError),
    ("retries", -1, ValueError),
    *(
        (name, value, kind)
        for name in ("connect_timeout", "keepalive")
        for value, kind in [
            ("3", TypeError),
            (True, TypeError),
            (NAN, ValueError),
            (INF, ValueError),
        ]
    ),
    *(
        (name, value, kind)
        for name in ("min_connections", "max_connections", "max_in_flight")
        for value, kind in [("3", TypeError), (3.0, TypeError), (None, TypeError), (0, ValueError)]
    ),
    ("max_reply_bytes", 1e6, TypeError),
    ("max_reply_bytes", 0, ValueError),
    ("busy_poll", "1", TypeError),
    ("busy_poll", None, TypeError),
    ("busy_poll", NAN, ValueError),
    ("ca", 5, TypeError),
    ("cert", b"cert.pem", TypeError),
    ("key", True, TypeError),
    ("server_name", 5, TypeError),
    ("secret", 5, TypeError),
    ("secret", ["name:0123456789abcdef"], TypeError),
    ("secret_file", 5, TypeError),
]


@pytest.mark.parametrize(("name", "value", "kind"), OPTIONS)
def test_a_wrong_option_of_a_client_is_named(name: str, value: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind) as raised:
        gtcp.Client(**{"address": "127.0.0.1", name: value})
    assert type(raised.value) is kind
    assert name in str(raised.value)
    assert "0123456789abcdef" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["address", "ca", "timeout", "retries", "server_name"])
def test_what_may_be_a_secret_is_not_shown(name: str) -> None:
    secret = "name:0123456789abcdefghij"
    with pytest.raises((TypeError, ValueError)) as raised:
        gtcp.Client(**{"address": "127.0.0.1", name: secret})
    assert secret not in str(raised.value)


class Number(msgspec.Struct):
    n: int


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"timeout": 5}, {"n": 1}),
        ({"timeout": 5.0}, {"n": 1}),
        ({"timeout": None}, {"n": 1}),
        ({"idempotent": True, "detach": True}, {"n": 1}),
        ({"result": Number}, Number(1)),
        ({"result": Number | None}, Number(1)),
        ({"result": dict[str, int]}, {"n": 1}),
        ({"result": Any}, {"n": 1}),
        ({"meta": {}}, {"n": 1}),
    ],
)
def test_right_arguments_are_accepted(
    connect: Connect, arguments: dict[str, Any], expected: Any
) -> None:
    with fake_server(Peer.echo) as server:
        client = connect(server.address)
        assert client.call(1, {"n": 1}, **arguments) == expected
        arguments.pop("detach", None)
        assert list(client.map(1, iter([{"n": 1}]), **arguments)) == [expected]


class TestDeadline:
    @pytest.mark.parametrize(
        ("seconds", "kind"),
        [
            ("3", TypeError), (None, TypeError), (True, TypeError),
            (NAN, ValueError), (INF, ValueError), (1e10, ValueError),
        ],
    )  # fmt: skip
    def test_that_is_no_duration_is_refused(self, seconds: Any, kind: type[Exception]) -> None:
        with pytest.raises(kind, match=r"^seconds: expected a number"), gtcp.deadline(seconds):
            pytest.fail("the block was entered")

    @pytest.mark.parametrize("seconds", [0, -1, -0.5])
    def test_may_have_passed_already(self, connect: Connect, seconds: float) -> None:
        with fake_server(Peer.echo) as server:
            client = connect(server.address)
            with pytest.raises(gtcp.CallTimeout), gtcp.deadline(seconds):
                client.call(1)


class TestServer:
    @pytest.mark.parametrize("settings", ["app.toml", {"port": 1}, 8889, gtcp.Settings])
    def test_settings_are_a_settings(self, settings: Any) -> None:
        with pytest.raises(TypeError, match=r"^settings: expected a gtcp\.Settings or None, got"):
            gtcp.Server(settings)

    @pytest.mark.parametrize("secret", [5, True, [b"name:0123456789abcdef"], [5], 1.5])
    def test_a_secret_is_text_and_never_shown(self, secret: Any) -> None:
        with pytest.raises(TypeError, match=r"^secret: expected a string") as raised:
            gtcp.Server(gtcp.Settings(), secret=secret)
        assert "0123456789abcdef" not in str(raised.value)

    @pytest.mark.parametrize(
        ("timeout", "kind"),
        [("3", TypeError), (True, TypeError), (-1, ValueError), (NAN, ValueError)],
    )
    def test_goes_on_when_it_is_stopped_with_a_wrong_timeout(
        self, timeout: Any, kind: type[Exception]
    ) -> None:
        server = gtcp.Server(gtcp.Settings(port=0))
        server.start()
        try:
            with pytest.raises(kind, match=r"^timeout: expected seconds from 0"):
                server.stop(timeout)
            assert server.addresses
        finally:
            server.stop(0)

    @pytest.mark.parametrize("listeners", [5, "127.0.0.1:8889", ["127.0.0.1:8889"], True])
    def test_listeners_are_sockets(self, listeners: Any) -> None:
        server = gtcp.Server(gtcp.Settings(port=0))
        with pytest.raises(TypeError, match=r"^listeners: expected a list of listening sockets"):
            server.start(listeners)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            with pytest.raises(TypeError, match=r"^listeners: expected a list"):
                server.start(listener)  # type: ignore[arg-type]
            assert not server.started
            server.start([listener])
            server.stop(0)

    @pytest.mark.parametrize(
        ("name", "value"),
        [("cmdid", "1"), ("cmdid", True), ("run_to_end", "no"), ("allow", "x"), ("allow", 5)],
    )
    def test_options_of_a_handler_are_named(self, name: str, value: Any) -> None:
        with pytest.raises(TypeError, match=f"^{name}: expected "):
            gtcp.Commands().handler(**{"cmdid": 1, name: value})(lambda request: None)

    def test_includes_a_table(self) -> None:
        with pytest.raises(TypeError, match=r"^commands: expected a gtcp\.Commands, got "):
            gtcp.Server(gtcp.Settings()).include([1])  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "wrong",
        [{"port": "x"}, {"port": True}, {"idle_timeout": NAN}, {"workers": 2.5}, {"host": 5}],
    )
    def test_a_wrong_setting_is_a_settings_error(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(gtcp.SettingsError, match=f"^{next(iter(wrong))}: expected "):
            gtcp.Settings(**wrong)


TYPED = """
from typing import Any, Iterator
import gtcp, msgspec
class Greet(msgspec.Struct):
    content: str
client = gtcp.Client("127.0.0.1")
reveal_type(client.call(1))
reveal_type(client.call(1, result=Greet))
reveal_type(client.call(1, result=list[int], idempotent=True))
reveal_type(client.call(1, result=dict[str, Greet]))
reveal_type(client.map(1, [{}]))
reveal_type(client.map(1, [{}], result=Greet))
reveal_type(client.map(1, [{}], result=list[int], window=2))
reveal_type(client.map(1, [{}], result=Greet, return_exceptions=True))
reveal_type(client.map(1, [{}], return_exceptions=True))
strings: Iterator[str] = client.map(1, [{}], result=int)
"""
REVEALED = [
    "Any",
    "snippet.Greet",
    "list[int]",
    "dict[str, snippet.Greet]",
    "Iterator[Any]",
    "Iterator[snippet.Greet]",
    "Iterator[list[int]]",
    "Iterator[snippet.Greet | Exception]",
    "Iterator[Any]",
]


@pytest.mark.untraced
@pytest.mark.programs
def test_mypy_infers_the_types_of_results(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "snippet.py").write_text(TYPED)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "snippet.py"]
    env = {**os.environ, "MYPYPATH": str(Path(gtcp.__file__).parents[1])}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    types = re.findall(r'Revealed type is "(.*)"', done.stdout)
    shown = [re.sub(r"\b(builtins|typing|collections\.abc)\.", "", each) for each in types]
    assert shown == REVEALED, done.stdout
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 1, done.stdout
    assert "type[int]" in errors[0]
