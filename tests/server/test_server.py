"""Starting, listening, draining, and what a server tells about its connections."""

import gc
import json
import os
import signal
import socket
import time
from contextlib import contextmanager

import gevent
import pytest

import gtcp
from gtcp.server.connections.in_flight import ServingGreenlet
from gtcp.transport.address import of_peer
from tests.helpers import Gate, Line, eventually, process, serving

GOODBYE = {"code": 503, "message": "going away"}


def gated():
    commands, gate = gtcp.Commands(), Gate()

    @commands.handler(1)
    def wait(request):
        gate.wait()
        return request.params.get("n")

    @commands.handler(2)
    def fast(request):
        return request.params.get("n")

    @commands.handler(3)
    def stubborn(request):
        while True:
            try:
                gate.wait()
                return "done"
            except gtcp.Cancelled:
                pass

    return commands, gate


def wait(n, **more):
    return {"cmdid": 1, "params": {"n": n}, **more}


def fast(n, **more):
    return {"cmdid": 2, "params": {"n": n}, **more}


@contextmanager
def draining(*requests):
    """A server that has begun to drain while these requests of a connection wait."""
    commands, gate = gated()
    with serving(commands) as running, running.line() as line:
        line.send(*requests)
        eventually(lambda: gate.waiting)
        running.start_stopping()
        running.wait_until_leaving()
        yield running, line, gate


