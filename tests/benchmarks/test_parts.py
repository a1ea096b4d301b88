"""Every part runs, small and short, with what is installed; and leaves no process behind."""

import os
import re
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from benchmarks import parts, peers
from benchmarks.load import NoCompiler, compiled
from benchmarks.machine import ROOT, pick_cores, usable_cores
from benchmarks.results import Run, load
from tests.helpers import eventually

pytestmark = pytest.mark.slow

PATIENCE = 60
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and epoll")
COMPILER = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")

OURS = ("gtcp_greenlets", "gtcp_threads", "bare_socket", "gevent_floor", "uvloop_floor")
QUICK = ["--quick", *(word for name in OURS for word in ("--peer", name))]


def environment(**env):
    """Ours without settings."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GTCP_")}
    return {**ours, "PYTHONPATH": str(ROOT), **env}


def benchmarks(*args, **env):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *map(str, args)],
        cwd=ROOT,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def marked(mark):
    """The processes that have a mark in their environment."""
    found = []
    for each in Path("/proc").iterdir():
        try:
            if each.name.isdigit() and mark.encode() in (each / "environ").read_bytes():
                found.append(int(each.name))
        except OSError:  # it has just ended, or is not ours
            continue
    return found


EXPECTED = {
    "server": ["One server process", "Large messages", "A caller beside", "features cost"],
    "client": ["Calls, each peer's", "against gtcp's server", "client.map"],
    "memory": ["An idle connection", "An idle client", "Calls"],
    "latency": ["p50", "p99", "p99.9", "kept up"],
    "scale": ["computes for 2 ms", "share of the connections"],
    "overload": [
        "goodput",
        "refused with 429",
        "p99 of refusals",
        "as before",
        "many connections",
        "Stability",
        "not answered in time",
    ],
    "streams": ["Items of a stream", "whose readers have stopped", "beside them"],
    "hosts": ["one host and of two", "Processor time"],
    "rolling": ["restarted in turn"],
}


@LINUX
@COMPILER
@pytest.mark.parametrize("part", parts.ALL)
def test_part_runs(part, tmp_path):
    mark = f"BENCHMARK_TEST={uuid.uuid4()}"
    done = benchmarks(part, *QUICK, "--output", tmp_path, BENCHMARK_TEST=mark.partition("=")[2])
    assert done.returncode == 0, done.stderr
    run = load(tmp_path / f"{part}.json")
    titles = " / ".join(table.title for table in run.tables())
    for expected in EXPECTED[part]:
        assert expected in titles
    for table in run.tables():
        assert table.title in done.stdout
    unexpected = [line for line in run.parts[0].left_out if "is not installed" not in line]
    assert [line for line in unexpected if "there is one core" not in line] == []
    assert marked(mark) == []


@LINUX
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_part_that_is_stopped_leaves_no_process_behind(signum, tmp_path):
    mark = f"BENCHMARK_TEST={uuid.uuid4()}"
    options = ["--seconds", "60", "--peer", "gtcp_greenlets", "--output", str(tmp_path)]
    running = subprocess.Popen(
        [sys.executable, "-m", "benchmarks", "client", *options],
        cwd=ROOT,
        env=environment(BENCHMARK_TEST=mark.partition("=")[2]),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        eventually(lambda: len(marked(mark)) > 3, PATIENCE)  # itself, a server, callers
        running.send_signal(signum)
        _, said = running.communicate(timeout=PATIENCE)
    finally:
        running.kill()
        running.communicate()
    eventually(lambda: not marked(mark), PATIENCE)
    if signum != signal.SIGKILL:
        assert running.returncode == 130
        assert said.splitlines()[-1] == "interrupted; its processes are ended"


INTERRUPTED = """
import os, signal
from benchmarks.processes import Processes

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, interrupt)
os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.SIGTERM))
with Processes() as processes:
    try:
        processes.start(["sleep", "60"])
    except KeyboardInterrupt:
        print("interrupted", len(processes._children))
