"""The public face: every name is there, and nothing is loaded before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import gtcp

#: Prints what ``import gtcp`` loads that gevent and msgspec did not.
LOADED = """\
import sys, gevent, msgspec
before = set(sys.modules)
import gtcp
print(*set(sys.modules) - before)
"""

#: With all that is below them. Each costs about as much as all of ``import gtcp`` may.
NOT_LOADED = (
    "asyncio", "click", "concurrent", "gevent.monkey", "gevent.resolver", "gevent.socket",
    "gevent.threadpool", "gtcp.cli", "gtcp.client", "gtcp.server",
    "gtcp.transport.secret", "gtcp.transport.sockets", "gtcp.transport.tls",
    "gtcp.transport.tls_socket", "gunicorn", "hashlib", "hmac", "inspect", "json", "logging",
    "random", "secrets", "socket", "ssl", "threading", "tomllib", "tomli",
)  # fmt: skip


def within(module: str, packages: tuple[str, ...]) -> bool:
    """Whether a module is one of these or below one."""
    return f"{module}.".startswith(tuple(f"{each}." for each in packages))


def run(code: str) -> str:
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return ended.stdout


def test_import_loads_neither_client_nor_server() -> None:
    loaded = run(LOADED).split()
    assert "gtcp.errors" in loaded
    assert [each for each in loaded if within(each, NOT_LOADED)] == []


@pytest.mark.parametrize(("name", "other"), [("Client", "gtcp.server"), ("Server", "gtcp.client")])
def test_one_side_does_not_load_the_other(name: str, other: str) -> None:
    loaded = run(LOADED.replace("import gtcp\n", f"import gtcp; gtcp.{name}\n")).split()
    assert [each for each in loaded if within(each, (other,))] == []


def test_every_name_is_there_and_listed() -> None:
    everything: dict[str, object] = {}
    exec("from gtcp import *", everything)
    assert set(gtcp.__all__) <= set(everything)
    assert set(gtcp.__all__) <= set(dir(gtcp))
    assert all(everything[name] is getattr(gtcp, name) for name in gtcp.__all__)


def test_a_name_is_looked_up_once() -> None:
    """After that it is an attribute as any other, which tests may replace."""
    assert run("import gtcp; gtcp.Client; print('Client' in vars(gtcp))") == "True\n"


def test_deadline_stays_the_function_when_its_module_is_imported() -> None:
    code = "import gtcp, gtcp.client.client, gtcp.deadline; print(callable(gtcp.deadline))"
    assert run(code) == "True\n"


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'gtcp' has no attribute 'Clinet'"):
        gtcp.Clinet  # noqa: B018
    with pytest.raises(ImportError, match="Clinet"):
        from gtcp import Clinet  # noqa: F401


def test_a_patched_program_gets_the_systems_sockets() -> None:
    """Patched before anything of gtcp is imported, or between its halves."""
    code = """\
{first}
from gevent import monkey
monkey.patch_all()
import gtcp, gtcp.transport.sockets, gtcp.client.pools
import socket, gevent.socket, threading
assert issubclass(socket.socket, gevent.socket.socket)
print(gtcp.transport.sockets.System.__module__, gtcp.client.pools._SystemLocal.__module__)
"""
    assert {
        run(code.format(first=first))
        for first in ("", "import gtcp", "import gtcp.transport.sockets")
    } == {"socket _thread\n"}