class TestDrain:
    def test_tells_idle_connections_and_closes_them(self):
        commands, _ = gated()
        with serving(commands) as running, running.line() as used, running.line() as unused:
            assert used.ask(fast(1))["code"] == 0
            running.stop()
            assert used.rest() == [GOODBYE]
            assert unused.rest() == [GOODBYE]

    def test_answers_what_is_in_flight_and_then_says_goodbye(self):
        commands, gate = gated()
        with serving(commands) as running, running.line() as line, running.line() as ids:
            line.send(wait(1))
            ids.send(wait(2, id=2), wait(3, id=3))
            eventually(lambda: gate.waiting == 3)
            running.start_stopping()
            running.wait_until_leaving()
            gate.open()
            assert line.rest() == [{"code": 0, "result": 1}, GOODBYE]
            *replies, last = ids.rest()
            assert {each["id"]: each["result"] for each in replies} == {2: 2, 3: 3}
            assert last == GOODBYE
            running.join()

    def test_answers_late_requests_with_an_id_at_once(self):
        with draining(wait(1, id=1)) as (_, line, gate):
            line.send(fast(2, id=2), fast(3), {"cmdid": 99, "id": 4}, fast(5, id=5, oneway=True))
            line.send(fast(6, id="six"))
            refused = line.replies(3)
            assert refused[0] == {**GOODBYE, "id": 2}
            assert (refused[1]["code"], refused[1]["id"]) == (404, 4)
            assert refused[2] == {**GOODBYE, "id": "six"}
            gate.open()
            assert line.rest() == [{"code": 0, "result": 1, "id": 1}, GOODBYE]

    def test_answers_late_requests_behind_one_without_an_id(self):
        with draining(wait(1), fast(2), fast(3)) as (_, line, gate):
            assert line.ask(fast(4, id=4)) == {**GOODBYE, "id": 4}
            gate.open()
            # 2 and 3 waited for their turn: they did not run, as the goodbye says.
            assert line.rest() == [{"code": 0, "result": 1}, GOODBYE]

    def test_still_hears_a_cancellation(self):
        with draining(wait(1, id=1)) as (running, line, _):
            line.send({"cmdid": 0, "params": {"op": "cancel", "id": 1}, "oneway": True})
            first, last = line.rest()
            assert (first["id"], first["code"], last) == (1, 408, GOODBYE)
            running.join()

    def test_hears_nothing_after_what_cannot_be_read(self):
        with draining(wait(1, id=1)) as (_, line, gate):
            line.send(fast(2, id=2), b"garbage\n", fast(3, id=3))
            line.send(fast(4, id=4))
            assert line.reply() == {**GOODBYE, "id": 2}
            gate.open()
            assert line.rest() == [{"code": 0, "result": 1, "id": 1}, GOODBYE]

    def test_refuses_new_connections(self):
        with draining(wait(1)) as (_, line, gate):
            address = of_peer(line.sock.getpeername())
            with pytest.raises(ConnectionRefusedError):
                Line(address)
            gate.open()

    def test_tells_connections_that_wait_to_be_accepted(self):
        commands, _ = gated()
        with serving(commands) as running:
            address, waiting = running.address, []

            def connect_and_stop():
                # In the server's own thread, so that nothing is accepted in between.
                for n in range(5):
                    waiting.append(Line(address))
                    waiting[-1].send(fast(n))
                running.server.stop()

            running.run(connect_and_stop)
            for each in waiting:
                assert each.rest() == [GOODBYE]
                each.close()

    @pytest.mark.parametrize(("setting", "timeout"), [(0.05, None), (30, 0)])
    def test_that_takes_too_long_resets_what_is_in_flight_and_tells_the_rest(
        self, setting, timeout
    ):
        commands, gate = gated()
        server = serving(commands, graceful_timeout=setting)
        with server as running, running.line() as line, running.line() as idle:
            line.send(wait(1, id=1))
            assert idle.ask(fast(1))["code"] == 0
            eventually(lambda: gate.waiting)
            running.stop(timeout)
            with pytest.raises(ConnectionResetError):
                line.rest()
            assert idle.rest() == [GOODBYE]
            assert gate.stopped == 1

    def test_ends_though_a_handler_ignores_it(self):
        commands, gate = gated()
        with serving(commands, graceful_timeout=0.05) as running, running.line() as line:
            line.send({"cmdid": 3, "id": 1})
            eventually(lambda: gate.waiting)
            running.start_stopping()
            eventually(lambda: running.server._context is None)
            gate.open()
            running.join()

    def test_waits_for_what_runs_to_its_end_though_its_caller_has_gone(self):
        commands, gate, ran = gtcp.Commands(), Gate(), []

        @commands.handler(1, run_to_end=True)
        def pay(request):
            gate.wait()
            ran.append(1)

        with serving(commands) as running:
            with running.line() as line:
                line.send({"cmdid": 1, "id": 1})
                eventually(lambda: gate.waiting)
            running.start_stopping()
            running.wait_until_leaving()
            gate.open()
            running.join()
            assert ran == [1]

    def test_may_be_asked_for_twice(self):
        with draining(wait(1, id=1)) as (running, _, gate):
            running.start_stopping()
            running.start_stopping(0)  # cuts the first two short
            running.join()
            assert gate.stopped == 1

    def test_in_a_handler_is_refused_and_beside_it_works(self):
        commands = gtcp.Commands()
        servers = []

        @commands.handler(1)
        def stop(request):
            try:
                servers[0].stop()
            except RuntimeError as exc:
                return str(exc)

        @commands.handler(2)
        def stop_beside(request):
            gevent.spawn(servers[0].stop)

        with serving(commands) as running, running.line() as line:
            servers.append(running.server)
            assert "gevent.spawn(server.stop)" in line.ask({"cmdid": 1})["result"]
            line.send({"cmdid": 2})
            assert line.rest() == [{"code": 0, "result": None}, GOODBYE]
            running.join()


