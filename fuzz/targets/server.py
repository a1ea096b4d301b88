"""The server's connection: any bytes in any pieces, over a real pair of sockets.

Every line of the stream is read by itself, which tells what has to be answered; then it must
be answered just so, in order where it has no id, and nothing may run twice or unanswered.
The items of a stream come in order and before its end.
"""

from __future__ import annotations

import json
import socket
from collections import Counter, defaultdict, deque
from time import monotonic
from typing import Any

from gevent.event import Event

import gtcp
from fuzz.app import ANY, ECHO, FAILS, REFUSES, STREAMS, TYPED, WAITS, commands
from fuzz.inputs import Input, seed
from fuzz.targets.lines import BAD, REQUESTS, TOKENS
from fuzz.targets.lines import SEEDS as LINES
from fuzz.watch import turn, until, watched
from gtcp.protocol.framing import LineBuffer
from gtcp.protocol.messages import DEADLINE_EXCEEDED, OVERLOADED, WRONG_PARAMS, Request
from gtcp.server.commands.table import Item, Rejection
from gtcp.server.connections.connection import Connection
from gtcp.server.connections.context import Context
from gtcp.server.connections.in_flight import ServingGreenlet
from gtcp.server.connections.pending import MAX_QUEUED_BYTES
from gtcp.server.connections.reader import OTHER_PROTOCOLS
from gtcp.server.connections.receiving import RECV_LONG_BYTES
from gtcp.server.connections.scheduler import Scheduler

__all__ = ["SEEDS", "TOKENS", "run"]

# The switches.
SLOW_READER, HANGS_UP, GOES_AWAY, ACCESS_LOG, SHORT_LINES, SHORT_REPLIES = 1, 2, 4, 8, 16, 32
WAIT_LONG, OTHERS_WAIT = 64, 128

WAIT, NEXT = b'{"cmdid":2,"params":{"a":%d}}', b'{"cmdid":1,"params":{"a":%d}}'
MIXED = (
    *REQUESTS[:4], *(NEXT % number for number in range(3)), WAIT % 3, NEXT % 4, REQUESTS[2],
    NEXT % 5, WAIT % 6, REQUESTS[1], REQUESTS[9], REQUESTS[8], NEXT % 7, REQUESTS[3], NEXT % 8,
)  # fmt: skip
STREAMED = REQUESTS[16:20] + REQUESTS[22:25]
SWITCHES = (0, 1, 2, 4, 8, 16, 32, 63, 64, 65, 68, 72, 96, 128, 129, 132, 152, 192)
SEEDS = (
    *LINES,
    *(seed(*MIXED, switches=each) for each in SWITCHES),
    *(seed(*MIXED, switches=each, sizes=(40, 150)) for each in SWITCHES),
    *(seed(*MIXED, BAD[1], *MIXED, switches=each, sizes=(255, 0)) for each in SWITCHES),
    *(seed(*MIXED, switches=each, sizes=(255, 0), times=2) for each in SWITCHES),
    *(seed(*STREAMED, *MIXED, switches=each) for each in SWITCHES),
    *(seed(*STREAMED, *MIXED, *STREAMED, switches=each, sizes=(80, 40)) for each in SWITCHES),
    *(seed(*STREAMED, BAD[1], *MIXED, switches=each) for each in SWITCHES),
    *(seed(REQUESTS[18], switches=each, times=4) for each in (0, 1, 3, 5, 65, 128)),
    *(seed(WAIT % 1, switches=each, times=4) for each in (0, 1, 64, 65)),
    *(seed(REQUESTS[0], switches=each, times=4) for each in (0, 1, 3, 5, 128)),
)

#: What the handlers ran, of one input at a time: a table is costly to make.
RAN_REQUESTS: list[Request[Any]] = []
GATE = Event()
TABLE = commands(RAN_REQUESTS, GATE.wait).table(8)

