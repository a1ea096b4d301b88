"""Lines that strangers cause are few, and none is forgotten."""

from __future__ import annotations

import logging

import gevent
import pytest

from gtcp.server.ops import background_log
from gtcp.server.ops.background_log import LINES, RateLimitedLog


def test_more_lines_than_there_may_be_in_a_second_are_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 100.0
    monkeypatch.setattr(background_log, "monotonic", lambda: now)
    strangers = RateLimitedLog(logging.getLogger("gtcp.server"))
    for number in range(50):
        strangers.warning("stranger %d", number)
    gevent.sleep(0)
    assert caplog.messages == [f"stranger {number}" for number in range(LINES)]
    caplog.clear()
    now = 101.0
    strangers.warning("one more")
    gevent.sleep(0)
    assert caplog.messages == ["40 more warnings like these were left out", "one more"]
    caplog.clear()
    now = 200.0
    strangers.warning("much later")
    gevent.sleep(0)
    assert caplog.messages == ["much later"]