class TestStart:
    def test_with_port_0_takes_a_free_one_and_tells_it(self):
        with serving(gated()[0]) as running:
            host, port = running.server.addresses[0].split(":")
            assert host == "127.0.0.1"
            assert int(port) > 0
            assert running.server.describe() == (
                f"gtcp: listening on {running.address}, 3 commands, pid {os.getpid()}"
            )
        assert running.server.addresses == []

    def test_listens_on_several_addresses_at_once(self, tmp_path):
        path = str(tmp_path / "gtcp.sock")
        bind = ("127.0.0.1:0", "[::1]:0", f"unix:{path}")
        with serving(gated()[0], bind=bind) as running:
            v4, v6, unix = running.server.addresses
            assert v4.startswith("127.0.0.1:")
            assert v6.startswith("[::1]:")
            assert unix == f"unix:{path}"
            for address in (v4, v6, unix):
                with Line(address) as line:
                    assert line.ask(fast(1))["result"] == 1
        assert not os.path.exists(path)

    def test_listens_on_several_ports_of_the_settings(self):
        with serving(gated()[0], port=(0, 0)) as running:
            assert len(set(running.server.addresses)) == 2

    def test_on_a_port_in_use_listens_nowhere(self):
        with serving(gated()[0]) as running:
            taken = running.address
            other = gtcp.Server(gtcp.Settings(bind=("127.0.0.1:0", taken)))
            with pytest.raises(OSError, match=f"can't listen on {taken}"):
                other.start()
            assert other.addresses == []
            assert len(other.connections) == 0

    def test_twice_is_refused_and_so_are_more_commands(self):
        with serving(gated()[0]) as running:
            for late in (
                lambda: running.run(running.server.start),
                lambda: running.server.handler(9)(lambda request: None),
                lambda: running.server.include(gated()[0]),
            ):
                with pytest.raises(RuntimeError, match="started already"):
                    late()

    def test_again_after_a_stop_serves_again(self):
        server = gtcp.Server(gtcp.Settings(port=0))
        server.include(gated()[0])
        for _ in range(2):
            with serving(server) as running, running.line() as line:
                assert line.ask(fast(1))["code"] == 0
                assert running.server.handled == 1

    def test_on_sockets_of_the_caller_leaves_them_open(self):
        commands, _ = gated()
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)

        def main():
            server = gtcp.Server(gtcp.Settings(port=0))
            server.include(commands)
            server.start([listener])
            address = server.addresses[0]
            server.stop()
            return address

        with serving(gated()[0]) as running:
            address = running.run(main)
        assert address == of_peer(listener.getsockname())
        with Line(address):  # the kernel still takes connections for it
            pass
        listener.close()

    def test_a_server_is_no_wsgi_application(self):
        with pytest.raises(TypeError, match="GtcpWorker"):
            gtcp.Server(gtcp.Settings())({}, None)


class TestConnections:
    def test_are_seen_with_what_they_did(self):
        commands, gate = gated()
        with serving(commands) as running, running.line() as line, running.line() as other:
            view = running.server.connections
            line.send(fast(1), fast(2), wait(3, id=3))
            line.replies(2)
            assert other.ask(fast(1))["code"] == 0
            eventually(lambda: gate.waiting)
            assert len(view) == 2
            seen = {each.address: each for each in view}
            mine = seen[of_peer(line.sock.getsockname())]
            assert mine in view
            assert (mine.handled, len(mine.in_flight)) == (3, 1)
            assert abs(mine.since - time.time()) < 60
            assert seen[of_peer(other.sock.getsockname())].handled == 1
            assert running.server.handled == 4
            assert running.server.in_flight == 1
            gate.open()
            line.reply()
            line.close()
            eventually(lambda: len(view) == 1)
            assert mine not in view
            eventually(lambda: running.server.in_flight == 0)
            assert running.server.handled == 4

    def test_have_the_names_of_their_peers(self, tmp_path):
        for bind in ("[::1]:0", f"unix:{tmp_path}/s"):
            with serving(gated()[0], bind=(bind,)) as running, running.line() as line:
                line.ask(fast(1))
                (connection,) = running.server.connections
                unix = bind.startswith("unix:")
                name = "unix:" if unix else of_peer(line.sock.getsockname())
                assert connection.address == name

    def test_there_are_none_before_the_start(self):
        server = gtcp.Server(gtcp.Settings())
        assert list(server.connections) == []
        assert (server.handled, server.in_flight) == (0, 0)