#: Codes that say that a handler ran; 408 does unless its data says otherwise.
RAN = {0, 500, 1000}

#: Codes that may be the answer to any request.
VAGUE = {408, 429, 500}


def run(data: bytes) -> None:
    """Play a peer that sends this."""
    given = Input(data)
    if given.stream.startswith(tuple(beginning for beginning, _ in OTHER_PROTOCOLS)):
        return  # what is said to other protocols depends on how the first bytes are cut
    with watched(given.stream):
        Peer(given).play()


class BusyScheduler(Scheduler):
    """A scheduler that always has run slow handlers: every request that arrives is queued."""

    @property
    def budget_ends(self) -> float:  # type: ignore[override]
        """Long ago."""
        return 0.0

    @budget_ends.setter
    def budget_ends(self, value: float) -> None:
        pass

    def over_budget(self, now: float) -> bool:
        """It is."""
        return True


class Peer:
    """One connection's other end, and what it knows of the server's inside."""

    def __init__(self, given: Input) -> None:
        self.given = given
        self.switches = given.switches
        self.ran = RAN_REQUESTS
        self.ran.clear()
        GATE.clear()
        self.received = bytearray()
        self.ended = False
        settings = gtcp.Settings(
            max_line_bytes=200 if self.has(SHORT_LINES) else 1024 * 1024,
            max_reply_bytes=100 if self.has(SHORT_REPLIES) else 1024 * 1024,
            max_in_flight=6,
            max_in_flight_per_connection=4,
            access_log=self.has(ACCESS_LOG),
            stream_window=30,
        )
        self.context = Context(TABLE, settings)
        if self.has(OTHERS_WAIT):
            self.context.scheduler.close()
            self.context.scheduler = BusyScheduler()
        self.sock, theirs = socket.socketpair()
        for each in (self.sock, theirs):
            each.setblocking(False)
            if self.has(SLOW_READER):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.connection = Connection(theirs, "peer:1", self.context)
        ServingGreenlet(self.connection.run).start()

    def has(self, switch: int) -> bool:
        """Whether a switch is set."""
        return bool(self.switches & switch)

    def play(self) -> None:
        """Send all, hear all, and compare."""
        try:
            for number, piece in enumerate(self.given.pieces):
                if self.has(GOES_AWAY) and number == len(self.given.pieces) // 2:
                    self.connection.go_away()
                queued = len(self.connection.ordered or ())
                self.send(piece)
                self.check_bounds(queued)
                if not self.has(WAIT_LONG):
                    GATE.set()
                    turn()
                    GATE.clear()
            GATE.set()
            if self.has(HANGS_UP):
                self.sock.close()
            else:
                self.hear_all()
            until(lambda: not self.context.busy, "the connection does not end")
            assert not self.context.hosts
        finally:
            self.sock.close()
            self.connection.close()
            self.context.close()
            turn()
        if not self.has(HANGS_UP):
            self.compare()

    def send(self, data: bytes) -> None:
        """Send one piece; read replies only when the server takes no more, if so switched."""
        while data and not self.ended:
            if self.has(OTHERS_WAIT):
                self.let_others_wait()
            try:
                data = data[self.sock.send(data) :]
            except BlockingIOError:
                GATE.set()
                turn()
                self.hear()
            except OSError:
                break
            turn()
            if not self.has(SLOW_READER):
                self.hear()

    def let_others_wait(self) -> None:
        """Have requests with little time refused: handlers are known to take long."""
        now = monotonic()
        for cmdid in self.context.table.commands:
            self.context.durations._known[cmdid] = [1000.0, 10, now]

    def hear(self) -> None:
        """Read what there is."""
        while not self.ended:
            try:
                data = self.sock.recv(65536)
            except BlockingIOError:
                return
            except ConnectionResetError:
                raise AssertionError("reset: replies may be lost") from None
            self.received += data
            self.ended = not data
            turn()

    def hear_all(self) -> None:
        """Read until the server has said all it has to say, then shut our side."""
        if not self.has(GOES_AWAY):
            items, wanted = expected(self.given.stream, self.context)
            # Streams may lack credit; they end when the peer hangs up.
            wanted -= sum(is_stream(each) and each.id is not None for each in items)

            def answered() -> bool:
                self.hear()
                return self.ended or count_replies(self.received) >= wanted

            until(answered, f"{count_replies(self.received)} of {wanted} replies")
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            assert self.ended

        def end() -> bool:
            self.hear()
            return self.ended

        until(end, "the stream does not end")

    def check_bounds(self, queued: int) -> None:
        """Check that the memory for a peer is bounded, whatever it sends and reads.

        Args:
            queued: requests that waited for their turn before this piece came.
        """
        connection = self.connection
        waits = self.has(WAIT_LONG) and not GATE.is_set()
        assert not waits or queued < 4 or len(connection.ordered or ()) <= queued, "reads on"
        longest = self.context.settings.max_line_bytes or 0
        assert connection.reader.buffer.size <= longest
        assert connection.pending.size <= longest + MAX_QUEUED_BYTES + RECV_LONG_BYTES
        assert len(connection.pending) <= MAX_QUEUED_BYTES + RECV_LONG_BYTES
        assert len(connection.ordered or ()) <= 4 + 4096
        assert len(connection.in_flight) <= 4
        assert set(self.context.in_flight) == connection.in_flight

    def compare(self) -> None:
        """Compare the replies with what the lines by themselves ask for."""
        assert self.received.endswith(b"\n") or not self.received, "half a reply"
        lines = [json.loads(each) for each in bytes(self.received).splitlines()]
        replies = [each for each in lines if "more" not in each]
        items, wanted = expected(self.given.stream, self.context)
        check_streams(items, lines)
        told = Counter(each.get("id") for each in replies if tells_it_ran(each))
        ran = Counter(each.id for each in self.ran if not each.oneway)
        own = Counter(each.id for each in items if is_own(each))
        assert not ran - told, f"ran and not answered: {ran - told}"
        # What is stopped before its first item was wanted has not run.
        streams = Counter(each.id for each in items if is_stream(each))
        unasked = told - ran - own - streams
        assert not unasked, f"answered and not run: {unasked}"
        if not self.has(GOES_AWAY):
            assert len(replies) == wanted, f"{len(replies)} replies, not {wanted}"
            ended = replies and replies[-1]["code"] in (400, 413) and "id" not in replies[-1]
            fatal = [each for each in replies[:-1] if each["code"] in (400, 413)]
            assert not fatal, "something follows a fatal line"
            assert bool(ended) == is_over(self.given.stream, items, self.context)
            match(items, replies)


