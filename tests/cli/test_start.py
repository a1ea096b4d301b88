"""Modules that the command does not load, so that it starts quickly."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.test_names import within

#: Runs a command, then says on stderr what was loaded that click, gevent and msgspec had not.
PROGRAM = """\
import sys, click, gevent, msgspec
before = set(sys.modules)
from gtcp.cli import main
try:
    main()
finally:
    print(*set(sys.modules) - before, file=sys.stderr)
"""

#: With all that is below them: other subcommands, the server, gevent's resolver and its threads.
NOT_FOR_A_CALL = (
    "asyncio", "concurrent", "difflib", "encodings.idna", "gevent.monkey", "gevent.pool",
    "gevent.resolver", "gevent.threadpool", "gtcp.cli.bench", "gtcp.cli.demo", "gtcp.cli.listing",
    "gtcp.cli.ping", "gtcp.cli.serving", "gtcp.cli.target", "gtcp.transport.secret", "gtcp.server",
    "gtcp.transport.tls", "gtcp.transport.tls_socket", "gunicorn", "hashlib", "hmac", "inspect",
    "logging", "multiprocessing", "secrets", "ssl", "stringprep", "subprocess", "tomllib", "tomli",
)  # fmt: skip


def loaded(*args: str) -> list[str]:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *args], capture_output=True, text=True, check=True
    )
    return ended.stderr.split()


@pytest.mark.parametrize("raw", [[], ["--raw"]])
def test_a_call_loads_only_what_it_needs(raw: list[str], address: str) -> None:
    modules = loaded("call", address, "1", "{}", *raw)
    assert "gtcp.client.client" in modules
    assert [each for each in modules if within(each, NOT_FOR_A_CALL)] == []


def test_the_version_loads_no_client() -> None:
    modules = loaded("--version")
    assert [each for each in modules if within(each, (*NOT_FOR_A_CALL, "gtcp.client"))] == []