APPLICATION = """
import gevent, gtcp
server = gtcp.Server(gtcp.Settings(port=0, graceful_timeout=10))
@server.handler(1)
def nap(request):
    print("napping", flush=True)
    gevent.sleep(request.params["seconds"])
    return "slept"
@server.handler(2)
def die(request):
    raise SystemExit(9)
gevent.spawn(lambda: print(server.addresses[0], flush=True))
server.serve_forever()
print("drained", flush=True)
"""


class TestProcess:
    @pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
    def test_drains_and_ends_well_on_a_signal(self, tmp_path, signal_number):
        with process(APPLICATION, tmp_path) as (child, address), Line(address) as line:
            with Line(address) as idle:
                line.send({"cmdid": 1, "params": {"seconds": 0.3}})
                assert child.stdout.readline() == "napping\n"
                child.send_signal(signal_number)
                assert idle.rest() == [GOODBYE]
                assert line.rest() == [{"code": 0, "result": "slept"}, GOODBYE]
            assert child.stdout.readline() == "drained\n"
            assert child.wait(20) == 0
        name = signal.Signals(signal_number).name
        said = f"gtcp: {name}: draining; a second signal ends it now\n"
        assert (tmp_path / "stderr").read_text() == said

    def test_a_second_signal_cuts_the_drain_short(self, tmp_path):
        with process(APPLICATION, tmp_path) as (child, address), Line(address) as line:
            with Line(address) as idle:
                line.send({"cmdid": 1, "params": {"seconds": 60}})
                assert child.stdout.readline() == "napping\n"
                child.send_signal(signal.SIGTERM)
                assert idle.rest() == [GOODBYE]
                child.send_signal(signal.SIGTERM)
                with pytest.raises(ConnectionResetError):
                    line.rest()
            assert child.wait(20) == 0

    def test_outlives_a_handler_that_wants_to_end_it(self, tmp_path):
        with process(APPLICATION, tmp_path) as (child, address), Line(address) as line:
            for _ in range(3):
                assert line.ask({"cmdid": 2})["code"] == 500
            assert child.poll() is None

    def test_that_is_killed_has_said_no_goodbye_for_what_was_running(self, tmp_path):
        program = process(APPLICATION, tmp_path)
        with program as (child, address), Line(address) as line, Line(address) as idle:
            line.send({"cmdid": 1, "params": {"seconds": 60}, "id": 1})
            assert child.stdout.readline() == "napping\n"
            child.send_signal(signal.SIGTERM)
            assert idle.rest() == [GOODBYE]
            line.send({"cmdid": 2, "id": 2})
            assert line.reply() == {**GOODBYE, "id": 2}
            child.kill()
            assert line.line() == b""


def test_a_line_of_json_is_all_a_client_needs():
    """Send a line with nc as the README does: echo '{...}' | nc -N host port."""
    with serving(gated()[0]) as running, running.line() as line:
        line.sock.sendall(b'{"cmdid":2,"params":{"n":"hi"}}\n')
        line.finish()
        assert json.loads(line.line()) == {"code": 0, "result": "hi"}
        assert line.at_end()


def test_serve_forever_says_that_it_is_one_process(caplog):
    server = gtcp.Server(gtcp.Settings(port=0, workers=2))
    gevent.spawn_later(0.01, server.stop)
    server.serve_forever()
    assert [each.getMessage() for each in caplog.records] == [
        "workers: one process serves here; gtcp serve --workers starts several"
    ]


def test_a_server_that_is_started_and_stopped_leaves_nothing_behind():
    commands = gtcp.Commands()
    commands.handler(1)(lambda request: gevent.sleep(0.001))

    def serve_a_while():
        server = gtcp.Server(gtcp.Settings(port=0))
        server.include(commands)
        server.start()
        with gtcp.Client(server.addresses[0]) as client:
            gevent.joinall([gevent.spawn(client.call, 1) for _ in range(10)], raise_error=True)
        server.stop()
        gevent.sleep(0)

    def count():
        gc.collect()
        return sum(isinstance(each, ServingGreenlet) and not each.dead for each in gc.get_objects())

    before = count()
    for _ in range(3):
        serve_a_while()
    assert count() == before
