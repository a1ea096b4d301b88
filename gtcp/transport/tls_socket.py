"""A TLS connection that is used like the non-blocking socket below it.

The bytes go through memory (``ssl.SSLObject``), not through ``ssl.SSLSocket``. So what was
read before the handshake (behind a PROXY header) can still be put in; it is the same whether
or not gevent has patched ``ssl``; and it is exact about what has left (see ``send``).
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
from collections.abc import Callable
from typing import Any

from gevent.socket import wait_read, wait_write

from gtcp.transport.sockets import receive
from gtcp.transport.tls import explain

#: The most plaintext that one TLS record holds (RFC 8446, 5.1).
RECORD_BYTES = 16384

RECV_BYTES = 65536

#: Most bytes of TLS's own answers (to key updates, and to attempts to renegotiate) that wait for a
#: peer that does not read. One ``recv`` causes about as many as it returns.
MAX_UNSENT_BYTES = 4 * RECV_BYTES

#: The first bytes of TLS records: an alert, a handshake message.
ALERT, HANDSHAKE = 21, 22


class NotTls(OSError):
    """The first bytes of the peer are not TLS."""


class TlsFailed(OSError):
    """The peer has ended TLS by an alert, or what it sent is not what it encrypted."""


class TlsSocket:
    """Stands in for a connected, non-blocking socket, which is its own from now on.

    It belongs to one hub, like the socket; but ``shutdown(SHUT_RDWR)`` may be called from any
    thread, and ``close`` in a forked child: neither says a word on the wire.

    Args:
        sock: connected, non-blocking.
        context: what to speak TLS with.
        server_name: whom a client wants to speak to; None on the server's side.
        received: what was read from the socket already.

    Attributes:
        on_unsent: called when ``recv`` has caused answers of TLS itself that the kernel did not
            take; ``send`` of nothing sends them later.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        server_name: str | None = None,
        received: bytes = b"",
    ) -> None:
        self._sock = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._is_server = server_name is None
        self._tls = context.wrap_bio(
            self._in, self._out, server_side=self._is_server, server_hostname=server_name
        )
        self._in.write(received)
        self._first = received[:1]
        self._unsent = b""  # encrypted, and not taken by the kernel yet
        self._under_way = 0  # plaintext of the record that is in there, or just has left
        self._end: OSError | None = None
        self._at_end = False
        self._shut = False
        self.on_unsent: Callable[[], None] | None = None

    # The handshake

    def handshake(self) -> None:
        """Wait, in the calling greenlet, until the peer is known and the keys are agreed on.

        Raises:
            NotTls: the peer speaks something else.
            ssl.SSLError: no agreement, or no trust; the peer has been told by an alert.
            OSError: the connection broke.
        """
        if self._first:
            self._check_first()
        while True:
            try:
                self._tls.do_handshake()
                self._push_all()
                return
            except ssl.SSLWantReadError:
                self._push_all()
                self._wait_for_more()
            except ssl.SSLError:
                with contextlib.suppress(OSError):  # the peer has gone: what counts is why
                    self._push()
                raise

    @property
    def silent(self) -> bool:
        """Whether nothing was received."""
        return not self._first

    def certificate(self, *, binary_form: bool = False) -> Any:
        """Return the peer's verified certificate, as ``ssl.SSLSocket.getpeercert`` does.

        Raises:
            ValueError: it holds text that can't be decoded.
        """
        return self._tls.getpeercert(binary_form)

    def received(self) -> bytes:
        """Return the bytes received, without those that are still in the socket."""
        try:
            return self._decrypted()
        except BlockingIOError:
            return b""

    def _wait_for_more(self) -> None:
        wait_read(self._sock.fileno())
        data = receive(self._sock, RECV_BYTES)
        if not data:
            raise ConnectionAbortedError(
                errno.ECONNABORTED, "the peer closed the connection during the TLS handshake"
            )
        self._in.write(data)
        if not self._first:
            self._first = data[:1]
            self._check_first()

    def _check_first(self) -> None:
        if self._first[0] not in (ALERT, HANDSHAKE):
            raise NotTls(errno.EPROTO, "the peer does not speak TLS")

    def _push_all(self) -> None:
        while not self._push():
            wait_write(self._sock.fileno())

    # What a socket has

    @property
    def family(self) -> int:
        """The socket's."""
        return self._sock.family

    def fileno(self) -> int:
        """The socket's."""
        return self._sock.fileno()

    def getsockopt(self, *args: int) -> Any:
        """The socket's."""
        return self._sock.getsockopt(*args)

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        """The socket's."""
        self._sock.setsockopt(level, option, value)

    def recv(self, count: int) -> bytes:
        """Return all that can be decrypted of the next ``count`` bytes; nothing is kept back.

        So the event loop may wait for the socket. Empty when the peer has said that it ends;
        a connection that just ends was cut off, perhaps by somebody else.

        Raises:
            BlockingIOError: nothing complete yet.
            OSError: the connection broke, was cut off, or tampered with.
        """
        if self._end is not None:
            raise self._end
        data = self._sock.recv(count)
        if self._shut and data:  # nobody wants to know
            raise BlockingIOError
        if self._at_end or self._shut:
            return b""
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()
        return self._decrypted()

    def send(self, data: bytes | memoryview) -> int:
        """Send as much as the kernel takes, in whole records.

        What is not counted as sent can't be read by the peer, though a part of its record may
        have left: it has to come first in the next ``send`` (the rule of OpenSSL too).

        Raises:
            BlockingIOError: the kernel takes nothing more at the moment.
            OSError: the connection broke.
        """
        view = memoryview(data)
        if not view and not self._push():
            raise BlockingIOError
        done = 0
        while done < len(view):
            if not self._under_way:
                self._under_way = self._encrypt(view[done : done + RECORD_BYTES])
            if not self._push():
                if done:
                    return done
                raise BlockingIOError
            done += self._under_way
            self._under_way = 0
        return done

    def shutdown(self, how: int) -> None:
        """With SHUT_WR, say that nothing follows; what still comes is thrown away then."""
        if how == socket.SHUT_WR and not self._shut:
            self._shut = True
            if not self._under_way:  # else the peer gets no goodbye, and what it got is cut off
                self._say_goodbye()
        self._sock.shutdown(how)

    def close(self) -> None:
        """Close the descriptor, without a word."""
        self._sock.close()

    # Bytes

    def _say_goodbye(self) -> None:
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass  # it asks for the peer's goodbye, which nobody waits for
        self._push()

    def _encrypt(self, data: memoryview) -> int:
        try:
            return self._tls.write(data)
        except ssl.SSLError as exc:
            raise _broken(exc) from exc

    def _push(self) -> bool:
        """Return whether the kernel has taken all that is encrypted."""
        if self._out.pending:
            self._unsent += self._out.read()
        if self._unsent:
            try:
                sent = self._sock.send(self._unsent)
            except (BlockingIOError, InterruptedError):
                return False
            self._unsent = self._unsent[sent:]
        return not self._unsent

    def _decrypted(self) -> bytes:
        parts = []
        try:
            while True:
                part = self._tls.read(RECV_BYTES)
                if not part:
                    self._at_end = True
                    break
                parts.append(part)
                if not (self._in.pending or self._tls.pending()):
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._at_end = True
        except ssl.SSLError as exc:
            self._end = _broken(exc)
        # The answer to a key update, or an alert. Behind a record that is under way it waits for
        # the next `send`: what has left by then, only that may count.
        if self._out.pending:
            self._push_answers()
        if parts:
            self._see_the_end_later()
            return b"".join(parts)
        return self._nothing_more()

    def _push_answers(self) -> None:
        """Send TLS's own answers to received data; fail if too many of them are unread."""
        if len(self._unsent) + self._out.pending > MAX_UNSENT_BYTES:
            self._end = TlsFailed(errno.EPROTO, "TLS failed: the peer reads no answers")
        elif not self._under_way:
            try:
                blocked = not self._push()
            except OSError:
                return  # a broken connection shows when it is read
            if blocked and self.on_unsent is not None:
                self.on_unsent()

    def _nothing_more(self) -> bytes:
        if self._end is not None:
            raise self._end
        if not self._at_end:
            raise BlockingIOError
        return b""

    def _see_the_end_later(self) -> None:
        """Leave the socket readable after data that came together with its end."""
        if self._at_end or self._end is not None:
            with contextlib.suppress(OSError):  # then it is readable anyway
                self._sock.shutdown(socket.SHUT_RD)


def _broken(exc: ssl.SSLError) -> OSError:
    if isinstance(exc, ssl.SSLEOFError):
        return ConnectionResetError(errno.ECONNRESET, "the connection was cut off")
    return TlsFailed(errno.EPROTO, f"TLS failed: {explain(exc)}")
