"""A real Prometheus that scrapes two workers, while they are replaced under load."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import eventually, free_port
from tests.server.services import Load, Service, write_app

PROMETHEUS = shutil.which("prometheus")

CONFIGURATION = """
global:
  scrape_interval: 1s
scrape_configs:
  - job_name: gtcp
    static_configs:
      - targets: ["127.0.0.1:{port}"]
"""

pytestmark = [
    pytest.mark.programs,
    pytest.mark.untraced,
    pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed"),
]


class Prometheus:
    """A Prometheus with one target."""

    def __init__(self, folder: Path, target: int) -> None:
        self._port = free_port()
        (folder / "prometheus.yml").write_text(CONFIGURATION.format(port=target))
        assert PROMETHEUS is not None
        with (folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    PROMETHEUS,
                    f"--config.file={folder}/prometheus.yml",
                    f"--storage.tsdb.path={folder}/data",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                ],
                stdout=log,
                stderr=log,
            )

    def ask(self, query: str) -> list[float]:
        """Return the values that a query has now."""
        where = f"http://127.0.0.1:{self._port}/api/v1/query?query={urllib.parse.quote(query)}"
        try:
            with urllib.request.urlopen(where, timeout=10) as response:
                answer = json.load(response)
        except OSError:
            return []  # it is just starting
        return [float(each["value"][1]) for each in answer["data"]["result"]]

    def end(self) -> None:
        self._process.terminate()
        self._process.wait()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "app"
    made.mkdir()
    write_app(made)
    return made


@pytest.fixture
def scraped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Service, Prometheus]]:
    port = free_port()
    monkeypatch.setenv("GTCP_ADMIN", str(port))
    service = Service("serve", folder)
    prometheus = Prometheus(folder.parent, port)
    try:
        yield service, prometheus
    finally:
        prometheus.end()
        service.kill()


@pytest.mark.cover_programs
def test_its_numbers_are_those_of_the_load(
    scraped: tuple[Service, Prometheus], folder: Path
) -> None:
    service, prometheus = scraped
    load = Load(service.where, folder)
    try:
        eventually(lambda: prometheus.ask("up") == [1.0])
        for _ in range(2):
            load.goes_on(200)
            service.replace()
        load.goes_on(200)
    finally:
        load.end()
    assert not load.problems
    query = 'rpc_server_call_duration_seconds_count{rpc_method="count",error_type=""}'
    expected = float(len(load.finished))
    eventually(lambda: prometheus.ask(query) == [expected])
    # A counter that had gone back would have been taken for a restart.
    assert prometheus.ask(f"resets({query}[5m])") == [0.0]