def expected(stream: bytes, context: Context) -> tuple[list[Item], int]:
    """Return the requests in the lines, and how many replies they get."""
    lines = LineBuffer(context.settings.max_line_bytes).feed(stream)
    items = list(context.table._one_by_one(lines.split(b"\n")[:-1]))
    count = sum(wants_reply(each) for each in items)
    if is_over(stream, items, context) and not (items and is_fatal(items[-1])):
        count += 1  # the line that is too long
    return items, count


def is_over(stream: bytes, items: list[Item], context: Context) -> bool:
    """Whether the stream ends in what is no request."""
    buffer = LineBuffer(context.settings.max_line_bytes)
    buffer.feed(stream)
    return buffer.overflow or bool(items and is_fatal(items[-1]))


def is_fatal(item: Item) -> bool:
    """Whether nothing is read after it."""
    return isinstance(item, Rejection) and item.fatal


def is_own(item: Item) -> bool:
    """Whether it is a command of gtcp's, which tells nobody that it ran."""
    return isinstance(item, Request) and item.cmdid == 0 and not item.oneway


def is_stream(item: Item) -> bool:
    """Whether it starts a stream."""
    return isinstance(item, Request) and item.cmdid == STREAMS and bool(item._stream)


def count_replies(received: bytearray) -> int:
    """How many lines are the last to their request."""
    more = b'{"code":0,"more":true'
    return received.count(b"\n") - received.count(b"\n" + more) - received.startswith(more)


