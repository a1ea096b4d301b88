"""The challenge and the response, on both sides, with peers that send anything instead.

A server runs nothing for who has not proven the secret, and serves who has. A client trusts no
server that has not proven it, and its call ends with a GtcpError.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from typing import Any

import gevent

import gtcp
from fuzz.entering import Stranger
from fuzz.inputs import Input, seed
from fuzz.targets.lines import TOKENS as WORDS
from fuzz.watch import turn, until, watched
from gtcp.transport.secret import Key, Nonce, Response

TEXT = "ours:0123456789abcdef"
KEY = Key(TEXT)

# The switches.
IS_SERVER, KNOWS_IT, FIRST_ONLY = 1, 2, 4

HEX = b"0" * 64
HELLO = b'{"cmdid":0,"params":{"op":"hello","key":"ours","nonce":"' + HEX + b'"},"id":1}'
PROVE = b'{"cmdid":0,"params":{"op":"prove","proof":"' + HEX + b'"},"id":2}'
CALL = b'{"cmdid":1,"params":{"a":1},"id":3}'
NONCE = b'{"code":0,"id":1,"result":{"nonce":"' + HEX + b'"}}'
PROOF = b'{"code":0,"id":2,"result":{"proof":"' + HEX + b'"}}'
SERVER = (NONCE, PROOF, b'{"code":401,"message":"no"}', b'{"code":422,"id":1,"message":"?"}')
SEEDS = (
    seed(HELLO, PROVE, CALL),
    seed(HELLO, HELLO, PROVE, sizes=(100, 7)),
    seed(PROVE, HELLO),
    seed(CALL),
    seed(HELLO.replace(b"ours", b"other"), PROVE),
    seed(HELLO.replace(b'"id":1', b'"id":' + b"9" * 30), PROVE),
    seed(HELLO.replace(b'"id":1', b'"x":' + b"[" * 500)),
    seed(b"GET / HTTP/1.1"),
    seed(b"x" * 700, times=3),
    seed(CALL, CALL, switches=KNOWS_IT),
    seed(PROVE, CALL, switches=KNOWS_IT, sizes=(9, 90)),
    seed(PROVE, CALL, switches=KNOWS_IT | FIRST_ONLY),
    seed(*SERVER[:2], switches=IS_SERVER),
    *(seed(each, PROOF, switches=IS_SERVER, sizes=(20, 50)) for each in SERVER),
    seed(b'{"code":0,"id":3}', switches=IS_SERVER | KNOWS_IT),
    seed(b"[" * 800, switches=IS_SERVER, times=3),
)
TOKENS = (
    *WORDS, HELLO, PROVE, NONCE, PROOF, HEX, b'"hello"', b'"prove"', b'"key":', b'"nonce":',
    b'"proof":', b'"ours"', b'"code":0', b'"result":',
)  # fmt: skip


def run(data: bytes) -> None:
    """Be a client, or a server, that says this."""
    given = Input(data)
    with watched(given.stream):
        if given.switches & IS_SERVER:
            Impostor(given).play()
        else:
            Visitor(given).play()


class Visitor(Stranger):
    """A client that proves the secret first, or half of it, or nothing."""

    def __init__(self, given: Input) -> None:
        super().__init__(given, keys=(KEY,))
        self._proven = False

    def introduce(self) -> None:
        """The exchange as it should be."""
        if not self.given.switches & KNOWS_IT:
            return
        response = Response(KEY)
        nonce = self.ask("hello", response.hello())["nonce"]
        if self.given.switches & FIRST_ONLY:
            return
        prove = response.prove(Nonce(nonce))
        assert self.ask("prove", prove)["proof"]
        self._proven = True

    def ask(self, op: str, message: Any) -> Any:
        """One request of the exchange."""
        params = {name: getattr(message, name) for name in message.__struct_fields__}
        line = json.dumps({"cmdid": 0, "params": {"op": op, **params}}).encode()
        self.sock.send(line + b"\n")

        def answered() -> bool:
            self.hear()
            return self.received.endswith(b"\n")

        until(answered, f"no answer to {op}")
        reply = json.loads(self.received)
        self.received.clear()
        return reply["result"]

    def play(self) -> None:
        """Check that no request has run without the proof."""
        super().play()
        assert self._proven or not self.ran, "ran for somebody unknown"
        assert all("ours" in each.peer.identities for each in self.ran)


class Impostor:
    """A server that says what it likes, to a client that asks for the secret."""

    def __init__(self, given: Input) -> None:
        self.given = given
        self.outcome: Any = None
        self._folder = tempfile.mkdtemp()
        path = os.path.join(self._folder, "socket")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(1)
        self._client = gtcp.Client(f"unix:{path}", secret=TEXT, retries=0)

    def play(self) -> None:
        """Answer a call's connection with the stream; hang up."""
        caller = gevent.spawn(self._call)
        turn()
        sock = self._listener.accept()[0]
        self._listener.close()
        shutil.rmtree(self._folder)
        sock.setblocking(False)
        heard = bytearray()
        try:
            for piece in self.given.pieces:
                while piece:
                    try:
                        piece = piece[sock.send(piece) :]
                    except BlockingIOError:
                        pass
                    except OSError:
                        break
                    turn()
                    try:
                        heard += sock.recv(65536)
                    except OSError:
                        pass  # nothing there, or it has closed
        finally:
            sock.close()
        until(lambda: caller.dead, "the call does not end")
        self._client.close()
        assert isinstance(self.outcome, gtcp.ConnectError), f"came to {self.outcome!r}"
        assert b'"cmdid":1' not in heard, "a request was sent to a server that proved nothing"

    def _call(self) -> None:
        try:
            self.outcome = self._client.call(1)
        except BaseException as exc:
            self.outcome = exc
