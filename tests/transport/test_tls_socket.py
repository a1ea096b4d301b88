"""The stand-in for a socket, with a peer that controls every byte."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

import gtcp
from gtcp.transport.tls import client_context, server_context
from gtcp.transport.tls_socket import (
    MAX_UNSENT_BYTES,
    RECORD_BYTES,
    RECV_BYTES,
    NotTls,
    TlsFailed,
    TlsSocket,
)
from tests.edge.certificates import Authority
from tests.edge.key_updates import KeyUpdates
from tests.helpers import PATIENCE, serving


class Pair:
    """A TlsSocket, and at its other end TLS in memory over a plain socket."""

    def __init__(self, authority: Authority, keylog: Path | None = None) -> None:
        ours, self.raw = socket.socketpair()
        ours.setblocking(False)
        self.raw.settimeout(PATIENCE)
        cert = authority.issue("localhost")
        context = server_context(cert, None, None, require_client_cert=False)
        self.tls = TlsSocket(ours, context)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        theirs = client_context(authority.ca, None, None)
        if keylog is not None:
            theirs.keylog_filename = str(keylog)
        self.peer = theirs.wrap_bio(self._in, self._out, server_hostname="localhost")
        handshake = gevent.spawn(self.tls.handshake)
        while True:
            try:
                self.peer.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.flush()
                gevent.sleep(0.001)
                self.fill()
        self.flush()
        handshake.get()

    def flush(self) -> bytes:
        """Send what the peer has encrypted."""
        data = self._out.read()
        self.raw.sendall(data)
        return data

    def fill(self) -> int:
        """Read the data received; return how much it was."""
        taken = 0
        self.raw.setblocking(False)
        try:
            while data := self.raw.recv(65536):
                taken += self._in.write(data)
        except BlockingIOError:
            pass
        self.raw.settimeout(PATIENCE)
        return taken

    def drain(self) -> None:
        """Discard the data received."""
        self.raw.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while self.raw.recv(65536):
                pass
        self.raw.settimeout(PATIENCE)

    def read(self) -> bytes:
        """All that the peer can decrypt."""
        parts = []
        try:
            while part := self.peer.read(65536):
                parts.append(part)
        except ssl.SSLWantReadError:
            pass
        return b"".join(parts)

    def close(self) -> None:
        self.tls.close()
        self.raw.close()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    one = Pair(Authority(tmp_path))
    yield one
    one.close()


def test_recv_returns_all_that_can_be_decrypted(pair: Pair) -> None:
    with pytest.raises(BlockingIOError):
        pair.tls.recv(65536)
    for _ in range(20):
        pair.peer.write(b"x" * 100)
    pair.flush()
    assert pair.tls.recv(65536) == b"x" * 2000
    with pytest.raises(BlockingIOError):
        pair.tls.recv(65536)


def test_a_record_in_pieces_is_nothing_until_it_is_whole(pair: Pair) -> None:
    pair.peer.write(b"hello")
    data = pair._out.read()
    for each in data[:-1]:
        pair.raw.sendall(bytes([each]))
        with pytest.raises(BlockingIOError):
            pair.tls.recv(65536)
    pair.raw.sendall(data[-1:])
    assert pair.tls.recv(65536) == b"hello"


def test_goodbye_with_the_last_data_is_seen_by_who_waits_for_the_socket(pair: Pair) -> None:
    pair.peer.write(b"last")
    with pytest.raises(ssl.SSLWantReadError):
        pair.peer.unwrap()
    pair.flush()  # and the socket stays open
    assert pair.tls.recv(65536) == b"last"
    gevent.socket.wait_read(pair.tls.fileno(), timeout=PATIENCE)
    assert pair.tls.recv(65536) == b""


def test_an_end_without_goodbye_is_an_error(pair: Pair) -> None:
    pair.peer.write(b"half")
    pair.flush()
    pair.raw.close()
    assert pair.tls.recv(65536) == b"half"
    with pytest.raises(ConnectionResetError, match="cut off"):
        pair.tls.recv(65536)


def test_what_was_changed_on_the_way_is_an_error_behind_the_good_data(pair: Pair) -> None:
    pair.peer.write(b"good")
    good = pair._out.read()
    pair.peer.write(b"evil")
    evil = bytearray(pair._out.read())
    evil[-1] ^= 1
    pair.raw.sendall(good + bytes(evil))
    assert pair.tls.recv(65536) == b"good"
    gevent.socket.wait_read(pair.tls.fileno(), timeout=PATIENCE)
    with pytest.raises(TlsFailed, match="bad record mac"):
        pair.tls.recv(65536)


def test_what_is_not_counted_as_sent_can_not_be_read(pair: Pair) -> None:
    data = bytes(range(256)) * 40_000
    sent, read = 0, b""
    blocked = 0
    while sent < len(data):
        try:
            sent += pair.tls.send(memoryview(data)[sent:])
        except BlockingIOError:
            blocked += 1
            pair.fill()
            read += pair.read()
            assert len(read) <= sent
            assert sent % RECORD_BYTES == 0
    pair.fill()
    assert read + pair.read() == data
    assert blocked


def test_shutdown_says_goodbye_and_what_comes_is_thrown_away(pair: Pair) -> None:
    pair.tls.shutdown(socket.SHUT_WR)
    pair.fill()
    assert pair.peer.read() == b""
    pair.raw.sendall(b"whatever")
    with pytest.raises(BlockingIOError):
        pair.tls.recv(65536)
    pair.raw.close()
    assert pair.tls.recv(65536) == b""


def test_close_says_nothing(pair: Pair) -> None:
    """A forked child closes its copy, and must not end its parent's connection."""
    pair.tls.close()
    assert pair.fill() == 0


