"""A handler that forks: the child serves nobody, and the parent does not notice."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from tests.helpers import Line, eventually, process

SERVER = """
import os, sys, signal
import gevent.monkey
if {patched}:
    gevent.monkey.patch_all()
import gevent
import gtcp

server = gtcp.Server(gtcp.Settings(port=0, line_timeout=None))
children = []
ran = []

@server.handler(1)
def fork(request):
    child = os.fork()
    if child:
        children.append(child)
        return child
    ran.clear()
    signal.alarm(20)
    gevent.sleep(request.params["seconds"])
    with open(request.params["path"] + ".new", "w") as file:
        file.write(str(len(ran)))
    os.rename(request.params["path"] + ".new", request.params["path"])
    if request.params["ends"]:
        os._exit(0)
    return "from the child"

@server.handler(2)
def who(request):
    ran.append(1)
    return os.getpid()

@server.handler(3)
def slow(request):
    gevent.sleep(0.3)
    return os.getpid()

server.start()
print(server.addresses[0], flush=True)
gevent.get_hub().join()
"""


@pytest.fixture(params=[False, True], ids=["plain", "patched"])
def address(request, tmp_path):
    source = SERVER.replace("{patched}", str(request.param))
    with process(source, tmp_path) as (_, address):
        yield address


@pytest.mark.parametrize("ends", [True, False], ids=["exits", "returns"])
def test_the_child_serves_nobody_and_the_parent_does_not_notice(address, tmp_path, ends):
    path = str(tmp_path / "ran")
    with Line(address) as first, Line(address) as other, Line(address) as slow:
        parent = other.ask({"cmdid": 2})["result"]
        slow.send({"cmdid": 3})
        eventually(lambda: other.ask({"cmdid": 0})["code"] == 0)
        params = {"seconds": 0.5, "path": path, "ends": ends}
        child = first.ask({"cmdid": 1, "params": params})["result"]
        try:
            served = 0
            while not os.path.exists(path):
                with Line(address) as new:
                    for each in (first, other, new):
                        assert each.ask({"cmdid": 2}) == {"code": 0, "result": parent}
                        served += 1
            assert served > 30
            assert slow.reply() == {"code": 0, "result": parent}
            assert Path(path).read_text() == "0"
        finally:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        assert first.ask({"cmdid": 2}) == {"code": 0, "result": parent}
        first.finish()
        assert first.rest() == []
