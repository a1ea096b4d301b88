"""Services with two workers, under gunicorn and ``gtcp serve``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.server.services import Service, Start, write_app


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the application is."""
    folder = tmp_path / "app"
    folder.mkdir()
    write_app(folder)
    return folder


@pytest.fixture(params=["gunicorn", "serve"])
def start(request: pytest.FixtureRequest, folder: Path) -> Iterator[Start]:
    """Start the service with two workers; what is left of it at the end is killed."""
    with ExitStack() as stack:

        def start(*arguments: str, workers: int = 2) -> Service:
            service = Service(request.param, folder, *arguments, workers=workers)
            stack.callback(service.kill)
            return service

        yield start