def test_what_begins_otherwise_is_not_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = server_context(authority.issue("a"), None, None, require_client_cert=False)
    ours, raw = socket.socketpair()
    with ours, raw:
        ours.setblocking(False)
        raw.sendall(b"GET / HTTP/1.1\r\n")
        with pytest.raises(NotTls):
            TlsSocket(ours, context).handshake()
        with pytest.raises(NotTls):
            TlsSocket(ours, context, received=b"{").handshake()


def test_answers_to_a_peer_that_never_reads_are_bounded(tmp_path: Path) -> None:
    """Each key update is answered, and a peer may send any number of them."""
    pair = Pair(Authority(tmp_path), keylog=tmp_path / "keys")
    blocked: list[None] = []
    pair.tls.on_unsent = lambda: blocked.append(None)
    updates = KeyUpdates(pair.peer, tmp_path / "keys")
    pair.raw.settimeout(0.0)
    to_send, sent, ended = b"", 0, ""
    while sent < 20_000_000 and not ended:
        to_send = to_send or updates.records(1000)
        with contextlib.suppress(BlockingIOError):
            sent += (taken := pair.raw.send(to_send))
            to_send = to_send[taken:]
        try:
            pair.tls.recv(RECV_BYTES)
        except BlockingIOError:
            pass
        except TlsFailed as exc:
            ended = str(exc)
        assert len(pair.tls._unsent) <= MAX_UNSENT_BYTES
    assert "TLS failed: the peer reads no answers" in ended
    assert blocked
    pair.close()


def test_answers_that_were_blocked_are_sent_by_a_send_of_nothing(tmp_path: Path) -> None:
    pair = Pair(Authority(tmp_path), keylog=tmp_path / "keys")
    blocked: list[None] = []
    pair.tls.on_unsent = lambda: blocked.append(None)
    updates = KeyUpdates(pair.peer, tmp_path / "keys")
    while not blocked:
        pair.raw.sendall(updates.records(500))
        with pytest.raises(BlockingIOError):
            pair.tls.recv(RECV_BYTES)
    with pytest.raises(BlockingIOError):
        pair.tls.send(b"")
    while True:
        pair.drain()
        try:
            assert pair.tls.send(b"") == 0
            break
        except BlockingIOError:
            pass
    assert pair.tls._unsent == b""
    pair.close()


def test_a_peer_that_changes_its_keys(tmp_path: Path) -> None:
    """TLS 1.3's key update, which is answered by a read: only openssl can be told to do it."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    table = gtcp.Commands()
    table.handler(1)(lambda request: "still here")
    authority = Authority(tmp_path)
    with serving(table, tls_cert=authority.issue("localhost")) as server:
        ended = subprocess.Popen(
            [openssl, "s_client", "-connect", server.address, "-CAfile", authority.ca],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert ended.stdin is not None
        assert ended.stdout is not None
        try:
            seen = b""
            for _ in range(3):
                ended.stdin.write(b"K\n")  # each read of its stdin is one command or data
                ended.stdin.flush()
                while not seen.endswith(b"KEYUPDATE\n"):
                    more = ended.stdout.read1()
                    assert more, seen
                    seen += more
                seen = b""
                ended.stdin.write(b'{"cmdid":1}\n')
                ended.stdin.flush()
                while b'"still here"' not in seen:
                    more = ended.stdout.read1()
                    assert more, seen
                    seen += more
                seen = b""
        finally:
            ended.kill()
            ended.wait()
            ended.stdin.close()
            ended.stdout.close()
