"""The command line: real processes, real signals; in this process only what ends at once."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import pytest

import gtcp
from gtcp.cli import main, ping, serving
from tests.helpers import PATIENCE, Line, eventually
from tests.helpers import serving as in_thread

COMMAND = [sys.executable, "-W", "error", "-m", "gtcp"]

APP = """\
import os
import time

import gtcp
from gevent import monkey

server = gtcp.Server()

@server.handler(1)
def echo(request):
    "Say it back."
    return request.params

@server.handler(2)
def patched(request):
    return monkey.is_module_patched("time")

@server.handler(3)
def parent(request):
    return os.getppid()

@server.handler(4)
def nap(request):
    open(request.params["path"], "w").close()
    time.sleep(request.params["seconds"])
    return "slept"

@server.handler(5)
def refuse(request):
    raise gtcp.CommandError(1001, "no more\\x1b[31m tea", {"left": 0})
"""


def environment(**extra: str) -> dict[str, str]:
    plain = {name: text for name, text in os.environ.items() if not name.startswith("GTCP_")}
    return {**plain, **extra}


def run(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, to its end."""
    return subprocess.run(
        [*COMMAND, *args],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment(),
        check=False,
        **options,
    )


class Served:
    """A running ``gtcp serve``, from the line that says where it listens."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stderr is not None
        self.said: list[str] = []
        self.addresses: list[str] = []
        while not self.addresses:
            line = process.stderr.readline()
            assert line, f"it ended: {self.said}"
            self.said.append(line)
            where = re.search(r"listening on (.*), \d+ commands?, ", line)
            self.addresses = where[1].split(", ") if where else []

    @property
    def address(self) -> str:
        return self.addresses[0]

    def ask(self, cmdid: int, **params: Any) -> Any:
        with Line(self.address) as line:
            return line.ask({"cmdid": cmdid, "params": params})["result"]

    def end(self, sig: signal.Signals = signal.SIGTERM) -> str:
        """Send a signal, expect a drain; returns all that it said on stderr."""
        self.process.send_signal(sig)
        _, rest = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0
        return "".join(self.said) + rest


@contextmanager
def served(folder: Path, *args: str, env: dict[str, str] | None = None) -> Iterator[Served]:
    process = subprocess.Popen(
        [*COMMAND, "serve", *args],
        cwd=folder,
        env=environment(**(env or {})),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Served(process)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A directory with the application in ``app.py``."""
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the application is served, for tests that only call it."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "app.py").write_text(APP)
    with served(folder, "app", "--bind", "127.0.0.1:0") as running:
        yield running.address


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Iterator[Callable[..., Any]]:
    """Type a command in this process; returns its status, stdout and stderr."""
    handler = signal.getsignal(signal.SIGINT)

    def type_in(*args: str) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["gtcp", *args])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    yield type_in
    signal.signal(signal.SIGINT, handler)


@contextmanager
def peer(*chunks: bytes, close: bool = True) -> Iterator[tuple[str, list[bytes]]]:
    """A server that says these bytes once it has a line, whatever the line is."""
    got: list[bytes] = []
    over = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        sock, _ = listener.accept()
        with sock:
            got.append(sock.makefile("rb").readline())
            for chunk in chunks:
                sock.sendall(chunk)
            if not close:
                over.wait(PATIENCE)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}", got
    finally:
        over.set()
        thread.join()
        listener.close()


