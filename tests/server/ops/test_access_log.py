"""The access log, with a log handler that waits."""

import logging

import gevent
import pytest

import gtcp
from gtcp.server.ops.logger import ACCESS
from tests.helpers import eventually, serving


class Stuck(logging.Handler):
    """Waits until it may write."""

    def __init__(self):
        super().__init__()
        self.open = False
        self.writing = 0
        self.lines = []

    def handle(self, record):  # without the lock: that of threads would be the greenlets' too
        self.writing += 1
        while not self.open:
            gevent.sleep(0.002)
        self.writing -= 1
        self.lines.append(record.getMessage())


@pytest.fixture
def stuck():
    log, handler = logging.getLogger(ACCESS), Stuck()
    log.addHandler(handler)
    level = log.level
    log.setLevel(logging.INFO)
    yield handler
    log.setLevel(level)
    log.removeHandler(handler)


def test_while_a_log_handler_is_stuck_its_lines_wait_in_one_place_and_in_order(stuck):
    commands = gtcp.Commands()
    commands.handler(1)(lambda request: "x" * request.params["n"])
    with serving(commands, access_log=True) as running, running.line() as line:
        for n in range(10, 60):
            line.ask({"cmdid": 1, "params": {"n": n}})
        assert stuck.writing == 1
        stuck.open = True
        eventually(lambda: len(stuck.lines) == 50)
    sizes = [int(each.rpartition("out=")[2]) for each in stuck.lines]
    assert sizes == sorted(sizes)
