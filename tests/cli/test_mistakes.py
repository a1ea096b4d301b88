"""Mistakes in what was typed or configured, and failures: one line that names the problem."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

import gtcp
from tests.cli.processes import (
    COMMAND,
    fails,
    free_address,
    only_line,
    peer,
    run,
    served,
)

SUBCOMMANDS = ("serve", "call", "ping", "bench", "commands", "demo")

# What was typed


def test_version_is_the_packages(typed: Any) -> None:
    assert typed("--version") == (0, f"gtcp {gtcp.__version__}\n", "")


def test_without_a_command_help_goes_to_stderr(typed: Any) -> None:
    status, out, err = typed()
    assert (status, out) == (2, "")
    assert all(
        f"  {name} " in err for name in ("serve", "call", "ping", "bench", "commands", "demo")
    )


@pytest.mark.parametrize("command", SUBCOMMANDS)
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
        (["serve", "app", "--chdir", "app"], "--chdir: expected an absolute path, got 'app'"),
        (["serve", "app", "--chdir", "/nosuch"], "--chdir: /nosuch: No such file or directory"),
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
        (["call", "127.0.0.1", "1.5"], "expected a whole number >= 0, got '1.5'"),
        (["call", "127.0.0.1", str(2**63)], "expected a whole number >= 0"),
        (["call", "127.0.0.1", "9" * 5000], "expected a whole number >= 0"),
        (["call", "127.0.0.1", "1", "{"], "PARAMS: "),
        (["call", "127.0.0.1", "1", '{"a": \x1b}'], "PARAMS: "),
        (["call", "127.0.0.1", "1", "[" * 100_000], "PARAMS: "),
        (["call", "127.0.0.1", "1", "--meta", "tenant"], "expected KEY=VALUE, got 'tenant'"),
        (["call", "127.0.0.1", "1", "--meta", "=x"], "expected KEY=VALUE, got '=x'"),
        (["call", "127.0.0.1", "1", "--meta", "a=1", "--meta", "a=2"], "'a' is given twice"),
        (["call", "127.0.0.1", "1", "[1]"], "PARAMS: expected a JSON object, got [1]"),
        (["call", "127.0.0.1", "1", "7", "--raw"], "PARAMS: expected a JSON object, got 7"),
        (["bench", "127.0.0.1", "1", '"a"'], "PARAMS: expected a JSON object, got 'a'"),
        (["call", "127.0.0.1", "1", "--timeout", "0"], "expected seconds > 0"),
        (["call", "127.0.0.1", "1", "--timeout", "nan"], "expected seconds > 0"),
        (["call", "127.0.0.1", "1", "--timeout", "soon"], "'soon'"),
        (["call", "http://127.0.0.1:80", "1"], "'http://127.0.0.1:80' is not an address"),
        (["call", "", "1"], "'' is not an address"),
        (["ping", "[::1"], "'[::1' is not an address"),
        (["ping", ":8889"], "':8889' is not an address"),
        (["commands", "host:99999"], "a port is a number from 0 to 65535"),
        (["commands", "host:"], "a port is a number from 0 to 65535"),
        (["serve", "app", "--bind", ""], "'' is not an address"),
        (["serve", "app", "--bind", "http://[::1]:80"], "'http://[::1]:80' is not an address"),
        (["serve", "app", "--workers", "1025"], "--workers: expected an integer from 1 to 1024"),
        (["call", "127.0.0.1", "1", "{a: 1}"], """the shell needs it quoted: '{"key": "value"}'"""),
        (["call", "127.0.0.1", "1", "-", "more"], "more"),
        (["commands", "127.0.0.1", "--timeout"], "--timeout"),
        (["demo", "again"], "again"),
        (["ping", "127.0.0.1", "-c", "0"], "expected a whole number >= 1"),
        (["ping", "127.0.0.1", "-i", "-1"], "expected seconds"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(args: list[str], says: str, refused: Any) -> None:
    gc.collect()  # garbage that is finalized at the recursion limit would print something
    line = refused(2, *args)
    assert line.startswith("error: ")
    assert says in line
    assert line.isprintable()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prot = 1", "unknown setting 'prot'"),
        ("port = 99999", "port: expected an integer from 0 to 65535"),
        ("port = = 1", "cannot read"),
        ("[gtcp]\nworkers = 'all'", "workers: expected an integer"),
        ("port = 1\n[gtcp]\nworkers = 1", "is outside of [gtcp]"),
        ("\N{LATIN SMALL LETTER SHARP S} = 1", "cannot read"),
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


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("GTCP_WORKERS", "many", "error: GTCP_WORKERS: expected an integer"),
        ("GTCP_PRT", "1", "'GTCP_PRT' in the environment; did you mean 'GTCP_PORT'?"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(
    variable: str, value: str, says: str, refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert says in refused(2, "serve", "app")


def test_a_file_that_can_not_be_read_is_one_line(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name, why in ((".", "Is a directory"), ("binary", "'utf-8' codec can't decode")):
        line = refused(2, "serve", "app", "--config", str(tmp_path / name))
        assert f"cannot read {tmp_path / name}: {why}" in line


def test_without_gunicorn_workers_say_what_to_install(
    refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for flags in (["--workers", "2"], ["--reload"]):
        line = refused(1, "serve", "app", *flags)
        assert "pip install 'gtcp-rpc[gunicorn]'" in line


def test_a_reader_that_has_seen_enough_gets_no_traceback(address: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        ended = subprocess.run(
            [*COMMAND, "commands", address], stdout=pipe, stderr=subprocess.PIPE, check=False
        )
    assert (ended.returncode, ended.stderr) == (1, b"")


@pytest.mark.cover_programs
def test_output_that_can_not_be_written_is_one_line(address: str) -> None:
    for args in (["call", address, "1"], ["commands", address], ["call", address, "1", "--raw"]):
        with open("/dev/full", "wb") as full:
            ended = subprocess.run(
                [*COMMAND, *args], stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
        assert ended.returncode == 1
        assert only_line(ended.stderr) == "error: can't write the output: No space left on device"


@pytest.mark.cover_programs
def test_a_closed_stdout_and_stdin_are_borne(address: str) -> None:
    command = ["sh", "-c", 'exec "$@" >&- <&-', "sh", *COMMAND, "call", address, "1"]
    for params, status, says in (("{}", 0, ""), ("-", 2, "error: PARAMS: there is no stdin")):
        ended = subprocess.run([*command, params], stderr=subprocess.PIPE, text=True, check=False)
        assert ended.returncode == status
        assert ended.stderr.startswith(says)
        assert ended.stderr.count("\n") == (1 if says else 0)


@pytest.mark.cover_programs
def test_stdin_that_can_not_be_read_is_one_line(address: str) -> None:
    with open(os.devnull, "wb") as nothing_to_read:
        line = fails(2, "call", address, "1", "-", stdin=nothing_to_read)
    assert line == "error: PARAMS: can't read stdin: Bad file descriptor"


# What fails


HTTP = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize("args", [["call", "1"], ["commands"]])
def test_a_server_that_speaks_http_is_shown_by_what_it_says(args: list[str], refused: Any) -> None:
    said = "not a gtcp server: it says 'HTTP/1.1 400 Bad Request'"
    with peer(HTTP) as (where, _):
        line = refused(1, args[0], where, *args[1:])
    assert line == f"error: {where}: {said} (executed: maybe)"
    with peer(HTTP) as (where, _):
        assert only_line(run("ping", where, "-c", "1").stderr).endswith(said)


def test_what_another_server_says_can_not_drive_the_terminal(typed: Any) -> None:
    with peer(b"\x1b[2J\xff" + b"x" * 100 + b"\n") as (where, _):
        _, _, err = typed("call", where, "1")
    shown = r"\x1b[2J\xff" + "x" * 35
    assert only_line(err).endswith(f"it says '{shown}' (executed: maybe)")


@pytest.mark.parametrize("raw", [[], ["--raw"]])
@pytest.mark.parametrize("host", ["a..b", "\N{LATIN SMALL LETTER U WITH DIAERESIS}..b", "x" * 70])
def test_a_host_that_can_be_none_was_not_executed(host: str, raw: list[str], refused: Any) -> None:
    line = refused(1, "call", host, "1", *raw)
    assert line.startswith(f"error: can't connect to {host}:8889: ")
    assert line.endswith("(executed: no)")


@pytest.mark.parametrize(
    "command", [["commands"], ["call", "1"], ["call", "1", "--raw"], ["bench", "1", "-d", "600"]]
)
def test_where_nobody_listens_nothing_was_executed(
    command: list[str], refused: Any, tmp_path: Path
) -> None:
    for where, why in (
        (free_address(), "Connection refused"),
        (f"unix:{tmp_path}/no", "No such file or directory"),
    ):
        line = refused(1, command[0], where, *command[1:])
        assert line == f"error: can't connect to {where}: {why} (executed: no)"


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("bind", "why"),
    [
        ("unix:nowhere/sock", "No such file or directory"),
        ("unix:app.py", "a file is there that is no socket"),
        ("unix:" + "x" * 120, "AF_UNIX path too long"),
        ("\N{LATIN SMALL LETTER U WITH DIAERESIS}..b:1", "label empty"),
        ("192.0.2.1:1", "Cannot assign requested address"),
    ],
)
def test_where_it_can_not_listen_is_one_line(bind: str, why: str, workers: str, app: Path) -> None:
    line = fails(1, "serve", "app", "--bind", bind, "--workers", workers, cwd=app)
    assert line.startswith(f"error: can't listen on {bind}: ")
    assert why in line


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_unix_socket_is_not_taken_from_who_listens_there(workers: str, app: Path) -> None:
    with served(app, "app", "--bind", "unix:sock"):
        line = fails(1, "serve", "app", "--bind", "unix:sock", "--workers", workers, cwd=app)
        assert line == "error: can't listen on unix:sock: Address already in use"
        assert run("call", "unix:sock", "1", cwd=app).stdout == "{}\n"


def test_a_unix_socket_left_behind_is_taken_by_workers(app: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(app / "sock"))
    with served(app, "app", "--bind", "unix:sock", "--workers", "2"):
        assert run("call", "unix:sock", "1", cwd=app).stdout == "{}\n"


def test_a_target_that_leads_nowhere_is_one_line(app: Path) -> None:
    """Status 2 where TARGET itself is wrong, 1 where the application fails; workers or not."""
    (app / "folder").mkdir()
    (app / "wrong.py").write_text("import gtcp\nserver = gtcp.Server(gtcp.Settings(port=-1))\n")
    each: tuple[list[str], ...] = ([], ["--workers", "2"], ["--check-config"], ["--print-config"])
    for status, target, says, ways in (
        (2, "nosuch", "can't import 'nosuch' from ", each),
        (2, "./folder", "./folder is a directory: give the file in it, or a module's name", [[]]),
        (2, "app:nosuch", "app has no 'nosuch'; it has server", [[]]),
        (2, "app:os", "app:os is a module: expected a gtcp.Server or gtcp.Commands", [[]]),
        (1, "wrong", "wrong.py, line 2: SettingsError: port: expected an integer", each),
    ):
        for flags in ways:
            line = fails(status, "serve", target, *flags, cwd=app)
            assert line.startswith(f"error: {says}")


@pytest.mark.parametrize("flags", [[], ["--workers", "2"], ["--check-config"]])
@pytest.mark.cover_programs
def test_an_unknown_owner_of_a_socket_is_status_2(flags: list[str], app: Path) -> None:
    for name, kind in (("unix_owner", "user"), ("unix_group", "group")):
        env = {f"GTCP_{name.upper()}": "nobody-here"}
        line = fails(2, "serve", "app", "--bind", "unix:sock", *flags, cwd=app, env=env)
        assert line == f"error: {name}: there is no {kind} 'nobody-here'"
        assert not (app / "sock").exists()
