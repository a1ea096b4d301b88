"""The configurations of docs/how-to/logging.md for other logging libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.processes import Served, served
from tests.doc_blocks import file_of

pytestmark = pytest.mark.programs

DOCUMENT = Path(__file__).parents[2] / "docs" / "how-to" / "logging.md"

SHOP = """
import logging
import gtcp

server = gtcp.Server()

@server.handler(10000)
def hello(request):
    logging.getLogger("shop").info("greeting", extra={"name_": request.params["name"]})
"""


def entries(server: Served) -> list[dict[str, Any]]:
    """Make a call; return what was logged meanwhile."""
    assert server.ask(10000, name="Ada") is None
    lines = server.end().splitlines()
    return [json.loads(each) for each in lines if each.startswith("{")]


def test_structlog(tmp_path: Path) -> None:
    pytest.importorskip("structlog", reason="structlog is not installed")
    (tmp_path / "with_structlog.py").write_text(file_of(DOCUMENT, "with_structlog.py"))
    with served(tmp_path, "with_structlog", "--bind", "127.0.0.1:0") as server:
        own, library = entries(server)
    assert (own["event"], own["name"], own["level"]) == ("greeting", "Ada", "info")
    assert library["event"] == "said hello"
    for each in (own, library):
        assert (each["cmdid"], each["method"]) == (10000, "hello")
        assert each["peer"].startswith("127.0.0.1:")
        assert each["timestamp"]


def test_python_json_logger(tmp_path: Path) -> None:
    pytest.importorskip("pythonjsonlogger", reason="python-json-logger is not installed")
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "logs.toml").write_text(file_of(DOCUMENT, "with_json_logger.toml"))
    arguments = ("shop", "--bind", "127.0.0.1:0", "--log-config", "logs.toml")
    with served(tmp_path, *arguments) as server:
        found = entries(server)
    [entry] = [each for each in found if each["name"] == "shop"]
    assert (entry["message"], entry["name_"]) == ("greeting", "Ada")
    assert (entry["cmdid"], entry["method"], entry["levelname"]) == (10000, "hello", "INFO")
    assert entry["peer"].startswith("127.0.0.1:")