def free_address() -> str:
    """Where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return f"127.0.0.1:{sock.getsockname()[1]}"


def only_line(text: str) -> str:
    """The one line of a text, which must be one, with something in it."""
    assert text.endswith("\n")
    assert text.count("\n") == 1
    assert len(text) > 1
    return text[:-1]


# What was typed


def test_version_is_the_packages(typed: Any) -> None:
    assert typed("--version") == (0, f"gtcp {gtcp.__version__}\n", "")


def test_without_a_command_help_goes_to_stderr(typed: Any) -> None:
    status, out, err = typed()
    assert (status, out) == (2, "")
    assert all(f"  {name} " in err for name in ("serve", "call", "ping", "commands", "demo"))


@pytest.mark.parametrize("command", ["serve", "call", "ping", "commands", "demo"])
def test_help_of_every_command_fits_a_terminal(command: str, typed: Any) -> None:
    status, out, err = typed(command, "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"Usage: gtcp {command} ")
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["nosuch"], "No such command 'nosuch'"),
        (["--nosuch"], "--nosuch"),
        (["serve"], "TARGET"),
        (["serve", "app", "--wrokers", "2"], "--wrokers"),
        (["serve", "app", "more"], "more"),
        (
            ["serve", "app", "--workers", "two"],
            "--workers: expected an integer from 1 to 1024, got 'two'",
        ),
        (["serve", "app", "--workers", "0"], "--workers"),
        (["serve", "app", "--log-level", "loud"], "--log-level"),
        (["serve", "app", "--graceful-timeout", "-1"], "--graceful-timeout"),
        (["serve", "app", "--bind", "no:port"], "'no:port' is not an address"),
        (["serve", "app", "--config", "no.toml"], "cannot read no.toml"),
        (["serve", "app:"], "'app:': expected module:attribute"),
        (["serve", ":server"], "':server': expected module:attribute"),
        (["serve", "my app"], "'my app': expected module:attribute"),
        (["call"], "ADDRESS"),
        (["call", "127.0.0.1"], "CMDID"),
        (["call", "a:b", "1"], "'a:b' is not an address"),
        (["call", "127.0.0.1", "one"], "expected a whole number >= 0, got 'one'"),
        (["call", "127.0.0.1", str(2**63)], "expected a whole number >= 0"),
        (["call", "127.0.0.1", "9" * 5000], "expected a whole number >= 0"),
        (["call", "127.0.0.1", "1", "{"], "PARAMS: "),
        (["call", "127.0.0.1", "1", '{"a": \x1b}'], "PARAMS: "),
        (["call", "127.0.0.1", "1", "[" * 100_000], "PARAMS: "),
        (["call", "127.0.0.1", "1", "--timeout", "0"], "expected seconds > 0"),
        (["call", "127.0.0.1", "1", "--timeout", "nan"], "expected seconds > 0"),
        (["call", "127.0.0.1", "1", "--timeout", "soon"], "'soon'"),
        (["ping", "127.0.0.1", "-c", "0"], "expected a whole number >= 1"),
        (["ping", "127.0.0.1", "-i", "-1"], "expected seconds"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(args: list[str], says: str, typed: Any) -> None:
    status, out, err = typed(*args)
    assert (status, out) == (2, "")
    line = only_line(err)
    assert line.startswith("error: ")
    assert says in line
    assert line.isprintable()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prot = 1", "unknown setting 'prot'"),
        ("port = 99999", "port: expected an integer from 0 to 65535"),
        ("port = = 1", "cannot read"),
    ],
)
def test_a_mistake_in_the_configuration_is_one_line(
    text: str, says: str, typed: Any, tmp_path: Path
) -> None:
    config = tmp_path / "gtcp.toml"
    config.write_text(text)
    status, out, err = typed("serve", "app", "--config", str(config))
    assert (status, out) == (2, "")
    assert says in only_line(err)
    assert str(config) in err


def test_a_mistake_in_the_environment_names_the_variable(
    typed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GTCP_WORKERS", "many")
    status, _, err = typed("serve", "app")
    assert status == 2
    assert only_line(err).startswith("error: GTCP_WORKERS: expected an integer")


def test_without_gunicorn_workers_say_what_to_install(
    typed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for flags in (["--workers", "2"], ["--reload"]):
        status, _, err = typed("serve", "app", *flags)
        assert status == 1
        assert "pip install 'gtcp[gunicorn]'" in only_line(err)


def test_the_command_imports_nothing_that_only_others_need() -> None:
    code = (
        "import gtcp.cli, sys; print([each for each in sys.modules if "
        "each.startswith(('gunicorn', 'gtcp.cli.serving', 'gtcp.cli.demo', 'ssl', 'asyncio'))])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"


def test_a_reader_that_has_seen_enough_gets_no_traceback(address: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        ended = subprocess.run(
            [*COMMAND, "commands", address], stdout=pipe, stderr=subprocess.PIPE, check=False
        )
    assert (ended.returncode, ended.stderr) == (1, b"")


# call


def test_call_prints_the_result_on_one_line(address: str) -> None:
    ended = run("call", address, "1", '{"content": "Grüße", "more": [1, null]}')
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == '{"content": "Grüße", "more": [1, null]}\n'


def test_call_without_params_sends_none(address: str) -> None:
    assert run("call", address, "1").stdout == "{}\n"


def test_call_reads_params_from_stdin(address: str) -> None:
    ended = run("call", address, "1", "-", input='{"on":\n "two lines"}\n')
    assert (ended.returncode, ended.stdout) == (0, '{"on": "two lines"}\n')


def test_call_prints_a_number_too_big_for_most(typed: Any) -> None:
    number = 10**30
    with peer(b'{"code":0,"id":1,"result":%d}\n' % number) as (where, _):
        assert typed("call", where, "1") == (0, f"{number}\n", "")


def test_call_prints_several_lines_to_a_terminal(address: str) -> None:
    leader, follower = pty.openpty()
    try:
        command = [*COMMAND, "call", address, "1", '{"a": {"b": 1}}']
        subprocess.run(command, stdout=follower, check=True, timeout=PATIENCE)
        shown = os.read(leader, 4096).decode()
    finally:
        os.close(leader)
        os.close(follower)
    assert shown.split("\r\n") == ["{", '  "a": {', '    "b": 1', "  }", "}", ""]


@pytest.mark.parametrize("raw", [[], ["--raw"]])
def test_an_error_reply_is_status_1_and_says_whether_it_ran(
    raw: list[str], address: str, typed: Any
) -> None:
    status, out, err = typed("call", address, "99", *raw)
    assert status == 1
    assert only_line(err) == "error: 404 unknown cmdid 99 (executed: no)"
    assert out == ('{"code":404,"message":"unknown cmdid 99"}\n' if raw else "")


def test_an_applications_error_comes_with_its_data_and_harmless(address: str, typed: Any) -> None:
    status, out, err = typed("call", address, "5")
    assert (status, out) == (1, "")
    assert only_line(err) == 'error: 1001 no more\\x1b[31m tea {"left": 0} (executed: yes)'


@pytest.mark.parametrize("raw", [[], ["--raw"]])
def test_nobody_listens_was_not_executed(raw: list[str], typed: Any) -> None:
    where = free_address()
    status, out, err = typed("call", where, "1", *raw)
    assert (status, out) == (1, "")
    assert only_line(err) == f"error: can't connect to {where}: Connection refused (executed: no)"


@pytest.mark.parametrize("raw", [[], ["--raw"]])
def test_no_unix_socket_there_was_not_executed(raw: list[str], typed: Any, tmp_path: Path) -> None:
    status, _, err = typed("call", f"unix:{tmp_path}/no", "1", *raw)
    assert status == 1
    assert only_line(err).endswith("No such file or directory (executed: no)")


@pytest.mark.parametrize("raw", [[], ["--raw"]])
def test_a_server_that_closes_may_have_executed(raw: list[str], typed: Any) -> None:
    with peer(b'{"code":0,') as (where, _):
        status, out, err = typed("call", where, "1", *raw)
    assert (status, out) == (1, "")
    assert only_line(err).endswith("the server closed the connection (executed: maybe)")


@pytest.mark.parametrize("raw", [[], ["--raw"]])
def test_half_a_line_and_silence_is_a_timeout(raw: list[str], typed: Any) -> None:
    with peer(b'{"code":0,', close=False) as (where, _):
        status, out, err = typed("call", where, "1", "--timeout", "0.1", *raw)
    assert (status, out) == (1, "")
    assert only_line(err).endswith("the deadline passed (executed: maybe)")


def test_raw_prints_the_line_byte_for_byte(typed: Any) -> None:
    with peer(b'{"result" : [1,', b'2] ,"code":0 }\n{"code":1}\n') as (where, got):
        assert typed("call", where, "7", '{"a": 1}', "--raw", "--timeout", "9") == (
            0,
            '{"result" : [1,2] ,"code":0 }\n',
            "",
        )
    request = json.loads(got[0])
    assert 0 < request.pop("timeout") <= 9000
    assert request == {"cmdid": 7, "params": {"a": 1}}


def test_raw_over_a_unix_socket(app: Path) -> None:
    with served(app, "app", "--bind", "unix:sock"):
        ended = run("call", "unix:sock", "1", '{"a":1}', "--raw", cwd=app)
    assert (ended.returncode, ended.stdout) == (0, '{"code":0,"result":{"a":1}}\n')


def test_raw_shows_what_is_not_gtcp(typed: Any) -> None:
    with peer(b"HTTP/1.1 400 Bad Request\r\n\r\n") as (where, _):
        status, out, err = typed("call", where, "1", "--raw")
    assert (status, out) == (1, "HTTP/1.1 400 Bad Request\r\n")
    assert only_line(err).startswith("error: not a reply")


def test_raw_takes_no_endless_line(typed: Any) -> None:
    with peer(b"x" * (16 * 1024 * 1024 + 1), close=False) as (where, _):
        status, _, err = typed("call", where, "1", "--raw")
    assert status == 1
    assert "a reply line is too long (executed: maybe)" in only_line(err)


def test_interrupted_call_dies_of_the_signal_and_says_nothing() -> None:
    with peer(close=False) as (where, got):
        process = subprocess.Popen(
            [*COMMAND, "call", where, "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        eventually(lambda: got)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=PATIENCE) == (b"", b"")
    assert process.returncode == -signal.SIGINT


# ping


def test_ping_prints_each_reply_and_sums_up(address: str) -> None:
    ended = run("ping", address, "-c", "3", "-i", "0")
    assert (ended.returncode, ended.stderr) == (0, "")
    head, *replies, rule, summary = ended.stdout.splitlines()
    assert (head, rule) == (f"PING {address}", f"--- {address}")
    reply = re.compile(r"reply from (\S+): seq=(\d) time=\d+\.\d{3} ms( \(with connecting\))?")
    found = [reply.fullmatch(each) for each in replies]
    assert [each and each.groups() for each in found] == [
        (address, "1", " (with connecting)"),
        (address, "2", None),
        (address, "3", None),
    ]
    assert re.fullmatch(
        r"3 sent, 3 received, 0 lost, min/median/max ([\d.]+/){2}[\d.]+ ms", summary
    )


def test_summary_of_ping_is_of_those_answered() -> None:
    tally = ping.Tally()
    tally.times, tally.lost = [9.0, 1.0, 2.5], 1
    assert str(tally) == "4 sent, 3 received, 1 lost, min/median/max 1.000/2.500/9.000 ms"


def test_ping_of_nobody_is_status_1() -> None:
    where = free_address()
    ended = run("ping", where, "-c", "2", "-i", "0")
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        f"no reply: seq={number} can't connect to {where}: Connection refused" for number in (1, 2)
    ]
    assert ended.stdout.splitlines()[-1] == "2 sent, 0 received, 2 lost"


@pytest.mark.parametrize("answered", [True, False])
def test_interrupted_ping_sums_up(answered: bool, address: str) -> None:
    """Between two pings, and while it waits for a reply."""
    with peer(close=False) as (silent, got):
        process = subprocess.Popen(
            [*COMMAND, "ping", address if answered else silent, "-i", "60", "--timeout", "60"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        process.stdout.readline()
        if answered:
            process.stdout.readline()
            with Line(silent) as line:  # nobody else will
                line.send({"cmdid": 0})
        else:
            eventually(lambda: got)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert err == ""
    assert f"{int(answered)} sent, {int(answered)} received, 0 lost" in out.splitlines()[-1]
    assert process.returncode == (0 if answered else 1)


# commands


def typed_commands() -> gtcp.Commands:
    table = gtcp.Commands()

    @table.handler(20)
    def second(request: gtcp.Request[list[int]]) -> dict[str, int]:
        """Count them.

        And more, which a table has no room for.
        """
        return {}

    @table.handler(3)
    def first(request: Any) -> Any:
        pass

    @table.handler(4)
    def wild(request: Any) -> Any:
        """Clear\x1b[2J the screen."""

    return table


def test_commands_are_a_table(typed: Any) -> None:
    with in_thread(typed_commands()) as server:
        status, out, err = typed("commands", server.address)
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "CMDID  NAME    PARAMS     RESULT          ABOUT",
        "    3  first   dict       Any",
        "    4  wild    dict       Any             Clear\\x1b[2J the screen.",
        "   20  second  list[int]  dict[str, int]  Count them.",
    ]


def test_a_long_type_is_cut_in_the_table(typed: Any) -> None:
    rows = [{"cmdid": 1, "name": "f", "params": {"enum": ["x" * 80]}}]
    with peer(json.dumps({"code": 0, "id": 1, "result": rows}).encode() + b"\n") as (where, _):
        _, out, _ = typed("commands", where)
    assert out.splitlines()[1] == '    1  f     "' + "x" * 44 + "...  Any"


def test_commands_as_json_hold_everything(typed: Any) -> None:
    with in_thread(typed_commands()) as server:
        status, out, _ = typed("commands", server.address, "--json")
    assert status == 0
    rows = json.loads(only_line(out))
    assert [row["cmdid"] for row in rows] == [3, 4, 20]
    assert rows[2]["params"] == {"type": "array", "items": {"type": "integer"}}
    assert rows[2]["doc"].endswith("no room for.")


def test_commands_of_something_else_is_one_line(typed: Any) -> None:
    with peer(b'{"code":0,"id":1,"result":"pong"}\n') as (where, _):
        status, out, err = typed("commands", where)
    assert (status, out) == (1, "")
    assert only_line(err).startswith("error: the result does not fit")


# serve


@pytest.mark.parametrize("level", ["debug", "info", "warning", "critical"])
@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_one_line_says_what_listens_at_any_level(
    level: str, sig: signal.Signals, app: Path
) -> None:
    with served(app, "app", "--bind", "127.0.0.1:0", "--log-level", level) as running:
        assert running.ask(1, a=1) == {"a": 1}
        said = running.end(sig)
    announcement = f"gtcp: listening on {running.address}, 5 commands, pid {running.process.pid}"
    assert said.splitlines()[0] == announcement
    assert said.count("listening") == 1


def test_what_is_not_severe_enough_is_not_logged(app: Path) -> None:
    for level, logged in (("error", True), ("critical", False)):
        with served(app, "app", "--bind", "127.0.0.1:0", "--log-level", level) as running:
            with Line(running.address) as line:
                assert line.ask({"cmdid": 4})["code"] == 500
            assert ("KeyError" in running.end()) is logged


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("level", ["info", "warning", "critical"])
def test_access_log_has_a_line_for_each_request_at_any_level(
    level: str, workers: str, app: Path
) -> None:
    flags = ["--bind", "127.0.0.1:0", "--access-log", "--log-level", level, "--workers", workers]
    with served(app, "app", *flags) as running:
        running.ask(1)
        said = running.end()
    assert said.count("gtcp.access: ") == 1


def test_a_call_in_flight_is_answered_before_it_ends(app: Path) -> None:
    started = app / "started"
    with served(app, "app", "--bind", "127.0.0.1:0") as running:
        with Line(running.address) as line:
            params = {"seconds": 0.3, "path": str(started)}
            line.send({"cmdid": 4, "params": params, "id": 1})
            eventually(started.exists)
            running.process.send_signal(signal.SIGTERM)
            replies = line.rest()
        running.end()
    assert {"code": 0, "result": "slept", "id": 1} in replies


def test_graceful_timeout_cuts_the_drain_short(app: Path) -> None:
    started = app / "started"
    flags = ["--bind", "127.0.0.1:0", "--graceful-timeout", "0"]
    with served(app, "app", *flags) as running, Line(running.address) as line:
        line.send({"cmdid": 4, "params": {"seconds": 600, "path": str(started)}})
        eventually(started.exists)
        running.end()


def test_it_listens_on_every_address_given(app: Path) -> None:
    flags = ["--bind", "127.0.0.1:0", "--bind", "unix:sock", "--bind", "[::1]:0"]
    with served(app, "app", *flags) as running:
        first, second, third = running.addresses
        assert second == "unix:sock"
        for address in (first, f"unix:{app}/sock", third):
            with Line(address) as line:
                assert line.ask({"cmdid": 1})["code"] == 0


LAYERS = ("server", "file", "environment", "flags")


@pytest.mark.parametrize("strongest", LAYERS)
def test_the_strongest_layer_of_settings_wins(strongest: str, tmp_path: Path) -> None:
    given = LAYERS[: LAYERS.index(strongest) + 1]
    (tmp_path / "app.py").write_text(
        "import gtcp\nserver = gtcp.Server(gtcp.Settings(bind=('unix:server',), workers=1))\n"
    )
    (tmp_path / "gtcp.toml").write_text("bind = ['unix:file']\n")
    flags = ["--config", "gtcp.toml"] if "file" in given else []
    flags += ["--bind", "unix:flags"] if "flags" in given else []
    env = {"GTCP_BIND": "unix:environment"} if "environment" in given else {}
    with served(tmp_path, "app", *flags, env=env) as running:
        assert running.addresses == [f"unix:{strongest}"]


@pytest.mark.parametrize(("flags", "patched"), [([], True), (["--no-patch"], False)])
def test_the_target_is_imported_patched_unless_told_not_to(
    flags: list[str], patched: bool, app: Path
) -> None:
    with served(app, "app.py", "--bind", "127.0.0.1:0", *flags) as running:
        assert running.ask(2) is patched


def test_a_file_finds_the_modules_beside_it(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "beside.py").write_text("import gtcp\ntable = gtcp.Commands()\n")
    (tmp_path / "src" / "main.py").write_text("from beside import table\n")
    with served(tmp_path, "src/main.py:table", "--bind", "127.0.0.1:0") as running:
        assert ", 0 commands, " in running.said[0]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_address_in_use_is_one_line(workers: str, app: Path, address: str) -> None:
    ended = run("serve", "app", "--bind", address, "--workers", workers, cwd=app)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert only_line(ended.stderr) == f"error: can't listen on {address}: Address already in use"


@pytest.mark.parametrize("flags", [[], ["--workers", "2"], ["--reload"]])
def test_a_target_that_can_not_be_imported_is_one_line(flags: list[str], app: Path) -> None:
    (app / "broken.py").write_text("import app\nimport nothing_of_the_kind\n")
    ended = run("serve", "broken", *flags, cwd=app)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert only_line(ended.stderr) == (
        "error: broken.py, line 2: ModuleNotFoundError: No module named 'nothing_of_the_kind'"
    )


def test_a_target_that_ends_the_process_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import os\nos._exit(0)\n")
    ended = run("serve", "app", "--workers", "2", cwd=tmp_path)
    assert ended.returncode == 1
    assert only_line(ended.stderr) == "error: app: importing it ended the process"


# serve with workers


def test_workers_are_supervised(app: Path) -> None:
    with served(app, "app", "--bind", "127.0.0.1:0", "--workers", "2") as running:
        assert running.ask(3) == running.process.pid
        assert running.ask(2) is True
        running.end()


@pytest.mark.parametrize("level", ["info", "warning", "critical"])
def test_one_line_of_the_master_says_what_listens_at_any_level(level: str, app: Path) -> None:
    flags = ["--bind", "127.0.0.1:0", "--workers", "2", "--log-level", level]
    with served(app, "app", *flags) as running:
        running.ask(1)
        said = running.end()
    announcement = (
        f"gtcp: listening on {running.address}, 5 commands, 2 workers, pid {running.process.pid}"
    )
    assert said.splitlines().count(announcement) == 1
    assert said.count("gtcp: listening") == 1


def test_workers_may_stay_unpatched(app: Path) -> None:
    flags = ["--bind", "127.0.0.1:0", "--workers", "2", "--no-patch"]
    with served(app, "app", *flags) as running:
        assert running.ask(2) is False


@pytest.mark.parametrize("whose", ["flags", "its own"])
def test_the_supervising_process_does_not_import_the_application(
    whose: str, tmp_path: Path
) -> None:
    """Wherever it is said that there are two workers; the process stays the one started."""
    own = "workers=2" if whose == "its own" else ""
    (tmp_path / "app.py").write_text(
        "import gtcp, os\n"
        f"server = gtcp.Server(gtcp.Settings(port=0, {own}))\n"
        "@server.handler(1)\n"
        "def who(request): return [imported, os.getpid(), os.getppid()]\n"
        "imported = os.getpid()\n"
    )
    flags = ["--workers", "2"] if whose == "flags" else []
    with served(tmp_path, "app", *flags) as running:
        imported, worker, supervisor = running.ask(1)
        assert imported == worker
        assert supervisor == running.process.pid


def test_workers_hand_over_at_sigusr2(app: Path) -> None:
    """The new master does not mind that the old one still listens there."""
    address = free_address()
    command = [*COMMAND, "serve", "app", "--bind", address, "--workers", "2"]
    with open(app / "stderr", "w") as stderr:  # no pipe: the new master would hold it open
        old = subprocess.Popen(
            command, cwd=app, env=environment(), stderr=stderr, start_new_session=True
        )
    try:
        eventually(lambda: answered(address, 3) == old.pid)
        old.send_signal(signal.SIGUSR2)
        new = eventually(lambda: {answered(address, 3)} - {old.pid, None})
        old.terminate()
        assert old.wait(PATIENCE) == 0
        eventually(lambda: answered(address, 3) in new)
    finally:
        os.killpg(old.pid, signal.SIGKILL)
        old.wait()


def answered(address: str, cmdid: int = 1) -> Any:
    """The result, or None when at this moment nobody answers."""
    try:
        with Line(address) as line:
            return line.ask({"cmdid": cmdid})["result"]
    except (OSError, KeyError, AssertionError):
        return None


def test_reload_serves_what_the_file_has_become(tmp_path: Path) -> None:
    source = "import gtcp\nserver = gtcp.Server()\n@server.handler(1)\ndef f(request): return {}\n"
    file = tmp_path / "app.py"
    file.write_text(source.format(1))
    with served(tmp_path, "app", "--bind", "127.0.0.1:0", "--reload") as running:
        assert running.ask(1) == 1
        file.write_text(source.format(200))

        eventually(lambda: answered(running.address) == 200)


def test_the_announcement_is_printed_once_it_listens(
    capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before: a supervisor that reads it may connect at once."""
    server = gtcp.Server(gtcp.Settings(port=0))
    seen: list[list[str]] = []
    monkeypatch.setattr(serving.click, "echo", lambda *_a, **_k: seen.append(server.addresses))
    serving._announce(server)
    gevent.spawn(server.stop)
    server.serve_forever()
    assert len(seen) == 1
    assert seen[0]
