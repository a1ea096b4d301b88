"""gtcp under gunicorn: real masters, real workers, real signals."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import gtcp
from tests.helpers import Line, eventually
from tests.server.workers.gunicorn_app import ABOUT, FAIL, PID, SPIN, WAIT
from tests.server.workers.gunicorn_process import GUNICORN, HERE, Supervised

pytestmark = [pytest.mark.programs, pytest.mark.untraced]

LOOPBACK = "127.0.0.1:0"

GOING_AWAY = {"code": 503, "message": "going away"}

Start = Callable[..., Supervised]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start gunicorn with these arguments; whatever is left of it at the end is killed."""
    with ExitStack() as stack:

        def start(*arguments: str, app: str = "gunicorn_app:server") -> Supervised:
            bind = () if "-b" in arguments else ("-b", LOOPBACK)
            one = Supervised(tmp_path / "output", *GUNICORN, *bind, *arguments, app)
            stack.callback(one.kill)
            return one

        yield start


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Start]:
    """Start `serve` in a process of its own."""
    with ExitStack() as stack:

        def serve(*flags: str, address: str = LOOPBACK, name: str = "server") -> Supervised:
            script = str(HERE / "gunicorn_serve.py")
            one = Supervised(tmp_path / "output", script, address, "2", name, *flags)
            stack.callback(one.kill)
            return one

        yield serve


class Waiting:
    """A call that is in flight until it may end."""

    def __init__(self, line: Line, path: Path) -> None:
        self._path = path
        line.send({"cmdid": WAIT, "params": {"path": str(path)}})
        eventually(path.with_suffix(".begun").exists)

    def let_go(self) -> None:
        self._path.with_suffix(".go").touch()

    @property
    def ended(self) -> bool:
        return self._path.with_suffix(".ended").exists()


class Load:
    """Threads that call repeatedly, until they have to end."""

    def __init__(self, address: str, count: int = 4) -> None:
        self.calls = 0
        self.errors: list[Exception] = []
        self._client = gtcp.Client(address)
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(count)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()
        self._client.close()

    def goes_on(self) -> None:
        """Wait until more calls have been answered."""
        calls = self.calls + 20
        eventually(lambda: self.errors or self.calls >= calls)
        assert not self.errors

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                self._client.call(PID, {"seconds": 0.01})
                self.calls += 1
            except gtcp.GtcpError as exc:
                self.errors.append(exc)


def call(address: str, cmdid: int, **params: object) -> object:
    """One call over a connection of its own."""
    with gtcp.Client(address) as client:
        return client.call(cmdid, params)


def broken(line: Line) -> bool:
    """Whether the connection ends with no more replies, whichever way."""
    try:
        return line.at_end()
    except ConnectionResetError:
        return True


def calls_until(address: str, satisfied: Callable[[set[object]], bool]) -> None:
    """Call over new connections until the pids that answered are what they should be."""
    pids: set[object] = set()

    def satisfied_now() -> bool:
        pids.add(call(address, PID))
        return satisfied(pids)

    eventually(satisfied_now)


# Serving.


def test_every_worker_serves(start: Start):
    master = start("-w", "2")
    address = master.address()
    calls_until(address, lambda pids: len(pids) == 2)
    assert master.process.pid not in master.workers
    master.send(signal.SIGTERM)
    assert master.end() == 0


def test_serves_on_every_bound_address(start: Start, tmp_path: Path):
    path = tmp_path / "socket"
    master = start("-b", LOOPBACK, "-b", f"unix:{path}")
    assert call(master.address(), PID) == call(f"unix:{path}", PID)
    master.send(signal.SIGTERM)
    assert master.end() == 0
    assert not path.exists()


def test_preloading_is_refused_with_one_line(start: Start):
    master = start("--preload", "-w", "2")
    assert master.end() == 1
    assert master.log.count("preload_app can't be used with GtcpWorker: the application would") == 1
    assert "Traceback" not in master.log


