"""A real PostgreSQL server of its own, which tests stop and start."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from glob import glob
from pathlib import Path
from typing import Any

from tests.helpers import PATIENCE, eventually, free_port


def find(program: str) -> str | None:
    """Return where a program of PostgreSQL is; distributions do not put them into the PATH."""
    places = sorted(glob("/usr/lib/postgresql/*/bin"), reverse=True)
    return shutil.which(program, path=os.pathsep.join([os.environ["PATH"], *places]))


INSTALLED = find("initdb") is not None and find("postgres") is not None


class Postgres:
    """A server with one database, in a folder.

    Attributes:
        port: where it listens on 127.0.0.1; the same after a restart.
    """

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._data = folder / "data"
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._user: dict[str, Any] = {}
        if os.getuid() == 0:  # it refuses to run as root
            self._user = {"user": "nobody", "group": "nogroup", "extra_groups": []}
            shutil.chown(folder, "nobody", "nogroup")
        subprocess.run(
            [str(find("initdb")), "-D", str(self._data), "-A", "trust", "-U", "postgres", "-N"],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=folder,
            **self._user,
        )

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Execute a statement in a connection of its own; return the rows, if there are any."""
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        import psycopg

        command = [
            str(find("postgres")), "-D", str(self._data), "-p", str(self.port),
            "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
            "-c", "fsync=off",
        ]  # fmt: skip
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self._data.parent, **self._user
            )

        def answers() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, self._log.read_text()
            try:
                self.execute("SELECT 1")
            except psycopg.OperationalError:
                return False
            return True

        eventually(answers)

    def stop(self) -> None:
        """Stop it; its connections are ended. Harmless when it does not run."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # its "fast" shutdown
            assert self._process.wait(PATIENCE) == 0, self._log.read_text()
            self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A server that runs."""
    # Not pytest's folder, which another user may not enter.
    with tempfile.TemporaryDirectory() as folder:
        one = Postgres(Path(folder))
        try:
            one.start()
            yield one
        finally:
            one.stop()
