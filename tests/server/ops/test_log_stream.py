"""Log lines and a reader of stderr that does not read."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator

import gevent
import pytest

from gtcp.server.ops import log_stream
from gtcp.server.ops.log_stream import CHUNK_BYTES, DROPPED, MAX_WAITING_BYTES, LogStream
from tests.helpers import eventually, in_fork

Ends = tuple[int, int]


def pipe() -> Ends:
    return os.pipe()


def pipe_of_another_user() -> Ends:
    return os.pipe()


def sockets() -> Ends:
    one, other = socket.socketpair()
    return one.detach(), other.detach()


def terminal() -> Ends:
    reading, writing = pty.openpty()
    attributes = termios.tcgetattr(writing)
    attributes[1] &= ~termios.OPOST  # no \r before \n
    termios.tcsetattr(writing, termios.TCSANOW, attributes)
    return reading, writing


@pytest.fixture(params=[pipe, pipe_of_another_user, sockets, terminal])
def ends(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ends]:
    """The descriptors to read from and to write to."""
    make: Callable[[], Ends] = request.param
    if make is pipe_of_another_user:
        opened = os.open

        def refuse(path: str, *args: int) -> int:
            if path.startswith("/proc/self/fd/"):
                raise PermissionError(path)
            return opened(path, *args)

        monkeypatch.setattr(log_stream.os, "open", refuse)
    reading, writing = make()
    os.set_blocking(reading, False)
    yield reading, writing
    os.close(reading)
    os.close(writing)


@pytest.fixture
def stream(ends: Ends) -> Iterator[LogStream]:
    made = LogStream(ends[1])
    yield made
    made.close()


def read(fd: int) -> bytes:
    """All that can be read now."""
    data = b""
    try:
        while more := os.read(fd, 1 << 20):
            data += more
    except BlockingIOError:
        pass
    return data


def numbered(start: int, end: int) -> list[str]:
    return [f"line {number:06} {'x' * 80}\n" for number in range(start, end)]


def read_all(stream: LogStream, fd: int) -> list[str]:
    data = b""

    def nothing_waits() -> bool:
        nonlocal data
        stream.flush()
        data += read(fd)
        return not stream._waiting

    eventually(nothing_waits)
    return (data + read(fd)).decode().splitlines(keepends=True)


def test_what_the_reader_does_not_take_waits_and_keeps_its_order(
    stream: LogStream, ends: Ends
) -> None:
    lines = numbered(0, 5000)
    for line in lines:
        stream.write(line)
    assert stream._waiting
    assert not stream.dropped
    assert read_all(stream, ends[0]) == lines


def test_what_is_too_much_is_dropped_and_the_number_is_written_in_its_place(
    stream: LogStream, ends: Ends
) -> None:
    lines = numbered(0, 2 * MAX_WAITING_BYTES // 93)
    for line in lines:
        stream.write(line)
    dropped = stream.dropped
    assert dropped > 1000
    got = b""
    while stream._bytes > MAX_WAITING_BYTES / 3:
        got += read(ends[0])
        stream.flush()
    stream.write("later\n")
    said = got.decode() + "".join(read_all(stream, ends[0]))
    assert said == "".join([*lines[:-dropped], DROPPED.format(dropped), "later\n"])
    stream.write("last\n")
    assert read(ends[0]) == b"last\n"


def test_dropped_lines_are_reported_without_a_further_line(stream: LogStream, ends: Ends) -> None:
    while not stream.dropped:
        stream.write("".join(numbered(0, 100)))
    assert read_all(stream, ends[0])[-1] == DROPPED.format(100)


def test_the_event_loop_writes_the_rest(stream: LogStream, ends: Ends) -> None:
    gevent.get_hub()
    lines = numbered(0, 5000)
    stream.write("".join(lines))
    data = b""
    with gevent.Timeout(20):
        while data.count(b"\n") < len(lines):
            data += read(ends[0])
            gevent.sleep(0.001)
    assert data.decode() == "".join(lines)
    assert stream._watcher is None


def test_a_forked_child_does_not_write_what_its_parent_has_not(
    stream: LogStream, ends: Ends
) -> None:
    lines = numbered(0, 5000)
    stream.write("".join(lines))
    assert in_fork(lambda: stream.finish(0.1)) == 0
    assert read_all(stream, ends[0]) == lines


def test_a_reader_that_is_gone_does_not_matter() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = LogStream(writing)
    stream.write("nobody\n")
    stream.finish()
    assert not stream._waiting
    stream.close()
    os.close(writing)


def test_the_descriptor_may_become_another_file() -> None:
    first, second = os.pipe(), os.pipe()
    stream = LogStream(first[1])
    stream.write("one\n")
    os.dup2(second[1], first[1])
    stream.write("two\n")
    assert (os.read(first[0], 10), os.read(second[0], 10)) == (b"one\n", b"two\n")
    stream.close()
    for fd in (*first, *second):
        os.close(fd)


def test_the_descriptor_stays_blocking_for_others(ends: Ends, stream: LogStream) -> None:
    stream.write("line\n")
    assert os.get_blocking(ends[1])


@pytest.mark.cover_programs
def test_lines_of_processes_that_share_a_pipe_are_not_mixed() -> None:
    program = (
        "import sys\nfrom gtcp.server.ops.log_stream import LogStream\n"
        "stream = LogStream(2)\n"
        "for _ in range(50):\n    stream.write((sys.argv[1] * 90 + '\\n') * 100)\n"
        "stream.finish(20)\n"
    )
    reading, writing = os.pipe()
    children = [
        subprocess.Popen([sys.executable, "-c", program, letter], stderr=writing)
        for letter in "abc"
    ]
    os.close(writing)
    with open(reading) as file:
        lines = file.read().splitlines()
    assert [child.wait() for child in children] == [0, 0, 0]
    assert len(lines) == 3 * 50 * 100
    assert set(lines) == {letter * 90 for letter in "abc"}
    assert CHUNK_BYTES > 91


def test_nothing_is_watched_after_it_is_closed(ends: Ends, stream: LogStream) -> None:
    gevent.sleep(0)  # there is an event loop
    stream.write("".join(numbered(0, 5000)))
    assert stream._watcher is not None
    stream.close()
    assert stream._watcher is None