def test_gunicorn_says_how_many_connections_and_how_much_is_logged(start: Start):
    address = start("--worker-connections", "77", "--log-level", "debug").address()
    assert call(address, ABOUT) == {"max_connections": 77, "patched": True, "level": 10}


@pytest.mark.cover_programs
def test_what_is_no_server_ends_gunicorn_with_one_line(start: Start):
    master = start(app="gunicorn_app:wsgi")
    assert master.end() == 4
    assert "the application is not a gtcp.Server but of type function" in master.log
    assert "Traceback" not in master.log


@pytest.mark.cover_programs
def test_a_server_that_cannot_start_ends_gunicorn(start: Start):
    master = start(app="gunicorn_app:started()")
    assert master.end() == 3
    assert "the server is started already" in master.log


@pytest.mark.cover_programs
def test_tls_settings_are_refused(start: Start, tmp_path: Path):
    (tmp_path / "pem").touch()
    master = start("--certfile", str(tmp_path / "pem"))
    assert master.end() == 1
    assert "certfile can't be used with GtcpWorker" in master.log
    assert "set tls_cert and tls_key" in master.log


def test_a_burst_of_connections_is_shared_by_the_workers(start: Start):
    address = start("-w", "2").address(workers=2)
    with ExitStack() as stack:
        lines = [stack.enter_context(Line(address)) for _ in range(64)]
        pids = Counter(each.ask({"cmdid": PID})["result"] for each in lines)
    assert len(pids) == 2
    assert min(pids.values()) >= 16  # about half, where both get to run


# Draining.


def test_hup_under_load_loses_nothing(start: Start):
    master = start("-w", "2")
    with Load(master.address(workers=2)) as load:
        for _ in range(2):
            old = master.workers
            load.goes_on()
            master.send(signal.SIGHUP)
            master.until(lambda old=old: len(master.workers) == 2 and not old & master.workers)
            load.goes_on()
    assert load.errors == []


def test_term_answers_the_call_in_flight(start: Start, tmp_path: Path):
    master = start()
    with Line(master.address()) as line, Line(master.address()) as idle:
        idle.send({"cmdid": PID})
        assert idle.reply()["code"] == 0
        call_in_flight = Waiting(line, tmp_path / "call")
        master.send(signal.SIGTERM)
        assert idle.reply() == GOING_AWAY  # it drains
        assert idle.at_end()
        call_in_flight.let_go()
        assert line.reply() == {"code": 0, "result": "done"}
        assert line.reply() == GOING_AWAY
    assert master.end() == 0


def test_idle_connections_do_not_hold_a_worker(start: Start):
    master = start("--graceful-timeout", "3600")
    with Line(master.address()) as line, Line(master.address()) as silent:
        line.send({"cmdid": PID})
        assert line.reply()["code"] == 0
        master.send(signal.SIGTERM)
        assert master.end() == 0
        assert silent.reply() == GOING_AWAY


@pytest.mark.cover_programs
def test_a_drain_ends_after_graceful_timeout(start: Start, tmp_path: Path):
    master = start("--graceful-timeout", "2")
    with Line(master.address()) as line:
        call_in_flight = Waiting(line, tmp_path / "call")
        master.send(signal.SIGTERM)
        assert master.end() == 0
        assert broken(line)
    assert call_in_flight.ended  # there was time for its cleanup before the master killed
    assert "Worker graceful timeout" in master.log


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGINT])
def test_quit_and_int_do_not_wait_for_calls_in_flight(
    start: Start, tmp_path: Path, number: signal.Signals
):
    master = start("--graceful-timeout", "3600", "-c", "gunicorn_conf.py")
    with Line(master.address()) as line:
        call_in_flight = Waiting(line, tmp_path / "call")
        master.send(number)
        assert master.end() == 0
        assert broken(line)
    assert call_in_flight.ended  # cancelled, not killed with its process
    assert "hook worker_int" in master.log