def check_streams(items: list[Item], lines: list[dict[str, Any]]) -> None:
    """The items of each stream come in order and before its end, and are those it has."""
    asked = Counter(each.id for each in items if not is_fatal(each))
    streams = {each.id: each for each in items if is_stream(each)}
    came: defaultdict[Any, list[Any]] = defaultdict(list)
    ended = set()
    for line in lines:
        number = line.get("id")
        if "more" not in line:
            ended.add(number)
            if number is None:
                came.pop(None, None)
            continue
        assert number in streams, f"an item of nothing: {line}"
        if line["code"]:
            assert line["code"] == 503, f"an unknown notice: {line}"
        elif number is None:
            assert line["item"] == len(came[None]), f"not in order: {line}"
            came[None].append(line["result"])
        elif asked[number] == 1:
            assert number not in ended, f"an item behind the end: {line}"
            assert line["item"] == len(came[number]), f"not in order: {line}"
            came[number].append(line["result"])
    for number, results in came.items():
        if number is not None:
            values = list(streams[number].params.values())
            assert results == values[: len(results)], f"other items than asked for: {results}"


def wants_reply(item: Item) -> bool:
    """Whether it gets a reply line."""
    return is_fatal(item) or not item.oneway


def tells_it_ran(reply: dict[str, Any]) -> bool:
    """Whether this reply says that a handler ran."""
    late = reply["code"] == 408 and reply.get("data") != {"executed": "no"}
    return reply["code"] in RAN or late


def match(items: list[Item], replies: list[dict[str, Any]]) -> None:
    """Every reply is one to a request with its id; those without are in order."""
    asked: defaultdict[Any, deque[Item]] = defaultdict(deque)
    for item in items:
        if wants_reply(item):
            asked[item.id].append(item)
    # Several requests may have one id: first the replies that can only be to one of them.
    for reply in sorted(replies, key=lambda each: "id" in each and each["code"] in VAGUE):
        candidates = asked[reply.get("id")]
        if reply["code"] in (400, 413) and "id" not in reply:
            continue
        if "id" not in reply:
            assert fits(candidates.popleft(), reply), f"not in order: {reply}"
            continue
        found = next((each for each in candidates if fits(each, reply)), None)
        assert found is not None, f"a reply to nothing: {reply}"
        candidates.remove(found)


def fits(item: Item, reply: dict[str, Any]) -> bool:
    """Whether this may be the reply to that."""
    code = reply["code"]
    if isinstance(item, Rejection):
        if code in (OVERLOADED, DEADLINE_EXCEEDED):  # said before params are decoded
            return item.reply.code in (OVERLOADED, WRONG_PARAMS)
        return bool(code == item.reply.code and reply["message"] == item.reply.message)
    if code == 429 or code == 408:
        return True
    if item.cmdid in (ECHO, WAITS, ANY):
        return code == 500 or (code == 0 and reply["result"] == item.params)
    if item.cmdid == TYPED:
        # Another request with the same id may have got this one.
        same = isinstance(reply.get("result"), dict) and reply["result"].get("x") == item.params.x
        return code == 500 or (code == 0 and same)
    if item.cmdid == STREAMS:
        if not is_stream(item):
            return bool(code == 405)
        return code in (408, 500, 503) or (code == 0 and "result" not in reply)
    if item.cmdid == 0:
        results = {"ping": ("pong",), "cancel": (None,), "credit": (None,)}.get(item.params.op)
        return code in (422, 500) or (results is None or reply["result"] in results)
    return code in {FAILS: (500,), REFUSES: (1000, 500)}[item.cmdid]
