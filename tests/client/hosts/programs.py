"""A name server and a ZooKeeper, each a real program on a free port."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import gtcp
from tests.helpers import free_port
from tests.libraries.programs import find, running


def works(client: gtcp.Client) -> bool:
    """Return whether a call reaches a host."""
    try:
        client.call(1)
    except gtcp.ConnectError:
        return False
    return True


ZOOKEEPER = "/usr/share/zookeeper/bin/zkServer.sh"


class NameServer:
    """dnsmasq with records that change: it is started anew."""

    def __init__(self, folder: Path) -> None:
        self._program, self._folder = find("dnsmasq"), folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"

    def serve(self, *records: str) -> None:
        """Serve these records, as options of dnsmasq."""
        self.stop()
        options = [f"--port={self.port}", "--listen-address=127.0.0.1", "--bind-interfaces"]
        options += ["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"]
        options += ["--auth-ttl=1", "--local-ttl=1", "--pid-file=", "--user=root"]
        with open(self._folder / "dnsmasq.log", "ab") as log:
            self._process = subprocess.Popen(
                [self._program, *options, *records], stdout=log, stderr=log
            )

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def zookeeper(folder: Path, port: int | None = None) -> Iterator[str]:
    """Run ZooKeeper until the end of the block; yield its address."""
    if not os.path.exists(ZOOKEEPER) or shutil.which("java") is None:
        pytest.skip("zookeeper is not installed")
    port = port or free_port()
    (folder / "zoo.cfg").write_text(
        f"tickTime=200\ndataDir={folder / 'data'}\nclientPort={port}\n"
        "clientPortAddress=127.0.0.1\nadmin.enableServer=false\nminSessionTimeout=400\n"
    )
    env = {**os.environ, "ZOO_LOG_DIR": str(folder), "JVMFLAGS": "-Xmx64m -Xshare:auto"}
    command = ["bash", ZOOKEEPER, "start-foreground", str(folder / "zoo.cfg")]
    with running(command, port, folder, env=env):
        yield f"127.0.0.1:{port}"