def test_quit_cuts_a_drain_short(start: Start, tmp_path: Path):
    master = start("--graceful-timeout", "3600")
    with Line(master.address()) as line, Line(master.address()) as idle:
        call_in_flight = Waiting(line, tmp_path / "call")
        master.send(signal.SIGTERM)
        assert idle.reply() == GOING_AWAY
        master.send(signal.SIGQUIT)
        assert master.end() == 0
    assert call_in_flight.ended
    assert "Traceback" not in master.log


def test_workers_drain_when_their_master_is_gone(start: Start, tmp_path: Path):
    master = start()
    address = master.address()
    with Line(address) as line:
        call_in_flight = Waiting(line, tmp_path / "call")
        master.send(signal.SIGKILL)
        master.wait_for("Parent changed")
        call_in_flight.let_go()
        assert line.reply() == {"code": 0, "result": "done"}
    master.until(lambda: not master.workers)


def test_a_worker_that_is_told_to_stop_while_it_starts_does(start: Start):
    master = start("-k", "gunicorn_told_early.ToldEarly")
    master.wait_for("Worker exiting")
    assert "gtcp: listening on" not in master.log


# Supervision.


def test_ttin_and_ttou_change_the_number_of_workers(start: Start):
    master = start()
    address = master.address()
    master.send(signal.SIGTTIN)
    calls_until(address, lambda pids: len(pids) == 2)
    first = min(master.workers)
    master.send(signal.SIGTTOU)
    master.until(lambda: len(master.workers) == 1)
    assert master.workers == {call(address, PID)} != {first}


def test_usr2_upgrades_while_it_serves(start: Start):
    master = start("-w", "2")
    address = master.address(workers=2)
    with Load(address) as load:
        old = master.workers
        master.send(signal.SIGUSR2)
        calls_until(address, lambda pids: pids & old and pids - old)
        load.goes_on()
        master.send(signal.SIGTERM)
        assert master.end() == 0
        load.goes_on()
    assert load.errors == []
    os.kill(master.masters[1], signal.SIGTERM)
    master.wait_for("Shutting down: Master", count=2)


def test_usr1_reopens_the_log(start: Start, tmp_path: Path):
    errors = tmp_path / "errors"
    master = start("--error-logfile", str(errors))
    eventually(lambda: errors.exists() and "gtcp: listening on" in errors.read_text())
    address = errors.read_text().partition("http://")[2].split()[0]
    errors.rename(tmp_path / "errors.1")
    master.send(signal.SIGUSR1)

    def logged() -> bool:
        with pytest.raises(gtcp.RemoteError):
            call(address, FAIL, message="oops")
        return errors.exists() and "RuntimeError: oops" in errors.read_text()

    eventually(logged)


@pytest.mark.cover_programs
def test_a_worker_ends_after_max_requests(start: Start):
    master = start("--max-requests", "20", "--max-requests-jitter", "5")
    with Load(master.address()) as load:
        master.wait_for("Worker exiting", count=2)
        load.goes_on()
    assert load.errors == []
    assert "Autorestarting worker" in master.log


@pytest.mark.cover_programs
def test_a_blocked_worker_is_killed_and_replaced(start: Start):
    master = start("--timeout", "1", "-c", "gunicorn_conf.py")
    address = master.address()
    blocked = call(address, PID)
    with pytest.raises(gtcp.ConnectionLost) as caught:
        call(address, SPIN)
    assert caught.value.executed == "maybe"
    calls_until(address, lambda pids: blocked not in pids)
    assert f"hook worker_abort {blocked}" in master.log
    assert f"hook worker_exit {blocked}" in master.log
    assert f"Worker blocked (pid:{blocked}) in:" in master.log
    assert "in spin" in master.log


def test_hooks_are_called(start: Start):
    master = start("-c", "gunicorn_conf.py")
    worker = call(master.address(), PID)
    assert f"hook post_worker_init {worker}" in master.log
    master.send(signal.SIGTERM)
    assert master.end() == 0
    assert f"hook worker_exit {worker}" in master.log