"""


def test_a_signal_is_not_lost_while_a_process_is_started():
    command = [sys.executable, "-c", INTERRUPTED]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("interrupted 1\n", "")


@LINUX
def test_without_a_compiler_a_part_says_so_in_one_line(tmp_path):
    done = benchmarks("latency", "--quick", "--output", tmp_path, CC="no-such-compiler")
    assert done.returncode == 0, done.stderr
    line = done.stdout.splitlines()[0]
    assert line.startswith("latency: left out, no C compiler")
    assert "no-such-compiler" in line


@LINUX
def test_a_compiler_that_refuses_is_quoted(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "false")
    with pytest.raises(NoCompiler, match="can't compile"):
        compiled(tmp_path)


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        (["no-such-part"], "no-such-part"),
        *((["memory", "--seconds", each], "--seconds") for each in ("nan", "-1", "soon")),
    ],
)
def test_a_mistake_is_named(args, shown):
    done = benchmarks(*args)
    assert done.returncode == 2
    assert shown in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("option", ["--quick", "--peer=mprpc_gevent", None])
def test_only_a_whole_run_is_published(option, tmp_path):
    saved = tmp_path / "all.json"
    command = f"python -m benchmarks {option} --output there"
    Run(command, "2026-01-01", 1.0, {"CPU": "some"}, {}, []).save(saved)
    if option is None:
        saved.write_text('{"command": 1')
    done = benchmarks("publish", "--output", str(tmp_path))
    assert done.returncode == 1
    what = "only a whole run is published: python" if option else "not a run that was saved"
    assert what in done.stderr
    assert "Traceback" not in done.stderr


def test_every_peer_says_what_it_is_and_needs():
    found = {name: peers.find(name) for name in peers.ALL}
    for name, peer in found.items():
        assert peers.name_of(peer) == name
        assert isinstance(peer.PATCHED, bool)
        assert isinstance(peers.missing(peer), str)
        assert name not in peers.CALLED or peer.CALLERS in {"threads", "greenlets"}
    assert len({peer.NAME for peer in found.values()}) == len(found)


def test_what_is_missing_is_named():
    class Peer:
        REQUIRES = ("json", "no_such_module")

    class Program:
        REQUIRES = ("json", "$no-such-program")

    assert peers.missing(Peer) == "no_such_module is not installed"
    assert peers.missing(Program) == "no no-such-program on the PATH"


def test_the_extra_names_every_peer_that_can_be_installed():
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    (extra,) = re.findall(r"^BENCH = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)
    listed = {name.lower() for name in re.findall(r'^    "([\w-]+)",$', extra, re.MULTILINE)}
    others = {"gevent", "greenlet", "msgspec", "gunicorn"}  # gtcp's own
    assert listed == {name.lower() for name in peers.PACKAGES} - others - {"mprpc"}


def test_server_and_load_have_different_cores_where_there_are_two():
    cores = pick_cores()
    if len(usable_cores()) < 2:
        assert cores == (None, None)
    else:
        assert cores.server != cores.load
        assert set(cores) <= set(usable_cores())


@LINUX
@COMPILER
def test_an_open_loop_charges_a_stall_to_every_request_that_was_due(tmp_path):
    """A server that answers nothing for 300 ms: a tenth of the requests at least waited 100 ms."""
    program = compiled(tmp_path)
    request = tmp_path / "request"
    request.write_text('{"cmdid":10000}\n')
    stalling = subprocess.Popen(
        [sys.executable, "-c", STALLING], stdout=subprocess.PIPE, text=True, env=environment()
    )
    try:
        port = stalling.stdout.readline().strip()
        command = [program, "127.0.0.1", port, "1", "1", "1.0", request, "1000"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    finally:
        stalling.kill()
        stalling.communicate()
    found = re.fullmatch(r'\{"rps": ([\d.]+), .*"p99": (\d+), .*"bad": 0, .*\}\n', done.stdout)
    assert found, done
    assert int(found[2]) > 200_000


STALLING = """
import socket, time
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
sock, _ = listener.accept()
stall_at = None
while data := sock.recv(65536):
    sock.sendall(b'{"code":0}\\n' * data.count(b"\\n"))
    stall_at = stall_at or time.monotonic() + 0.4
    if stall_at < time.monotonic() < stall_at + 0.1:
        time.sleep(0.3)
"""
