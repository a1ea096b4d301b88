"""The records of an open loop, and the figures made of them."""

import subprocess
import sys
import time

import pytest

from benchmarks.load import PLACE_FOR_ID, Answer, answers, compiled, request_line
from benchmarks.parts.overload import PIECE_SECONDS, as_before, goodput, percentile
from tests.benchmarks.test_parts import COMPILER, LINUX, PATIENCE, environment

ANSWERING = """
import json, socket
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
sock, _ = listener.accept()
waiting = []
for line in sock.makefile("rb"):
    request = json.loads(line)
    number = request["id"] - 1_000_000_000
    reply = {"code": 429 if number % 2 else 0, "result": request["params"], "id": request["id"]}
    waiting.append(json.dumps(reply, separators=(",", ":")).encode() + b"\\n")
    if number == 9:
        continue  # for ever
    if len(waiting) == 5:
        sock.sendall(b"".join(reversed(waiting)))
        waiting.clear()
"""


@LINUX
@COMPILER
def test_an_open_loop_knows_what_became_of_every_request(tmp_path):
    program = compiled(tmp_path, "openload")
    request, records = tmp_path / "request", tmp_path / "records"
    request.write_bytes(request_line(id=PLACE_FOR_ID))
    server = subprocess.Popen(
        [sys.executable, "-c", ANSWERING], stdout=subprocess.PIPE, text=True, env=environment()
    )
    try:
        port = server.stdout.readline().strip()
        start = time.monotonic()
        command = [program, "127.0.0.1", port, "1", "50", "0.2", request, records]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    finally:
        server.kill()
        server.communicate()
    assert done.stdout == '{"asked": 10, "broken": 0}\n', done
    found = answers(records)
    assert [each.code for each in found] == [0, 429, 0, 429, 0, -1, -1, -1, -1, -1]
    assert [round(each.due - found[0].due, 3) for each in found] == [n / 50 for n in range(10)]
    assert start < found[0].due < time.monotonic()
    # The first five are answered at once, when the fifth has come.
    assert found[0].seconds >= 0.08
    assert found[4].seconds < found[0].seconds


def calls(*codes, seconds=0.01, piece=PIECE_SECONDS):
    """One call in each piece of time, from 100 s on."""
    return [Answer(100 + number * piece, seconds, code) for number, code in enumerate(codes)]


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([0, 0, 0], 0.0),
        ([429, 0, 0], PIECE_SECONDS),
        ([0, -1, 0, 0], 2 * PIECE_SECONDS),
        ([0, 0, 429], None),
        ([], None),
    ],
)
def test_all_is_as_before_when_nothing_goes_wrong_any_more(codes, expected):
    assert as_before(calls(*codes), 100, usual=0.01) == expected


def test_calls_that_take_longer_than_usual_are_not_as_before():
    late = [*calls(0, 0, seconds=0.1), *calls(0, 0, 0)[2:]]
    assert as_before(late, 100, usual=0.01) == 2 * PIECE_SECONDS
    assert as_before(late, 100, usual=0.09) == 0.0


def test_goodput_is_what_came_in_time_and_before_the_end():
    found = [Answer(100 + n / 10, 0.05, 0) for n in range(20)]  # ten a second, for two seconds
    assert goodput(found, 100, 102) == pytest.approx(10, rel=0.06)
    assert goodput([each._replace(code=429) for each in found], 100, 102) == 0
    assert goodput([each._replace(seconds=1.1) for each in found], 100, 102) == 0
    assert goodput(found, 100, 101) == pytest.approx(10, rel=0.1)


def test_a_percentile_is_one_of_the_values():
    assert percentile(50, [3.0, 1.0, 2.0]) == 2.0
    assert percentile(99, [float(n) for n in range(1, 101)]) == 99.0
    assert percentile(99, []) is None
