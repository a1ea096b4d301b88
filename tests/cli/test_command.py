"""gtcp call, ping and commands: real processes, real signals; here only what ends at once."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

import gtcp
from gtcp.cli import ping
from tests.cli.processes import COMMAND, free_address, only_line, peer, run, served
from tests.helpers import PATIENCE, Line, eventually
from tests.helpers import serving as in_thread

# call


@pytest.mark.cover_programs
def test_call_prints_the_result_on_one_line(address: str) -> None:
    ended = run("call", address, "1", '{"content": "Grüße", "more": [1, null]}')
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == '{"content": "Grüße", "more": [1, null]}\n'
    assert run("call", address, "1").stdout == "{}\n"  # without params


@pytest.mark.cover_programs
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


def test_an_applications_error_comes_with_its_data_and_harmless(address: str, refused: Any) -> None:
    line = refused(1, "call", address, "5")
    assert line == 'error: 1001 no more\\x1b[31m tea {"left": 0} (executed: yes)'


@pytest.mark.parametrize("raw", [[], ["--raw"]])
@pytest.mark.parametrize(
    ("closes", "says"), [(True, "the server closed the connection"), (False, "the deadline passed")]
)
def test_after_half_a_reply_a_call_may_have_executed(
    raw: list[str], closes: bool, says: str, refused: Any
) -> None:
    with peer(b'{"code":0,', close=closes) as (where, _):
        timeout = ["--timeout", "20" if closes else "0.1"]
        line = refused(1, "call", where, "1", *timeout, *raw)
    assert line.endswith(f"{says} (executed: maybe)")


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


def test_raw_takes_no_endless_line(refused: Any) -> None:
    with peer(b"x" * (16 * 1024 * 1024 + 1), close=False) as (where, _):
        line = refused(1, "call", where, "1", "--raw")
    assert "a reply line is too long (executed: maybe)" in line


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
@pytest.mark.cover_programs
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


def test_commands_of_something_else_is_one_line(refused: Any) -> None:
    with peer(b'{"code":0,"id":1,"result":"pong"}\n') as (where, _):
        line = refused(1, "commands", where)
    assert line.startswith("error: the result does not fit")