@pytest.mark.cover_programs
def test_reload_waits_for_the_correction_of_a_syntax_error(tmp_path: Path):
    app = tmp_path / "changing.py"

    def write(result: str) -> None:
        text = f"import gtcp\nserver = gtcp.Server()\nserver.handler(1)(lambda _: {result})\n"
        app.with_suffix(".new").write_text(text)
        app.with_suffix(".new").rename(app)

    write("'old'")
    arguments = (*GUNICORN, "-b", LOOPBACK, "--reload", "changing:server")
    master = Supervised(tmp_path / "output", *arguments, cwd=tmp_path)
    try:
        address = master.address()
        assert call(address, 1) == "old"
        write("'broken")
        master.wait_for("SyntaxError")
        with Line(address) as line:  # it waits in the queue
            line.send({"cmdid": 1})
            while not select.select([line.sock], [], [], 1.5)[0]:
                write("'new'")  # gunicorn does not see a change before it first looks
            assert line.reply() == {"code": 0, "result": "new"}
    finally:
        master.kill()


# Logs.


def test_requests_are_in_the_access_log(start: Start, tmp_path: Path):
    path = tmp_path / "access"
    address = start("--access-logfile", str(path)).address()
    call(address, PID)
    eventually(lambda: " 1 0 " in path.read_text())
    assert path.read_text().startswith("[")


def test_a_peer_cannot_forge_a_line_of_the_log(start: Start):
    master = start()
    with pytest.raises(gtcp.RemoteError):
        call(master.address(), FAIL, message="x\n[2026-01-01] [1] [INFO] forged")
    master.wait_for("forged")
    assert "\n[2026-01-01]" not in master.log
    assert "[ERROR] gtcp.server: cmdid 4 (fail) raised" in master.log


# gtcp serve --workers.


def test_serve_says_where_it_listens_and_serves_there(serve: Start):
    master = serve()
    address = master.address()
    calls_until(address, lambda pids: len(pids) == 2)
    said = f"gtcp: listening on {address}, 7 commands, 2 workers, pid {master.process.pid}"
    assert master.log.splitlines().count(said) == 1
    assert master.log.count("gtcp: listening on") == 1
    master.send(signal.SIGTERM)
    assert master.end() == 0


def test_serve_drains_on_ctrl_c(serve: Start, tmp_path: Path):
    master = serve()
    with Line(master.address(workers=2)) as line:
        call_in_flight = Waiting(line, tmp_path / "call")
        os.killpg(master.process.pid, signal.SIGINT)  # as a terminal does
        master.wait_for("Worker exiting")  # the other one
        call_in_flight.let_go()
        assert line.reply() == {"code": 0, "result": "done"}
    assert master.end() == 0
    assert "Traceback" not in master.log


@pytest.mark.cover_programs
def test_serve_does_not_wait_after_a_second_ctrl_c(serve: Start, tmp_path: Path):
    master = serve()
    with Line(master.address(workers=2)) as line:
        call_in_flight = Waiting(line, tmp_path / "call")
        os.killpg(master.process.pid, signal.SIGINT)
        master.wait_for("Handling signal: int")
        os.killpg(master.process.pid, signal.SIGINT)
        assert master.end() == 0
        assert broken(line)
    assert call_in_flight.ended


def test_serve_can_leave_the_library_unpatched(serve: Start):
    about = call(serve("--no-patch").address(), ABOUT)
    assert isinstance(about, dict)
    assert about["patched"] is False


def test_serve_opens_a_unix_socket_to_its_own_user_only(serve: Start, tmp_path: Path):
    path = tmp_path / "socket"
    serve(address=f"unix:{path}").address()
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.cover_programs
def test_serve_can_be_upgraded(serve: Start):
    master = serve()
    address = master.address(workers=2)
    with Load(address) as load:
        old = master.workers
        master.send(signal.SIGUSR2)
        calls_until(address, lambda pids: pids - old)
        master.send(signal.SIGTERM)
        assert master.end() == 0
        load.goes_on()
    assert load.errors == []


def test_serve_ends_with_one_line_when_there_is_nothing_to_serve(serve: Start):
    master = serve(name="nothing")
    assert master.end() == 4
    assert "there is no nothing" in master.log
    assert "Traceback" not in master.log
