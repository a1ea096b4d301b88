"""The client's reply path: any bytes in any pieces from a server.

A call ends with a reply that has its id, or with a ``GtcpError``; none hangs, no other
exception comes out, and what the server sends is not kept.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import tempfile
from typing import Any

import gevent

import gtcp
from fuzz.inputs import Input, seed
from fuzz.watch import turn, until, watched
from gtcp.client.connections.reply import read_reply
from gtcp.errors import REFUSALS
from gtcp.protocol.framing import LineBuffer
from gtcp.protocol.messages import UNREADABLE, Reply

# The switches.
KILLS, TYPED, STREAMS, SHORT_REPLIES, CLOSES, RETRIES, LATER = 1, 2, 4, 8, 16, 32, 64

CALLS = 4

GOOD = (
    b'{"code":0,"id":1,"result":{"a":[1,2.5,null]}}',
    b'{"code":0,"id":2,"result":"x"}',
    b'{"code":1000,"id":3,"message":"no","data":{"why":1}}',
    b'{"code":408,"id":4,"message":"late","data":{"executed":"no"}}',
    b'{"code":429,"id":1,"message":"busy","data":{"retry_after":1.0}}',
    b'{"code":503,"id":2,"message":"going away"}',
    b'{"code":503,"message":"going away"}',
    b'{"code":400,"message":"bad"}',
    b'{"code":0,"id":5,"result":7}',
    b'{"code":0,"id":99}',
    b'{"code":0,"id":"1","result":0}\r',
)
#: To the stream, whose id this is when nothing else comes before.
ITEMS = (
    b'{"code":0,"id":8,"more":true,"item":0,"result":{"a":1}}',
    b'{"code":0,"id":8,"more":true,"item":1,"result":2}',
    b'{"code":503,"id":8,"more":true,"message":"going away"}',
    b'{"code":0,"id":8,"more":true,"item":1,"result":2}',
    b'{"code":0,"id":8,"more":true,"result":null}',
    b'{"code":0,"id":8,"more":true,"item":9,"result":"missing"}',
)
END = b'{"code":0,"id":8}'
BAD = (
    b"", b"[]", b"1", b"HTTP/1.1 400 Bad Request", b'{"code":0', b'{"id":1}', b'{"code":0}',
    b'{"code":"0","id":1}', b'{"code":0,"id":1.0}', b'{"code":0,"id":1,"x":"}', b"[" * 600,
    b'{"code":0,"id":1,"result":"\xff"}', b'{"code":0,"id":1,"result":"\\ud800"}',
)  # fmt: skip
SEEDS = (
    *(seed(each) for each in GOOD + BAD),
    seed(*GOOD),
    *(seed(*GOOD[:4], GOOD[8], sizes=(9, 50), switches=each) for each in (1, 2, 4, 8, 16, 32, 64)),
    seed(*GOOD[:2], BAD[1], GOOD[2], sizes=(20, 20), switches=127),
    seed(GOOD[9], times=4),
    *(
        seed(*ITEMS[:number], END, sizes=(0, 60), switches=4 | each)
        for number in range(7)
        for each in (0, 1, 2, 16, 32)
    ),
    *(seed(*GOOD[:2], *ITEMS[:number], switches=4, sizes=(30, 99)) for number in range(7)),
    seed(ITEMS[4], switches=4, times=3),
    seed(*ITEMS[:2], b'{"code":1000,"id":8,"message":"no"}', ITEMS[0], switches=4),
    seed(b'{"code":0,"id":1,"more":true,"result":1}', b'{"code":0,"id":1,"more":5}'),
    seed(b'{"a":[', times=5),
    seed(b'{"code":0,"id":1,"result":[[[', b'"[[', times=3),
)
TOKENS = (
    b'"more":true', b'"item":', ITEMS[0] + b"\n", ITEMS[1] + b"\n", END + b"\n", b"8",
    b'"code":', b'"id":', b'"result":', b'"message":', b'"data":', b'{"executed":"no"}',
    b'{"retry_after":', b'{"code":0,"id":1}\n', b'{"code":0,"id":2}\n', b"{", b"}", b"[", b"]",
    b"[]", b",", b":", b"\n", b"\r\n", b"}\n{", b"}{", b"\\", b'"', b'\\"', b"\\ud800", b"null",
    b"true", b"0", b"1", b"2", b"-1", b"1.0", b"1e400", b"400", b"408", b"413", b"429", b"503",
    b"9223372036854775808", b"\xc3\xa9", b"\xff", b"\x00", b" ",
)  # fmt: skip


def run(data: bytes) -> None:
    """Play a server that answers with this, whatever it is asked."""
    given = Input(data)
    with watched(given.stream):
        Server(given).play()


class Call:
    """A call and its outcome."""

    def __init__(self, client: gtcp.Client, who: int, wanted: Any) -> None:
        self.who = who
        self.killed = False
        self.outcome: Any = None
        self._greenlet = gevent.spawn(self._run, client, wanted)

    def _run(self, client: gtcp.Client, wanted: Any) -> None:
        try:
            self.outcome = client.call(1, {"who": self.who}, result=wanted)
        except BaseException as exc:
            self.outcome = exc

    def kill(self) -> None:
        """Give it up."""
        self.killed = True
        self._greenlet.kill(block=False)

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return bool(self._greenlet.dead)


class Many(Call):
    """A ``map`` of several calls; its outcome is the list of theirs."""

    def _run(self, client: gtcp.Client, wanted: Any) -> None:
        params = [{"who": self.who + number} for number in range(CALLS)]
        try:
            stream = client.map(1, params, window=3, result=wanted, return_exceptions=True)
            self.outcome = list(stream)
        except BaseException as exc:
            self.outcome = exc


class Streamed(Call):
    """A stream; its outcome is what it ended with, None if it ended well."""

    def _run(self, client: gtcp.Client, wanted: Any) -> None:
        self.items: list[Any] = []
        try:
            for item in client.stream(1, {"who": self.who}, window=3, result=wanted):
                self.items.append(item)
        except BaseException as exc:
            self.outcome = exc


class Server:
    """The other end of the client's first connection; there is no second one."""

    def __init__(self, given: Input) -> None:
        self.given = given
        self.switches = given.switches
        self._folder = tempfile.mkdtemp()
        path = os.path.join(self._folder, "socket")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(1)
        self._limit = 100 if self.has(SHORT_REPLIES) else 1024 * 1024
        self._heard = bytearray()
        self.client = gtcp.Client(
            f"unix:{path}", retries=int(self.has(RETRIES)), max_reply_bytes=self._limit
        )

    def has(self, switch: int) -> bool:
        """Whether a switch is set."""
        return bool(self.switches & switch)

    def play(self) -> None:
        """Let calls wait, send all pieces, see how the calls end."""
        try:
            calls = [Call(self.client, 0, self.wanted)]
            self.accept()
            calls += [self.call(Call, number) for number in range(1, CALLS)]
            if self.has(STREAMS):
                calls.append(self.call(Many, 100))
                calls.append(self.call(Streamed, 200))
            for number, piece in enumerate(self.given.pieces):
                if number == 1 and self.has(KILLS):
                    calls[0].kill()
                if number == 1 and self.has(LATER):
                    calls.append(self.call(Call, CALLS))
                self.send(piece)
            if self.is_spoiled():
                until(lambda: all(each.done for each in calls), "a call waits in spite of nonsense")
            self.client.close() if self.has(CLOSES) else self.sock.close()
            until(lambda: all(each.done for each in calls), "a call does not end")
            stats = self.client.stats
            until(lambda: not stats()["connections"], "the connection does not end")
            assert not stats()["in_flight"]
        finally:
            self.client.close()
            self.sock.close()
        self.compare(calls)

    def accept(self) -> None:
        """Accept the first connection; refuse further ones."""
        turn()
        self.sock = self._listener.accept()[0]
        self.sock.setblocking(False)
        self._listener.close()
        shutil.rmtree(self._folder)
        turn()
        self.hear()

    @property
    def wanted(self) -> Any:
        """The type that results are to have."""
        return dict[str, int] if self.has(TYPED) else Any

    def is_spoiled(self) -> bool:
        """Whether the stream holds what is no reply, after which nothing can be waited for."""
        buffer = LineBuffer(self._limit)
        lines = buffer.feed(self.given.stream)
        return buffer.overflow or len(read(lines)[0]) < lines.count(b"\n")

    def call(self, kind: type[Call], who: int) -> Call:
        """Start a call; what it sends is read."""
        call = kind(self.client, who, self.wanted)
        turn()
        self.hear()
        return call

    def hear(self) -> None:
        """Read what the client sends."""
        with contextlib.suppress(OSError):  # nothing there, or it has closed
            self._heard += self.sock.recv(65536)

    def send(self, data: bytes) -> None:
        """Send a piece, as far as the client takes it."""
        while data:
            with contextlib.suppress(BlockingIOError):
                try:
                    data = data[self.sock.send(data) :]
                except (BrokenPipeError, ConnectionResetError):
                    return
            turn()
            self.hear()

    def compare(self, calls: list[Call]) -> None:
        """Each outcome is a reply with the call's own id, or an error of gtcp's."""
        lines = LineBuffer(self._limit).feed(self.given.stream)
        replies, certain = read(lines)
        asked = {each["params"]["who"]: each["id"] for each in self.asked() if "id" in each}
        for call in calls:
            if call.killed and isinstance(call.outcome, gevent.GreenletExit):
                continue
            if isinstance(call, Streamed):
                self.check_stream(call, [each for each in replies if each.id == asked.get(200)])
                if call.outcome is None:
                    continue
            several = isinstance(call, Many) and isinstance(call.outcome, list)
            outcomes = call.outcome if several else [call.outcome]
            for who, outcome in enumerate(outcomes, call.who):
                number = asked.get(who)
                self.belongs(outcome, [each for each in replies if may_end(each, number)])
                first = certain.get(number)
                if first is not None and who < CALLS and not self.has(CLOSES | RETRIES):
                    self.belongs(outcome, [first], strictly=True)

    def check_stream(self, call: Streamed, replies: list[Reply]) -> None:
        """Check that its items are some that were sent to it, in their order, and its end."""
        results = [each.result for each in replies if each.more and each.code == 0]
        rest = iter(results)
        assert all(item in rest for item in call.items), f"{call.items} of {results}"
        if call.outcome is None:
            assert any(each.code == 0 and not each.more for each in replies), "it has not ended"
        elif isinstance(call.outcome, gtcp.GtcpError):
            assert call.outcome.received == len(call.items)
            assert not call.items or call.outcome.executed != "no"

    def asked(self) -> list[Any]:
        """The requests that the client has sent."""
        return [json.loads(each) for each in bytes(self._heard).split(b"\n")[:-1]]

    def belongs(self, outcome: Any, replies: list[Reply], strictly: bool = False) -> None:
        """Check that an outcome comes from one of these replies, or is an error of another kind."""
        if isinstance(outcome, gtcp.RemoteError):
            fitting = [each for each in replies if as_error(each) == said(outcome)]
            assert fitting, f"an error that no reply told: {outcome!r}"
        elif isinstance(outcome, BaseException):
            assert isinstance(outcome, gtcp.GtcpError), f"raised {outcome!r}"
            misfit = isinstance(outcome, gtcp.ProtocolError) and self.has(TYPED)
            assert not strictly or misfit, f"{outcome!r} in spite of {replies}"
        else:
            fitting = [each for each in replies if each.code == 0 and each.result == outcome]
            assert fitting, f"a result that no reply held: {outcome!r}"


def may_end(reply: Reply, number: int | None) -> bool:
    """Whether this may end the call with that id; a refusal has none."""
    return reply.code in REFUSALS if reply.id is None else reply.id == number


def as_error(reply: Reply) -> Any:
    """Return the text of the error for this reply."""
    return reply.code, reply.message, reply.data


def said(error: gtcp.RemoteError) -> Any:
    """Return the text of an error."""
    return error.code, error.message, error.data


def read(lines: bytes) -> tuple[list[Reply], dict[Any, Reply]]:
    """All replies among the lines, and the first to each id, as far as nothing else came before."""
    replies: list[Reply] = []
    certain: dict[Any, Reply] = {}
    sure = True
    for line in lines.split(b"\n")[:-1]:
        try:
            reply = read_reply(line)
        except UNREADABLE:
            return replies, certain  # nothing counts after it
        replies.append(reply)
        sure = sure and reply.id is not None
        if sure:
            certain.setdefault(reply.id, reply)
    return replies, certain
