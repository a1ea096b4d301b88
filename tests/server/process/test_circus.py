"""circus, which makes the listening socket itself and starts several servers on it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.processes import APP, COMMAND, environment
from tests.helpers import Line, eventually, free_port

CONFIGURATION = """\
[circus]
endpoint = ipc://{folder}/control
pubsub_endpoint = ipc://{folder}/events

[watcher:shop]
cmd = {command} serve app {flags} --bind fd://$(circus.sockets.shop)
working_dir = {folder}
use_sockets = True
numprocesses = {processes}
copy_env = True
graceful_timeout = 20

[socket:shop]
{socket}
"""

ABOUT = """
@server.handler(6)
def about(request):
    return os.getpid()
"""


@pytest.mark.programs
@pytest.mark.parametrize("family", ["tcp", "unix"])
@pytest.mark.parametrize(
    ("processes", "flags"), [(2, ""), (1, "--workers 2")], ids=["processes", "workers"]
)
@pytest.mark.cover_programs
def test_its_socket_is_shared(tmp_path: Path, processes: int, flags: str, family: str) -> None:
    pytest.importorskip("circus")
    (tmp_path / "app.py").write_text(APP + ABOUT)
    port, path = free_port(), tmp_path / "shop.sock"
    address, sock = f"127.0.0.1:{port}", f"host = 127.0.0.1\nport = {port}"
    if family == "unix":
        address, sock = f"unix:{path}", f"path = {path}"
    (tmp_path / "circus.ini").write_text(
        CONFIGURATION.format(
            folder=tmp_path,
            command=" ".join(COMMAND),
            flags=flags,
            processes=processes,
            socket=sock,
        )
    )
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "circus.circusd", "circus.ini"],
            cwd=tmp_path,
            env=environment(),
            stderr=output,
            stdout=output,
        )
    try:
        ready = r"listening on .*, pid" if not flags else r"worker is ready"
        eventually(lambda: len(re.findall(ready, log.read_text())) == 2)
        pids = set()
        lines = []
        while len(pids) < 2:
            lines.append(Line(address))
            pids.add(lines[-1].ask({"cmdid": 6})["result"])
        for each in lines:
            each.close()
        process.terminate()
        assert process.wait(20) == 0
        assert log.read_text().count("draining") == (0 if flags else 2)
    finally:
        process.kill()
        process.wait()
