"""Listening sockets: real ones, with real files and descriptors."""

import errno
import os
import resource
import socket

import pytest

import gtcp
from gtcp.server import listener as module
from gtcp.server.listener import listen
from gtcp.transport.address import parse
from gtcp.transport.sockets import System
from tests.helpers import Line, eventually, serving


@pytest.fixture
def running():
    with serving(gtcp.Commands()) as running:
        yield running


class TestListen:
    def test_on_port_0_takes_a_free_one(self):
        with listen(parse("127.0.0.1:0"), 5) as sock:
            assert sock.getsockname()[1] > 0
            assert not sock.getblocking()

    def test_on_ipv6_leaves_ipv4_alone(self):
        with listen(parse("[::1]:0"), 5) as sock:
            assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1

    @pytest.mark.parametrize("address", ["no.such.host.invalid:80", "unix:/no/such/folder/s"])
    def test_where_it_cannot_names_the_address(self, address):
        with pytest.raises(OSError, match="can't listen on") as refused:
            listen(parse(address), 5)
        assert address in str(refused.value)

    def test_on_an_address_in_use_keeps_its_error_number(self):
        with listen(parse("127.0.0.1:0"), 5) as sock:
            port = sock.getsockname()[1]
            with pytest.raises(OSError, match=f"127.0.0.1:{port}") as refused:
                listen(parse(f"127.0.0.1:{port}"), 5)
        assert refused.value.errno == errno.EADDRINUSE

    def test_on_a_path_too_long_says_so(self, tmp_path):
        with pytest.raises(OSError, match="too long"):
            listen(parse(f"unix:{tmp_path}/{'x' * 200}"), 5)


class TestUnixSocket:
    def test_left_behind_is_replaced(self, tmp_path):
        address = parse(f"unix:{tmp_path}/s")
        listen(address, 5).close()  # the file stays
        with listen(address, 5):
            pass

    def test_in_use_is_not_replaced(self, tmp_path):
        address = parse(f"unix:{tmp_path}/s")
        with listen(address, 5), pytest.raises(OSError, match="can't listen on unix:"):
            listen(address, 5)
        assert os.path.exists(address.path)

    def test_in_use_whose_queue_is_full_does_not_block_us(self, tmp_path):
        address = parse(f"unix:{tmp_path}/s")
        with listen(address, 1):
            clients = []
            for _ in range(5):
                client = socket.socket(socket.AF_UNIX)
                client.setblocking(False)
                clients.append(client)
                if client.connect_ex(address.path):
                    break
            with pytest.raises(OSError, match="can't listen on unix:") as refused:
                listen(address, 5)
            assert refused.value.errno == errno.EADDRINUSE
            for client in clients:
                client.close()

    def test_never_replaces_a_file_of_another_kind(self, tmp_path):
        path = tmp_path / "precious"
        path.write_text("data")
        with pytest.raises(OSError, match="can't listen on"):
            listen(parse(f"unix:{path}"), 5)
        assert path.read_text() == "data"


def take_all_descriptors():
    taken = []
    while True:
        try:
            taken.append(os.dup(0))
        except OSError:
            return taken


class TestListener:
    def test_without_descriptors_goes_on_when_there_are_some_again(
        self, running, monkeypatch, caplog
    ):
        monkeypatch.setattr(module, "PAUSE", 0.01)
        address = running.address
        with running.line() as line:
            assert line.ask({"cmdid": 0})["code"] == 0
            client = socket.socket()
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
            taken = take_all_descriptors()
            try:
                host, port = address.rsplit(":", 1)
                client.connect((host, int(port)))
                eventually(lambda: "can't accept connections" in caplog.text)
                assert line.ask({"cmdid": 0})["code"] == 0  # the others are served meanwhile
            finally:
                for each in taken:
                    os.close(each)
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            client.sendall(b'{"cmdid":0}\n')
            client.settimeout(20)
            assert client.recv(1024) == b'{"code":0,"result":"pong"}\n'
            client.close()

    def test_goes_on_after_any_error_of_accept(self, running, monkeypatch, caplog):
        monkeypatch.setattr(module, "PAUSE", 0.01)
        left = [errno.EPERM, errno.EPROTO, errno.ENETDOWN]

        def accept_or_fail(sock):
            if left:
                raise OSError(left[0], os.strerror(left.pop(0)))
            return accept(sock)

        accept = System._accept
        monkeypatch.setattr(System, "_accept", accept_or_fail)
        with running.line() as line:
            assert line.ask({"cmdid": 0})["result"] == "pong"
        for expected in (errno.EPERM, errno.EPROTO, errno.ENETDOWN):
            assert f"can't accept connections for now: {os.strerror(expected)}" in caplog.text

    def test_takes_many_connections_at_once(self, running):
        lines = [running.line() for _ in range(150)]
        for each in lines:
            each.send({"cmdid": 0})
        for each in lines:
            assert each.reply()["result"] == "pong"
            each.close()
        eventually(lambda: not running.server.connections)

    def test_outlives_connections_that_are_reset_before_they_are_accepted(self, running):
        address = running.address

        def connect_and_reset():
            for _ in range(20):
                line = Line(address)
                line.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                line.close()

        running.run(connect_and_reset)
        with running.line() as line:
            assert line.ask({"cmdid": 0})["result"] == "pong"
        eventually(lambda: not running.server.connections)
